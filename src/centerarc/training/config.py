"""What a training run can be told. Importing this module does not import torch."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from centerarc.training.data_config import DataConfig
from centerarc.training.section import NamedPath, NotNegative, Positive, Section, Seed


class ModelConfig(Section):
    """The backbone."""

    name: str = Field(default="mobilefacenet", description="registered backbone")
    embedding_size: int = Field(default=512, ge=1, le=65536, description="length of the embedding")
    image_size: Positive = Field(default=112, description="side of the input image in pixels")
    options: dict[str, Any] = Field(default={}, description="further options of this backbone")


class ValidationConfig(Section):
    """What chooses the best weights: pairs of people who are not trained on."""

    pairs: NamedPath | None = Field(default=None, description="pairs.txt in the format of LFW")
    images: NamedPath | None = Field(
        default=None, description="folder of the images that pairs names"
    )
    folds: list[Positive] | None = Field(
        default=None, description="folds of pairs to use; none is all"
    )
    identities: float | int | None = Field(
        default=None, description="people to hold out: a fraction below 1, or a number"
    )
    num_pairs: Annotated[int, Field(ge=2)] | None = Field(
        default=None, description="pairs to make of held-out people; none is 2000"
    )
    every_epochs: Positive = Field(default=1, description="validate after every so many epochs")

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if (self.pairs is None) == (self.identities is None):
            raise ValueError("give either pairs (and images) or identities")
        if self.pairs is not None and self.images is None:
            raise ValueError("pairs needs images, the folder that holds them")
        if self.pairs is not None and self.num_pairs is not None:
            raise ValueError("num_pairs goes with identities, not with pairs")
        if self.pairs is None and (self.images is not None or self.folds is not None):
            raise ValueError("images and folds go with pairs, not with identities")
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


class LossConfig(Section):
    """The joint loss: arcface + center_weight * center + separation_weight * separation."""

    margin: str = Field(default="arcface", description="margin function")
    m: NotNegative = Field(default=0.5, description="margin; 0 is the plain normalised softmax")
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
    """The optimiser of backbone and prototypes."""

    name: Literal["sgd", "adamw"] = Field(default="sgd", description="optimiser")
    lr: float = Field(default=0.1, gt=0, allow_inf_nan=False, description="peak learning rate")
    weight_decay: NotNegative = Field(
        default=5e-4, description="decay of weights; never of norms, biases and PReLU slopes"
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

    every: Positive = Field(default=10, description="optimiser steps between rows of metrics.jsonl")
    tensorboard: bool = Field(
        default=False, description="also write TensorBoard files (extra: log)"
    )


class TrainConfig(Section):
    """A training run.

    Example:
        >>> config = TrainConfig(run_dir="runs/a", data={"source": "synthetic"})
        >>> config.loss.s
        30.0
    """

    run_dir: NamedPath = Field(description="folder of the run")
    seed: Seed = Field(default=0, description="seed of weights, batches and augmentation")
    model: ModelConfig = ModelConfig()
    data: DataConfig
    validation: ValidationConfig | None = None
    loss: LossConfig = LossConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    batch_size: Positive = Field(
        default=128, description="images an optimiser step, over all processes"
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
    workers: Annotated[int, Field(ge=0)] = Field(
        default=2, description="loader workers a process; 0 loads in the main one"
    )
    device: Literal["auto", "cpu", "cuda", "mps"] = Field(
        default="auto", description="auto takes CUDA, then MPS, then the CPU"
    )
    save_every: Annotated[int, Field(ge=0)] = Field(
        default=0, description="also save the state every so many steps; 0 is once an epoch"
    )
    log: LogConfig = LogConfig()

    @model_validator(mode="after")
    def _batch_divides(self) -> Self:
        if self.accumulate > self.batch_size:
            raise ValueError(
                f"accumulate is {self.accumulate}; it cannot exceed batch_size, {self.batch_size}"
            )
        return self
