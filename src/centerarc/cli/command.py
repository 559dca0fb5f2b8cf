"""A command in the words that repeat it."""

import inspect
import shlex
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any


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
    flag = f"--{name.replace('_', '-')}"
    if value is True:
        return [flag]
    parts = value if isinstance(value, tuple) else (value,)
    return [flag, *(f"{part:g}" if isinstance(part, float) else str(part) for part in parts)]
