"""From a YAML file and command-line flags to a checked `TrainConfig`."""

import difflib
import itertools
import re
import shlex
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from centerarc.data.source import BUILT_IN_SOURCES, is_own_source, list_sources
from centerarc.io.plugins import FOR_YOUR_OWN
from centerarc.io.yaml_file import YamlError, dump_yaml, locate, parse_yaml, read_yaml
from centerarc.training.config import TrainConfig, import_plugins
from centerarc.training.data_config import COMMON_FIELDS, OWN, OwnFields

# Flags of the command that are not fields, to be suggested for a mistyped one.
_SWITCHES = ("resume", "overwrite", "dry-run", "list-settings")
# What other libraries call a field, where no letters tell.
_ELSEWHERE = {"learning_rate": ["optimizer.lr"], "base_lr": ["optimizer.lr"]}
_SOURCE, _PLUGINS = "data.source", "plugins"
# A section of the file that is for `centerarc tune` alone.
TUNE = "tune"
# What pydantic adds to the place of an error: the members of unions.
_TAGS = (*BUILT_IN_SOURCES, "mixed", OWN, "int", "float")
_LITERAL = "literal["
_NONE = {"none", "null", "~", ""}
# Fields that one hint names, at most.
_SHOWN = 3
# So much of a wrong value is shown.
_LONGEST = 80


def _members(annotation: Any) -> tuple[Any, ...]:
    """The members of a union, without `Annotated` around them; or the annotation alone."""
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        return _members(typing.get_args(annotation)[0])
    if origin in (typing.Union, types.UnionType):
        return tuple(m for arg in typing.get_args(annotation) for m in _members(arg))
    return (annotation,)


def _sections(annotation: Any) -> list[type[BaseModel]]:
    return [m for m in _members(annotation) if isinstance(m, type) and issubclass(m, BaseModel)]


def _choose(sections: list[type[BaseModel]], content: Any) -> list[type[BaseModel]]:
    """The member of a union that `source` in the content names; else all members."""
    source = content.get("source") if isinstance(content, Mapping) else None
    chosen = [
        section
        for section in sections
        if "source" in section.model_fields
        and source in typing.get_args(section.model_fields["source"].annotation)
    ]
    if not chosen and isinstance(source, str) and is_own_source(source):
        chosen = [section for section in sections if issubclass(section, OwnFields)]
    return chosen or sections


def _field_at(name: str, content: Mapping[str, Any]) -> tuple[FieldInfo | None, Any]:
    """Returns the field at a dotted path and its annotation, or (None, None).

    Below a field that is a free mapping (`model.options.dropout`) any name goes. `content`, the
    mapping so far, decides which kind of data section is meant.
    """
    sections: list[type[BaseModel]] = [TrainConfig]
    field: FieldInfo | None = None
    here: Any = content
    parts = name.split(".")
    for position, part in enumerate(parts):
        holder = next((s for s in _choose(sections, here) if part in s.model_fields), None)
        if holder is None:
            return None, None
        field = holder.model_fields[part]
        here = here.get(part) if isinstance(here, Mapping) else None
        sections = _sections(field.annotation)
        if not sections and position + 1 < len(parts):
            if typing.get_origin(field.annotation) is dict and position + 2 == len(parts):
                return field, typing.get_args(field.annotation)[1]
            return None, None
    return field, field.annotation if field is not None else None


def field_names(
    content: Mapping[str, Any] | None = None, root: type[BaseModel] = TrainConfig
) -> dict[str, FieldInfo]:
    """Returns every field by its dotted path, such as `loss.m`, in the order of the file.

    Of the kinds of data sections only the one that `content` chooses is listed, if it does.
    """
    found: dict[str, FieldInfo] = {}

    def walk(section: type[BaseModel], prefix: str, here: Any) -> None:
        for name, field in section.model_fields.items():
            inner = here.get(name) if isinstance(here, Mapping) else None
            inner_sections = _choose(_sections(field.annotation), inner)
            for member in inner_sections:
                walk(member, f"{prefix}{name}.", inner)
            if not inner_sections:
                found.setdefault(prefix + name, field)

    walk(root, "", content)
    return found


def _is_list(annotation: Any) -> bool:
    return any(typing.get_origin(kind) is list for kind in _members(annotation))


_LISTS = frozenset(name for name, field in field_names().items() if _is_list(field.annotation))


