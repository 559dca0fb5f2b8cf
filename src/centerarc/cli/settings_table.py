"""The table of every setting."""

import typing
from typing import Any

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined
from rich.console import Console
from rich.table import Table

from centerarc.training.config import TrainConfig
from centerarc.training.fields import field_names


def print_settings(config: TrainConfig) -> None:
    """Prints each field's flag, its value in `config`, its default and its meaning."""
    content = config.model_dump(mode="json")
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("flag", "value", "default", "meaning"):
        # A flag broken over two lines could not be copied.
        table.add_column(title, overflow="fold", no_wrap=title == "flag")
    for name, field in field_names(content).items():
        default = "required" if field.is_required() else _plain(_default(field))
        table.add_row(f"--{name}", _plain(_value(content, name)), default, _meaning(field))
    Console(highlight=False, markup=False).print(table)


def _value(content: Any, name: str) -> Any:
    for part in name.split("."):
        # A section that is none, such as validation, has no values.
        content = content.get(part) if isinstance(content, dict) else None
    return content


def _default(field: FieldInfo) -> Any:
    value = field.get_default(call_default_factory=True)
    return "" if value is PydanticUndefined else value


def _meaning(field: FieldInfo) -> str:
    text = field.description or ""
    if typing.get_origin(field.annotation) is typing.Literal:
        text += f" ({', '.join(map(str, typing.get_args(field.annotation)))})"
    return text


def _plain(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    return str(value)
