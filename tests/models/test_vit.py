"""Vision Transformers: the numbers of arcface_torch's, and what training draws at random."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from centerarc.models import create_model, load_pretrained
from centerarc.models.vit import Block, VisionTransformer
from tests.models.public import VIT_SIZES, Shapes, public_vit

State = dict[str, torch.Tensor]
PATCH, HEADS = 9, 8


def small(**options: Any) -> VisionTransformer:
    """A ViT of two narrow blocks, which sees 5 x 5 patches of 48 x 48 pixels."""
    values: dict[str, Any] = {
        "drop_path": 0.0,
        "mask_ratio": 0.0,
        "dropout": 0.0,
        "gradient_checkpointing": False,
    }
    torch.manual_seed(0)
    return VisionTransformer(16, 2, embedding_size=6, image_size=48, **{**values, **options})


def images(count: int, size: int = 48) -> torch.Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(0)) * 2 - 1


def synthetic(shapes: Shapes) -> State:
    """Weights that no layer can be left out of unseen."""
    generator = torch.Generator().manual_seed(0)
    state = {}
    for name, shape in shapes.items():
        if name.endswith("num_batches_tracked"):
            state[name] = torch.tensor(7)
        elif name.endswith("running_var") or (len(shape) == 1 and name.endswith("weight")):
            state[name] = 0.5 + torch.rand(shape, generator=generator)
        elif len(shape) > 1 and name.endswith("weight"):
            fan_in = np.prod(shape[1:])
            # Wide enough that ReLU6 cuts above, too.
            state[name] = torch.randn(shape, generator=generator) * 3 / fan_in**0.5
        else:
            state[name] = torch.randn(shape, generator=generator) / 2
    return state


def reference(
    state: State, images: torch.Tensor, kept: Sequence[Sequence[int]] | None = None
) -> np.ndarray:
    """The forward pass in float64, written out; with `kept` patches, in training."""
    w = {name: tensor.double().numpy() for name, tensor in state.items()}

    def layer_norm(name: str, x: np.ndarray) -> np.ndarray:
        centered = x - x.mean(1, keepdims=True)
        deviation = np.sqrt((centered**2).mean(1, keepdims=True) + 1e-5)
        return centered / deviation * w[f"{name}.weight"] + w[f"{name}.bias"]

    def batch_norm(name: str, x: np.ndarray) -> np.ndarray:
        if kept is None:
            mean, variance = w[f"{name}.running_mean"], w[f"{name}.running_var"]
        else:
            mean, variance = x.mean(0), ((x - x.mean(0)) ** 2).mean(0)
        y = (x - mean) / np.sqrt(variance + 2e-5)
        return y * w[f"{name}.weight"] + w[f"{name}.bias"]

    def attention(name: str, x: np.ndarray) -> np.ndarray:
        width = x.shape[1]
        q, k, v = np.split(x @ w[f"{name}.qkv.weight"].T, 3, axis=1)
        out = np.empty_like(x)
        for head in range(HEADS):
            part = slice(head * width // HEADS, (head + 1) * width // HEADS)
            weights = np.exp(q[:, part] @ k[:, part].T / np.sqrt(width / HEADS))
            out[:, part] = weights / weights.sum(1, keepdims=True) @ v[:, part]
        return out @ w[f"{name}.proj.weight"].T + w[f"{name}.proj.bias"]

    def mlp(name: str, x: np.ndarray) -> np.ndarray:
        hidden = x @ w[f"{name}.fc1.weight"].T + w[f"{name}.fc1.bias"]
        assert hidden.min() < 0
        assert hidden.max() > 6
        return np.clip(hidden, 0, 6) @ w[f"{name}.fc2.weight"].T + w[f"{name}.fc2.bias"]

    flat = []
    kernel = w["patch_embed.proj.weight"].reshape(len(w["patch_embed.proj.weight"]), -1)
    depth = 1 + max(int(name.split(".")[1]) for name in w if name.startswith("blocks."))
    for number, image in enumerate(images.double().numpy()):
        side = image.shape[1] // PATCH
        tokens = []
        for row in range(side):
            for column in range(side):
                at = (slice(row * PATCH, row * PATCH + PATCH), slice(column * PATCH, None))
                patch = image[:, at[0], at[1]][:, :, :PATCH]
                tokens.append(kernel @ patch.ravel() + w["patch_embed.proj.bias"])
        x = np.array(tokens) + w["pos_embed"][0]
        chosen = list(range(len(x))) if kept is None else list(kept[number])
        x = x[chosen]
        for block in range(depth):
            name = f"blocks.{block}"
            x = x + attention(f"{name}.attn", layer_norm(f"{name}.norm1", x))
            x = x + mlp(f"{name}.mlp", layer_norm(f"{name}.norm2", x))
        everything = np.repeat(w["mask_token"][0], side**2, axis=0)
        everything[chosen] = layer_norm("norm", x)
        flat.append(everything.ravel())
    hidden = batch_norm("feature.1", np.array(flat) @ w["feature.0.weight"].T)
    return batch_norm("feature.3", hidden @ w["feature.2.weight"].T)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "size"), [("vit_t", 112), ("vit_s", 32), ("vit_b", 32)])
def test_a_public_checkpoint_gives_its_own_embeddings(tmp_path: Path, name: str, size: int) -> None:
    state = synthetic(public_vit(*VIT_SIZES[name], (size // PATCH) ** 2, 24))
    torch.save(state, tmp_path / "model.pt")
    with torch.device("meta"):
        model = create_model(name, embedding_size=24, image_size=size).eval()
    load_pretrained(model.to_empty(device="cpu"), tmp_path / "model.pt")
    with torch.no_grad():
        found = model.double()(images(2, size).double())
    np.testing.assert_allclose(found, reference(state, images(2, size)), rtol=1e-8, atol=1e-8)


def test_pixels_beyond_the_last_patch_are_not_seen() -> None:
    model = small().eval()
    seen = images(1)
    changed = seen.clone()
    changed[:, :, 45:] = 0
    changed[:, :, :, 45:] = 0
    assert torch.equal(model(changed), model(seen))
    changed[0, 0, 44, 44] += 1
    assert not torch.equal(model(changed), model(seen))


@pytest.mark.parametrize(
    ("size", "mask_ratio", "kept"),
    [(112, 0.0, 144), (112, 0.05, 136), (112, 0.1, 129), (112, 0.75, 36), (16, 0.1, 1)],
)
def test_part_of_the_patches_is_kept_rounded_down(size: int, mask_ratio: float, kept: int) -> None:
    with torch.device("meta"):
        model = create_model("vit_t", image_size=size, mask_ratio=mask_ratio)
    assert isinstance(model, VisionTransformer)
    assert model.kept == kept


def test_training_leaves_out_random_patches_of_each_image_and_puts_a_token_there() -> None:
    model = small(mask_ratio=0.3).double().train()
    model.load_state_dict(synthetic({k: tuple(t.shape) for k, t in model.state_dict().items()}))
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    torch.manual_seed(5)
    found = model(images(4).double())
    # The patches with the least noise stay; the noise comes from torch's own generator.
    torch.manual_seed(5)
    noise = torch.rand(4, 25).numpy()
    kept = [sorted(range(25), key=lambda i: row[i])[:17] for row in noise]
    assert len({tuple(sorted(patches)) for patches in kept}) == 4
    expected = reference(state, images(4), kept)
    np.testing.assert_allclose(found.detach(), expected, rtol=1e-9, atol=1e-9)


def test_a_branch_is_left_out_for_single_samples_and_scaled_up_for_the_others() -> None:
    count, p = 4000, 0.25
    torch.manual_seed(0)
    block = Block(16, 0.0, p).double()
    x = torch.randn(1, 3, 16, dtype=torch.float64)

    def one_branch(part: torch.nn.Module, norm: torch.nn.Module, y: torch.Tensor) -> torch.Tensor:
        branch: torch.Tensor = part(norm(y)) / (1 - p)
        return y + branch

    with torch.no_grad():
        first = one_branch(block.attn, block.norm1, x)
        cases = {
            (1 - p) ** 2: one_branch(block.mlp, block.norm2, first),
            (1 - p) * p: first,
            p * (1 - p) + 1e-9: one_branch(block.mlp, block.norm2, x),  # told apart as a key
            p**2: x,
        }
        found = block.train()(x.expand(count, -1, -1))
    matched = 0
    for probability, case in cases.items():
        share = (found - case).abs().amax((1, 2)).lt(1e-12).double().mean().item()
        deviation = (probability * (1 - probability) / count) ** 0.5
        assert abs(share - probability) < 4 * deviation
        matched += round(share * count)
    assert matched == count


def test_later_blocks_are_left_out_more_often() -> None:
    with torch.device("meta"):
        model = create_model("vit_s", drop_path=0.22)
    rates = [block.drop_path for block in model.get_submodule("blocks").children()]
    assert rates == pytest.approx([0.02 * i for i in range(12)])


@pytest.mark.parametrize("name", ["drop_path", "mask_ratio", "dropout"])
def test_what_is_drawn_follows_the_seed_and_happens_in_training_only(name: str) -> None:
    model, batch = small(**{name: 0.5}), images(8)
    outputs = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        outputs.append(model.train()(batch))
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.equal(outputs[0], outputs[2])
    with torch.no_grad():
        plain = small().eval()
        plain.load_state_dict(model.state_dict())
        assert torch.equal(model.eval()(batch), plain(batch))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_gradient_checkpointing_computes_twice_and_changes_no_bit(precision: str) -> None:
    options = {"drop_path": 0.3, "mask_ratio": 0.3, "dropout": 0.1}
    gradients = []
    for on in (False, True):
        model = small(**options, gradient_checkpointing=on)
        passes = []
        model.blocks[1].norm1.register_forward_hook(lambda *_, seen=passes: seen.append(1))  # type: ignore[union-attr]
        torch.manual_seed(3)
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            output = model.train()(images(4))
        (output * torch.arange(6)).sum().backward()
        assert len(passes) == (2 if on else 1)
        gradients.append([p.grad for p in model.parameters()])
    for plain, again in zip(*gradients, strict=True):
        assert plain is not None
        assert torch.equal(plain, again)


@pytest.mark.parametrize("mask_ratio", [0.0, 0.01, 0.1])
def test_every_trained_parameter_gets_a_gradient(mask_ratio: float) -> None:
    # DDP waits for all of them; 1% of 25 patches is still one.
    model = small(mask_ratio=mask_ratio, drop_path=0.5)
    assert model.mask_token.requires_grad == (mask_ratio > 0)
    model.train()(images(2)).square().sum().backward()
    assert [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None] == []


@pytest.mark.slow
def test_compiles_into_one_graph_with_the_same_numbers() -> None:
    model = small(mask_ratio=0.3, drop_path=0.3, dropout=0.1).train()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    outputs = []
    for run in (model, compiled):
        torch.manual_seed(1)
        with torch.autocast("cpu", torch.bfloat16):
            outputs.append(run(images(4)))
    assert outputs[0].dtype == torch.float32
    torch.testing.assert_close(*outputs, rtol=0.02, atol=0.02)


def test_the_memory_layout_of_the_images_does_not_matter() -> None:
    model = small().eval()
    expected = model(images(2))
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    found = model(images(2).contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_tokens_keep_full_precision_between_blocks_under_autocast() -> None:
    model = small().eval()
    kinds = []
    for block in model.blocks:
        block.register_forward_hook(lambda _, __, output: kinds.append(output.dtype))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        half = model(images(2))
    assert kinds == [torch.float32] * 2
    similarity = F.cosine_similarity(half, model(images(2)))
    assert similarity.min() > 0.99


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"drop_path": 1.0}, "drop_path is 1.0; it must be in [0, 1)"),
        ({"mask_ratio": -0.1}, "mask_ratio is -0.1; it must be in [0, 1)"),
        ({"dropout": float("nan")}, "dropout is nan; it must be in [0, 1)"),
        ({"image_size": 108}, "image_size is 108; it must be a positive multiple of 16"),
        ({"gradient_checkpointing": 1}, "it must be of type bool"),
    ],
)
def test_a_wrong_option_is_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        create_model("vit_t", **options)