def allowed_fields(root: type[BaseModel], section: str, content: Any) -> list[str]:
    """Returns what a section may have, by its dotted path; nothing where there is no such section.

    Args:
        root: What the whole file is.
        section: Such as `data.sampler`, or `data.parts.0` for an item of a list.
        content: The file's mapping, which decides which kind of data section is meant.
    """
    sections: list[type[BaseModel]] = [root]
    inner: list[Any] = []
    here = content
    for part in filter(None, section.split(".")):
        if inner:  # a list's number or a mapping's name
            annotations, inner = inner, []
        else:
            holders = [
                s.model_fields[part] for s in _choose(sections, here) if part in s.model_fields
            ]
            annotations = [holder.annotation for holder in holders[:1]]
        if isinstance(here, list):
            here = here[int(part)] if part.isdigit() and int(part) < len(here) else None
        else:
            here = here.get(part) if isinstance(here, Mapping) else None
        members = [member for annotation in annotations for member in _members(annotation)]
        sections = [kind for member in members for kind in _sections(member)]
        held = [m for m in members if typing.get_origin(m) in (list, dict)]
        inner = [typing.get_args(member)[-1] for member in held]
    return [*dict.fromkeys(name for kind in _choose(sections, here) for name in kind.model_fields)]


def nearest_fields(
    name: str, here: Sequence[str], elsewhere: Iterable[str], *, options: bool = False
) -> list[str]:
    """Returns the fields that a mistyped name can have meant, the best guess first.

    Args:
        name: The dotted path that does not exist.
        here: What its section may have; nothing if the section does not exist either.
        elsewhere: All fields and sections, dotted.
        options: Names that are not known may be meant for the section's `options`.
    """
    section, _, leaf = name.rpartition(".")
    prefix = f"{section}." if section else ""

    def near(cutoff: float) -> list[str]:
        return [prefix + one for one in difflib.get_close_matches(leaf, here, 1, cutoff)]

    others = [other for other in elsewhere if other.rpartition(".")[0] != section or not here]
    close = near(0.85) or ([] if here else difflib.get_close_matches(name, others, 1, 0.7))
    # The name itself in other sections: `epochs` for `schedule.epochs`.
    close = close or [other for other in others if other.rpartition(".")[2] == leaf][:_SHOWN]
    close = close or near(0.85 if options else 0.6)
    if not close and options:
        return [f"{prefix}options.{leaf}"]
    if not close:
        leaves = {other.rpartition(".")[2]: other for other in reversed(others)}
        near_leaf = difflib.get_close_matches(leaf, leaves, n=1, cutoff=0.8)
        # Or only a part of its name was given: `freeze` for `schedule.freeze_epochs`.
        near_leaf += [other for other in reversed(leaves) if leaf in other.split("_")]
        close = [leaves[match] for match in near_leaf[:1]]
    # Of a letter alone, nothing is near: `loss.n` for `loss.m`.
    return close or difflib.get_close_matches(name, [prefix + one for one in here], 1, 0.8)


def _unknown(name: str, content: Mapping[str, Any], prefix: str = "") -> str:
    """Says that a field does not exist, and names the nearest one that does."""
    section, _, leaf = name.rpartition(".")
    fields = [*field_names(content)]
    sections = dict.fromkeys(field.rpartition(".")[0] for field in fields if "." in field)
    here = allowed_fields(TrainConfig, section, content)
    if prefix and not section:
        here += _SWITCHES
    items = re.match(r"(.+?)\.\d+(?:\.|$)", name)  # of a list, which is set whole
    if items and (prefix or leaf in here) and _field_at(items[1], content)[0] is not None:
        return (
            f"{prefix}{name} cannot be set alone, as {items[1]} is a list; change it in the file, "
            f"or give all of {prefix}{items[1]}"
        )
    # What is not quite a field is an option of one's own backbone or source.
    free = typing.get_origin(_field_at(f"{section}.options", content)[1]) is dict
    close = nearest_fields(name, here, [*fields, *sections], options=free)
    close = _ELSEWHERE.get(leaf.replace("-", "_"), close)
    hint = (
        f"did you mean {' or '.join(prefix + one for one in close)}?"
        if close
        else "centerarc train CONFIG.yaml --list-settings shows all"
    )
    data = content.get("data") if section == "data" else None
    kind = data.get("source") if isinstance(data, Mapping) else None
    if kind and any(leaf in other.model_fields for other in _sections(_field_at("data", {})[1])):
        return f"{prefix}{name} is not a setting of the source {kind}; {hint}"
    return f"unknown field {prefix}{name}; {hint}"


