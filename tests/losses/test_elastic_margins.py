"""Margins drawn from a normal distribution: how they are spread, and that they can be repeated."""

import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from centerarc.losses import (
    ArcFace,
    CosFace,
    ElasticArcFace,
    ElasticCosFace,
    MarginSoftmaxLoss,
    Target,
)
from centerarc.losses.elastic_margins import normal_noise
from centerarc.losses.margins import NO_LABEL
from tests.losses import loops

KINDS = [ElasticArcFace, ElasticCosFace]


def target(n: int = 2000, theta: float = 1.0) -> Target:
    angle = torch.full((n,), theta, dtype=torch.float64)
    return Target(cos=angle.cos(), sin=angle.sin(), norm=torch.ones(n))


def drawn(psi: Tensor, like: Target, kind: type) -> Tensor:
    """The margins that gave psi."""
    return psi.acos() - like.theta if kind is ElasticArcFace else like.cos - psi


def test_the_noise_is_normal_in_every_place_and_pass() -> None:
    many = normal_noise(3, torch.tensor(7), 100_000).numpy()
    assert stats.kstest(many, "norm").pvalue > 0.01
    passes = np.stack([normal_noise(3, torch.tensor(i), 8).numpy() for i in range(4000)])
    for place in range(8):
        assert stats.kstest(passes[:, place], "norm").pvalue > 0.001
    # Neither places nor passes nor seeds that follow each other are alike.
    assert np.abs(np.corrcoef(passes.T) - np.eye(8)).max() < 5 / math.sqrt(4000)
    assert abs(np.corrcoef(passes[:-1].ravel(), passes[1:].ravel())[0, 1]) < 5 / math.sqrt(32_000)
    other = normal_noise(4, torch.tensor(7), 100_000).numpy()
    assert abs(np.corrcoef(many, other)[0, 1]) < 5 / math.sqrt(100_000)


def test_the_noise_of_some_samples_is_finite_at_the_ends_of_the_words() -> None:
    # The largest that 24 bits can give is sqrt(-2 log 2^-25) = 5.9.
    assert all(normal_noise(i, torch.tensor(2**40 + i), 4096).abs().max() < 5.9 for i in range(50))


@pytest.mark.parametrize("kind", KINDS)
def test_margins_are_of_the_stated_distribution(kind: type) -> None:
    margin = kind(0.4, sigma=0.05, seed=1)
    found = torch.cat([drawn(margin(target()), target(), kind) for _ in range(5)]).numpy()
    assert stats.kstest(found, "norm", (0.4, 0.05)).pvalue > 0.01
    assert margin.passes == 5


@pytest.mark.parametrize(("kind", "plain"), [(ElasticArcFace, ArcFace), (ElasticCosFace, CosFace)])
def test_in_evaluation_and_without_deviation_it_is_the_plain_margin(kind, plain) -> None:
    angles = torch.linspace(0, math.pi, 100, dtype=torch.float64)
    like = Target(cos=angles.cos(), sin=angles.sin(), norm=torch.ones(100))
    expected = plain(0.4)(like)
    for margin in (kind(0.4, sigma=0.05).eval(), kind(0.4, sigma=0.0)):
        torch.testing.assert_close(margin(like), expected, rtol=0, atol=1e-15)
    assert kind().eval()(like) is not None
    evaluated = kind().eval()
    evaluated(like)
    assert evaluated.passes == 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_margin_never_leaves_its_range(kind: type) -> None:
    psi = kind(0.1, sigma=1.0)(target(4000, theta=0.2))
    assert (psi <= target(1, theta=0.2).cos + 1e-15).all()
    margins = drawn(psi, target(4000, theta=0.2), kind)
    assert margins.max() <= (math.pi / 2 if kind is ElasticArcFace else 2) + 1e-12


@pytest.mark.parametrize("plus", [False, True])
def test_a_copy_and_a_loaded_state_draw_the_same_from_there_on(plus: bool) -> None:
    x, y = loops.batch()
    criterion = MarginSoftmaxLoss(7, 5, ElasticArcFace(0.4, 0.1, plus=plus, seed=9))
    first = criterion(x, y)
    copied = copy.deepcopy(criterion)
    loaded = MarginSoftmaxLoss(7, 5, ElasticArcFace(0.4, 0.1, plus=plus, seed=9))
    loaded.load_state_dict(criterion.state_dict())
    torch.manual_seed(123)  # of which it takes nothing
    second = criterion(x, y)
    assert first != second
    assert torch.equal(copied(x, y), second)
    assert torch.equal(loaded(x, y), second)
    other = MarginSoftmaxLoss(7, 5, ElasticArcFace(0.4, 0.1, plus=plus, seed=8))
    other.load_state_dict(copied.state_dict())
    assert other(x, y) != criterion(x, y)


@pytest.mark.parametrize("kind", KINDS)
def test_plus_gives_the_smallest_margin_to_the_nearest(kind: type) -> None:
    theta = torch.tensor([0.9, 0.2, 0.7, 0.3, 0.5], dtype=torch.float64)
    labels = torch.tensor([0, 1, NO_LABEL, 3, 4])
    like = Target(cos=theta.cos(), sin=theta.sin(), norm=torch.ones(5), labels=labels)
    plain, plus = kind(0.4, 0.05, seed=2), kind(0.4, 0.05, plus=True, seed=2)
    kept = labels >= 0
    margins = drawn(plain(like), like, kind)[kept]
    found = drawn(plus(like), like, kind)[kept]
    assert np.all(np.diff(found.numpy()[np.argsort(theta[kept].numpy())]) > 0)
    torch.testing.assert_close(found.sort().values, margins.sort().values)
    assert plus(replace(like, labels=None)).isfinite().all()


@pytest.mark.parametrize("kind", KINDS)
def test_gradcheck_with_the_margins_of_one_pass(kind: type) -> None:
    angles = torch.linspace(0.1, 2.0, 6, dtype=torch.float64, requires_grad=True)
    fresh = kind(0.4, 0.1)

    def psi(theta: Tensor) -> Tensor:
        like = Target(cos=theta.cos(), sin=theta.sin(), norm=torch.ones(6))
        return copy.deepcopy(fresh)(like)

    assert torch.autograd.gradcheck(psi, (angles,))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: ElasticArcFace(2.0), r"ElasticArcFace: m must be in \[0, pi/2\] radians, got 2.0"),
        (lambda: ElasticCosFace(-0.1), r"ElasticCosFace: m must be in \[0, 2\], got -0.1"),
        (lambda: ElasticArcFace(sigma=-1), r"ElasticArcFace: sigma must be in \[0, 1\], got -1"),
        (lambda: ElasticArcFace(plus=0.5), "ElasticArcFace: plus must be true or false, got 0.5"),
        (lambda: ElasticCosFace(seed=0.5), "ElasticCosFace: seed must be an integer, got 0.5"),
        (lambda: ElasticCosFace(seed=math.nan), "ElasticCosFace: seed must be an integer, got nan"),
    ],
)
def test_bad_input_is_named(build, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()
