"""The settings of the images that a run trains on. Importing this module does not import torch."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationInfo,
    field_validator,
    model_validator,
)

from centerarc.data.augmentation import AugmentationConfig
from centerarc.data.source import check_source, is_own_source
from centerarc.io.files import expanded_path

# What is larger is a slip of the keyboard: no count of bytes or steps made of it could be held.
_LARGEST = 10**9
Positive = Annotated[int, Field(ge=1, le=_LARGEST)]
Count = Annotated[int, Field(ge=0, le=_LARGEST)]
NotNegative = Annotated[float, Field(ge=0, le=_LARGEST, allow_inf_nan=False)]
# What cosines are multiplied by.
Scale = Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)]
# What every generator of random numbers takes.
Seed = Annotated[int, Field(ge=0, le=2**63 - 1)]


def expanded(path: Any) -> Any:
    return expanded_path(path) if isinstance(path, str | Path) else path


NamedPath = Annotated[Path, Field(strict=False), BeforeValidator(expanded)]


class Section(BaseModel):
    """A part of the configuration: immutable; unknown names and values of other types are errors.

    Neither text nor a truth value is a number, and no number or word but true and false a truth
    value.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


def refuse_idle(section: Section, name: str, acts: bool, belongs: str) -> None:
    """Refuses a setting that would do nothing, unless it is the default that every file has."""
    value, default = getattr(section, name), type(section).model_fields[name].default
    if not acts and value != default:
        raise ValueError(
            f"{name} is {value}, but it {belongs}; leave it out (its default is {default})"
        )


Weight = Annotated[float, Field(gt=0, le=1000)]


class FolderFields(Section):
    """A folder of images, one folder a person."""

    source: Literal["folder"] = Field(description="a folder of images, one folder a person")
    root: NamedPath = Field(description="folder of <person>/<image>")


class ListFields(Section):
    """A CSV, Parquet or text list of images and people."""

    source: Literal["list"] = Field(description="a list of images and people")
    path: NamedPath = Field(description="the list: .csv, .parquet, or text of path and person")
    root: NamedPath | None = Field(
        default=None, description="folder that relative paths start from; none is the list's own"
    )
    path_column: str = Field(default="path", min_length=1, description="column of the images")
    identity_column: str = Field(
        default="identity", min_length=1, description="column of the people"
    )
    missing: Literal["error", "skip"] = Field(
        default="error", description="images that are not there: an error, or left out and counted"
    )


class ParquetFields(Section):
    """Parquet files that hold the images, as Hugging Face's datasets do."""

    source: Literal["parquet"] = Field(description="Parquet files that hold the images")
    path: NamedPath = Field(description="a file, a folder, or a pattern like train-*.parquet")
    image_column: str | None = Field(
        default=None, description="column of the images; none is the only one that can be"
    )
    identity_column: str | None = Field(
        default=None, description="column of the people; none is identity, label or the like"
    )


class RecordIOFields(Section):
    """An insightface .rec file."""

    source: Literal["recordio"] = Field(description="insightface's .rec, .idx beside it")
    path: NamedPath = Field(description="the .rec file, or a folder that holds one")


class ShardsFields(Section):
    """WebDataset tar shards."""

    source: Literal["shards"] = Field(description="WebDataset tar shards")
    path: NamedPath = Field(description="folder of shards, or a pattern like a-{000..009}.tar")


class SyntheticFields(Section):
    """Drawn faces, for trying things out and for tests."""

    source: Literal["synthetic"] = Field(description="drawn faces, made on demand")
    num_identities: Positive = Field(default=100, le=10**7, description="drawn people")
    images_per_identity: Positive = Field(
        default=20, le=10**5, description="drawn images of each person"
    )
    seed: Seed = Field(default=0, description="which people are drawn")


