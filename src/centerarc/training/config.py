"""The configuration of a training run. Importing this module does not import torch."""

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
from centerarc.io.plugins import import_plugin, resolve_plugin

Positive = Annotated[int, Field(ge=1)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
# What every generator of random numbers takes.
Seed = Annotated[int, Field(ge=0, le=2**63 - 1)]


def _not_empty(path: Any) -> Any:
    if path == "":
        raise ValueError("the path is empty; write . for the current folder")
    return path


# pathlib takes an empty text for the current folder, which no one means.
NamedPath = Annotated[Path, BeforeValidator(_not_empty)]


class Section(BaseModel):
    """A part of the configuration: immutable, and unknown names are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")


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

    name: str = Field(default="", description="name in messages; none is the kind and a number")
    weight: Weight = Field(
        default=1.0, description="how often an epoch shows each of its images, on average"
    )


class FolderPart(FolderFields, Part): ...


class ListPart(ListFields, Part): ...


class RecordIOPart(RecordIOFields, Part): ...


class ShardsPart(ShardsFields, Part): ...


class SyntheticPart(SyntheticFields, Part): ...


class OwnPart(OwnFields, Part): ...


MixturePart = Annotated[
    Annotated[FolderPart, Tag("folder")]
    | Annotated[ListPart, Tag("list")]
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

    @model_validator(mode="after")
    def _folds_need_pairs(self) -> Self:
        if self.exclude_folds is not None and self.exclude_pairs is None:
            raise ValueError("exclude_folds needs exclude_pairs, the file that defines the folds")
        return self


class FolderData(DataFields, FolderFields): ...


class ListData(DataFields, ListFields): ...


class RecordIOData(DataFields, RecordIOFields): ...


class ShardsData(DataFields, ShardsFields): ...


class MixedData(DataFields, MixedFields): ...


class SyntheticData(DataFields, SyntheticFields): ...


class OwnData(DataFields, OwnFields): ...


DataConfig = Annotated[
    Annotated[FolderData, Tag("folder")]
    | Annotated[ListData, Tag("list")]
    | Annotated[RecordIOData, Tag("recordio")]
    | Annotated[ShardsData, Tag("shards")]
    | Annotated[MixedData, Tag("mixed")]
    | Annotated[SyntheticData, Tag("synthetic")]
    | Annotated[OwnData, Tag(OWN)],
    Discriminator(_kind_of),
]
# What every kind of source may have beside the fields that open it.
COMMON_FIELDS = frozenset((*DataFields.model_fields, *Part.model_fields, "source"))


class ModelConfig(Section):
    """The backbone."""

    name: str = Field(default="mobilefacenet", description="registered backbone")
    embedding_size: int = Field(default=512, ge=1, le=65536, description="length of the embedding")
    image_size: Positive = Field(default=112, description="side of the input image in pixels")
    options: dict[str, Any] = Field(default={}, description="further options of this backbone")


# What the mean over all sets is called where sets have names.
MEAN = "mean"


class PairsFields(Section):
    """Pairs of images in any format that `centerarc evaluate` reads."""

    pairs: NamedPath | None = Field(
        default=None, description="pairs.txt in the format of LFW, a .bin set, or a .csv list"
    )
    images: NamedPath | None = Field(
        default=None,
        description="folder of the images that pairs names; none is a .csv list's own folder",
    )
    folds: list[Positive] | None = Field(
        default=None, description="folds of pairs to use; none is all"
    )
    name: str = Field(default="", description="name of the set; none is that of its file")

    @property
    def title(self) -> str:
        """What the set is called in logs."""
        return self.name or ("held_out" if self.pairs is None else self.pairs.stem)

    @model_validator(mode="after")
    def _images_fit_pairs(self) -> Self:
        kind = None if self.pairs is None else self.pairs.suffix.lower()
        if self.images is None and kind not in (None, ".bin", ".csv", ".tsv"):
            raise ValueError("pairs needs images, the folder that holds them")
        if self.images is not None and kind == ".bin":
            raise ValueError("images goes with pairs.txt and .csv; a .bin set holds its images")
        return self


class PairsConfig(PairsFields):
    """A further set of pairs."""

    pairs: NamedPath = Field(description="as validation.pairs")


def _path_alone(given: Any) -> Any:
    return {"pairs": given} if isinstance(given, str | Path) else given


class ValidationConfig(PairsFields):
    """What is judged while training, and chooses the best weights: people not trained on."""

    identities: float | int | None = Field(
        default=None, description="people to hold out: a fraction below 1, or a number"
    )
    num_pairs: Annotated[int, Field(ge=2)] | None = Field(
        default=None, description="pairs to make of held-out people; none is 2000"
    )
    sets: list[Annotated[PairsConfig, BeforeValidator(_path_alone)]] = Field(
        default=[], description="further sets: paths, or sections of pairs, images, folds, name"
    )
    best_set: str | None = Field(
        default=None,
        description="name of the set that chooses the best weights, or mean; none is the first",
    )
    measure: Literal["auc", "accuracy", "tar"] = Field(
        default="auc", description="what chooses the best weights; tar is at far"
    )
    far: float = Field(default=1e-3, gt=0, lt=1, description="false accept rate of the logged TAR")
    every_epochs: Positive = Field(default=1, description="epochs between validations")

    @property
    def all_sets(self) -> list[PairsFields]:
        """What is judged: this section's own set, if it has one, and the further ones."""
        own = [] if self.pairs is None and self.identities is None else [self]
        return [*own, *self.sets]

    @property
    def deciding_set(self) -> str:
        """Name of the set that chooses the best weights, or `MEAN`."""
        return self.best_set or self.all_sets[0].title

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if self.pairs is not None and self.identities is not None:
            raise ValueError("give pairs or identities, not both; further pairs go into sets")
        if self.pairs is None and self.identities is None and not self.sets:
            raise ValueError("give pairs (and images), identities or sets")
        if self.identities is None and self.num_pairs is not None:
            raise ValueError("num_pairs goes with identities, not with pairs")
        if self.pairs is None and (self.images is not None or self.folds is not None):
            raise ValueError("images and folds go with pairs")
        if self.name and self.pairs is None and self.identities is None:
            raise ValueError("name goes with pairs or identities; sets have names of their own")
        if self.identities is not None:
            whole = float(self.identities).is_integer()
            if self.identities < 0 or not (0 < self.identities < 1 or whole):
                raise ValueError(
                    f"identities is {self.identities}; it must be a fraction between 0 and 1 "
                    "or a whole number of people"
                )
            if whole and self.identities < 2:
                raise ValueError(f"identities is {self.identities}; pairs need at least 2 people")
        return self

    @model_validator(mode="after")
    def _names_tell_sets_apart(self) -> Self:
        names = [one.title for one in self.all_sets]
        for number, name in enumerate(names):
            if name == MEAN or name in names[:number]:
                taken = "the mean over all sets" if name == MEAN else "another set"
                raise ValueError(f"a set is named {name!r}, as is {taken}; give it another name")
        if self.best_set is not None and self.best_set not in (*names, MEAN):
            known = ", ".join((*names, MEAN))
            raise ValueError(f"best_set is {self.best_set!r}; it must be one of {known}")
        return self


class LossConfig(Section):
    """The joint loss: arcface + center_weight * center + separation_weight * separation."""

    margin: str = Field(default="arcface", description="margin function")
    m: NotNegative = Field(default=0.5, description="margin; 0 is the plain normalized softmax")
    margin_options: dict[str, float] = Field(
        default={}, description="the margin's parameters where they are not one m"
    )
    s: float = Field(default=30.0, gt=0, allow_inf_nan=False, description="scale of the cosines")
    center_weight: NotNegative = Field(default=1.0, description="weight of the center loss")
    separation_weight: NotNegative = Field(
        default=0.0, description="weight of the separation of centers"
    )
    centers: Literal["shared", "separate"] = Field(
        default="shared", description="centers are the class prototypes, or their own"
    )
    center_space: Literal["unit", "raw"] = Field(
        default="unit", description="center loss on unit vectors or on raw embeddings"
    )
    center_update: Literal["paper", "gradient"] = Field(
        default="paper", description="how separate centers move: Wen et al. 2016, or by gradient"
    )
    alpha: float = Field(default=0.5, gt=0, le=1, description="step of the paper's update")
    sub_centers: Positive = Field(default=1, description="prototypes for each person")
    label_smoothing: float = Field(default=0.0, ge=0, lt=1, description="label smoothing")


class OptimizerConfig(Section):
    """The optimizer of the backbone and the prototypes."""

    name: Literal["sgd", "adamw"] = Field(default="sgd", description="optimizer")
    lr: float = Field(default=0.1, gt=0, allow_inf_nan=False, description="peak learning rate")
    weight_decay: NotNegative = Field(
        default=5e-4,
        description="decay of weights; never of norms, biases, PReLU slopes, position embeddings",
    )
    head_decay: NotNegative = Field(
        default=1.0, description="times weight_decay: decay of the class prototypes"
    )
    momentum: float = Field(default=0.9, ge=0, lt=1, description="momentum of sgd, beta1 of adamw")
    nesterov: bool = Field(default=False, description="Nesterov's momentum (sgd only)")

    @model_validator(mode="after")
    def _nesterov_is_sgd(self) -> Self:
        if self.nesterov and (self.name != "sgd" or self.momentum == 0):
            raise ValueError("nesterov needs name: sgd and a momentum above 0")
        return self


class ScheduleConfig(Section):
    """The learning rate over the run."""

    epochs: Positive = Field(default=20, description="passes over the data")
    warmup_epochs: NotNegative = Field(
        default=1.0, description="epochs of linear warm-up; may be broken; at most half by default"
    )
    shape: Literal["polynomial", "cosine"] = Field(
        default="polynomial", description="fall to 0 after warm-up"
    )
    power: float = Field(default=2.0, gt=0, description="exponent of the polynomial")

    @model_validator(mode="after")
    def _warmup_fits(self) -> Self:
        if "warmup_epochs" not in self.model_fields_set:
            # A frozen model is still being made here; a run of one epoch needs no flag for it.
            object.__setattr__(self, "warmup_epochs", min(1.0, self.epochs / 2))
        if self.warmup_epochs >= self.epochs and self.warmup_epochs > 0:
            raise ValueError(
                f"warmup_epochs is {self.warmup_epochs:g}; it must be below epochs, {self.epochs}"
            )
        return self


class LogConfig(Section):
    """What is written while training."""

    every: Positive = Field(default=10, description="optimizer steps between rows of metrics.jsonl")
    tensorboard: bool = Field(
        default=False, description="also write TensorBoard files (extra: log)"
    )


def import_plugins(content: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Imports the plugins that a configuration names, before the names that they register are met.

    Args:
        content: The configuration.
        folder: Where relative paths of plugins start.

    Returns:
        The configuration with these paths absolute, so that a run can be resumed from anywhere.

    Raises:
        ValueError: If a plugin cannot be imported.
    """
    plugins = content.get("plugins")
    names = [plugins] if isinstance(plugins, str) else plugins
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return dict(content)  # what is wrong with it is said where the fields are checked
    names = [resolve_plugin(name, folder) for name in names]
    for name in names:
        import_plugin(name)
    return {**content, "plugins": names}


class TrainConfig(Section):
    """A training run.

    Example:
        >>> config = TrainConfig(run_dir="runs/a", data={"source": "synthetic"})
        >>> config.loss.s
        30.0
    """

    plugins: list[str] = Field(
        default=[], description="modules or .py files to import first, which register names"
    )
    run_dir: NamedPath = Field(description="folder of the run")
    seed: Seed = Field(default=0, description="seed of weights, batches and augmentation")
    model: ModelConfig = ModelConfig()
    data: DataConfig
    validation: ValidationConfig | None = None
    loss: LossConfig = LossConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    batch_size: Positive = Field(
        default=128, description="images an optimizer step, over all processes"
    )
    accumulate: Positive = Field(
        default=1, description="parts a process cuts its share of a batch into, to save memory"
    )
    precision: Literal["fp32", "bf16", "fp16"] = Field(
        default="fp32", description="of the backbone; fp16 needs CUDA"
    )
    compile: bool = Field(
        default=False, description="torch.compile the backbone: a minute at the start, then faster"
    )
    clip_norm: NotNegative = Field(
        default=0.0, description="limit of the norm of all gradients together; 0 is none"
    )
    ema_decay: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="judge and save a running average of the backbone's weights that decays by "
        "this much a step, such as 0.999; 0 is none",
    )
    workers: Annotated[int, Field(ge=0)] = Field(
        default=2, description="loader workers a process; 0 loads in the main one"
    )
    device: Literal["auto", "cpu", "cuda", "mps"] = Field(
        default="auto", description="auto takes CUDA, then MPS, then the CPU"
    )
    save_every: Annotated[int, Field(ge=0)] = Field(
        default=0, description="also save the state every this many steps; 0 is once an epoch"
    )
    log: LogConfig = LogConfig()

    @model_validator(mode="before")
    @classmethod
    def _plugins_first(cls, content: Any) -> Any:
        return import_plugins(content, Path.cwd()) if isinstance(content, Mapping) else content

    @model_validator(mode="after")
    def _batch_divides(self) -> Self:
        if self.accumulate > self.batch_size:
            raise ValueError(
                f"accumulate is {self.accumulate}; it cannot exceed batch_size, {self.batch_size}"
            )
        return self
