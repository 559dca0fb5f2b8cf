"""Backbones: what they accept and return, and that public checkpoints fit them."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from centerarc.models import Backbone, create_model, list_models, register_model
from centerarc.models.backbone import _BUILDERS
from tests.models.public import PUBLIC

MODELS = Path(__file__).parents[2] / "docs" / "models.md"
# From the published sizes, at 112 x 112 with 512 numbers out: millions of parameters ...
MILLIONS = {
    "iresnet18": 24.0,
    "iresnet34": 34.1,
    "iresnet50": 43.6,
    "iresnet100": 65.2,
    "iresnet200": 118.8,
    "mobilefacenet": 2.06,
}
# ... and billions of multiplications, of which some count those of norms and activations too.
BILLIONS = {
    "iresnet18": 2.6,
    "iresnet50": 6.3,
    "iresnet100": 12.1,
    "iresnet200": 23.5,
    "mobilefacenet": 0.45,
    "vit_t": 1.5,
    "vit_s": 5.7,
    "vit_b": 11.4,
    "vit_l": 25.3,
}
LIGHT = ["iresnet18", "mobilefacenet", "vit_t"]


def images(count: int, size: int) -> torch.Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.mark.parametrize("name", list_models())
def test_public_checkpoints_have_exactly_these_names_and_shapes(name: str) -> None:
    with torch.device("meta"):
        model = create_model(name)
    assert {key: tuple(t.shape) for key, t in model.state_dict().items()} == PUBLIC[name]


@pytest.mark.parametrize("name", list_models())
def test_sizes_are_the_published_and_the_documented_ones(name: str) -> None:
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        model = create_model(name).eval()
        model(torch.zeros(1, 3, 112, 112))
    millions = sum(p.numel() for p in model.parameters()) / 1e6
    billions = counter.get_total_flops() / 2e9
    if name in MILLIONS:
        assert millions == pytest.approx(MILLIONS[name], abs=0.05 if millions > 3 else 0.005)
    if name in BILLIONS:
        assert billions == pytest.approx(BILLIONS[name], rel=0.03)
    assert f"| `{name}` | {millions:.1f} | {billions:.2f} |" in MODELS.read_text("utf-8")


# vit_l is vit_b with longer tokens, and would fill four gigabytes here.
@pytest.mark.parametrize(
    ("name", "size"),
    [(name, 16) for name in list_models() if name != "vit_l"] + [(name, 48) for name in LIGHT],
)
def test_every_model_trains_one_step_and_embeds_one_image(name: str, size: int) -> None:
    torch.manual_seed(0)  # also which branches of a ViT are left out
    model = create_model(name, embedding_size=24, image_size=size)
    assert (model.embedding_size, model.image_size) == (24, size)
    for module in model.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.momentum = 1.0  # one step's statistics, not a tenth of them: 200 layers compound
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-5)
    before = {key: p.detach().clone() for key, p in model.named_parameters()}
    embeddings = model.train()(images(4, size))
    assert embeddings.shape == (4, 24)
    target = torch.randn(4, 24, generator=torch.Generator().manual_seed(1))
    (embeddings * target).sum().backward()
    optimizer.step()
    still = [
        key
        for key, p in model.named_parameters()
        # A batch norm follows fc and takes its bias away again.
        if p.requires_grad and key != "fc.bias" and torch.equal(p, before[key])
    ]
    assert not still
    one = model.eval()(images(1, size))
    assert one.shape == (1, 24)
    assert torch.isfinite(one).all()


@pytest.mark.parametrize("name", LIGHT)
def test_an_embedding_does_not_depend_on_the_rest_of_the_batch_in_eval(name: str) -> None:
    model = create_model(name, embedding_size=16, image_size=32).eval()
    batch = images(3, 32)
    among, alone = (torch.nn.functional.normalize(x) for x in (model(batch), model(batch[1:2])))
    torch.testing.assert_close(among[1:2], alone, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", LIGHT)
def test_autocast_keeps_the_embedding_in_full_precision(name: str) -> None:
    model = create_model(name, embedding_size=16, image_size=16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        embeddings = model(images(2, 16))
    assert embeddings.dtype == torch.float32
    embeddings.square().sum().backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_a_seeded_model_repeats_and_leaves_the_global_generator_alone() -> None:
    def weights(seed: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        model = create_model("mobilefacenet", embedding_size=8, generator=generator)
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    state = torch.get_rng_state()
    assert torch.equal(weights(3), weights(3))
    assert not torch.equal(weights(3), weights(4))
    assert torch.equal(torch.get_rng_state(), state)


def test_dropout_acts_in_training_only() -> None:
    torch.manual_seed(0)
    model = create_model("iresnet18", embedding_size=8, image_size=16, dropout=0.5)
    batch = images(4, 16)
    assert not torch.equal(model(batch), model(batch))
    model.eval()
    assert torch.equal(model(batch), model(batch))


def test_an_unknown_name_is_answered_with_the_one_that_was_meant() -> None:
    with pytest.raises(ValueError, match=r"'mobilfacenet'; did you mean mobilefacenet"):
        create_model("mobilfacenet")
    with pytest.raises(ValueError, match="known models: iresnet10, iresnet100"):
        create_model("zzz")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_size": 100}, "image_size is 100; it must be a positive multiple of 16"),
        ({"image_size": 0}, "image_size is 0"),
        ({"embedding_size": 0}, "embedding_size is 0"),
        ({"dropout": 1.0}, "dropout is 1.0; it must be in [0, 1)"),
        ({"droput": 0.1}, "model 'iresnet18' has no option 'droput'; its options: dropout, width"),
        ({"width": 0.0625}, "width is 0.0625; it must be a factor in [1/8, 4]"),
    ],
)
def test_a_wrong_option_is_named(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        create_model("iresnet18", **options)  # type: ignore[arg-type]


def test_a_narrow_network_has_its_share_of_the_channels() -> None:
    model = create_model("iresnet10", embedding_size=8, image_size=16, width=0.5)
    convolutions = [m for m in model.modules() if isinstance(m, torch.nn.Conv2d)]
    assert len(convolutions) == 13
    assert [c.out_channels for c in convolutions if c.stride == (2, 2)] == [
        channels for width in (32, 64, 128, 256) for channels in (width, width)
    ]
    assert model(images(2, 16)).shape == (2, 8)


@pytest.mark.parametrize("name", LIGHT)
def test_images_of_another_size_or_dtype_are_refused(name: str) -> None:
    model = create_model(name, image_size=32)
    with pytest.raises(ValueError, match=r"\(2, 3, 48, 48\).*needs \(N, 3, 32, 32\)"):
        model(images(2, 48))
    with pytest.raises(ValueError, match="to_input"):
        model(torch.zeros(2, 3, 32, 32, dtype=torch.uint8))


class Flat(Backbone):
    def __init__(self, *, embedding_size: int, image_size: int, bias: bool = True) -> None:
        super().__init__(embedding_size, image_size)
        self.fc = torch.nn.Linear(3 * image_size**2, embedding_size, bias=bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.fc(x.flatten(1))
        return out


@pytest.fixture
def flat() -> Iterator[str]:
    register_model("flat")(Flat)
    yield "flat"
    del _BUILDERS["flat"]


def test_one_decorator_adds_a_model(flat: str) -> None:
    assert flat in list_models()
    model = create_model(flat, embedding_size=4, image_size=16, bias=False)
    assert model(images(2, 16)).shape == (2, 4)
    with pytest.raises(ValueError, match=r"registered already: .*\.Flat; .* needs another name"):
        register_model(flat)(Backbone)
