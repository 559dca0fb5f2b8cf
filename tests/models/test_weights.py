"""Weights on disk: what was saved comes back, and what does not fit is named."""

import copy
import functools
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from centerarc.models import (
    Backbone,
    create_model,
    load_pretrained,
    load_weights,
    open_model,
    read_metadata,
    save_weights,
)
from tests.training.helpers import full_disk


def small(seed: int = 0) -> Backbone:
    return copy.deepcopy(_small(seed))


@functools.cache
def _small(seed: int) -> Backbone:
    generator = torch.Generator().manual_seed(seed)
    model = create_model(
        "mobilefacenet_small", embedding_size=16, image_size=32, generator=generator
    )
    model(torch.rand(4, 3, 32, 32, generator=generator))  # moves the running statistics
    return model


def assert_same(a: torch.nn.Module, b: torch.nn.Module) -> None:
    torch.testing.assert_close(dict(a.state_dict()), dict(b.state_dict()), rtol=0, atol=0)


def test_a_saved_model_comes_back_whole_and_ready_to_embed(tmp_path: Path) -> None:
    path = tmp_path / "run" / "best.safetensors"
    model = small()
    save_weights(path, model, metadata={"epoch": 3})
    loaded = load_weights(path)
    assert_same(loaded, model)
    assert not loaded.training
    assert loaded.recipe == model.recipe
    assert read_metadata(path) == {
        "name": "mobilefacenet_small",
        "embedding_size": 16,
        "image_size": 32,
        "options": {},
        "metadata": {"epoch": 3},
    }
    assert [p.name for p in path.parent.iterdir()] == ["best.safetensors"]


def test_the_options_of_a_model_come_back(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_weights(path, create_model("iresnet18", image_size=16, embedding_size=4, dropout=0.4))
    loaded = load_weights(path)
    assert loaded.get_submodule("dropout").p == 0.4


def test_a_run_folder_gives_the_best_weights_else_the_last(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"neither best\.safetensors nor last\.safetensors"):
        load_weights(tmp_path)
    last, best = small(1), small(2)
    save_weights(tmp_path / "last.safetensors", last)
    assert_same(load_weights(tmp_path), last)
    save_weights(tmp_path / "best.safetensors", best)
    assert_same(load_weights(tmp_path), best)


def test_an_interrupted_save_leaves_the_old_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "w.safetensors"
    old = small(1)
    save_weights(path, old)

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save_weights(path, small(2))
    assert_same(load_weights(path), old)
    assert list(tmp_path.iterdir()) == [path]


def test_a_channels_last_model_can_be_saved(tmp_path: Path) -> None:
    model = small().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    save_weights(tmp_path / "w.safetensors", model)
    assert_same(load_weights(tmp_path / "w.safetensors"), model)


def test_what_cannot_be_rebuilt_is_not_saved(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    with pytest.raises(ValueError, match="Linear without a recipe"):
        save_weights(path, torch.nn.Linear(2, 2))
    with pytest.raises(ValueError, match="metadata and model options must be JSON"):
        save_weights(path, small(), metadata={"when": object()})
    assert not path.exists()


@pytest.mark.parametrize("content", [None, b"", b"not safetensors at all", bytes(200)])
def test_a_missing_or_damaged_file_is_named(tmp_path: Path, content: bytes | None) -> None:
    for name in ("w.safetensors", "w.pt"):
        path = tmp_path / name
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(ValueError, match=name):
            load_weights(path)
        with pytest.raises(ValueError, match=name):
            load_pretrained(small(), path)


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("prefix", ["", "module."])  # the second is what DDP's state dict has
def test_a_torch_checkpoint_loads(tmp_path: Path, wrapped: bool, prefix: str) -> None:
    source, model = small(1), small(2)
    state: dict[str, object] = {prefix + key: t for key, t in source.state_dict().items()}
    if wrapped:
        state = {"epoch": 2, "state_dict_backbone": state}
    torch.save(state, tmp_path / "model.pt")
    load_pretrained(model, tmp_path / "model.pt")
    assert_same(model, source)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: {f"model.{k}": t for k, t in s.items()},
        lambda s: {f"module.backbone.{k}": t for k, t in s.items()},
        lambda s: {f"_orig_mod.{k}": t for k, t in s.items()},
        lambda s: {f"module._orig_mod.{k}": t for k, t in s.items()},
        lambda s: {k.replace("layers.", "layers._orig_mod.", 1): t for k, t in s.items()},
        lambda s: {"state_dict": {f"net.{k}": t for k, t in s.items()}, "epoch": 3},
        lambda s: {"model": {"net": s}, "optimizer": {"state": {0: {"step": torch.ones(1)}}}},
        # What was trained with the backbone does not matter.
        lambda s: {**{f"backbone.{k}": t for k, t in s.items()}, "head.weight": torch.ones(9, 16)},
    ],
)
def test_prefixes_and_nesting_of_checkpoints_are_seen_through(tmp_path: Path, wrap: Any) -> None:
    source, model = small(1), small(2)
    torch.save(wrap(dict(source.state_dict())), tmp_path / "model.pt")
    load_pretrained(model, tmp_path / "model.pt")
    assert_same(model, source)
    opened = open_model(tmp_path / "model.pt", architecture="mobilefacenet_small")
    assert opened.network is not None
    assert_same(opened.network, source)


