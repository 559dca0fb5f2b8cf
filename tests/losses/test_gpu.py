"""The criteria on CUDA: the CPU's numbers, no waiting, and complaints that come late but come."""

import copy

import pytest
import torch

from centerarc.losses import CenterArcFaceLoss, update_centers

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
]


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    labels = torch.randint(0, C, (N,))
    labels[3] = -100
    return torch.randn(N, D, dtype=torch.float64), labels


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_same_numbers_as_on_the_cpu(options: dict) -> None:
    features, labels = batch()
    there = CenterArcFaceLoss(C, D, **options).double()
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


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_a_step_never_waits_for_the_device(options: dict) -> None:
    features, labels = (t.cuda() for t in batch())
    criterion = CenterArcFaceLoss(C, D, **options).cuda()
    x = features.float().requires_grad_()
    sum(criterion(x, labels)).backward()
    torch.cuda.set_sync_debug_mode("error")
    try:
        sum(criterion(x, labels)).backward()
        update_centers(torch.zeros(C, D, device="cuda"), x, labels)
    finally:
        torch.cuda.set_sync_debug_mode("default")


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
