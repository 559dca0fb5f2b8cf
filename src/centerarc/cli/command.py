"""A command in its user's words: the line that repeats it, its help, and its errors by flags."""

import functools
import inspect
import re
import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any, ParamSpec, TypeVar, get_args

_P = ParamSpec("_P")
_R = TypeVar("_R")
# What the library calls by another name than the flag.
_CALLED = {"bootstrap": "resamples", "image_size": "size", "output": "output_name"}


def by_flags(command: Callable[_P, _R]) -> Callable[_P, _R]:
    """Makes a command name flags where the library names arguments, and its help flow.

    The library says "folds must name some of [1, 2]"; who typed a command sees "--folds must".
    Lines of the docstring that go on from the line before are joined, or the help would break
    where the code does.

    Args:
        command: The function of the command; its keyword-only arguments are the flags.

    Returns:
        The same command.
    """

    @functools.wraps(command)
    def run(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        try:
            return command(*args, **kwargs)
        except ValueError as error:
            said = with_flags(command, error)
            if said == str(error):
                raise
            raise ValueError(said) from error

    doc = inspect.cleandoc(command.__doc__ or "")
    run.__doc__ = re.sub(r"(?:^ {4}\S.*\n?)+", _one_line, doc, flags=re.MULTILINE)
    return run


def with_flags(command: Callable[..., Any], error: ValueError) -> str:
    """Returns the message of an error, with dashes where it names an argument that is a flag.

    That is at its start, or before "must" after a colon or semicolon; in a `RequestError`, which
    is about arguments only, anywhere.

    Args:
        command: The function of the command.
        error: What it raised.

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
    known = "|".join(flags)

    def dashed(found: re.Match[str]) -> str:
        return flags[found[0]]

    if isinstance(error, RequestError):
        said = re.sub(rf"\b(?:{known})\b", dashed, str(error))
        return f"{said} (see centerarc {command.__name__} --help)"
    start = rf"^(?:{known})(?= (?:must|is|needs)\b| ')"
    return re.sub(rf"{start}|(?<=[:;] )(?:{known})(?= must\b)", dashed, str(error))


def spoken(command: Callable[..., Any], given: Mapping[str, Any]) -> str:
    """Returns the command line that gives a command its values.

    Args:
        command: The function of the command.
        given: Its arguments by name; those at their default are left out.

    Returns:
        One line, quoted for a shell.

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
            # A dataclass is no flag of its own: its fields are.
            yield from _field_names(parameter.annotation) or (name,)


def _one_line(lines: re.Match[str]) -> str:
    return f"    {' '.join(map(str.strip, lines[0].splitlines()))}\n"


def _field_names(annotation: Any) -> list[str]:
    if is_dataclass(annotation):
        return [field.name for field in fields(annotation)]
    return [name for part in get_args(annotation) for name in _field_names(part)]