class OwnFields(Section):
    """A kind of source that a user registered."""

    source: str = Field(description="a registered source")
    options: dict[str, Any] = Field(
        default={}, validate_default=True, description="options of this source"
    )

    @field_validator("options")
    @classmethod
    def _options_fit(cls, options: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        check_source(info.data["source"], options)
        return options


# The tag of such a source in the unions below; the others' tags are their names.
OWN = "own"


def _kind_of(data: Any) -> str | None:
    kind = data.get("source") if isinstance(data, Mapping) else getattr(data, "source", None)
    if kind is None:
        return None
    return OWN if isinstance(kind, str) and is_own_source(kind) else str(kind)


class LeaveOut(Section):
    """Images of a source that are not trained on."""

    leave_out: NamedPath | None = Field(
        default=None, description="problems.csv of centerarc data check, or a list of images"
    )


class Part(LeaveOut):
    """How a source takes part in a mixture."""

    name: str | None = Field(
        default=None, description="name in messages; none is the kind and a number"
    )
    weight: Weight = Field(
        default=1.0, description="how often an epoch shows each of its images, on average"
    )


class FolderPart(FolderFields, Part): ...


class ListPart(ListFields, Part): ...


class ParquetPart(ParquetFields, Part): ...


class RecordIOPart(RecordIOFields, Part): ...


class ShardsPart(ShardsFields, Part): ...


class SyntheticPart(SyntheticFields, Part): ...


class OwnPart(OwnFields, Part): ...


MixturePart = Annotated[
    Annotated[FolderPart, Tag("folder")]
    | Annotated[ListPart, Tag("list")]
    | Annotated[ParquetPart, Tag("parquet")]
    | Annotated[RecordIOPart, Tag("recordio")]
    | Annotated[ShardsPart, Tag("shards")]
    | Annotated[SyntheticPart, Tag("synthetic")]
    | Annotated[OwnPart, Tag(OWN)],
    Discriminator(_kind_of),
]


class MixedFields(Section):
    """Several sources at once."""

    source: Literal["mixed"] = Field(description="several sources at once")
    parts: list[MixturePart] = Field(
        min_length=1, description="the sources, each with its fields, weight and name"
    )
    merge: bool = Field(
        default=True, description="people of one name in several parts are one person"
    )


class SamplerConfig(Section):
    """Which images an epoch shows, in which order."""

    kind: Literal["shuffled", "identities", "balanced", "blocks"] = Field(
        default="shuffled",
        description="all images once; people x images; each person equally often; runs of images",
    )
    distinct: bool = Field(
        default=False, description="no person twice in a batch where possible (shuffled only)"
    )
    images_per_identity: Positive | None = Field(
        default=None, description="images of each person in a batch (identities only); none is 4"
    )
    block: Positive | None = Field(
        default=None, description="images read in a row (blocks only); none is 1000"
    )

    @model_validator(mode="after")
    def _fields_fit_the_kind(self) -> Self:
        for name, kind in (
            ("distinct", "shuffled"),
            ("images_per_identity", "identities"),
            ("block", "blocks"),
        ):
            if getattr(self, name) and self.kind != kind:
                raise ValueError(f"{name} goes with kind: {kind}; it is {self.kind}")
        return self


class DataFields(LeaveOut):
    """What is done with the images of any source."""

    min_images: Positive = Field(default=1, description="leave out people with fewer images")
    identities: NamedPath | None = Field(
        default=None, description="text file with the people to train on, one a line"
    )
    exclude_pairs: NamedPath | None = Field(
        default=None, description="pairs.txt with people who must not be trained on"
    )
    exclude_folds: list[Positive] | None = Field(
        default=None, description="folds of exclude_pairs to leave out; none leaves out all"
    )
    sampler: SamplerConfig = SamplerConfig()
    augmentation: AugmentationConfig = Field(
        default=AugmentationConfig(), description="random changes of the training images"
    )
    cache_gb: Annotated[NotNegative, Field(le=1e6)] = Field(
        default=0.0, description="memory for decoded images, in GB; 0 keeps none"
    )

    on_change: Literal["refuse", "continue"] = Field(
        default="refuse",
        description="where images of a resumed run are gone, new or changed: refuse, or go on",
    )

    @model_validator(mode="after")
    def _folds_need_pairs(self) -> Self:
        if self.exclude_folds is not None and self.exclude_pairs is None:
            raise ValueError("exclude_folds needs exclude_pairs, the file that defines the folds")
        return self


class FolderData(DataFields, FolderFields): ...


class ListData(DataFields, ListFields): ...


class ParquetData(DataFields, ParquetFields): ...


class RecordIOData(DataFields, RecordIOFields): ...


class ShardsData(DataFields, ShardsFields): ...


class MixedData(DataFields, MixedFields): ...


class SyntheticData(DataFields, SyntheticFields): ...


class OwnData(DataFields, OwnFields): ...


DataConfig = Annotated[
    Annotated[FolderData, Tag("folder")]
    | Annotated[ListData, Tag("list")]
    | Annotated[ParquetData, Tag("parquet")]
    | Annotated[RecordIOData, Tag("recordio")]
    | Annotated[ShardsData, Tag("shards")]
    | Annotated[MixedData, Tag("mixed")]
    | Annotated[SyntheticData, Tag("synthetic")]
    | Annotated[OwnData, Tag(OWN)],
    Discriminator(_kind_of),
]
# What every kind of source may have beside the fields that open it.
COMMON_FIELDS = frozenset((*DataFields.model_fields, *Part.model_fields, "source"))
