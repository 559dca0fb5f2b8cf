"""What a run trains on. Importing this module does not import torch."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from centerarc.data.augmentation.config import AugmentationConfig
from centerarc.training.section import NamedPath, NotNegative, Positive, Section, Seed

Weight = Annotated[float, Field(gt=0, le=1000)]


class FolderFields(Section):
    """A folder of images, one folder a person."""

    source: Literal["folder"] = Field(description="a folder of images, one folder a person")
    root: NamedPath = Field(description="folder of <person>/<image>")


class ListFields(Section):
    """A CSV or Parquet list of images and people."""

    source: Literal["list"] = Field(description="a CSV or Parquet list of images and people")
    path: NamedPath = Field(description="the list, .csv or .parquet")
    root: NamedPath | None = Field(
        default=None, description="folder that relative paths start from; none is the list's own"
    )
    path_column: str = Field(default="path", min_length=1, description="column of the images")
    identity_column: str = Field(
        default="identity", min_length=1, description="column of the people"
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
    num_identities: Positive = Field(default=100, description="drawn people")
    images_per_identity: Positive = Field(default=20, description="drawn images of each person")
    seed: Seed = Field(default=0, description="which people are drawn")


class LeaveOut(Section):
    """Images that a source holds and nobody wants."""

    leave_out: NamedPath | None = Field(
        default=None, description="problems.csv of centerarc data check, or a list of images"
    )


class Part(LeaveOut):
    """How a source takes part in a mixture."""

    name: str = Field(default="", description="name in messages; none is the kind and a number")
    weight: Weight = Field(
        default=1.0, description="how often an epoch shows each of its images, on average"
    )


class FolderPart(FolderFields, Part):
    """A folder as part of a mixture."""


class ListPart(ListFields, Part):
    """A list as part of a mixture."""


class RecordIOPart(RecordIOFields, Part):
    """A .rec file as part of a mixture."""


class ShardsPart(ShardsFields, Part):
    """Shards as part of a mixture."""


class SyntheticPart(SyntheticFields, Part):
    """Drawn faces as part of a mixture."""


MixturePart = Annotated[
    FolderPart | ListPart | RecordIOPart | ShardsPart | SyntheticPart,
    Field(discriminator="source"),
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
        default=False, description="nobody twice in a batch where that can be (shuffled only)"
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
        default=0.0, description="keep decoded images in at most so much memory; 0 keeps none"
    )

    @model_validator(mode="after")
    def _folds_need_pairs(self) -> Self:
        if self.exclude_folds is not None and self.exclude_pairs is None:
            raise ValueError("exclude_folds needs exclude_pairs, the file that defines the folds")
        return self


class FolderData(DataFields, FolderFields):
    """Training on a folder."""


class ListData(DataFields, ListFields):
    """Training on a list."""


class RecordIOData(DataFields, RecordIOFields):
    """Training on a .rec file."""


class ShardsData(DataFields, ShardsFields):
    """Training on shards."""


class MixedData(DataFields, MixedFields):
    """Training on several sources."""


class SyntheticData(DataFields, SyntheticFields):
    """Training on drawn faces."""


_SECTIONS: dict[str, type[DataFields]] = {
    "folder": FolderData,
    "list": ListData,
    "recordio": RecordIOData,
    "shards": ShardsData,
    "mixed": MixedData,
    "synthetic": SyntheticData,
}
SOURCES = tuple(_SECTIONS)
DataConfig = Annotated[
    FolderData | ListData | RecordIOData | ShardsData | MixedData | SyntheticData,
    Field(discriminator="source"),
]


COMMON_FIELDS = frozenset(DataFields.model_fields) | {"source"}
