"""The configuration of a training run. Importing this module does not import torch."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BeforeValidator,
    Field,
    model_validator,
)

from centerarc.io.plugins import import_plugin, resolve_plugin
from centerarc.training.data_config import (
    Count,
    DataConfig,
    NamedPath,
    NotNegative,
    Positive,
    Section,
    Seed,
    expanded,
    refuse_idle,
)
from centerarc.training.loss_config import LossConfig


class ModelConfig(Section):
    """The backbone."""

    name: str = Field(default="mobilefacenet", description="registered backbone")
    embedding_size: int = Field(default=512, ge=1, le=65536, description="length of the embedding")
    image_size: Positive = Field(default=112, description="side of the input image in pixels")
    options: dict[str, Any] = Field(default={}, description="further options of this backbone")
    weights: Annotated[str, BeforeValidator(expanded)] | None = Field(
        default=None,
        description="what to start from: a run, .safetensors, arcface_torch's .pt, hf://owner/name",
    )


# What the mean over all sets is called where sets have names.
MEAN = "mean"


# Pairs whose images may be in the list's own folder.
_LISTS = (".csv", ".tsv", ".parquet", ".gz")


class PairsFields(Section):
    """Pairs of images in any format that `centerarc evaluate` reads."""

    pairs: NamedPath | None = Field(
        default=None, description="pairs.txt in the format of LFW, a .bin set, or a list"
    )
    images: NamedPath | None = Field(
        default=None,
        description="folder of the images that pairs names; none is a list's own folder",
    )
    missing: Literal["skip"] | None = Field(
        default=None,
        description="skip leaves out pairs of which an image is not there; none refuses them",
    )
    folds: list[Positive] | None = Field(
        default=None, description="folds of pairs to use; none is all"
    )
    name: str | None = Field(default=None, description="name of the set; none is that of its file")

    @property
    def title(self) -> str:
        """What the set is called in logs."""
        return self.name or ("held_out" if self.pairs is None else self.pairs.stem)

    @model_validator(mode="after")
    def _images_fit_pairs(self) -> Self:
        kind = None if self.pairs is None else self.pairs.suffix.lower()
        from centerarc.evaluation.files.pair_set import is_bin_set

        kind = ".bin" if self.pairs is not None and is_bin_set(self.pairs) else kind
        if self.images is None and kind not in (None, ".bin", *_LISTS):
            raise ValueError(
                f"pairs is {str(self.pairs)!r}, which needs images, the folder that its images "
                f"are in: {{pairs: {self.pairs}, images: FOLDER}}"
            )
        if self.images is not None and kind == ".bin":
            raise ValueError("images goes with pairs.txt and .csv; a .bin set holds its images")
        if self.missing is not None and kind in (None, ".bin"):
            raise ValueError("missing goes with pairs that name images: pairs.txt, or a list")
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
    num_pairs: Annotated[int, Field(ge=2, le=10**8)] | None = Field(
        default=None, description="pairs to make of held-out people; none is 2000"
    )
    sets: list[Annotated[PairsConfig, BeforeValidator(_path_alone)]] = Field(
        default=[], description="further sets: paths, or sections of pairs, images, folds, name ..."
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
        return list(self.settings_of_sets.values())

    @property
    def settings_of_sets(self) -> dict[str, PairsFields]:
        """`all_sets` by the names of their settings, such as `validation.sets.0`."""
        own = self.pairs is not None or self.identities is not None
        further = {f"validation.sets.{number}": one for number, one in enumerate(self.sets)}
        return {"validation": self, **further} if own else {**further}

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


class HeadConfig(Section):
    """How the prototypes are stored, passed over and stepped; none of it changes the loss."""

    sharded: bool = Field(
        default=True, description="each process holds its share of the people; false: all of them"
    )
    fused: bool = Field(
        default=False, description="step prototypes in the backward pass, without a gradient (sgd)"
    )
    workspace_mb: Annotated[float, Field(gt=0, le=1e6)] | None = Field(
        default=None, description="memory for a block of people; none is 8 on a CPU, 256 on a GPU"
    )


class OptimizerConfig(Section):
    """The optimizer of the backbone and the prototypes."""

    name: Literal["sgd", "adamw"] = Field(default="sgd", description="optimizer")
    lr: float = Field(default=0.1, gt=0, le=1e6, description="peak learning rate")
    weight_decay: NotNegative = Field(
        default=5e-4,
        description="decay of weights; never of norms, biases, PReLU slopes, position embeddings",
    )
    head_decay: NotNegative = Field(
        default=1.0, description="times weight_decay: decay of the class prototypes"
    )
    momentum: float = Field(default=0.9, ge=0, lt=1, description="momentum of sgd, beta1 of adamw")
    nesterov: bool = Field(default=False, description="Nesterov's momentum (sgd only)")
    backbone_lr_scale: float = Field(
        default=1.0,
        gt=0,
        le=1000,
        description="times lr: rate of the backbone, below 1 to fine-tune",
    )
    layer_decay: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description="times the rate of the next layer: rate of each layer of the backbone",
    )

    @model_validator(mode="after")
    def _nesterov_is_sgd(self) -> Self:
        if self.nesterov and (self.name != "sgd" or self.momentum == 0):
            raise ValueError("nesterov needs name: sgd and a momentum above 0")
        return self


class ScheduleConfig(Section):
    """The learning rate over the run."""

    epochs: Positive = Field(default=20, description="passes over the data")
    warmup_epochs: NotNegative = Field(
        default=1.0,
        description="epochs of linear warm-up; may be a fraction; at most half by default",
    )
    shape: Literal["polynomial", "cosine"] = Field(
        default="polynomial", description="fall to 0 after warm-up"
    )
    power: float = Field(default=2.0, gt=0, le=1000, description="exponent of the polynomial")
    freeze_epochs: Count = Field(
        default=0, description="epochs in which only the head learns; the backbone stays as it is"
    )
    max_steps: Positive | None = Field(
        default=None, description="end after this many optimizer steps; none trains all epochs"
    )

    @model_validator(mode="after")
    def _warmup_fits(self) -> Self:
        if "warmup_epochs" not in self.model_fields_set:
            # A frozen model is still being made here; a run of one epoch needs no flag for it.
            object.__setattr__(self, "warmup_epochs", min(1.0, self.epochs / 2))
        if self.warmup_epochs >= self.epochs and self.warmup_epochs > 0:
            raise ValueError(
                f"warmup_epochs is {self.warmup_epochs:g}; it must be below epochs, {self.epochs}"
            )
        refuse_idle(self, "power", self.shape == "polynomial", "goes with shape: polynomial")
        if self.freeze_epochs >= self.epochs:
            raise ValueError(
                f"freeze_epochs is {self.freeze_epochs}; it must be below epochs, {self.epochs}"
            )
        return self


class LogConfig(Section):
    """What is written while training."""

    every: Positive = Field(default=10, description="optimizer steps between rows of metrics.jsonl")
    tensorboard: bool = Field(
        default=False, description="also write TensorBoard files (extra: log)"
    )


class CallbackConfig(Section):
    """A callback that a user registered."""

    name: str = Field(description="registered callback")
    options: dict[str, Any] = Field(default={}, description="options of this callback")


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
    head: HeadConfig = HeadConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    batch_size: Positive = Field(
        default=128, le=10**6, description="images an optimizer step, over all processes"
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
    on_nonfinite: Literal["stop", "skip", "rewind"] = Field(
        default="stop",
        description="where a loss, gradient or weight is not finite: stop, skip the step, or "
        "rewind to the last state with a lower learning rate",
    )
    nonfinite_budget: Positive = Field(
        default=10, description="how often a run may skip or rewind before it stops"
    )
    rewind_factor: float = Field(
        default=0.5, gt=0, lt=1, description="times the learning rate: what each rewind leaves"
    )
    ema_decay: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="judge and save a running average of the backbone's weights that decays by "
        "this much a step, such as 0.999; 0 is none",
    )
    workers: Count = Field(
        default=2, description="loader workers a process; 0 loads in the main one"
    )
    read_timeout: Annotated[float, Field(ge=0, le=1e6)] = Field(
        default=300.0,
        description="seconds that a batch of images may take to be read; 0 waits forever",
    )
    device: Literal["auto", "cpu", "cuda", "mps"] = Field(
        default="auto", description="auto takes CUDA, then MPS, then the CPU"
    )
    timeout_minutes: Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)] = Field(
        default=30.0,
        description="how long a process waits for another that does not answer before the run "
        "ends with an error; longer than any rank validates its sets",
    )
    save_every: Count = Field(
        default=0, description="also save the state every this many steps; 0 is once an epoch"
    )
    save_in_background: bool = Field(
        default=True,
        description="write a copy of the state while the training goes on; false: wait for it, "
        "without the memory for a copy",
    )
    log: LogConfig = LogConfig()
    callbacks: list[CallbackConfig] = Field(
        default=[], description="registered callbacks, each a name and options"
    )

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

    @model_validator(mode="after")
    def _nonfinite_settings_act(self) -> Self:
        acts = self.on_nonfinite != "stop"
        refuse_idle(self, "nonfinite_budget", acts, "goes with on_nonfinite: skip or rewind")
        acts = self.on_nonfinite == "rewind"
        refuse_idle(self, "rewind_factor", acts, "goes with on_nonfinite: rewind")
        return self

    @model_validator(mode="after")
    def _batches_have_pairs(self) -> Self:
        loss, sampler = self.loss, self.data.sampler
        if loss.threshold_weight == 0 or loss.threshold_over == "centers" or loss.threshold_memory:
            return self
        for there, said in (
            (sampler.distinct, "data.sampler.distinct is true"),
            (sampler.images_per_identity == 1, "data.sampler.images_per_identity is 1"),
        ):
            if there:
                raise ValueError(
                    f"loss.threshold_over is {loss.threshold_over} and {said}; no batch then has "
                    "two images of a person: use data.sampler.kind: identities with 2 images or "
                    "more of each, or loss.threshold_over: centers"
                )
        return self

    @model_validator(mode="after")
    def _head_fits(self) -> Self:
        loss = self.loss
        separation = (
            loss.separates_prototypes,
            f"loss.separation_weight is {loss.separation_weight:g}",
            "the separation term needs a gradient of all prototypes",
            "loss.separation_weight: 0, loss.centers: separate with loss.center_update: gradient",
        )
        adamw = self.optimizer.name == "adamw", "optimizer.name is adamw"
        fused = (
            (*adamw, "a fused step is one of SGD", "optimizer.name: sgd"),
            (
                self.clip_norm > 0,
                f"clip_norm is {self.clip_norm:g}",
                "a fused step leaves no gradient to clip",
                "clip_norm: 0",
            ),
            (
                self.precision == "fp16",
                "precision is fp16",
                "the scale of its loss would scale a fused step",
                "precision: bf16",
            ),
            (
                self.accumulate > 1,
                f"accumulate is {self.accumulate}",
                "the first part of a batch would make the fused step",
                "accumulate: 1",
            ),
            (
                self.on_nonfinite == "skip",
                "on_nonfinite is skip",
                "a fused step is over before the gradients are known",
                "on_nonfinite: rewind",
            ),
            separation,
        )
        sampled = (
            (*adamw, "AdamW also moves people who are not sampled", "optimizer.name: sgd"),
            separation,
        )
        rate = f"loss.sample_rate is {loss.sample_rate:g}"
        for chosen, option, without, excluded in (
            (self.head.fused, "head.fused is true", "head.fused: false", fused),
            (loss.sample_rate < 1, rate, "loss.sample_rate: 1", sampled),
        ):
            for there, other, why, instead in excluded:
                if chosen and there:
                    raise ValueError(f"{option} and {other}; {why}: use {instead} or {without}")
        return self
