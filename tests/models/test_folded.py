"""Folded models embed as the models themselves, and only where that is known."""

import copy
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from centerarc.models import Backbone, TorchEmbedder, create_model, folded
from centerarc.models import embedder as embedders
from centerarc.models.iresnet import IResNet

SIZE = 48
# The first has filters wide enough for Winograd's way.
MODELS: list[tuple[str, dict[str, Any]]] = [
    ("iresnet10", {"width": 0.5}),
    ("iresnet18", {"width": 0.125, "dropout": 0.2}),
    ("mobilefacenet", {}),
    ("mobilefacenet_small", {}),
    ("mobilefacenet_large", {}),
]


def made(name: str, **options: Any) -> Backbone:
    """A model whose norms and slopes are as far from fresh ones as training takes them."""
    generator = torch.Generator().manual_seed(1)
    model = create_model(
        name, embedding_size=24, image_size=SIZE, generator=generator, **options
    ).eval()
    with torch.no_grad():
        for part in model.modules():
            if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d):
                part.running_mean.normal_(0, 0.3, generator=generator)
                part.running_var.uniform_(0.3, 1.5, generator=generator)
                part.weight.uniform_(-1.5, 1.5, generator=generator)
                part.bias.normal_(0, 0.3, generator=generator)
            elif isinstance(part, nn.PReLU):
                part.weight.uniform_(-0.5, 1.2, generator=generator)
    return model


def images(count: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.rand(count, 3, SIZE, SIZE, generator=generator) * 2 - 1


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize(("name", "options"), MODELS)
def test_it_embeds_as_the_model_does(name: str, options: dict[str, Any]) -> None:
    model, batch = made(name, **options), images(5)
    network = model.folded()
    assert network is not None
    with torch.no_grad():
        found = network(batch)
        plain, expected = model(batch), copy.deepcopy(model).double()(batch.double())
    length = expected.norm(dim=1)
    assert ((found - expected).norm(dim=1) < 1e-5 * length).all()
    assert ((plain - expected).norm(dim=1) < 1e-5 * length).all()
    assert network(batch[:0]).shape == (0, 24)


@pytest.mark.parametrize(("name", "options"), MODELS)
def test_in_bfloat16_it_is_as_close_as_the_model_itself(name: str, options: dict[str, Any]) -> None:
    model, batch = made(name, **options), images(5)
    network = model.folded(torch.bfloat16)
    assert network is not None
    with torch.no_grad():
        found, expected = network(batch), model(batch)
        plain = copy.deepcopy(model).bfloat16()(batch.bfloat16())
    assert found.dtype == torch.float32
    error, usual = ((one - expected).norm() / expected.norm() for one in (found, plain.float()))
    assert 1e-4 < error < min(1.2 * usual, 0.1)


def test_images_of_a_pixel_have_edges() -> None:
    torch.manual_seed(0)
    model = create_model("iresnet10", embedding_size=8, image_size=16, width=0.25)
    model.train()(torch.randn(32, 3, 16, 16))  # statistics
    batch, network = torch.randn(4, 3, 16, 16), model.eval().folded()
    assert network is not None
    with torch.no_grad():
        expected = model(batch)
    assert (network(batch) - expected).norm() < 1e-5 * expected.norm()


@pytest.mark.parametrize("name", ["iresnet10", "mobilefacenet"])
def test_batches_and_threads_change_no_embedding(
    name: str, threads: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, batch = made(name), images(13)
    threads(1)
    usual = model.folded()
    monkeypatch.setattr(folded, "_PART_BYTES", folded._PART_BYTES // 11)
    often = model.folded()  # every thread has several turns
    assert usual is not None
    assert often is not None
    assert often._part < usual._part
    assert often._part <= 4
    expected = usual(batch)
    for count in (1, 2, 3):
        threads(count)
        for network, size in ((usual, 13), (often, 1), (often, 2), (often, 7), (often, 13)):
            found = torch.cat([network(part) for part in torch.split(batch, size)])
            assert torch.get_num_threads() == count
            assert ((found - expected).norm(dim=1) < 1e-5 * expected.norm(dim=1)).all()


def test_the_model_and_random_numbers_stay_as_they_are() -> None:
    model = made("mobilefacenet")
    before = copy.deepcopy(model.state_dict())
    state = torch.random.get_rng_state()
    network = model.folded()
    assert network is not None
    network(images(2))
    assert torch.equal(torch.random.get_rng_state(), state)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def change(model: Backbone, how: str) -> None:
    if how == "hook":
        model.get_submodule("layer1.0.conv1").register_forward_hook(lambda *_: None)
    elif how == "forward":
        unit = model.get_submodule("layer1.0")
        unit.forward = unit.forward  # type: ignore[method-assign]
    elif how == "part":
        model.prelu = nn.Identity()
    elif how == "padding":
        convolution = model.get_submodule("layer1.0.conv1")
        assert isinstance(convolution, nn.Conv2d)
        convolution.padding_mode = "reflect"
    elif how == "by hand":
        model.recipe = None
    elif how == "subclass":
        model.__class__ = type("Mine", (IResNet,), {})


@pytest.mark.parametrize("how", ["part", "padding", "by hand", "subclass"])
def test_what_is_not_known_is_not_folded(how: str) -> None:
    model = made("iresnet10", width=0.125)
    assert model.folded() is not None
    change(model, how)
    assert model.folded() is None
    assert alike(TorchEmbedder(model).embed(pixels()), model)


@pytest.mark.parametrize("how", ["hook", "forward", "autocast"])
def test_an_embedder_leaves_to_the_model_what_the_fold_does_not_do(how: str) -> None:
    model = made("iresnet10", width=0.125)
    embedder = TorchEmbedder(model)
    embedder.embed(pixels())
    change(model, how)
    calls: list[object] = []
    forward = type(model).forward
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(model), "forward", lambda *of: calls.append(1) or forward(*of))
        with torch.autocast("cpu", torch.bfloat16, enabled=how == "autocast"):
            embedder.embed(pixels())
    assert calls == [1]


def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (3, SIZE, SIZE, 3), dtype=np.uint8)


def alike(found: np.ndarray, model: Backbone) -> bool:
    inputs = (torch.from_numpy(pixels()).permute(0, 3, 1, 2).float() - 127.5) / 127.5
    mode = model.training
    with torch.no_grad():
        expected = model.eval()(inputs).numpy()
    model.train(mode)
    return bool(np.linalg.norm(found - expected) < 1e-5 * np.linalg.norm(expected))


@pytest.mark.skipif(not embedders.CPU_HAS_BFLOAT16, reason="the processor has no such instructions")
@pytest.mark.parametrize("how", ["folded", "hook"])
def test_an_embedder_computes_in_bfloat16(how: str) -> None:
    model = made("iresnet10", width=0.125)
    if how == "hook":
        change(model, how)
    found = TorchEmbedder(model, precision="bf16").embed(pixels())
    expected = TorchEmbedder(model).embed(pixels())
    assert found.dtype == np.float32
    error = np.linalg.norm(found - expected) / np.linalg.norm(expected)
    assert 1e-4 < error < 0.1


def test_bfloat16_is_refused_where_it_would_be_emulated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedders, "CPU_HAS_BFLOAT16", False)
    with pytest.raises(ValueError, match="no instructions for: use 'fp32'"):
        TorchEmbedder(made("iresnet10", width=0.125), precision="bf16")


