"""The chunked head beyond the primitive: what it keeps, what it never holds, and extreme inputs."""

import logging
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.utils.checkpoint

from centerarc.losses import CenterArcFaceLoss, Chunked, MarginSoftmaxLoss, negative_logsumexp
from centerarc.losses.head import chunked as chunked_module
from tests.losses.arrays import NewArrays


@pytest.mark.parametrize(
    "options",
    [{}, {"centers": "separate"}, {"label_smoothing": 0.1}, {"sub_centers": 2}],
    ids=str,
)
def test_one_gradient_of_all_classes_and_nothing_else_as_large(options: dict) -> None:
    classes, dim = 60_000, 16
    settings = Chunked(workspace=1 << 19)
    made = CenterArcFaceLoss(classes, dim, s=64.0, implementation=settings, **options)
    x = torch.randn(8, dim, requires_grad=True)
    with NewArrays(made.state_dict().values(), least=made.arcface.prototypes.nbytes) as arrays:
        arcface, center = made(x, torch.arange(8))
        (arcface + center).backward()
    assert arrays.storages == {made.arcface.prototypes.grad.untyped_storage().data_ptr()}


def test_a_graph_that_is_kept_can_be_gone_through_twice() -> None:
    x = torch.randn(6, 8, dtype=torch.float64, requires_grad=True)
    w = torch.randn(500, 8, dtype=torch.float64, requires_grad=True)
    out = negative_logsumexp(x, w, torch.arange(6), 30.0, implementation=Chunked(workspace=5000))
    first = torch.autograd.grad(out.sum(), (x, w), retain_graph=True)
    second = torch.autograd.grad(out.sum(), (x, w))
    torch.testing.assert_close(first, second, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("n", [3, 8, 9, 50])  # Below, at and above what fits into rows of 8.
@pytest.mark.parametrize("sub_centers", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_fits_is_kept_and_the_rest_made_again(n: int, sub_centers: int, dtype) -> None:
    x = torch.randn(n, 8, requires_grad=True)
    w = torch.randn(300, sub_centers, 8).to(dtype).requires_grad_()
    y = torch.randint(0, 300, (n,))
    exact = w.detach().double().requires_grad_()
    x64 = x.detach().double().requires_grad_()
    out = negative_logsumexp(x, w, y, 30.0, implementation=Chunked(workspace=5000))
    expected = negative_logsumexp(x64, exact, y, 30.0, implementation="reference")
    out.sum().backward()
    expected.sum().backward()
    torch.testing.assert_close(out.double(), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(x.grad.double(), x64.grad, rtol=1e-4, atol=1e-5)
    rtol = 1e-4 if dtype == torch.float32 else 1e-2
    torch.testing.assert_close(w.grad.double(), exact.grad, rtol=rtol, atol=1e-5)


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("s", [1.0, 64.0, 64.1, 300.0])
@pytest.mark.parametrize("case", ["all alike", "all opposed", "far apart in length"])
def test_extreme_batches_keep_their_digits(case: str, s: float, recompute: bool) -> None:
    n, c, d = 64, 5000, 32
    g = torch.Generator().manual_seed(0)
    one = torch.randn(d, generator=g)
    x = one + 1e-3 * torch.randn(n, d, generator=g)
    w = one + 1e-3 * torch.randn(c, d, generator=g)
    if case == "all opposed":
        w = -w
    if case == "far apart in length":
        w = torch.randn(c, d, generator=g) * torch.logspace(-8, 8, c).unsqueeze(1)
    y = torch.randint(0, c, (n,), generator=g)
    x.requires_grad_()
    w.requires_grad_()
    x64, w64 = x.detach().double().requires_grad_(), w.detach().double().requires_grad_()
    out = negative_logsumexp(x, w, y, s, implementation=Chunked(recompute=recompute))
    expected = negative_logsumexp(x64, w64, y, s, implementation="reference")
    # A gradient as small as in a batch of many thousands.
    (out.sum() * 1e-4).backward()
    (expected.sum() * 1e-4).backward()
    torch.testing.assert_close(out.double(), expected, rtol=1e-5, atol=1e-5 * s)
    # Gradients by the length of each prototype, so that every row is looked at.
    lengths = w64.detach().norm(dim=1, keepdim=True)
    ours, theirs = w.grad.double() * lengths, w64.grad * lengths
    assert ((ours - theirs).norm(dim=1) <= 2e-4 * theirs.norm(dim=1) + 1e-9 * s).all()
    assert (x.grad.double() - x64.grad).norm() <= 2e-4 * x64.grad.norm() + 1e-6


def test_float32_gradients_at_the_usual_scale_are_right_to_six_digits() -> None:
    g = torch.Generator().manual_seed(0)
    x = torch.randn(128, 512, generator=g).requires_grad_()
    w = (0.01 * torch.randn(10_000, 512, generator=g)).requires_grad_()
    y = torch.randint(0, 10_000, (128,), generator=g)
    x64, w64 = x.detach().double().requires_grad_(), w.detach().double().requires_grad_()
    negative_logsumexp(x, w, y, 64.0, implementation="chunked").mean().backward()
    negative_logsumexp(x64, w64, y, 64.0, implementation="reference").mean().backward()
    for ours, theirs in ((x.grad, x64.grad), (w.grad, w64.grad)):
        assert (ours.double() - theirs).norm() <= 3e-6 * theirs.norm()


def test_a_wish_for_triton_that_cannot_be_met_is_one_line(caplog, monkeypatch) -> None:
    monkeypatch.setattr(chunked_module.epilogues, "triton_available", lambda: False)
    chunked_module._triton_works.cache_clear()
    made = MarginSoftmaxLoss(500, 8, implementation="triton")
    plain = MarginSoftmaxLoss(500, 8, implementation="chunked")
    plain.load_state_dict(made.state_dict())
    x, y = torch.randn(4, 8), torch.arange(4)
    with caplog.at_level(logging.WARNING, logger="centerarc"):
        losses = [made(x, y) for _ in range(3)]
    assert len(caplog.records) == 1
    assert "Triton" in caplog.text
    assert losses[0] == plain(x, y)


def test_kernels_that_do_not_start_are_one_line_too(caplog, monkeypatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("Failed to find C compiler")

    monkeypatch.setattr(chunked_module.epilogues, "triton_available", lambda: True)
    monkeypatch.setattr(chunked_module.epilogues, "project", fail)
    chunked_module._triton_works.cache_clear()
    with caplog.at_level(logging.WARNING, logger="centerarc"):
        MarginSoftmaxLoss(500, 8, implementation="triton")(torch.randn(4, 8), torch.arange(4))
    assert "Failed to find C compiler" in caplog.text
    chunked_module._triton_works.cache_clear()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"workspace": 0}, "workspace must be a positive integer, got 0"),
        ({"kept": -1}, "kept must be a number of bytes, 0 or more, got -1"),
        ({"epilogues": "cuda"}, "epilogues must be 'auto', 'torch' or 'triton', got 'cuda'"),
    ],
)
def test_bad_settings_are_named(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Chunked(**options)


def test_a_compiled_graph_is_whole_where_triton_is_wished_for(caplog) -> None:
    x, w, y = torch.randn(6, 4), torch.randn(50, 4), torch.arange(6)
    ways = Chunked(epilogues="triton")
    compiled = torch.compile(
        lambda a: negative_logsumexp(a, w, y, 30.0, implementation=ways),
        fullgraph=True,
        backend="aot_eager",
    )
    torch.testing.assert_close(
        compiled(x), negative_logsumexp(x, w, y, 30.0, implementation="reference")
    )


@pytest.mark.parametrize("scale", [1.0, 65536.0])
@pytest.mark.parametrize("length", [1.0, 1e6, 1e12])
def test_features_opposite_to_all_prototypes(length: float, scale: float) -> None:
    """Sums of exp(-64) neither overflow on the way back nor vanish."""
    x = -torch.ones(4, 8) + 0.1 * torch.randn(4, 8)
    w = length * (torch.ones(5, 8) + 0.1 * torch.randn(5, 8))
    found = []
    for dtype, implementation in ((torch.float32, "chunked"), (torch.float64, "reference")):
        a, b = (t.to(dtype, copy=True).requires_grad_() for t in (x, w))
        out = negative_logsumexp(a, b, torch.arange(4), 64.0, implementation=implementation)
        (out.sum() * scale).backward()
        found.append((a.grad.double(), b.grad.double()))
    for ours, theirs in zip(*found, strict=True):
        assert (ours - theirs).norm() <= 1e-4 * theirs.norm()


@pytest.mark.parametrize("implementation", ["reference", "chunked"])
def test_an_ignored_row_may_hold_anything_whatever_its_label(implementation: str) -> None:
    made = CenterArcFaceLoss(50, 8, ignore_index=0, implementation=implementation)
    x, y = torch.randn(6, 8), torch.tensor([0, 1, 2, 3, 4, 5])
    x[0] = torch.nan
    x.requires_grad_()
    sum(made(x, y)).backward()
    assert made.arcface.prototypes.grad.isfinite().all()
    assert x.grad[0].abs().sum() == 0


@pytest.mark.parametrize("reentrant", [False, True])
def test_activation_checkpointing(reentrant: bool) -> None:
    made = MarginSoftmaxLoss(5000, 8, implementation="chunked")
    x, y = torch.randn(6, 8, requires_grad=True), torch.arange(6)
    torch.utils.checkpoint.checkpoint(made, x, y, use_reentrant=reentrant).backward()
    ours = made.prototypes.grad.clone()
    made.zero_grad()
    made(x, y).backward()
    assert torch.equal(ours, made.prototypes.grad)


def test_narrow_prototypes_of_odd_width_in_small_blocks() -> None:
    x, y = torch.randn(2000, 63), torch.randint(0, 300, (2000,))
    made = MarginSoftmaxLoss(300, 63, implementation=Chunked(workspace=1 << 18)).bfloat16()
    exact = MarginSoftmaxLoss(300, 63, implementation="reference").double()
    exact.load_state_dict(made.state_dict())
    made(x, y).backward()
    exact(x.double(), y).backward()
    error = made.prototypes.grad.double() - exact.prototypes.grad
    assert error.norm() < 5e-3 * exact.prototypes.grad.norm()


def test_without_gradients_there_is_only_the_workspace() -> None:
    made = MarginSoftmaxLoss(60_000, 16, implementation=Chunked(workspace=1 << 19))
    x, y = torch.randn(8, 16), torch.arange(8)
    with NewArrays([made.prototypes], least=made.prototypes.nbytes) as arrays, torch.no_grad():
        made(x, y)
    assert not arrays.storages


@pytest.mark.parametrize("n", [0, 1])
def test_a_small_batch_makes_no_copies_of_many_prototypes(n: int) -> None:
    made = MarginSoftmaxLoss(400_000, 16)
    x, y = torch.randn(n, 16), torch.arange(n)
    with NewArrays([made.prototypes], least=made.prototypes.nbytes) as arrays:
        made(x, y).backward()
    assert len(arrays.storages) <= 1  # Their gradient.


def test_the_setting_of_the_process_is_restored_whatever_threads_do() -> None:
    before = torch.get_float32_matmul_precision()
    x, w, y = torch.randn(8, 16), torch.randn(3000, 16, requires_grad=True), torch.arange(8)

    def work(_: int) -> None:
        for _ in range(20):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                out = negative_logsumexp(x, w, y, 30.0, implementation="chunked")
            torch.autograd.grad(out.sum(), w)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(8)))
    assert torch.get_float32_matmul_precision() == before
