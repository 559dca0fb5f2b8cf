"""The criteria on CUDA: the CPU's numbers, no waiting, and complaints that come late but come."""

import copy

import pytest
import torch

from centerarc.losses import (
    LDAM,
    AdaFace,
    CenterArcFaceLoss,
    Chunked,
    ElasticArcFace,
    MagFace,
    MarginSoftmaxLoss,
    PrototypeSGD,
    update_centers,
)
from centerarc.losses.elastic_margins import normal_noise

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

C, D, N = 3000, 32, 48
VARIANTS = [
    {},
    {"centers": "separate"},
    {"sub_centers": 3},
    {"centers": "separate", "center_update": "gradient", "center_space": "raw"},
    {"label_smoothing": 0.1},
    {"implementation": "chunked"},
    {"implementation": Chunked(recompute=True, workspace=1 << 16)},
    {"conflict_threshold": 0.5},
    {"margin": AdaFace(alpha=0.3)},
    {"margin": MagFace(l_a=3.0, u_a=8.0)},
    {"margin": LDAM(counts=torch.arange(C))},
]


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    labels = torch.randint(0, C, (N,))
    labels[3] = -100
    return torch.randn(N, D, dtype=torch.float64), labels


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_same_numbers_as_on_the_cpu(options: dict) -> None:
    features, labels = batch()
    there = CenterArcFaceLoss(C, D, **copy.deepcopy(options)).double()
    here = copy.deepcopy(there).cuda()
    results = []
    for criterion, device in ((there, "cpu"), (here, "cuda")):
        x = features.to(device).requires_grad_()
        arcface, center = criterion(x, labels.to(device))
        (arcface + center).backward()
        results.append([arcface, center, x.grad, *(p.grad for p in criterion.parameters())])
        results[-1].append(criterion.centers.detach())
    for cpu, cuda in zip(*results, strict=True):
        torch.testing.assert_close(cuda.cpu(), cpu, rtol=1e-9, atol=1e-10)


def test_the_same_margins_are_drawn_as_on_the_cpu() -> None:
    here = normal_noise(3, torch.tensor(5), 1000)
    there = normal_noise(3, torch.tensor(5, device="cuda"), 1000)
    torch.testing.assert_close(there.cpu(), here, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("options", [*VARIANTS, {"margin": ElasticArcFace(plus=True)}], ids=str)
def test_a_step_never_waits_for_the_device(options: dict) -> None:
    features, labels = (t.cuda() for t in batch())
    criterion = CenterArcFaceLoss(C, D, **copy.deepcopy(options)).cuda()
    x = features.float().requires_grad_()
    sum(criterion(x, labels)).backward()
    torch.cuda.set_sync_debug_mode("error")
    try:
        sum(criterion(x, labels)).backward()
        update_centers(torch.zeros(C, D, device="cuda"), x, labels)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("rate", [1.0, 0.1])
@pytest.mark.parametrize("fused", [False, True])
def test_a_step_of_the_prototypes_never_waits_for_the_device(rate: float, fused: bool) -> None:
    features, labels = (t.cuda() for t in batch())
    generator = torch.Generator("cuda").manual_seed(0)
    criterion = CenterArcFaceLoss(C, D, sample_rate=rate, sample_generator=generator).cuda()
    optimizer = PrototypeSGD(criterion.parameters(), lr=0.1, momentum=0.9, fused=fused)
    x = features.float().requires_grad_()

    def step() -> None:
        sum(criterion(x, labels)).backward()
        optimizer.step()
        optimizer.zero_grad()

    step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("fused", [False, True])
def test_steps_repeat_themselves_to_the_last_bit(fused: bool) -> None:
    features, labels = (t.cuda() for t in batch())
    labels[10:20] = labels[10]
    ends = []
    for _ in range(2):
        criterion = CenterArcFaceLoss(C, D, generator=torch.Generator().manual_seed(0)).cuda()
        optimizer = PrototypeSGD(criterion.parameters(), lr=0.1, momentum=0.9, fused=fused)
        for _ in range(3):
            sum(criterion(features.float(), labels)).backward()
            optimizer.step()
            optimizer.zero_grad()
        ends.append(criterion.arcface.prototypes.detach())
    assert torch.equal(*ends)


@pytest.mark.parametrize("epilogues", ["torch", "triton"])
def test_bfloat16_products_keep_float32_logits(epilogues: str) -> None:
    features, labels = batch()
    exact = MarginSoftmaxLoss(C, D, s=64.0, implementation="reference").double()
    reduced = MarginSoftmaxLoss(C, D, s=64.0, implementation=Chunked(epilogues=epilogues)).cuda()
    reduced.load_state_dict(exact.state_dict())
    x = features.requires_grad_()
    y = features.detach().float().cuda().requires_grad_()
    expected = exact(x, labels)
    with torch.autocast("cuda", dtype=torch.bfloat16):
        found = reduced(y, labels.cuda())
    expected.backward()
    found.backward()
    torch.testing.assert_close(found.cpu().double(), expected, rtol=0, atol=2e-2)
    for ours, theirs in ((y.grad, x.grad), (reduced.prototypes.grad, exact.prototypes.grad)):
        assert (ours.cpu().double() - theirs).norm() < 1e-2 * theirs.norm()


def test_a_label_out_of_range_is_nan_at_once_and_an_error_soon() -> None:
    features, labels = (t.cuda() for t in batch())
    criterion = CenterArcFaceLoss(C, D).cuda()
    criterion(features.float(), labels)
    arcface, _ = criterion(features.float(), labels.where(labels != labels[0], C + 5))
    assert arcface.isnan()
    torch.cuda.synchronize()
    with pytest.raises(ValueError, match=r"labels must be in \[0, 3000\).*batch 1 had one outside"):
        criterion(features.float(), labels)


def test_nan_features_are_an_error_soon() -> None:
    features, labels = (t.cuda() for t in batch())
    criterion = CenterArcFaceLoss(C, D).cuda()
    features[5, 2] = torch.nan
    criterion(features.float(), labels)
    torch.cuda.synchronize()
    with pytest.raises(ValueError, match="batch 0 had NaN or infinity"):
        criterion(features.float(), labels)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast(dtype: torch.dtype) -> None:
    criterion = CenterArcFaceLoss(C, D, s=64.0).cuda()
    model = torch.nn.Linear(8, D).cuda()
    labels = torch.randint(0, C, (N,), device="cuda")
    with torch.autocast("cuda", dtype=dtype):
        arcface, center = criterion(model(torch.randn(N, 8, device="cuda")), labels)
    (arcface + center).backward()
    assert arcface.dtype == torch.float32
    assert all(p.grad.isfinite().all() for p in [*model.parameters(), *criterion.parameters()])
