"""The fields of `TrainConfig` by their dotted paths, such as `loss.m`."""

import difflib
import types
import typing
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from centerarc.training.config import TrainConfig

# Flags of the command that are no fields, to be suggested for a mistyped one.
_SWITCHES = ("resume", "overwrite", "list-settings")


def members(annotation: Any) -> tuple[Any, ...]:
    """The members of a union without the wrappings of Annotated; or the annotation alone."""
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        return members(typing.get_args(annotation)[0])
    if origin in (typing.Union, types.UnionType):
        return tuple(m for arg in typing.get_args(annotation) for m in members(arg))
    return (annotation,)


def _sections(annotation: Any) -> list[type[BaseModel]]:
    return [m for m in members(annotation) if isinstance(m, type) and issubclass(m, BaseModel)]


def _choose(sections: list[type[BaseModel]], content: Any) -> list[type[BaseModel]]:
    """Of a union told apart by `source`, the member that the content chose; else all."""
    source = content.get("source") if isinstance(content, Mapping) else None
    chosen = [
        s
        for s in sections
        if "source" in s.model_fields
        and source in typing.get_args(s.model_fields["source"].annotation)
    ]
    return chosen or sections


def field_at(name: str, content: Mapping[str, Any]) -> tuple[FieldInfo | None, Any]:
    """Finds the field that a dotted path names.

    Args:
        name: Such as `loss.m`; below a field that is a free mapping (`model.options.dropout`),
            any name goes.
        content: The mapping so far; it decides which kind of data section is meant.

    Returns:
        The field and its annotation, or (None, None).
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


def field_names(content: Mapping[str, Any] | None = None) -> dict[str, FieldInfo]:
    """Every field by its dotted path, in the order of the file.

    Args:
        content: The mapping so far, to list the chosen kind of data section only; None lists
            every kind.

    Returns:
        Paths such as `loss.m` and their fields; sections themselves are left out.
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

    walk(TrainConfig, "", content)
    return found


def unknown(name: str, content: Mapping[str, Any], prefix: str = "") -> str:
    """The sentence about a field that does not exist, with the nearest that does."""
    names = [*field_names(content), *(_SWITCHES if prefix else ())]
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if not close:  # perhaps the section was forgotten: `epochs` for `schedule.epochs`
        leaf = name.rpartition(".")[2]
        leaves = {other.rpartition(".")[2]: other for other in reversed(names)}
        close = [leaves[match] for match in difflib.get_close_matches(leaf, leaves, n=1)]
    hint = f"did you mean {prefix}{close[0]}?" if close else "see centerarc train --help"
    return f"unknown field {prefix}{name}; {hint}"
