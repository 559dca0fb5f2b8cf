"""YAML files of settings: by the rules of YAML 1.2, with limits, and errors that name a line."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

# PyYAML parses and writes; of its YAML 1.1 rules for what is a number, a truth value or a date
# none is used, but those of the core schema of YAML 1.2.2 (section 10.3.2). ruamel.yaml, which
# speaks 1.2, still reads 1_000 and 0b1 as numbers and 2024-01-01 as a date.
_TAG = "tag:yaml.org,2002:"
_SCALARS = {
    "null": r"null|Null|NULL|~|",
    "bool": r"true|True|TRUE|false|False|FALSE",
    "int": r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+",
    "float": r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?"
    r"|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
}
# What an escape may not make: nothing has it in its name. Python writes bytes of names that are no
# UTF-8 as other halves of surrogates.
_NO_CHARACTER = re.compile("[\0\ud800-\udc7f\udd00-\udfff]")

# Not of the core schema, but what many files use.
_MERGE = f"{_TAG}merge"
# What YAML 1.2 allows in a file, less what 1.1 and thus PyYAML would take for the end of a line.
_STRANGE = re.compile(
    "[^\t\n\r\x20-\x7e\xa0-\u2027\u202a-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]"
)

# Far more than any settings have; reading as much takes a second or two.
MOST_BYTES, MOST_VALUES, DEEPEST, LONGEST_NUMBER = 1 << 18, 10_000, 50, 100
_SHOWN = 60


class YamlError(ValueError):
    """What is wrong with a YAML text.

    Args:
        line: Where, counted from 1.
        message: What, with the name of the field.
    """

    def __init__(self, line: int, message: str) -> None:
        super().__init__(message)
        self.line = line


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Reads a YAML file that holds one mapping; an empty file is an empty mapping.

    Plain values are what the core schema of YAML 1.2 says: `010` is ten, `1e-3` a number, `on` and
    `1:30` are text. Merge keys (`<<`) and aliases work; each use of an alias is a copy.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no file, too large, not YAML, not a mapping, or has a name twice; the
            message is one line with the file, the line and the field.

    Example:
        >>> import tempfile
        >>> with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        ...     _ = file.write("epochs: 010\\nname: on\\n")
        ...     file.flush()
        ...     read_yaml(file.name)
        {'epochs': 10, 'name': 'on'}
    """
    text = _text_of(Path(path))
    try:
        content = parse_yaml(text)
        if content is not None and not isinstance(content, dict):
            raise YamlError(1, f"expected `name: value` lines, got {type(content).__name__}")
    except YamlError as error:
        raise ValueError(f"{path}:{error.line}: {error}") from error
    return content or {}


def parse_yaml(text: str, whole: str = "the file") -> Any:
    """Returns what a YAML text holds, by the rules of `read_yaml`.

    Args:
        text: The text.
        whole: What an error calls all of it.

    Raises:
        YamlError: If it is not YAML, or exceeds a limit.

    Example:
        >>> parse_yaml("[0o17, 1:30, .inf, ~]")
        [15, '1:30', inf, None]
    """
    root = _compose(text)
    return None if root is None else _Values(whole).of(root, "")


def locate(path: str | Path, names: Iterable[str]) -> tuple[int, bool]:
    """Returns the line of the first of some fields that a YAML file has, and whether it has any.

    Args:
        path: A file that `read_yaml` reads.
        names: Fields by their dotted paths, as `loss.m` or `data.parts.0.root`, whether the file
            has them nested or dotted. If it has none of them, the line is that of the section that
            the first one belongs to.
    """
    root = _compose(_text_of(Path(path)))
    places = [(None, False) if root is None else _place(root, name) for name in names]
    found = [line for line, there in places if there]
    return (found or [line for line, _ in places[:1]])[0] or 1, bool(found)


def dump_yaml(content: Mapping[str, Any]) -> str:
    """Returns settings as YAML, which `read_yaml` reads back, as do readers of YAML 1.1.

    Example:
        >>> dump_yaml({"lr": 1e-5, "name": "1e-5", "word": "on"})
        "lr: 1.0e-05\\nname: '1e-5'\\nword: 'on'\\n"
    """
    return yaml.dump(dict(content), Dumper=_Dumper, sort_keys=False, allow_unicode=True)


