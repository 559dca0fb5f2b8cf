"""The settings of the joint loss. Importing this module does not import torch."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from centerarc.training.data_config import (
    Count,
    NotNegative,
    Positive,
    Scale,
    Section,
    expanded,
    refuse_idle,
)

_HEAVIEST = 10**9


def _number_or_auto(given: Any) -> Any:
    number = isinstance(given, int | float) and not isinstance(given, bool)
    if given != "auto" and not (number and 0 <= given <= _HEAVIEST):
        raise ValueError(f"must be a number from 0 to {_HEAVIEST}, or auto, got {given!r}")
    return given


# The weight of an added term.
Weight = Annotated[float | Literal["auto"], BeforeValidator(_number_or_auto)]


class LossConfig(Section):
    """The joint loss: arcface, and the terms for centers, a threshold, separation, by weights."""

    margin: str = Field(default="arcface", description="margin function")
    m: NotNegative = Field(default=0.5, description="margin; 0 is the plain normalized softmax")
    margin_options: dict[str, float | bool] = Field(
        default={}, description="the margin's parameters where they are not one m"
    )
    s: Scale = Field(default=30.0, description="scale of the cosines")
    center_weight: Weight = Field(
        default=1.0, description="weight of the center loss; auto balances the gradients"
    )
    auto_ratio: float = Field(
        default=0.5,
        gt=0,
        le=1000,
        description="with a weight of auto: the added term's gradient, as a multiple of ArcFace's",
    )
    ramp_steps: Count = Field(
        default=0, description="optimizer steps in which the weights of added terms rise from 0"
    )
    start_cosine: Annotated[float, Field(ge=-1, le=1)] | None = Field(
        default=None,
        description="mean target cosine from which added terms count; none: from the first step",
    )
    threshold_weight: Weight = Field(
        default=0.0, description="weight of one threshold for all people; auto as center_weight"
    )
    threshold_over: Literal["pairs", "centers", "both"] = Field(
        default="pairs", description="what that term compares: images of a batch, centers, or both"
    )
    threshold_scale: Scale = Field(default=16.0, description="scale of its cosines")
    threshold_memory: Annotated[int, Field(ge=0, le=10**7)] = Field(
        default=0, description="recent images that it compares a batch with, too"
    )
    separation_weight: NotNegative = Field(
        default=0.0, description="weight of the separation of centers"
    )
    centers: Literal["shared", "separate", "mean"] = Field(
        default="shared",
        description="centers are the class prototypes, their own, or means of the embeddings",
    )
    center_negatives: bool = Field(
        default=True, description="means of other people push away (else only the own one pulls)"
    )
    center_temperature: Scale = Field(default=16.0, description="scale of the cosines to means")
    center_momentum: float = Field(
        default=0.9, ge=0, lt=1, description="how much of a mean stays in a step with its person"
    )
    center_space: Literal["unit", "raw"] = Field(
        default="unit", description="center loss on unit vectors or on raw embeddings"
    )
    center_update: Literal["paper", "gradient"] = Field(
        default="paper", description="how separate centers move: Wen et al. 2016, or by gradient"
    )
    alpha: float = Field(default=0.5, gt=0, le=1, description="step of the paper's update")
    sub_centers: Positive = Field(default=1, le=1000, description="prototypes for each person")
    label_smoothing: float = Field(default=0.0, ge=0, lt=1, description="label smoothing")
    class_weights: Annotated[
        Literal["off", "balanced"] | Annotated[Path, Field(strict=False)], BeforeValidator(expanded)
    ] = Field(
        default="off",
        description="off; balanced: every person counts equally; or a CSV of identity and weight",
    )
    sample_rate: float = Field(
        default=1.0, gt=0, le=1, description="share of the people in a step: Partial FC (sgd only)"
    )
    conflict_threshold: Annotated[float, Field(gt=0, le=1)] | None = Field(
        default=None, description="cosine above which another person does not count as wrong"
    )

    @model_validator(mode="after")
    def _terms_fit(self) -> Self:
        for name, there in (
            ("sub_centers", self.sub_centers > 1),
            ("sample_rate", self.sample_rate < 1),
            ("conflict_threshold", self.conflict_threshold is not None),
        ):
            if self.label_smoothing and there:
                raise ValueError(
                    f"label_smoothing is {self.label_smoothing:g}, which has no meaning with "
                    f"{name}: {getattr(self, name)}; leave out one of them"
                )
        own = self.centers == "separate"
        paper = own and self.center_update == "paper"
        refuse_idle(self, "center_update", own, "goes with centers: separate")
        refuse_idle(self, "alpha", paper, "goes with centers: separate, center_update: paper")
        refuse_idle(self, "m", not self.margin_options, "goes into margin_options, which are given")
        mean, threshold = self.centers == "mean", self.threshold_weight != 0
        pairs = threshold and self.threshold_over != "centers"
        contrast = mean and self.center_negatives
        any_auto = "auto" in (self.center_weight, self.threshold_weight)
        any_term = threshold or self.center_weight != 0
        weights = "a center_weight or threshold_weight"
        for name, acts, belongs in (
            ("center_space", not mean, "goes with centers: shared or separate"),
            ("center_negatives", mean, "goes with centers: mean"),
            ("center_momentum", mean, "goes with centers: mean"),
            ("center_temperature", contrast, "goes with centers: mean and center_negatives: true"),
            ("threshold_over", threshold, "goes with a threshold_weight above 0"),
            ("threshold_scale", threshold, "goes with a threshold_weight above 0"),
            (
                "threshold_memory",
                pairs,
                "goes with a threshold_weight above 0 and threshold_over: pairs or both",
            ),
            ("auto_ratio", any_auto, f"goes with {weights} of auto"),
            ("ramp_steps", any_term, f"goes with {weights} above 0"),
            ("start_cosine", any_term, f"goes with {weights} above 0"),
        ):
            refuse_idle(self, name, acts, belongs)
        over_centers = threshold and self.threshold_over != "pairs"
        if mean and self.center_weight == 0 and not over_centers:
            raise ValueError(
                "centers is mean, but no term has a weight that uses them; set center_weight, "
                "or threshold_weight with threshold_over: centers"
            )
        if over_centers and self.centers == "shared" and self.sub_centers > 1:
            raise ValueError(
                f"threshold_over is {self.threshold_over}, which needs one center for each person, "
                f"and sub_centers is {self.sub_centers}; use centers: mean or threshold_over: pairs"
            )
        return self

    @property
    def scheduled(self) -> bool:
        """Whether the weight of an added term changes from step to step."""
        later = self.ramp_steps > 0 or self.start_cosine is not None
        return later or "auto" in (self.center_weight, self.threshold_weight)

    @property
    def separates_prototypes(self) -> bool:
        """Whether the separation term needs a gradient of the prototypes."""
        own = self.centers == "separate" and self.center_update == "gradient"
        return self.separation_weight > 0 and not own
