"""The primitive: every implementation against the reference and against plain loops."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from centerarc.losses import Chunked, negative_logsumexp
from centerarc.losses.head import class_pass
from tests.losses import loops
from tests.losses.arrays import NewArrays
from tests.losses.loops import problem

IMPLEMENTATIONS = ["reference", "chunked"]


def with_gradients(x: Tensor, w: Tensor, y: Tensor, s: float, **kwargs) -> tuple[Tensor, ...]:
    out = negative_logsumexp(x, w, y, s, **kwargs)
    pull = torch.linspace(-1, 2, len(x), dtype=out.dtype)
    return (out, *torch.autograd.grad((out * pull).nan_to_num(neginf=0).sum(), (x, w)))


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("k", [1, 3])
def test_equals_the_formula(implementation: str, k: int) -> None:
    x, w, y = problem(5, 4, 3, k)
    table = loops.logits(x, w, y, psi=lambda cos: -math.inf, s=7.0)
    expected = [math.log(math.fsum(math.exp(z) for z in row)) for row in table]
    out = negative_logsumexp(x, w, y, 7.0, implementation=implementation)
    torch.testing.assert_close(out.tolist(), expected, rtol=1e-13, atol=0)


@settings(deadline=None, max_examples=60)
@given(
    n=st.integers(0, 9),
    c=st.integers(1, 40),
    d=st.integers(1, 6),
    k=st.integers(1, 3),
    workspace=st.integers(1, 5000),
    recompute=st.booleans(),
    s=st.sampled_from([1.0, 30.0, 64.0, 200.0, 3000.0]),
    seed=st.integers(0, 99),
)
def test_any_block_size_gives_the_reference(n, c, d, k, workspace, recompute, s, seed) -> None:
    torch.manual_seed(seed)
    x, w, y = problem(n, c, d, k)
    y = y - (y == 0).long()  # Some labels are of no class here: they exclude nothing.
    expected = with_gradients(x, w, y, s, implementation="reference")
    ways = Chunked(workspace=workspace, recompute=recompute)
    for ours, theirs in zip(with_gradients(x, w, y, s, implementation=ways), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-10 * s)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize(("k", "s"), [(1, 4.0), (1, 100.0), (2, 4.0)])
def test_gradcheck(implementation: str, k: int, s: float) -> None:
    x, w, y = problem(4, 5, 3, k)
    assert torch.autograd.gradcheck(
        lambda a, b: negative_logsumexp(a, b, y, s, implementation=implementation), (x, w)
    )


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("s", [64.0, 100.0])
def test_one_class_has_no_negative(implementation: str, s: float) -> None:
    x, w, _ = problem(3, 1, 4)
    out, to_x, to_w = with_gradients(
        x, w, torch.tensor([0, 0, 5]), s, implementation=implementation
    )
    assert out[:2].tolist() == [-math.inf] * 2
    assert out[2].isfinite()  # The label 5 is of no class: class 0 is a negative of it.
    assert to_x[:2].abs().sum() == 0
    assert to_w.isfinite().all()


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_empty_batch(implementation: str) -> None:
    x, w, _ = problem(0, 5, 4)
    out, to_x, to_w = with_gradients(
        x, w, torch.empty(0, dtype=torch.long), 30.0, implementation=implementation
    )
    assert out.shape == (0,)
    assert to_x.shape == (0, 4)
    assert to_w.abs().sum() == 0


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_the_length_of_vectors_does_not_matter(implementation: str) -> None:
    x, w, y = problem(4, 6, 5)
    a = negative_logsumexp(x, w, y, 30.0, implementation=implementation)
    b = negative_logsumexp(x * 1e-3, w * 1e4, y, 30.0, implementation=implementation)
    torch.testing.assert_close(a, b)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_zero_vectors_are_orthogonal_and_still(implementation: str) -> None:
    x, w, y = problem(3, 4, 5, dtype=torch.float32)
    with torch.no_grad():
        x[0], w[2] = 0, 0
    out, to_x, to_w = with_gradients(x, w, y, 30.0, implementation=implementation)
    assert out[0].item() == pytest.approx(math.log(3))
    assert to_x[0].abs().sum() == 0
    assert to_w[2].abs().sum() == 0
    assert to_x.isfinite().all()
    assert to_w.isfinite().all()


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_sums_are_float32_whatever_comes_in(implementation: str, dtype: torch.dtype) -> None:
    x, w, y = problem(8, 300, 16)
    low_x, low_w = x.detach().to(dtype).requires_grad_(), w.detach().to(dtype).requires_grad_()
    out, to_x, to_w = with_gradients(low_x, low_w, y, 64.0, implementation=implementation)
    assert out.dtype == torch.float32
    assert to_x.dtype == to_w.dtype == dtype
    exact = with_gradients(
        low_x.detach().double().requires_grad_(), low_w.detach().double().requires_grad_(), y, 64.0
    )
    torch.testing.assert_close(out.double(), exact[0], rtol=1e-5, atol=1e-5)
    # A float32 logit of 64 is off by some 1e-5, and so is each entry of the softmax, relatively.
    rtol = max(4 * torch.finfo(dtype).eps, 1e-4)
    torch.testing.assert_close(to_x.double(), exact[1], rtol=rtol, atol=rtol)
    torch.testing.assert_close(to_w.double(), exact[2], rtol=rtol, atol=rtol)


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("n", [16, 100])  # Fewer samples than dimensions, and more.
def test_under_autocast_only_the_operands_of_products_are_rounded(n: int, recompute: bool) -> None:
    x, w, y = problem(n, 5000, 64, dtype=torch.float32)
    ways = Chunked(recompute=recompute)
    exact = with_gradients(x.double(), w.double(), y, 64.0, implementation="reference")
    before = torch.get_float32_matmul_precision()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = with_gradients(x, w, y, 64.0, implementation=ways)
    assert torch.get_float32_matmul_precision() == before
    assert [t.dtype for t in cast] == [torch.float32] * 3
    # A bfloat16 logit of 64 would be off by 0.125.
    torch.testing.assert_close(cast[0].double(), exact[0], rtol=0, atol=5e-3)
    for ours, theirs in zip(cast[1:], exact[1:], strict=True):
        error = (ours.double() - theirs).norm() / theirs.norm()
        assert error < 5e-3
    if torch.ops.mkldnn._is_mkldnn_bf16_supported():
        assert not torch.equal(cast[2], with_gradients(x, w, y, 64.0, implementation=ways)[2])


def test_float16_autocast_stays_exact() -> None:
    x, w, y = problem(16, 5000, 64, dtype=torch.float32)
    plain = with_gradients(x, w, y, 64.0, implementation="chunked")
    with torch.autocast("cpu", dtype=torch.float16):
        cast = with_gradients(x, w, y, 64.0, implementation="chunked")
    for a, b in zip(plain, cast, strict=True):
        assert torch.equal(a, b)


def test_the_hardest_wrong_class_is_found() -> None:
    x, w, y = problem(6, 50, 4, dtype=torch.float32)
    cosines = torch.nn.functional.cosine_similarity(x[:, None], w[None], dim=2)
    expected = cosines.scatter(1, y[:, None], -torch.inf).amax(dim=1)
    for implementation in IMPLEMENTATIONS:
        found = class_pass(x, w, y, 30.0, implementation=implementation).hardest
        torch.testing.assert_close(found, expected)
        assert not found.requires_grad


def test_only_what_is_asked_for_gets_a_gradient() -> None:
    x, w, y = problem(6, 50, 4)
    out = negative_logsumexp(x.detach(), w, y, 30.0, implementation="chunked")
    out.sum().backward()
    assert x.grad is None
    frozen = negative_logsumexp(x, w.detach(), y, 30.0, implementation="chunked")
    frozen.sum().backward()
    assert x.grad is not None


def test_chunked_never_holds_the_logits() -> None:
    n, c, d = 64, 200_000, 4
    x, w, y = problem(n, c, d, dtype=torch.float32)
    with NewArrays([x, w]) as arrays:
        out = negative_logsumexp(x, w, y, 64.0, implementation=Chunked(workspace=1 << 20))
        out.sum().backward()
    # The gradient itself; the logits would be n * c, 16 times as much.
    assert arrays.largest == c * d


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_compiles_into_one_graph(backend: str) -> None:
    x, w, y = problem(6, 50, 4)
    expected = with_gradients(x, w, y, 30.0, implementation="chunked")
    compiled = torch.compile(
        lambda a, b: negative_logsumexp(a, b, y, 30.0, implementation="chunked"),
        fullgraph=True,
        backend=backend,
    )
    out = compiled(x, w)
    pull = torch.linspace(-1, 2, 6, dtype=out.dtype)
    for a, b in zip((out, *torch.autograd.grad((out * pull).sum(), (x, w))), expected, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scale": 0.0}, "scale must be positive and finite, got 0.0"),
        ({"scale": math.nan}, "scale must be positive and finite, got nan"),
        ({"features": torch.zeros(3)}, r"features must be \(N, D\) floating point, got \(3,\)"),
        ({"weight": torch.zeros(5, 3)}, r"weight must be \(C, 4\).* got \(5, 3\)"),
        ({"labels": torch.zeros(2, dtype=torch.long)}, r"labels must be \(3,\), one .* got \(2,\)"),
        ({"labels": torch.zeros(3)}, "labels must be integers, got torch.float32"),
        ({"labels": torch.zeros(3, dtype=torch.bool)}, "labels must be integers, got torch.bool"),
        ({"implementation": "quick"}, "implementation must be one of .* got 'quick'"),
    ],
)
def test_bad_input_is_named(change: dict, message: str) -> None:
    good = {
        "features": torch.ones(3, 4),
        "weight": torch.ones(5, 4),
        "labels": torch.zeros(3, dtype=torch.long),
        "scale": 30.0,
    }
    with pytest.raises(ValueError, match=message):
        negative_logsumexp(**(good | change))


def test_a_second_derivative_is_refused_where_it_would_be_wrong() -> None:
    x, w, y = problem(4, 9, 3)
    out = negative_logsumexp(x, w, y, 30.0, implementation="chunked").sum()
    with pytest.raises(RuntimeError, match="no second derivative; take implementation='reference'"):
        torch.autograd.grad(out, x, create_graph=True)
    out = negative_logsumexp(x, w, y, 30.0, implementation="reference").sum()
    (first,) = torch.autograd.grad(out, x, create_graph=True)
    first.square().sum().backward()


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int16, torch.int32])
def test_labels_may_be_any_integers(implementation: str, dtype: torch.dtype) -> None:
    x, w, y = problem(4, 300, 3)
    y = y % 100
    expected = negative_logsumexp(x, w, y, 30.0, implementation=implementation)
    out = negative_logsumexp(x, w, y.to(dtype), 30.0, implementation=implementation)
    assert torch.equal(out, expected)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("s", [64.0, 75.0])
def test_tiny_prototypes_keep_finite_gradients(implementation: str, s: float) -> None:
    x, w, y = problem(4, 9, 3, dtype=torch.float32)
    small = (w.detach() * 1e-9).requires_grad_()
    expected = with_gradients(x, w, y, s, implementation=implementation)
    found = with_gradients(x, small, y, s, implementation=implementation)
    torch.testing.assert_close(found[0], expected[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found[1], expected[1], rtol=1e-4, atol=1e-4)
    assert found[2].isfinite().all()


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_a_length_that_overflows_is_nan_and_not_zero(implementation: str) -> None:
    x, w, y = problem(2, 9, 3, dtype=torch.float32)
    out = negative_logsumexp(x.detach() * 1e20, w, y, 30.0, implementation=implementation)
    assert out.isnan().all()