class _Dumper(yaml.SafeDumper):
    """SafeDumper that also quotes text which only YAML 1.2 takes for a number."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_str(self, data: str) -> yaml.ScalarNode:
        # Between double quotes these are escaped; else they are ends of lines to YAML 1.1 alone.
        style = '"' if re.search("[\x85\u2028\u2029]", data) else None
        return self.represent_scalar(f"{_TAG}str", data, style)


class _Nodes(
    yaml.reader.Reader,
    yaml.scanner.Scanner,
    yaml.parser.Parser,
    yaml.composer.Composer,
    yaml.resolver.BaseResolver,
):
    """The nodes of a text, whose plain scalars have the tags of YAML 1.2."""

    def __init__(self, text: str) -> None:
        yaml.reader.Reader.__init__(self, text)
        yaml.scanner.Scanner.__init__(self)
        yaml.parser.Parser.__init__(self)
        yaml.composer.Composer.__init__(self)
        yaml.resolver.BaseResolver.__init__(self)
        self._depth = self._count = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event: yaml.Event = self.peek_event()  # type: ignore[no-untyped-call]
        line = self.line + 1 if event.start_mark is None else event.start_mark.line + 1
        self._depth += 1
        self._count += 1
        _check_depth(self._depth, line)
        _check_count(self._count, line)
        if isinstance(event, yaml.NodeEvent) and not isinstance(event, yaml.AliasEvent):
            self.anchors.pop(event.anchor, None)  # a later one of the same name may follow
        if isinstance(event, yaml.ScalarEvent) and event.tag == "!":
            event.implicit = (False, True)  # text, whatever it looks like
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def fetch_flow_collection_start(self, TokenClass: Any) -> None:
        # The scanner is up to 1,024 characters ahead, which takes long where all are brackets.
        _check_depth(self.flow_level, self.line + 1)
        super().fetch_flow_collection_start(TokenClass)


_Dumper.add_representer(str, _Dumper.represent_str)
for _name, _pattern in _SCALARS.items():
    for _kind in (_Nodes, _Dumper):
        _kind.add_implicit_resolver(f"{_TAG}{_name}", re.compile(rf"(?:{_pattern})\Z"), None)
_Nodes.add_implicit_resolver(_MERGE, re.compile(r"<<\Z"), None)


def _text_of(path: Path) -> str:
    if not path.exists():
        raise FileNotFoundError(f"there is no configuration file {str(path)!r}")
    if not path.is_file():
        kind = "a folder" if path.is_dir() else "a device or pipe"
        raise ValueError(f"{str(path)!r} is {kind}; give the path of a YAML file")
    with open(path, "rb") as file:
        data = file.read(MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        raise ValueError(f"{path}:1: a YAML file must have at most {MOST_BYTES:,} bytes, got more")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"{path}:{line}: the text must be UTF-8, got the byte 0x{data[error.start]:02x}"
        ) from error


def _compose(text: str) -> yaml.Node | None:
    """The root of a text; None if it is empty."""
    if strange := _STRANGE.search(text):
        line = text.count("\n", 0, strange.start()) + 1
        raise YamlError(line, f"the character U+{ord(strange[0]):04X} is not allowed in YAML")
    nodes = _Nodes(text)
    try:
        nodes.get_event()  # type: ignore[no-untyped-call]  # the start of the stream
        if nodes.check_event(yaml.StreamEndEvent):
            return None
        root = nodes.compose_document()
        if not nodes.check_event(yaml.StreamEndEvent):
            line = nodes.line + 1
            raise YamlError(line, "a second document begins; a file must hold one")
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        problem = " ".join(str(error.problem or error.context).split())
        raise YamlError(mark.line + 1 if mark else 1, f"not valid YAML: {problem}") from error
    except YamlError:
        raise
    except (ValueError, OverflowError) as error:  # an escape of what is no character
        raise YamlError(nodes.line + 1, f"not valid YAML: {error}") from error
    return root


class _Values:
    """The values of nodes, one by one, so that aliases of aliases count as often as they are."""

    def __init__(self, whole: str) -> None:
        self._whole = whole
        self._count = 0
        self._above: list[yaml.Node] = []

    def of(self, node: yaml.Node, name: str) -> Any:
        """Returns the value of a node, which has a dotted name."""
        self._count += 1
        line = node.start_mark.line + 1
        _check_count(self._count, line, name)
        if any(node is other for other in self._above):
            raise YamlError(line, f"{name} holds itself, by an alias such as *name")
        kind = node.tag.removeprefix(_TAG)
        if isinstance(node, yaml.ScalarNode):
            return _scalar(node, kind, name or self._whole)
        if kind != ("map" if isinstance(node, yaml.MappingNode) else "seq"):
            raise YamlError(line, _refused(node, name or self._whole))
        self._above.append(node)
        if isinstance(node, yaml.MappingNode):
            found: Any = self._mapping(node, name)
        else:
            found = [self.of(item, _below(name, n)) for n, item in enumerate(node.value)]
        self._above.pop()
        return found

    def _mapping(self, node: yaml.MappingNode, name: str) -> dict[Any, Any]:
        own: dict[Any, Any] = {}
        merged: dict[Any, Any] = {}
        lines: dict[Any, int] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            is_merge = key.tag == _MERGE
            text = isinstance(key, yaml.ScalarNode)
            found = "<<" if is_merge else self.of(key, _below(name, key.value)) if text else None
            if not isinstance(found, str):
                given = f"{_short(key.value, '')}; quote it" if text else "a section"
                within = f" in {name}" if name else ""
                raise YamlError(line, f"the name of a field{within} must be text, got {given}")
            place = _below(name, found)
            if found in lines:
                raise YamlError(line, f"{place} is given twice, first in line {lines[found]}")
            lines[found] = line
            if is_merge:
                for part in self._merged(value, place):
                    merged = {**part, **merged}
            else:
                own[found] = self.of(value, place)
        return {**merged, **own}

    def _merged(self, value: yaml.Node, place: str) -> Sequence[dict[Any, Any]]:
        """What `<<` brings in, what counts more first."""
        found = self.of(value, place)
        parts = found if isinstance(found, list) else [found]
        for part in parts:
            if not isinstance(part, dict):
                raise YamlError(
                    value.start_mark.line + 1,
                    f"{place} must be a section or a list of sections, got {_short(part)}",
                )
        return parts


def _scalar(node: yaml.ScalarNode, kind: str, name: str) -> Any:
    text, line = node.value, node.start_mark.line + 1
    if kind in ("str", "merge", "!"):
        if strange := _NO_CHARACTER.search(text):
            raise YamlError(line, f"{name} must have no character U+{ord(strange[0]):04X}")
        return text
    if kind not in _SCALARS:
        raise YamlError(line, _refused(node, name))
    if not re.fullmatch(_SCALARS[kind], text):
        raise YamlError(line, f"{name} must be what its tag !!{kind} says, got {_short(text)}")
    if kind in ("int", "float") and len(text) > LONGEST_NUMBER:
        raise YamlError(
            line, f"{name} must have at most {LONGEST_NUMBER} digits, got {len(text):,}"
        )
    if kind == "int":
        base = {"0o": 8, "0x": 16}.get(text[:2])
        return int(text[2:], base) if base else int(text)
    if kind == "float":
        number = float(text.replace(".", "") if text[-1] in "fFnN" else text)
        if math.isinf(number) and text[-1] not in "fF":
            raise YamlError(line, f"{name} must be a number below 1.8e308, got {text}")
        return number
    return text.lower() == "true" if kind == "bool" else None


def _refused(node: yaml.Node, name: str) -> str:
    tag = node.tag.replace(_TAG, "!!")
    known = ", ".join(f"!!{kind}" for kind in ("str", *_SCALARS, "seq", "map"))
    return f"{name} must have no tag, or one of {known} that fits, got {_short(tag, '')}"


def _check_depth(depth: int, line: int) -> None:
    if depth > DEEPEST:
        raise YamlError(line, f"sections must be nested at most {DEEPEST} deep")


def _check_count(count: int, line: int, name: str = "") -> None:
    if count > MOST_VALUES:
        place = f" (at {name[:_SHOWN]})" if name else ""
        raise YamlError(
            line,
            f"a YAML file must have at most {MOST_VALUES:,} values, counted with each use of an "
            f"alias; got more{place}",
        )


def _place(node: yaml.Node, name: str) -> tuple[int | None, bool]:
    """The line of a field, and whether it is there; else that of the section it belongs to."""
    section = None
    entries: list[tuple[str, int, yaml.Node]] = []
    if isinstance(node, yaml.SequenceNode):
        entries = [(str(n), item.start_mark.line + 1, item) for n, item in enumerate(node.value)]
    elif isinstance(node, yaml.MappingNode):
        # What is merged in counts less than what is there.
        for key, value in sorted(node.value, key=lambda entry: entry[0].tag == _MERGE):
            parts = value.value if isinstance(value, yaml.SequenceNode) else [value]
            for part in parts if key.tag == _MERGE else ():
                if (place := _place(part, name))[1]:
                    return place
            if key.tag != _MERGE:
                entries.append((str(key.value), key.start_mark.line + 1, value))
    for key, line, value in entries:
        if key == name:
            return line, True
        if name.startswith(f"{key}."):
            inner, found = _place(value, name[len(key) + 1 :])
            if found:
                return inner, True
            section = inner or line
    return section, False


def _below(name: str, part: object) -> str:
    return f"{name}.{part}" if name else str(part)


def _short(value: object, quote: str = "'") -> str:
    text = value if isinstance(value, str) else repr(value)
    quote = quote if isinstance(value, str) else ""
    cut = text[:_SHOWN] + "..." if len(text) > _SHOWN else text
    return f"{quote}{cut}{quote}"
