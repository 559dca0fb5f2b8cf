"""What the sections of the configuration have in common."""

from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

Positive = Annotated[int, Field(ge=1)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
# What every generator of random numbers takes.
Seed = Annotated[int, Field(ge=0, le=2**63 - 1)]


def _not_empty(path: Any) -> Any:
    if path == "":
        raise ValueError("the path is empty; write . for the current folder")
    return path


# pathlib takes an empty text for the current folder, which nobody means.
NamedPath = Annotated[Path, BeforeValidator(_not_empty)]


class Section(BaseModel):
    """A part of the configuration: immutable, and unknown names are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")