def load_config(
    path: str | Path, flags: Sequence[str] = (), *, resume: bool = False
) -> TrainConfig:
    """Reads a configuration file and lets flags override single fields.

    Args:
        path: A YAML file. A section `tune`, which is for `centerarc tune`, is left out.
        flags: Command-line words such as `["--loss.m", "0.4", "--schedule.epochs=3"]`. A value is
            read as YAML, except that fields of text or of a path take it as it stands; those of
            a list also take values with commas or blanks between; `none` empties a field that may
            be empty.
        resume: The file may be the `config.yaml` of a run: that is the run which is meant, and not
            the one from which its folder was copied or moved. A flag `--run-dir` comes first.

    Returns:
        The checked configuration.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is not YAML, or a field is unknown or out of range. The message
            is one line that names the field, the value and what is allowed.

    Example:
        >>> import tempfile
        >>> with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        ...     _ = file.write("run_dir: runs/a\\ndata: {source: synthetic}\\n")
        ...     file.flush()
        ...     load_config(file.name, ["--loss.m", "0.4"]).loss.m
        0.4
    """
    path = Path(path)
    content = read_yaml(path)
    content.pop(TUNE, None)
    given = _parse_flags(flags)
    folder = path.parent
    if plugins := [flag for flag in given if flag[0] == _PLUGINS]:
        given = [flag for flag in given if flag[0] != _PLUGINS]
        _override(content, *plugins[-1])
        folder = Path.cwd()
    try:
        content = import_plugins(content, folder)
    except ValueError as error:
        where = f"--{_PLUGINS}" if plugins else located(path, [_PLUGINS])
        raise ValueError(f"{where}: {error}") from error
    # Which source it is decides which fields there are, so it goes first.
    for name, value in sorted(given, key=lambda flag: flag[0] != _SOURCE):
        _override(content, name, value)
    names = [name for name, _ in given + plugins]
    if resume and "run_dir" not in names and _is_of_run(Path(path), content.get("run_dir")):
        content["run_dir"] = str(Path(path).parent)
    return _checked(content, path, names)


def _is_of_run(path: Path, run_dir: Any) -> bool:
    """Whether a file is the configuration of a run that is in its folder and not in `run_dir`."""
    if path.name != "config.yaml" or not any(
        (path.parent / name).exists() for name in ("state", "metrics.jsonl")
    ):
        return False
    return not isinstance(run_dir, str) or Path(run_dir).resolve() != path.parent.resolve()


def dump_config(config: TrainConfig) -> str:
    """Returns a configuration as YAML with every field, which `load_config` reads back."""
    return dump_yaml(config.model_dump(mode="json"))