def test_of_two_models_in_a_checkpoint_neither_is_guessed(tmp_path: Path) -> None:
    state = small(1).state_dict()
    both = {f"{name}.{k}": t for name in ("model", "ema") for k, t in state.items()}
    torch.save({"state_dict": both}, tmp_path / "model.pt")
    with pytest.raises(
        ValueError, match=r"of 2 such models \(state_dict.model., state_dict.ema.\)"
    ):
        load_pretrained(small(), tmp_path / "model.pt")


@pytest.mark.parametrize("name", ["mobilefacenet_small", "iresnet18", "vit_t"])
@pytest.mark.parametrize(("size", "side"), [(256, 112), (40, 32)])
def test_the_sizes_of_a_checkpoint_are_seen_from_its_tensors(
    tmp_path: Path, name: str, size: int, side: int
) -> None:
    model = create_model(name, embedding_size=size, image_size=side)
    torch.save({f"module.{k}": t for k, t in model.state_dict().items()}, tmp_path / "model.pt")
    found = open_model(tmp_path / "model.pt", architecture=name).network
    assert found is not None
    assert (found.embedding_size, found.image_size) == (size, side)
    assert_same(found, model)
    with pytest.raises(ValueError, match=r"does not fit the model: .* of another shape"):
        open_model(tmp_path / "model.pt", architecture=name, image_size=side + 16)


def test_a_checkpoint_that_does_not_fit_is_explained_and_changes_nothing(tmp_path: Path) -> None:
    model = small()
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    state = dict(small(5).state_dict())
    for key in [key for key in state if key.startswith("conv_sep.layers.1")]:
        del state[key]
    state["head.weight"] = torch.zeros(2)
    state["features.layers.2.weight"] = torch.zeros(8, 512)
    torch.save(state, tmp_path / "model.pt")
    with pytest.raises(ValueError) as caught:
        load_pretrained(model, tmp_path / "model.pt")
    message = str(caught.value)
    assert "5 missing (conv_sep.layers.1.weight, " in message
    assert "1 unexpected (head.weight)" in message
    assert "features.layers.2.weight is (8, 512) instead of (16, 512)" in message
    torch.testing.assert_close(dict(model.state_dict()), before, rtol=0, atol=0)


