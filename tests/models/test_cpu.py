"""The layers of a training step on a CPU: the numbers of the plain ones, which do all else."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.modules.module import register_module_forward_hook

from centerarc.models import cpu, create_model

SHAPES = [(3, 5, 7, 9), (8, 16, 14, 14), (5, 64, 1, 3), (2, 3, 40, 47)]


def maps(*shape: int, layout: torch.memory_format = torch.channels_last) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return (torch.randn(shape, generator=generator) * 3 + 2).to(memory_format=layout)


def norm_and_prelu(channels: int) -> tuple[nn.BatchNorm2d, nn.PReLU]:
    torch.manual_seed(1)
    norm, prelu = nn.BatchNorm2d(channels), nn.PReLU(channels)
    for parameter in (*norm.parameters(), *prelu.parameters()):
        nn.init.uniform_(parameter, -1.5, 1.5)  # slopes above 1 and below 0 too
    return norm, prelu


def error(found: Tensor | None, truth: Tensor | None) -> float:
    assert found is not None
    assert truth is not None
    return float((found.double() - truth).detach().abs().max() / truth.detach().abs().max())


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """So small that each of the maps is many of them, the last ones uneven."""
    monkeypatch.setattr(cpu, "_BLOCK", 1000)
    monkeypatch.setattr(cpu, "_LARGE", 1)
    monkeypatch.setattr(cpu, "_SLOW_STRIDES", (1, 2))


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("shape", SHAPES)
def test_norm_and_prelu_have_the_numbers_of_float64(shape: tuple[int, ...]) -> None:
    norm, prelu = norm_and_prelu(shape[1])
    truth = copy.deepcopy(norm).double(), copy.deepcopy(prelu).double()
    x = maps(*shape).requires_grad_()
    wide = x.detach().double().requires_grad_()
    for _ in range(2):
        y, expected = cpu.normalize(norm, prelu, x), truth[1](truth[0](wide))
    assert type(y.grad_fn).__name__ == "_NormalizeBackward"
    assert y.is_contiguous(memory_format=torch.channels_last)
    gradient = maps(*shape, layout=torch.contiguous_format)
    y.backward(gradient)
    expected.backward(gradient.double())
    assert error(y, expected) < 1e-6
    assert error(x.grad, wide.grad) < 1e-5
    for mine, theirs in zip((norm, prelu), truth, strict=True):
        for found, wanted in zip(mine.parameters(), theirs.parameters(), strict=True):
            assert error(found.grad, wanted.grad) < 3e-6
        for found, wanted in zip(mine.buffers(), theirs.buffers(), strict=True):
            assert error(found, wanted) < 1e-6
    assert norm.num_batches_tracked is not None
    assert int(norm.num_batches_tracked) == 2


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("slow", [(), (1, 2)])
@pytest.mark.parametrize("activated", [False, True])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("shape", [(3, 16, 7, 9), (5, 16, 2, 3), (2, 24, 16, 16)])
def test_convolutions_have_the_numbers_of_float64(
    shape: tuple[int, ...],
    stride: int,
    activated: bool,
    slow: tuple[int, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cpu, "_SLOW_STRIDES", slow)
    norm, prelu = norm_and_prelu(shape[1])
    activation: nn.Module = prelu if activated else nn.Identity()
    layer = nn.Conv2d(shape[1], 6, 3, stride, padding=1, bias=False)
    parts = nn.Sequential(norm, activation, layer)
    truth = copy.deepcopy(parts).double()
    x = maps(*shape).requires_grad_()
    wide = x.detach().double().requires_grad_()
    y, expected = cpu.convolve(norm, prelu if activated else None, layer, x), truth(wide)
    assert type(y.grad_fn).__name__ == "_ConvolveBackward"
    gradient = torch.randn(y.shape)
    y.backward(gradient)
    expected.backward(gradient.double())
    assert error(y, expected) < 3e-6
    assert error(x.grad, wide.grad) < 1e-5
    for found, wanted in zip(parts.parameters(), truth.parameters(), strict=True):
        assert error(found.grad, wanted.grad) < 5e-6
    for found, wanted in zip(norm.buffers(), truth[0].buffers(), strict=True):
        assert error(found, wanted) < 1e-6


@pytest.mark.parametrize("frozen", ["norm", "layer", "input"])
def test_what_does_not_learn_has_no_gradient(frozen: str) -> None:
    norm, prelu = norm_and_prelu(16)
    layer = nn.Conv2d(16, 6, 3, padding=1, bias=False)
    parts, x = {"norm": norm, "layer": layer}, maps(4, 16, 24, 24)
    if frozen in parts:
        parts[frozen].requires_grad_(False)
    plain = copy.deepcopy(nn.Sequential(norm, prelu, layer))
    inputs = [x.clone().requires_grad_(frozen != "input") for _ in range(2)]
    y = cpu.convolve(norm, prelu, layer, inputs[0])
    assert type(y.grad_fn).__name__ == "_ConvolveBackward"
    y.square().sum().backward()
    plain(inputs[1]).square().sum().backward()
    mine, theirs = (
        [*norm.parameters(), *prelu.parameters(), *layer.parameters()],
        plain.parameters(),
    )
    for found, wanted in zip([inputs[0], *mine], [inputs[1], *theirs], strict=True):
        assert (found.grad is None) == (wanted.grad is None)
        assert found.grad is None or torch.allclose(found.grad, wanted.grad, rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("name", ["iresnet18", "mobilefacenet"])
def test_a_network_has_the_gradients_of_its_plain_layers(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu, "_SLOW_STRIDES", (1, 2))
    monkeypatch.setattr(cpu, "_LARGE", 1)
    generator = torch.Generator().manual_seed(0)
    model = create_model(name, image_size=32, embedding_size=16, generator=generator).train()
    model = model.to(memory_format=torch.channels_last)
    for part in model.modules():
        if isinstance(part, nn.PReLU):  # so that a number about 0 has one gradient, rounded or not
            nn.init.uniform_(part.weight, 0.999, 1.001)
    models = model, copy.deepcopy(model), copy.deepcopy(model).double()
    images = maps(24, 3, 32, 32)
    # Squares would have no gradient: the last norm gives them a sum that no weight changes.
    target = torch.randn(24, 16, generator=generator)
    (model(images) * target).sum().backward()
    with monkeypatch.context() as plain:
        plain.setattr(cpu, "_fits", lambda *_: False)
        (models[1](images) * target).sum().backward()
        (models[2](images.double()) * target).sum().backward()
    truth = [p.grad for p in models[2].parameters()]
    mine, plain_ones = (
        [
            float((p.grad.double() - wanted).norm() / wanted.norm())
            for p, wanted in zip(one.parameters(), truth, strict=True)
            # Norms leave next to nothing but rounding of the gradients of some biases before them.
            if p.grad is not None and wanted is not None and wanted.norm() > 0.1
        ]
        for one in models[:2]
    )
    assert len(mine) == len(plain_ones) > 50
    # Rounding grows over the layers; it does so here as in the plain ones.
    assert max(mine) < 3 * max(plain_ones) < 1e-3
    assert sum(mine) < 1.5 * sum(plain_ones)


@pytest.mark.usefixtures("small_blocks")
def test_maps_of_one_number_have_no_gradient_of_the_scale() -> None:
    norm, prelu = norm_and_prelu(16)
    x = torch.full((8, 16, 14, 14), 3.0).to(memory_format=torch.channels_last).requires_grad_()
    y = cpu.normalize(norm, prelu, x)
    assert type(y.grad_fn).__name__ == "_NormalizeBackward"
    y.backward(maps(*x.shape))
    assert norm.weight.grad is not None
    assert norm.weight.grad.abs().max() < 1e-6


def _hooked(norm: nn.Module, prelu: nn.Module, x: Tensor) -> Tensor:
    norm.register_forward_hook(lambda *_: None)
    return cpu.normalize(norm, prelu, x)


def _hooked_everywhere(norm: nn.Module, prelu: nn.Module, x: Tensor) -> Tensor:
    hook = register_module_forward_hook(lambda *_: None)
    try:
        return cpu.normalize(norm, prelu, x)
    finally:
        hook.remove()


def _replaced(norm: nn.Module, prelu: nn.Module, x: Tensor) -> Tensor:
    prelu.forward = prelu.forward  # type: ignore[method-assign]
    return cpu.normalize(norm, prelu, x)


def _evaluated(norm: nn.Module, prelu: nn.Module, x: Tensor) -> Tensor:
    return cpu.normalize(norm.eval(), prelu, x)


def _half(norm: nn.Module, prelu: nn.Module, x: Tensor) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        return cpu.normalize(norm, prelu, x)


def _other_norm(norm: nn.Module, prelu: nn.Module, x: Tensor) -> Tensor:
    return cpu.normalize(nn.GroupNorm(1, 16), prelu, x)


def _other_layout(norm: nn.Module, prelu: nn.Module, x: Tensor) -> Tensor:
    return cpu.normalize(norm, prelu, x.contiguous())


def _wide(norm: nn.Module, prelu: nn.Module, x: Tensor) -> Tensor:
    return cpu.normalize(norm.double(), prelu.double(), x.double())


def _small(norm: nn.Module, prelu: nn.Module, x: Tensor) -> Tensor:
    return cpu.normalize(norm, prelu, x[:2])


def _without_statistics(norm: nn.Module, prelu: nn.Module, x: Tensor) -> Tensor:
    norm.running_mean = norm.running_var = None
    return cpu.normalize(norm, prelu, x)


def _without_count(norm: nn.Module, prelu: nn.Module, x: Tensor) -> Tensor:
    norm.num_batches_tracked = None
    return cpu.normalize(norm, prelu, x)


def _dual(norm: nn.Module, prelu: nn.Module, x: Tensor) -> Tensor:
    with forward_ad.dual_level():
        y = cpu.normalize(norm, prelu, forward_ad.make_dual(x, torch.ones_like(x)))
        assert forward_ad.unpack_dual(y).tangent is not None
    return y


def _one_slope(norm: nn.Module, prelu: nn.Module, x: Tensor) -> Tensor:
    return cpu.normalize(norm, nn.PReLU(), x)


@pytest.mark.parametrize(
    "apply",
    [
        *(_hooked, _hooked_everywhere, _replaced, _evaluated, _half),
        *(_other_norm, _other_layout, _wide, _one_slope, _small),
        *(_without_statistics, _without_count, _dual),
    ],
)
def test_all_else_goes_the_plain_way(
    apply: Callable[[nn.Module, nn.Module, Tensor], Tensor],
) -> None:
    y = apply(*norm_and_prelu(16), maps(4, 16, 24, 24))
    assert type(y.grad_fn).__name__ == "PreluKernelBackward0"


def test_a_compiled_network_has_the_plain_layers() -> None:
    norm, prelu = norm_and_prelu(16)
    x = maps(4, 16, 24, 24)
    compiled = torch.compile(cpu.normalize, backend="aot_eager", fullgraph=True)
    expected = cpu.normalize(copy.deepcopy(norm), prelu, x)
    assert torch.allclose(compiled(norm, prelu, x), expected, atol=1e-5)


def test_a_second_derivative_is_refused() -> None:
    norm, prelu = norm_and_prelu(16)
    x = maps(4, 16, 24, 24).requires_grad_()
    y = cpu.normalize(norm, prelu, x)
    (first,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()


def test_one_number_a_channel_is_refused_as_by_the_plain_norm() -> None:
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        cpu.normalize(*norm_and_prelu(16), maps(1, 16, 1, 1))


def test_no_number_that_is_not_finite_is_lost() -> None:
    norm, prelu = norm_and_prelu(16)
    x = maps(4, 16, 24, 24)
    x[0, 3, 0, 0] = torch.nan
    y = cpu.normalize(norm, prelu, x)
    assert y[:, 3].isnan().all()
    assert not y[:, :3].isnan().any()


@pytest.mark.parametrize("name", ["iresnet10", "mobilefacenet_small"])
def test_every_module_that_is_watched_is_called(name: str) -> None:
    model = create_model(name, image_size=32, embedding_size=8).to(
        memory_format=torch.channels_last
    )
    expected = {
        part
        for path, part in model.named_modules()
        if not isinstance(part, nn.ModuleList) and not path.startswith("features")
    }
    called = set()
    for part in expected:
        part.register_forward_hook(lambda part, *_: called.add(part))
    model(maps(4, 3, 32, 32))
    assert called == expected


def test_a_layer_that_is_added_is_called() -> None:
    model = create_model("mobilefacenet_small", image_size=32, embedding_size=8)
    part = model.get_submodule("layers.0.layers")
    assert isinstance(part, nn.Sequential)
    part.append(nn.Threshold(1e9, 7.0))
    stem = model.get_submodule("layers.0")
    assert bool((stem(maps(4, 3, 32, 32)) == 7).all())