def with_settings(content: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a configuration's mapping with other values of some fields.

    Args:
        content: Nested mapping of field names to values; it stays as it is.
        settings: Values by the dotted paths of their fields, such as `loss.m`.

    Returns:
        A mapping to be checked by `check_config`.

    Raises:
        ValueError: If there is no such field; the message names the nearest one.

    Example:
        >>> with_settings({"loss": {"m": 0.5, "s": 32}}, {"loss.m": 0.3, "seed": 1})
        {'loss': {'m': 0.3, 's': 32}, 'seed': 1}
    """
    changed = dict(content)
    # Which source it is decides which fields there are, so it goes first.
    for name in sorted(settings, key=lambda name: name != _SOURCE):
        if _field_at(name, changed)[0] is None:
            raise ValueError(_unknown(name, changed))
        _set(changed, name, settings[name])
    return changed


def value_of(content: Mapping[str, Any], name: str) -> Any:
    """Returns the value at a dotted path, or None where there is none.

    Example:
        >>> value_of({"loss": {"m": 0.5}}, "loss.m")
        0.5
    """
    value: Any = content
    for part in name.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def kinds_of(name: str, content: Mapping[str, Any]) -> tuple[Any, ...]:
    """Returns the types that the field at a dotted path takes, such as `(float, NoneType)`.

    Raises:
        ValueError: If there is no such field; the message names the nearest one.
    """
    field, annotation = _field_at(name, content)
    if field is None:
        raise ValueError(_unknown(name, content))
    return _members(annotation)


def _parse_flags(flags: Sequence[str]) -> list[tuple[str, str]]:
    """Splits `--name value` and `--name=value` words into (dotted path, text) pairs."""
    pairs: list[tuple[str, str]] = []
    words = iter(flags)
    for word in words:
        if not word.startswith("--") or len(word) < 3:
            if pairs and pairs[-1][1][:1] in ("[", "{"):
                rest = itertools.takewhile(lambda other: not other.startswith("--"), words)
                name, begin = pairs[-1]
                whole = shlex.quote(" ".join([begin, word, *rest]))
                raise ValueError(
                    f"--{name} is cut at a blank: {begin!r}; quote its value: --{name} {whole}"
                )
            if pairs and pairs[-1][0] in _LISTS:
                name, begin = pairs.pop()
                pairs.append((name, f"{begin},{word}"))
                continue
            raise ValueError(
                f"got {word!r}; expected a flag such as --loss.m 0.4 (see centerarc train --help)"
            )
        name, equals, value = word[2:].partition("=")
        # The Python names of fields and the dashes that command lines are used to are one.
        name = name.replace("-", "_")
        if not equals:
            following = next(words, None)
            if following is None or (following.startswith("--") and len(following) > 2):
                section, _ = _field_at(name, {})
                if section is None:
                    raise ValueError(_unknown(name, {}, "--"))
                raise ValueError(f"--{name} needs a value, for example --{name} VALUE")
            value = following
        pairs.append((name, value))
    return pairs


class SettingError(ValueError):
    """A wrong value of a configuration.

    Args:
        message: One line.
        fields: Dotted paths of the fields that it is about, the first that the file has above all.
    """

    def __init__(self, message: str, fields: Sequence[str]) -> None:
        super().__init__(message)
        self.fields = fields


def located(where: str | Path, fields: Sequence[str]) -> str:
    """Returns how an error names its origin: words as they are, a YAML file with a field's line."""
    return f"{where}:{locate(where, fields)[0]}" if isinstance(where, Path) else where


def check_config(
    content: Mapping[str, Any], where: str | Path = "the configuration"
) -> TrainConfig:
    """Checks a mapping against the fields of `TrainConfig`.

    Args:
        content: Nested mapping of field names to values.
        where: How an error names the origin: words, or the path of the YAML file, whose line it
            then names, too.

    Returns:
        The configuration.

    Raises:
        ValueError: For the first wrong field, in one line.
    """
    return _checked(content, where, ())


def _checked(content: Mapping[str, Any], where: str | Path, flags: Sequence[str]) -> TrainConfig:
    try:
        return TrainConfig.model_validate(dict(content))
    except ValidationError as error:
        first = first_of(error)
        name = ".".join(_path(first["loc"], content))
        if first["type"].startswith("union_tag"):
            name += ".source"  # which decides what else there is
        said = _describe(first, name, content)
        fields = fields_of(name, said)
        blamed = _blame(first, name, said, where, flags, fields)
        raise SettingError(blamed, fields) from first.get("ctx", {}).get("error")


def first_of(error: ValidationError) -> ErrorDetails:
    """The first problem; a name that is mistyped says more than the one that is missing then."""
    problems = error.errors()
    unknown = (each for each in problems if each["type"] == "extra_forbidden")
    return next(unknown, problems[0])


def fields_of(name: str, said: str) -> list[str]:
    """The fields that an error of a field or section may be about: those that it names, and it."""
    words = re.findall(r"\w+", said) if name.rpartition(".")[2] not in said.split()[:1] else []
    return [*(f"{name}.{word}".lstrip(".") for word in words), name]


def _blame(
    first: ErrorDetails,
    name: str,
    said: str,
    where: str | Path,
    flags: Sequence[str],
    fields: Sequence[str],
) -> str:
    """Says where a wrong value comes from: a flag, the file, or what both make together."""
    for flag in flags:
        if flag == name and said.startswith(name):
            return f"--{said}"
        if f"{name}.".startswith(f"{flag}."):
            return f"--{flag}: {said}"
    if first["type"] == "missing":
        involved = [flag for flag in flags if flag == f"{name.rpartition('.')[0]}.source"]
    else:
        # Fields that do not fit each other are named by the last part of their names.
        inside = [flag for flag in flags if not name or flag.startswith(f"{name}.")]
        words = re.findall(r"\w+", said)
        involved = [flag for flag in inside if flag.rpartition(".")[2] in words]
    named = ", ".join(f"--{flag}" for flag in involved)
    if named and isinstance(where, Path) and not locate(where, fields)[1]:
        return f"{where} with {named}: {said}"
    return f"{located(where, fields)}{f' with {named}' if named else ''}: {said}"


def _describe(first: ErrorDetails, name: str, content: Mapping[str, Any]) -> str:
    """One line for a problem with the field of a name."""
    if first["type"] == "extra_forbidden":
        return _unknown(name, content)
    if first["type"] == "missing":
        return f"{name} is missing; it is required"
    if first["type"] == "union_tag_not_found":
        return f"{name} is missing; it must be one of {', '.join(source_kinds(name))}"
    if first["type"] == "union_tag_invalid":
        given, kinds = first["ctx"]["tag"], source_kinds(name)
        hint = "".join(
            f"; did you mean {c!r}?" for c in difflib.get_close_matches(given, kinds, n=1)
        )
        own = "" if content.get("plugins") else f"; {FOR_YOUR_OWN}"
        return f"{name} is {given!r}; it must be one of {', '.join(kinds)}{own}{hint}"
    message = first["msg"].removeprefix("Value error, ")
    message = message.removeprefix("Input should be ").removeprefix("Input should ")
    if first["type"] == "value_error":
        return f"{name}: {message}" if name else message
    hint = ""
    expected = first.get("ctx", {}).get("expected")
    if first["type"] == "literal_error" and isinstance(first["input"], str) and expected:
        choices = [word.strip("'") for word in str(expected).replace(" or ", ", ").split(", ")]
        close = difflib.get_close_matches(first["input"], choices, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
    if first["type"] == "invalid_key" or first["loc"][-1:] == ("[key]",):
        return f"unknown field {name.removesuffix('.[key]')}; the name of a field is text"
    if first["type"] == "path_type":
        message = "a path, in quotes if YAML takes it for something else"
    if first["type"] in ("model_type", "model_attributes_type"):
        message = "a section: `name: value` lines"
    if first["type"] == "bool_type":
        message = "true or false"
    return f"{name} is {shown(first['input'])}; it must be {message}{hint}"


def shown(value: Any) -> str:
    """A wrong value for a message, as YAML writes what Python writes otherwise; cut where long."""
    text = {None: "null", True: "true", False: "false"}[value] if _is_word(value) else repr(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def _is_word(value: Any) -> bool:
    return value is None or isinstance(value, bool)


def source_kinds(name: str) -> list[str]:
    """Returns what a field such as `data.source` may be; a part of a mixture is no mixture."""
    return [*list_sources(), *(["mixed"] if name == _SOURCE else [])]


def _path(loc: Sequence[str | int], content: Mapping[str, Any]) -> list[str]:
    """An error's location without the names pydantic adds for the members of a union."""
    path: list[str] = []
    for part in loc:
        known = _field_at(".".join([*path, str(part)]), content)[0] is not None
        is_tag = (part in _TAGS or str(part).startswith(_LITERAL)) and not known and bool(path)
        if not is_tag:
            path.append(str(part))
    return path


def _override(content: dict[str, Any], name: str, value: str) -> None:
    field, annotation = _field_at(name, content)
    if field is None:
        raise ValueError(_unknown(name, content, "--"))
    _set(content, name, _read_value(name, value, annotation))


def _set(content: dict[str, Any], name: str, value: Any) -> None:
    *sections, leaf = name.split(".")
    for section in sections:
        inner = content.get(section)
        # Copies, so that the caller's mapping (and YAML anchors) stay as they are.
        content[section] = dict(inner) if isinstance(inner, dict) else {}
        content = content[section]
    before = content.get(leaf)
    content[leaf] = value
    if name == _SOURCE and content[leaf] != before:
        for other in [other for other in content if other not in COMMON_FIELDS]:
            del content[other]  # of the source that the file has


def _read_value(name: str, value: str, annotation: Any) -> Any:
    kinds = _members(annotation)
    if type(None) in kinds and value.strip().lower() in _NONE:
        return None
    literal = any(typing.get_origin(kind) is typing.Literal for kind in kinds)
    if str in kinds or Path in kinds or (literal and float not in kinds):
        return value
    found = _from_yaml(name, value)
    if not _is_list(annotation) or found is None or isinstance(found, list | dict):
        return found
    # What is no list of YAML is one with commas: 6,7,8 for [6, 7, 8].
    return [
        part if isinstance(found, str) and not part.isdigit() else _from_yaml(name, part)
        for part in (part.strip() for part in value.split(","))
        if part
    ]


def _from_yaml(name: str, value: str) -> Any:
    try:
        return parse_yaml(value, "it")
    except YamlError as error:
        raise ValueError(f"--{name} is {value!r:.80}, which cannot be read: {error}") from error