class Payload:
    """Would create a file, were it ever unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


def test_a_checkpoint_cannot_run_code(tmp_path: Path) -> None:
    torch.save({"w": Payload(tmp_path / "harm")}, tmp_path / "evil.pt")
    with pytest.raises(ValueError, match=r"evil\.pt.*objects that are not tensors") as error:
        load_pretrained(small(), tmp_path / "evil.pt")
    assert "weights_only" not in str(error.value)  # torch advises to load it all the same
    assert not (tmp_path / "harm").exists()


def test_a_checkpoint_of_something_else_says_what_it_holds(tmp_path: Path) -> None:
    torch.save({"epoch": 3, "lr": 0.1}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match="no state dict of tensors; it holds epoch, lr"):
        load_pretrained(small(), tmp_path / "other.pt")


RECIPE = {
    "name": "mobilefacenet",
    "embedding_size": 16,
    "image_size": 32,
    "options": {},
    "metadata": {},
}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "Expecting"),
        ("[" * 100_000, "holds no valid recipe"),
        ("[1]", r"it is \[1\]; it must be an object"),
        (json.dumps({**RECIPE, "embedding_size": "512"}), "embedding_size is '512'; it must be"),
        (json.dumps({**RECIPE, "image_size": True}), "image_size is True; it must be"),
        (json.dumps({**RECIPE, "options": [1]}), r"options is \[1\]; it must be"),
        (json.dumps({**RECIPE, "options": {"generator": 1}}), "options holds 'generator'"),
        (json.dumps({**RECIPE, "embedding_size": 10**11}), "embedding_size is 100000000000"),
        # 8.8 TB, if it were built.
        (
            json.dumps(
                {**RECIPE, "name": "iresnet18", "image_size": 4096, "embedding_size": 65536}
            ),
            "it has 2,199,.* numbers, and the file holds 1$",
        ),
        (json.dumps({**RECIPE, "name": "nobody"}), "unknown model 'nobody'"),
        *(
            (json.dumps({k: v for k, v in RECIPE.items() if k != name}), f"{name} is missing")
            for name in RECIPE
        ),
    ],
)
def test_a_recipe_of_a_stranger_is_refused_by_name_and_file(
    tmp_path: Path, text: str, message: str
) -> None:
    path = tmp_path / "w.safetensors"
    save_file({"x": torch.zeros(1)}, path, metadata={"centerarc": text})
    with pytest.raises(ValueError, match=message) as error:
        load_weights(path)
    assert "w.safetensors" in str(error.value)


def test_weights_that_changed_after_they_were_written_are_refused(tmp_path: Path) -> None:
    """A flipped bit of a tensor or of what the file says of itself, and zeros at its end."""
    path = tmp_path / "w.safetensors"
    save_weights(path, small(1), metadata={"epoch": 3})
    content = path.read_bytes()
    damaged = [content[:-500] + bytes(500), content.replace(b'epoch\\": 3', b'epoch\\": 2')]
    for place in (len(content) - 1, len(content) // 2):
        flipped = bytearray(content)
        flipped[place] ^= 4
        damaged.append(bytes(flipped))
    for other in damaged:
        assert other != content
        path.write_bytes(other)
        with pytest.raises(ValueError, match=r"w.safetensors': its content changed after it was"):
            load_weights(path)
    path.write_bytes(content)
    assert_same(load_weights(path), small(1))


def test_weights_without_a_checksum_are_read(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    model = small(1)
    assert model.recipe is not None
    recipe = json.dumps({**model.recipe.to_dict(), "metadata": {}})
    save_file(model.state_dict(), path, metadata={"centerarc": recipe})
    assert_same(load_weights(path), model)


def test_a_full_disk_names_the_file_and_leaves_the_old_weights(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_weights(path, small(1))
    with full_disk(5000), pytest.raises(OSError, match=r"cannot write .*w\.safetensors"):
        save_weights(path, small(2))
    assert_same(load_weights(path), small(1))
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("value", ["1e-1", True, [0.1]])
def test_an_option_of_another_type_is_named(value: object) -> None:
    with pytest.raises(ValueError, match=r"option dropout of model 'iresnet18' is .*type float"):
        create_model("iresnet18", dropout=value)


def test_equal_weights_give_equal_files(tmp_path: Path) -> None:
    """The writer of safetensors puts two texts of its header in any order."""
    torch.manual_seed(0)
    model = create_model("mobilefacenet_small", image_size=32)
    for number in range(8):
        save_weights(tmp_path / f"{number}.safetensors", model, metadata={"note": 'ä "quoted" \\ '})
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1
    assert read_metadata(tmp_path / "0.safetensors")["metadata"] == {"note": 'ä "quoted" \\ '}
