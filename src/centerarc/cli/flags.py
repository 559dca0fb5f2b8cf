"""Flags that several commands share, what they open, and a command in its user's words."""

import functools
import inspect
import itertools
import os
import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, ParamSpec, TypeVar, get_args

from cyclopts import Group, Parameter, Token

from centerarc.io.failures import memory_explained

if TYPE_CHECKING:
    from centerarc.data.source import FaceSource
    from centerarc.models.opened import OpenedModel


# A command in its user's words: the line that repeats it, its help, and its errors by flags.

_P = ParamSpec("_P")
_R = TypeVar("_R")
_T = TypeVar("_T")
_PARAMETERS = "\n\nParameters\n----------\n"
# What the library calls by another name than the flag.
_CALLED = {
    "bootstrap": "resamples",
    "evaluations": "evaluation",
    "folder": "to",
    "image_size": "size",
    "constants": "constant",
    "output": "output_name",
}
# What saves memory.
_LESS = {
    "batch_size": "a smaller --batch-size",
    "workers": "fewer --workers",
    "jobs": "fewer --jobs",
    "people": "fewer --people",
}


def by_flags(command: Callable[_P, _R]) -> Callable[_P, _R]:
    """Makes a command name flags where the library names arguments, and its help flow.

    The library says "folds must name some of [1, 2]"; who typed a command sees "--folds must".
    Lines of a paragraph of the docstring are joined, or the help would break where the code does.

    Args:
        command: The function of the command; its keyword-only arguments are the flags.

    Returns:
        The same command.
    """

    given = {*_flag_names(command)}
    flags = [said for name, said in _LESS.items() if name in given]
    less = f"try {' or '.join(flags)}" if flags else "this machine has too little for it"

    @functools.wraps(command)
    def run(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        try:
            with memory_explained(less):
                return command(*args, **kwargs)
        except ValueError as error:
            said = with_flags(command, error)
            if said == str(error):
                raise
            raise ValueError(said) from error

    run.__doc__ = _flowing(command.__doc__ or "")
    return run


def _flowing(text: str) -> str:
    """A docstring whose lines are joined, or help would break where the code does."""
    head, _, flags = inspect.cleandoc(text).partition(_PARAMETERS)
    paragraphs = [" ".join(part.split()) for part in head.split("\n\n")]
    # Each flag is a line, what it means the indented lines below it.
    lines: list[str] = []
    for line in flags.splitlines():
        if line.startswith(" ") and lines and lines[-1].startswith(" "):
            lines[-1] += f" {line.strip()}"
        else:
            lines.append(line)
    return "\n\n".join(paragraphs) + _PARAMETERS + "\n".join(lines)


def _flowing_help(kind: type[_T]) -> type[_T]:
    """Makes the help of flags that are fields of a class flow, too."""
    kind.__doc__ = _flowing(kind.__doc__ or "")
    return kind


def with_flags(command: Callable[..., Any], error: ValueError) -> str:
    """Returns the message of an error, with dashes where it names an argument that is a flag.

    A `RequestError` knows what it names; else that is at the start of the message, or before
    "must" after a colon or semicolon.

    Example:
        >>> def look(*, folds=None, image_size=None): ...
        >>> with_flags(look, ValueError("pairs.txt: folds must name some of [1, 2], got [3]"))
        'pairs.txt: --folds must name some of [1, 2], got [3]'
    """
    from centerarc.evaluation.protocols.request import RequestError

    flags = {name: _flag(name) for name in _flag_names(command)}
    for name, called in _CALLED.items():
        if called in flags:
            flags.setdefault(name, flags[called])
    if isinstance(error, RequestError):
        return f"{error.said(flags.__getitem__)} (see centerarc {command.__name__} --help)"
    words = str(error).split(" ")
    for at, (word, following) in enumerate(itertools.pairwise(words)):
        if at == 0:
            named = following in ("must", "is", "needs") or following.startswith("'")
        else:
            named = following == "must" and words[at - 1].endswith((":", ";"))
        if named and word in flags:
            words[at] = flags[word]
    return " ".join(words)


def spoken(command: Callable[..., Any], given: Mapping[str, Any]) -> str:
    """Returns the command line, quoted for a shell, that gives a command these arguments.

    Example:
        >>> def greet(name, /, *, loud=False, times=1): ...
        >>> spoken(greet, {"name": "Ann Lee", "loud": True, "times": 1})
        "centerarc greet 'Ann Lee' --loud"
    """
    positional: list[str] = []
    options: list[str] = []
    for name, parameter in inspect.signature(command).parameters.items():
        value = given[name]
        if is_dataclass(value) and not isinstance(value, type):
            for field in fields(value):
                options += _option(field.name, getattr(value, field.name), field.default)
        elif parameter.kind is not inspect.Parameter.KEYWORD_ONLY:
            parts = value if isinstance(value, tuple) else (value,)
            positional += [str(part) for part in parts if part is not None]
        else:
            options += _option(name, value, parameter.default)
    return shlex.join(["centerarc", command.__name__, *positional, *options])


def _option(name: str, value: Any, default: Any) -> list[str]:
    if value == default or value is None:
        return []
    if value is True:
        return [_flag(name)]
    parts = value if isinstance(value, tuple) else (value,)
    return [_flag(name), *map(str, parts)]


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _flag_names(command: Callable[..., Any]) -> Iterator[str]:
    for name, parameter in inspect.signature(command).parameters.items():
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY:
            # A dataclass is not a flag of its own: its fields are.
            yield from _field_names(parameter.annotation) or (name,)


def _field_names(annotation: Any) -> list[str]:
    if is_dataclass(annotation):
        return [field.name for field in fields(annotation)]
    return [name for part in get_args(annotation) for name in _field_names(part)]


# What flags take that several commands have.

MODEL = Group("Model", sort_key=2)
OUTPUT = Group("Output", sort_key=4)
Workers = Annotated[
    int | None, Parameter(group=MODEL, show_default=lambda _: "one per core, at most 16")
]
_PAGES = (".html", ".htm")


def flag(group: Group | None = None) -> Parameter:
    """A flag that is either there or not."""
    switch = Parameter(negative="", show_default=False)
    return switch if group is None else Parameter.combine(switch, Parameter(group=group))


def numbers(kind: Callable[[str], Any], example: str, group: Group) -> Parameter:
    """Several numbers, with commas or blanks between; `example` stands in the error of others."""

    def converted(_: Any, tokens: Sequence[Token]) -> tuple[Any, ...]:
        texts = [part for token in tokens for part in re.split(r"[,\s]+", token.value.strip())]
        try:
            return tuple(kind(text) for text in texts)
        except ValueError:
            words = "whole numbers" if kind is int else "numbers"
            raise ValueError(
                f"give {words} with commas or blanks between, e.g. {example}; got {texts!r}"
            ) from None

    return Parameter(
        group=group, converter=converted, consume_multiple=True, negative="", show_default=False
    )


Overwrite = Annotated[bool, Parameter.combine(flag(), Parameter(group=OUTPUT))]


def check_outputs(
    outputs: Iterable[tuple[str, Path | None]],
    inputs: Sequence[str | Path | None],
    *,
    overwrite: bool,
) -> None:
    """Checks the files that a result is to be written to, before the work.

    Args:
        outputs: The name of the flag and each file, None where it is not asked for; that of
            "report" is a page.
        inputs: What is read; none of it may be written over.
        overwrite: What is there may be replaced.

    Raises:
        ValueError: If a file is there, would be written twice, or cannot be written.
    """
    from centerarc.io.files import check_place

    taken = {os.path.realpath(path): path for path in inputs if path is not None}
    for name, path in outputs:
        if path is None:
            continue
        place = os.path.realpath(path)
        if place in taken:
            raise ValueError(f"{str(path)!r} would be written over {str(taken[place])!r}")
        taken[place] = path
        check_place(name, path, overwrite=overwrite)
        if name == "report" and path.suffix.lower() not in _PAGES:
            raise ValueError(
                f"report must end in {' or '.join(_PAGES)}, since it is a page; got {str(path)!r}"
            )


# How the commands open a source, while the user waits.


@Parameter(name="*")
@_flowing_help
@dataclass(frozen=True)
class ListFlags:
    """How a list is read; for a SOURCE that is a list only.

    Parameters
    ----------
    root
        Of a list: the folder from which its paths start, by default its own.
    path_column
        Of a list: the column with the path of each image, path by default.
    identity_column
        Of a list: the column with the name of the person, identity by default.
    missing
        Of a list: error (default), or skip, which leaves out images that are not there.
    """

    root: Path | None = None
    path_column: str | None = None
    identity_column: str | None = None
    missing: Literal["error", "skip"] | None = None


def opened(
    path: Path, image_size: int | None = None, columns: ListFlags | None = None
) -> "FaceSource":
    """Opens the source at a path, shows how far that is, and says on stderr what is wrong with it.

    Args:
        path: What the user named.
        image_size: Side in pixels to which images are resized; None leaves them as they are.
        columns: How a list is read.
    """
    from rich.console import Console
    from rich.text import Text

    source = reopened(path, image_size, columns)
    # Text, not str: a path may hold what rich takes for markup.
    for problem in source.problems:
        Console(stderr=True).print(Text(f"{path}: {problem}"), soft_wrap=True)
    return source


def reopened(
    path: Path, image_size: int | None = None, columns: ListFlags | None = None
) -> "FaceSource":
    """As `opened`, without what the user was told before."""
    from centerarc.data.source import open_source
    from centerarc.io.progress import waiting

    with waiting("opening") as progress:
        return open_source(
            path,
            image_size=image_size,
            progress=progress,
            **asdict(ListFlags() if columns is None else columns),
        )


# Flags about a model, and how it is opened.


@Parameter(name="*")
@_flowing_help
@dataclass(frozen=True)
class ModelFlags:
    """What a model's file does not say.

    Parameters
    ----------
    architecture
        Backbone of a public checkpoint that does not name it, e.g. iresnet50.
    size
        Side of the images that the model takes, where its file leaves that open; of an ONNX model
        also height x width, e.g. 112x96.
    mean
        Of a model of others: taken from each pixel value, 0 to 255; one number or three with
        commas between. 127.5 by default.
    std
        Likewise: what the difference is divided by. 127.5 by default.
    channels
        Likewise: rgb by default, or bgr; gray for an ONNX model whose input leaves that open.
    layout
        Of an ONNX model whose input's shape leaves it open: nchw for N x 3 x H x W, nhwc for
        N x H x W x 3.
    output_name
        Of an ONNX model with several outputs: the one that is the embedding.
    constant
        Of an ONNX model with further inputs: their values, e.g. keep_prob=1 or is_training=false.
    concat_mirror
        Put the embedding of the mirror image after that of the image; --mirror sums them.
    subtract
        A file of embeddings by the same model, whose mean is taken from each embedding.
    precision
        fp32, or bf16 to compute weights of PyTorch in bfloat16: about twice as fast on processors
        with instructions for it, and refused on others.
    plugin
        Module or .py file that registers the backbone, if it is your own.
    """

    architecture: str = ""
    size: str = ""
    mean: str = ""
    std: str = ""
    channels: Literal["rgb", "bgr", "gray"] | None = None
    layout: Literal["nchw", "nhwc"] | None = None
    output_name: str = ""
    constant: Annotated[tuple[str, ...], Parameter(consume_multiple=True, negative="")] = ()
    concat_mirror: Annotated[bool, Parameter(negative="")] = False
    subtract: Path | None = None
    precision: Literal["fp32", "bf16"] = "fp32"
    plugin: Annotated[tuple[str, ...], Parameter(consume_multiple=True, negative="")] = ()


def opened_model(
    path: str | Path, flags: ModelFlags | None, device: str = "cpu", *, mirror: bool = False
) -> "OpenedModel":
    """Opens what a user calls a model; for an ONNX file the device auto is the CPU.

    From here on the process keeps its memory, as embedding needs the same blocks for each batch.
    """
    from centerarc.io.memory import keep_memory
    from centerarc.io.plugins import UnknownNameError, import_plugin
    from centerarc.models.opened import open_model

    given = ModelFlags() if flags is None else flags
    for plugin in given.plugin:
        import_plugin(plugin)
    keep_memory()
    try:
        model = open_model(
            path,
            architecture=given.architecture or None,
            image_size=_size(given.size),
            mean=_numbers("mean", given.mean),
            std=_numbers("std", given.std),
            channels=given.channels,
            layout=given.layout,
            output=given.output_name or None,
            constants=dict(map(_constant, given.constant)),
            device=device,
            precision=given.precision,
        )
    except UnknownNameError as error:
        raise ValueError(f"{error}; {_plugins_wanted(Path(path))}") from error
    if mirror and given.concat_mirror:
        raise ValueError("mirror must not be given with --concat-mirror: sum or concatenate")
    whole = model.finished(concat_mirror=given.concat_mirror)
    if given.subtract is None:
        return whole
    mean = _mean_of(given.subtract, whole, mirror)
    return model.finished(concat_mirror=given.concat_mirror, subtract=mean)


def _mean_of(path: Path, model: "OpenedModel", mirror: bool) -> Any:
    """The mean of embeddings, which must be those of this model."""
    from centerarc.evaluation.embedding import read_embeddings

    found = read_embeddings(path)
    here = {**model.identity, "mirror": mirror, "preprocessing": model.preprocessing.to_dict()}
    for fact in (*here, "features") if found.metadata else ():
        if found.metadata.get(fact) != here.get(fact):
            raise ValueError(
                f"subtract must name embeddings as this command makes them, but those of "
                f"{str(path)!r} differ in {fact}: {found.metadata.get(fact)}, here {here.get(fact)}"
            )
    return found.embedding.mean(axis=0, dtype="float64").astype("float32")


def _plugins_wanted(path: Path) -> str:
    """What a user types to import the plugins that a run was trained with."""
    from centerarc.io.yaml_file import read_yaml

    run = path if path.is_dir() else path.parent
    plugins: Any = None
    with suppress(ValueError, OSError):
        plugins = read_yaml(run / "config.yaml").get("plugins")
    if not isinstance(plugins, list) or not plugins:
        return "a backbone of your own needs --plugin, the module or .py file that registers it"
    named = " ".join(shlex.quote(str(plugin)) for plugin in plugins)
    return f"its run imported plugins; if you trust them, add --plugin {named}"


def _size(text: str) -> int | tuple[int, int] | None:
    try:
        sizes = [int(part) for part in text.split("x")] if text else [0]
        if len(sizes) > 2:
            raise ValueError("of more than two numbers")
    except ValueError:
        raise ValueError(
            f"size must be a number of pixels, or height x width such as 112x96; got {text!r}"
        ) from None
    return (sizes[0], sizes[1]) if len(sizes) == 2 else sizes[0] if text else None


def _constant(text: str) -> tuple[str, Any]:
    name, _, value = text.rpartition("=")
    if name and value.lower() in ("true", "false"):
        return name, value.lower() == "true"
    try:
        numbers = [float(part) for part in value.split(",")]
    except ValueError:
        numbers = []
    if not name or not numbers:
        raise ValueError(
            f"constant must be NAME=NUMBER, NAME=true or NAME=false, or numbers with commas "
            f"between; got {text!r}"
        )
    return name, numbers[0] if len(numbers) == 1 else numbers


def _numbers(name: str, text: str) -> Any:
    if not text:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise ValueError(
            f"{name} must be one number or three with commas between, e.g. 127.5; got {text!r}"
        ) from None
