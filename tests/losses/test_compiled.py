"""Compiled criteria over several steps, against eager ones in float64."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from centerarc.losses import (
    LDAM,
    AdaFace,
    CenterArcFaceLoss,
    CenterLoss,
    CosFace,
    CurricularFace,
    ElasticArcFace,
    MagFace,
    MarginSoftmaxLoss,
    MVSoftmax,
    UniFace,
    center_separation,
)

C, D, N = 23, 8, 12
# The default backend but for its code generator, which takes ten seconds a graph: it has the same
# way of choosing what the backward pass computes again.
FAST = "aot_eager_decomp_partition"

SEPARATE = {"centers": "separate"}
CASES = [
    (CenterLoss, {}),
    (CenterLoss, {"space": "unit"}),
    (CenterLoss, {"update": "gradient"}),
    (MarginSoftmaxLoss, {}),
    (MarginSoftmaxLoss, {"implementation": "chunked", "s": 100.0}),
    (MarginSoftmaxLoss, {"sample_rate": 0.6}),
    (MarginSoftmaxLoss, {"margin": CurricularFace(momentum=0.5)}),
    (MarginSoftmaxLoss, {"margin": CurricularFace(momentum=0.5), "implementation": "chunked"}),
    (MarginSoftmaxLoss, {"margin": UniFace(bias=3.0), "implementation": "chunked", "s": 30.0}),
    (MarginSoftmaxLoss, {"margin": MVSoftmax(), "implementation": "chunked", "s": 30.0}),
    (CenterArcFaceLoss, {"implementation": "chunked", "center_space": "raw"}),
    (CenterArcFaceLoss, {"margin": CosFace(0.2), "conflict_threshold": 0.5}),
    (CenterArcFaceLoss, {"margin": AdaFace(alpha=0.3)}),
    (MarginSoftmaxLoss, {"margin": MagFace(l_a=1.0, u_a=5.0)}),
    (MarginSoftmaxLoss, {"margin": LDAM(counts=torch.arange(C))}),
    (MarginSoftmaxLoss, {"margin": ElasticArcFace(sigma=0.1, plus=True)}),
    (CenterArcFaceLoss, {"label_smoothing": 0.1, "weight": torch.linspace(0.5, 2, C)}),
    (CenterArcFaceLoss, {"label_smoothing": 0.1, "implementation": "chunked"}),
    (CenterArcFaceLoss, {"sub_centers": 3, **SEPARATE}),
    (CenterArcFaceLoss, {"implementation": "chunked", **SEPARATE}),
    (CenterArcFaceLoss, {"center_update": "gradient", "center_space": "raw", **SEPARATE}),
    (CenterArcFaceLoss, {"sample_rate": 0.6, **SEPARATE}),
]


def make(kind: type[nn.Module], options: dict) -> nn.Module:
    options = copy.deepcopy(options)  # a margin has a state
    if "sample_rate" in options:
        options = {**options, "sample_generator": torch.Generator().manual_seed(5)}
    made = kind(C, D, generator=torch.Generator().manual_seed(3), **options)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.mul_(50)  # of the length of a step
    return made


def steps(
    criterion: nn.Module, call: Callable[..., Tensor | tuple[Tensor, ...]], cast: torch.dtype | None
) -> list[Tensor]:
    """Losses, gradients and centers of three steps, each from what the one before left."""
    g = torch.Generator().manual_seed(0)
    dtype = next(iter(criterion.state_dict().values())).dtype
    found: list[Tensor] = []
    for _ in range(3):
        x = torch.randn(N, D, generator=g).to(dtype).requires_grad_()
        labels = torch.randint(0, C, (N,), generator=g)
        labels[1], labels[2] = labels[0], -100
        with torch.autocast("cpu", dtype=cast or torch.bfloat16, enabled=cast is not None):
            out = call(x, labels)
        loss = sum(out) if isinstance(out, tuple) else out
        loss.backward()
        found += [loss.detach(), x.grad]
        for parameter in criterion.parameters():
            gradient = parameter.grad.to_dense()
            found.append(gradient)
            with torch.no_grad():
                parameter -= 0.1 * gradient
            parameter.grad = None
        found += [buffer.to(dtype, copy=True) for buffer in criterion.buffers()]
    return found


def compare(criterion: nn.Module, backend: str, cast: torch.dtype | None, whole: bool) -> None:
    torch.compiler.reset()
    exact = copy.deepcopy(criterion).double()
    expected = steps(exact, exact, None)
    compiled = torch.compile(criterion, backend=backend, fullgraph=whole)
    for ours, theirs in zip(steps(criterion, compiled, cast), expected, strict=True):
        error = (ours.double() - theirs).norm() / theirs.norm()
        assert error < 1e-5, error


@pytest.mark.parametrize(("kind", "options"), CASES, ids=str)
def test_every_criterion_keeps_its_gradient_under_autocast(kind, options: dict) -> None:
    # Float16, in which the head promises float32 on every processor.
    compare(make(kind, options), FAST, torch.float16, whole="sample_rate" not in options)


@pytest.mark.parametrize("backend", [FAST, "aot_eager"])
@pytest.mark.parametrize("margin", [ElasticArcFace(sigma=0.1), AdaFace(alpha=0.5)], ids=str)
def test_margins_of_a_state_that_moves_are_the_same_in_the_backward_pass(margin, backend) -> None:
    compare(make(MarginSoftmaxLoss, {"margin": margin}), backend, None, whole=True)


@pytest.mark.slow  # its code generator starts a compiler
def test_the_default_backend_gathers_centers_before_they_move() -> None:
    compare(make(CenterLoss, {"space": "unit"}), "inductor", None, whole=True)


def test_bfloat16_autocast_does_not_break_the_graph() -> None:
    criterion = make(CenterArcFaceLoss, {})
    x, labels = torch.randn(N, D, requires_grad=True), torch.arange(N)
    compiled = torch.compile(criterion, backend=FAST, fullgraph=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found, expected = compiled(x, labels), criterion(x, labels)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("cast", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("compiled", [False, True])
def test_other_gradients_of_the_prototypes_are_float32(cast: torch.dtype, compiled: bool) -> None:
    """Those of the logits and of the separation, also of a `backward()` inside autocast."""
    criterion = make(MarginSoftmaxLoss, {})
    exact = copy.deepcopy(criterion).double()
    x = torch.randn(N, D)

    def term(module: nn.Module, x: Tensor) -> Tensor:
        spread = center_separation(module.prototypes, torch.arange(C))
        return module.logits(x).square().mean() + spread

    term(exact, x.double()).backward()
    call = torch.compile(term, backend=FAST, fullgraph=True) if compiled else term
    with torch.autocast("cpu", dtype=cast):
        call(criterion, x).backward()
    error = (criterion.prototypes.grad.double() - exact.prototypes.grad).norm()
    assert error < 1e-5 * exact.prototypes.grad.norm()


@pytest.mark.parametrize(
    ("kind", "options"),
    [(CenterLoss, {}), (MarginSoftmaxLoss, {}), (CenterArcFaceLoss, SEPARATE)],
    ids=str,
)
def test_a_bad_batch_is_an_error_of_a_compiled_criterion_too(kind, options: dict) -> None:
    criterion = make(kind, options)
    compiled = torch.compile(criterion, backend=FAST, fullgraph=True)
    x, labels = torch.randn(N, D), torch.arange(N)
    before = copy.deepcopy(criterion.state_dict())
    with pytest.raises(ValueError, match=r"labels must be in \[0, 23\) or .* got 23 at row 1"):
        compiled(x, labels + 22 * (labels == 1))
    with pytest.raises(ValueError, match="features must be finite, got NaN or infinity at row 3"):
        compiled(x.index_fill(0, torch.tensor([3]), torch.nan), labels)
    for name, tensor in criterion.state_dict().items():
        assert torch.equal(tensor, before[name])
