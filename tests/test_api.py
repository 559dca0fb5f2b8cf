"""The public names, in full: nothing becomes public, or stops to be, by accident."""

import importlib
import inspect

import pytest

import centerarc
from centerarc import losses

TOP = """
AdaFace ArcFace CenterArcFaceLoss CenterLoss Chunked CombinedMargin CosFace CurricularFace
DynamicArcFace ElasticArcFace ElasticCosFace LDAM MagFace MarginSoftmaxLoss MeanCenterLoss MVSoftmax
PrototypeSGD SphereFaceR TermWeight UniFace UnifiedThresholdLoss negative_logsumexp
"""

LOSSES = """
AdaFace ArcFace BatchMargin BatchMetrics CenterArcFaceLoss CenterLoss Chunked CombinedMargin CosFace
CurricularFace DynamicArcFace ElasticArcFace ElasticCosFace HardNegatives LDAM MagFace Margin
MarginSoftmaxLoss MeanCenterLoss MVSoftmax NegativeMargin PrototypeSGD SphereFaceR Target TermWeight
UniFace UnifiedThresholdLoss center_arcface_loss center_loss center_separation create_margin
list_margins margin_softmax_loss mean_center_loss negative_logsumexp register_margin sample_classes
unified_threshold_loss update_centers
"""


def test_the_best_of_it_is_at_the_top() -> None:
    assert sorted(centerarc.__all__) == sorted(TOP.split())
    for name in centerarc.__all__:
        assert getattr(centerarc, name) is getattr(losses, name)
    assert set(centerarc.__all__) <= set(dir(centerarc))


def test_the_losses() -> None:
    assert sorted(losses.__all__) == sorted(LOSSES.split())


@pytest.mark.parametrize(
    "layer",
    [
        "losses",
        "distributed",
        "data",
        "models",
        "evaluation",
        "curate",
        "gallery",
        "report",
        "training",
        "cli",
    ],
)
def test_public_names_exist_and_say_what_they_are(layer: str) -> None:
    module = importlib.import_module(f"centerarc.{layer}")
    assert module.__doc__
    for name in module.__all__:
        public = getattr(module, name)
        if inspect.isroutine(public) or inspect.isclass(public):
            assert public.__doc__, name


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'centerarc' has no attribute 'CentreLoss'"):
        centerarc.CentreLoss  # noqa: B018
