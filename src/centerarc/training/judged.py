"""What runs are judged on: sets of images or pairs. Importing this module does not import torch."""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from centerarc.evaluation.intervals import rate_key
from centerarc.training.data_config import NamedPath, Positive, Section, Seed

_NAME = re.compile(r"[A-Za-z0-9][\w.+-]*")
# Longer ones would not fit into the names of files on every system.
_LONGEST = 60
_TARS = ("tar@0.01", "tar@0.001", "tar@0.0001")
# What each kind of set can be judged by, as `centerarc.evaluation.seeds` names it.
MEASURES = {
    "all_pairs": (*_TARS, "auc", "eer", "threshold_spread", "tpir@0.01"),
    "pairs": ("accuracy", "auc", "eer", "tar@0.1", *_TARS),
}
_PRIMARY = {"all_pairs": "tar@0.001", "pairs": "accuracy"}


class DrawnPeople(Section):
    """Drawn people to judge on; those of a training start at number 0."""

    people: Annotated[int, Field(ge=2, le=10**6)] = Field(default=100, description="how many")
    images: Annotated[int, Field(ge=2, le=10**4)] = Field(
        default=10, description="images of each person"
    )
    first: Annotated[int, Field(ge=0, le=10**9)] = Field(
        description="number of the first one: beyond those that are drawn for the training"
    )
    seed: Seed = Field(default=0, description="as data.seed of the training")


class StudySet(Section):
    """What every run of a study is judged on: all pairs of some people, or listed pairs."""

    all_pairs: DrawnPeople | NamedPath | None = Field(
        default=None, description="folder of <person>/<image>, or drawn people: all pairs of them"
    )
    pairs: NamedPath | None = Field(
        default=None,
        description="a file of pairs; with all_pairs it names the people who are judged",
    )
    images: NamedPath | None = Field(default=None, description="folder of the images of pairs")
    folds: Annotated[list[Positive], Field(min_length=1)] | None = Field(
        default=None, description="folds of pairs to use; none is all"
    )
    other_side: NamedPath | None = Field(
        default=None,
        description="with all_pairs: folder of the same images, degraded, for one side of a pair",
    )

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if self.all_pairs is None and self.pairs is None:
            raise ValueError("give all_pairs, a folder of people, or pairs with images")
        if self.all_pairs is None and self.images is None:
            raise ValueError("images must name the folder of the images that pairs lists")
        if self.all_pairs is not None and self.images is not None:
            raise ValueError("images goes with pairs alone; all_pairs is a folder itself")
        if self.all_pairs is None and self.other_side is not None:
            raise ValueError("other_side goes with all_pairs")
        if self.folds is not None and self.pairs is None:
            raise ValueError("folds goes with pairs, the file that has them")
        if isinstance(self.all_pairs, DrawnPeople) and (self.pairs or self.other_side):
            raise ValueError("pairs and other_side go with a folder, not with drawn people")
        return self

    @property
    def kind(self) -> str:
        """The protocol: "all_pairs" or "pairs"."""
        return "pairs" if self.all_pairs is None else "all_pairs"


class EvaluateConfig(Section):
    """How the runs of a study are judged."""

    sets: dict[str, StudySet] = Field(
        min_length=1, description="by name: what is judged; or the fields of one set right here"
    )
    primary: str = Field(
        default="",
        description="the measure that decides: such as tar@1e-3, of the first set, or SET/MEASURE",
    )
    mirror: bool = Field(default=True, description="features of image and mirror image are summed")
    resamples: Annotated[int, Field(ge=100)] = Field(
        default=1000, description="of people and seeds, for the intervals"
    )
    seed: Seed = Field(default=0, description="of the resampling")

    @model_validator(mode="before")
    @classmethod
    def _one_set_needs_no_name(cls, content: Any) -> Any:
        if not isinstance(content, Mapping) or "sets" in content:
            return content
        own = {name: value for name, value in content.items() if name in StudySet.model_fields}
        if not own:
            return content
        rest = {name: value for name, value in content.items() if name not in own}
        return {**rest, "sets": {"all_pairs" if "all_pairs" in own else "pairs": own}}

    @model_validator(mode="after")
    def _names_fit(self) -> Self:
        for name in self.sets:
            check_name("sets", name)
        chosen = self.primary_set
        if chosen not in self.sets:
            raise ValueError(
                f"primary must be a measure of one of the sets {', '.join(self.sets)}, "
                f"got {self.primary!r}"
            )
        measures = MEASURES[self.sets[chosen].kind]
        if self.primary_measure not in measures:
            raise ValueError(
                f"primary must be one of {', '.join(measures)} for the set {chosen}, "
                f"got {self.primary!r}"
            )
        return self

    @property
    def primary_set(self) -> str:
        """Name of the set with the measure that decides."""
        return self.primary.rpartition("/")[0] or next(iter(self.sets))

    @property
    def primary_measure(self) -> str:
        """The measure that decides, as `MEASURES` writes it: tar@0.001 for tar@1e-3."""
        chosen = self.primary.rpartition("/")[2] or _PRIMARY[self.sets[self.primary_set].kind]
        name, at, rate = chosen.partition("@")
        try:
            return f"{name}@{rate_key(float(rate))}" if at else chosen
        except ValueError:
            return chosen


def check_name(what: str, name: str) -> None:
    """Refuses a name that could not be a folder's, in a section that is called `what`."""
    if len(name) > _LONGEST:
        raise ValueError(
            f"a name in {what} must have at most {_LONGEST} letters, since it is a folder's; got "
            f"{len(name)}: {name[:20]!r}..."
        )
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"a name in {what} must have letters, digits, '_', '.', '+' and '-' only, since it "
            f"is a folder's; got {name!r}"
        )