def test_an_embedder_folds_again_what_was_trained_further() -> None:
    model = made("iresnet10", width=0.125).train()
    embedder = TorchEmbedder(model)
    assert alike(embedder.embed(pixels()), model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(images(4)).square().mean().backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    assert alike(embedder.embed(pixels()), model)
    model.load_state_dict(made("iresnet10", width=0.125).state_dict())
    assert alike(embedder.embed(pixels()), model)
    norm = model.bn1
    assert isinstance(norm, nn.BatchNorm2d)
    norm.eps = 1.0
    assert alike(embedder.embed(pixels()), model)
    model.prelu = nn.Identity()
    assert alike(embedder.embed(pixels()), model)
    assert model.training


def test_an_embedder_folds_again_where_a_shortcut_is_taken_away() -> None:
    model = made("mobilefacenet_small")
    embedder = TorchEmbedder(model)
    assert alike(embedder.embed(pixels()), model)
    model.get_submodule("layers.3.layers.0").shortcut = False  # type: ignore[assignment]
    assert alike(embedder.embed(pixels()), model)


def test_weights_whose_changes_are_not_counted_are_not_folded() -> None:
    with torch.inference_mode():
        model = made("iresnet10", width=0.125)
        embedder = TorchEmbedder(model)
        assert alike(embedder.embed(pixels()), model)
        for parameter in model.parameters():
            parameter.mul_(1.3)
        assert alike(embedder.embed(pixels()), model)


def test_an_embedder_that_has_embedded_is_pickled_and_copied() -> None:
    embedder = TorchEmbedder(made("iresnet10", width=0.125))
    expected = embedder.embed(pixels())
    for other in (pickle.loads(pickle.dumps(embedder)), copy.deepcopy(embedder)):
        np.testing.assert_array_equal(other.embed(pixels()), expected)


def test_hooks_of_an_embedder_s_model_are_called() -> None:
    model = made("iresnet10", width=0.125)
    embedder = TorchEmbedder(model)
    embedder.embed(pixels())
    seen: list[torch.Size] = []
    model.get_submodule("fc").register_forward_hook(lambda *found: seen.append(found[2].shape))
    embedder.embed(pixels())
    assert seen == [(3, 24)]
