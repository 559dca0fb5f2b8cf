"""What every backbone has in common, and the registry of their names."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

from centerarc.io.plugins import Registry

# The convolutional families halve the image four times; all families take the same sizes.
STRIDE = 16
# Far beyond any use; keeps a slip, or a hostile file, from asking for all memory.
MAX_EMBEDDING_SIZE = 65_536
MAX_IMAGE_SIZE = 4096


@dataclass(frozen=True)
class Recipe:
    """The arguments of `create_model` that rebuild a model, without its weights.

    Args:
        name: Registered name of the backbone.
        embedding_size: Length of the embedding.
        image_size: Side of the square input image in pixels.
        options: Further keyword arguments of the backbone; values must survive JSON.
    """

    name: str
    embedding_size: int
    image_size: int
    options: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Returns a plain dictionary, ready for JSON."""
        return {**vars(self), "options": dict(self.options)}


class Backbone(nn.Module):
    """Base of the backbones: `(N, 3, S, S)` float images to `(N, D)` raw embeddings.

    Attributes:
        embedding_size: D, the length of an embedding.
        image_size: S, the side of the input in pixels.
        recipe: What `create_model` was called with; None for a model built by hand.

    Args:
        embedding_size: D, from 1 to 65,536.
        image_size: S, a multiple of 16 from 16 to 4096.

    Raises:
        ValueError: If a size is out of range.
    """

    def __init__(self, embedding_size: int, image_size: int) -> None:
        super().__init__()
        if not 1 <= embedding_size <= MAX_EMBEDDING_SIZE:
            raise ValueError(
                f"embedding_size is {embedding_size}; it must be between 1 and {MAX_EMBEDDING_SIZE}"
            )
        if not STRIDE <= image_size <= MAX_IMAGE_SIZE or image_size % STRIDE:
            raise ValueError(
                f"image_size is {image_size}; it must be a positive multiple of {STRIDE}, at most "
                f"{MAX_IMAGE_SIZE}"
            )
        self.embedding_size = embedding_size
        self.image_size = image_size
        self.recipe: Recipe | None = None

    def no_weight_decay(self) -> set[str]:
        """Returns the names of parameters that are not decayed though they are not vectors.

        Those of at most one dimension never are; this adds position embeddings and tokens.
        """
        return set()

    def ordered_layers(self) -> Iterator[nn.Module]:
        """Yields the layers from the image to the embedding, each of which is one deep.

        For rates that fall with the depth, see `parameter_depths`. Here, each module that the
        backbone holds is a layer, in the order in which they were assigned. Of a `Sequential`, a
        `ModuleList`, and one with more than half of all parameters, such as a network of another
        library, each part is.
        """
        yield from _parts(self, sum(parameter.numel() for parameter in self.parameters()) / 2)

    def folded(self, dtype: torch.dtype = torch.float32) -> "Callable[[Tensor], Tensor] | None":
        """Returns what embeds as this backbone does in evaluation mode, faster; None if unknown.

        `TorchEmbedder` asks for it where weights are float32 on a CPU, and again where they have
        changed. The function has copies of the weights, calls no hooks, and computes the same up to
        rounding: `(N, 3, S, S)` to `(N, D)`, both float32.

        Args:
            dtype: What is computed in but for the last layers: float32, or bfloat16 on a processor
                with instructions for it.

        Example:
            >>> model = create_model("mobilefacenet_small", image_size=32).eval()
            >>> images = torch.rand(2, 3, 32, 32)
            >>> fast = model.folded()
            >>> torch.allclose(fast(images), model(images), rtol=1e-3, atol=1e-4)
            True
        """
        return None

    def check_images(self, images: Tensor) -> None:
        """Raises a `ValueError` unless `images` is a float tensor `(N, 3, S, S)`."""
        expected = (3, self.image_size, self.image_size)
        if images.ndim != 4 or tuple(images.shape[1:]) != expected:
            raise ValueError(
                f"images has shape {tuple(images.shape)}; "
                f"this model needs (N, 3, {self.image_size}, {self.image_size})"
            )
        if not images.is_floating_point():
            raise ValueError(
                f"images has dtype {images.dtype}; it must be float, scaled as to_input does"
            )


def _parts(module: nn.Module, most: float) -> Iterator[nn.Module]:
    """Takes a module apart if it is a container, or has more than so many parameters."""
    children = list(module.children())
    large = sum(parameter.numel() for parameter in module.parameters()) > most
    if children and (large or isinstance(module, nn.Sequential | nn.ModuleList)):
        for child in children:
            yield from _parts(child, most)
    else:
        yield module


def parameter_depths(model: Backbone) -> dict[str, int]:
    """Returns how deep each parameter lies: 0 at the image, the largest number at the embedding.

    A norm or an activation has the depth of the layer before it. What no layer holds, such as a
    position embedding, has depth 0.

    Example:
        >>> model = create_model("vit_t", image_size=32)
        >>> depths = parameter_depths(model)
        >>> depths["pos_embed"], depths["blocks.0.mlp.fc1.bias"], depths["blocks.11.norm1.weight"]
        (0, 1, 12)
        >>> max(depths.values())  # of 12 blocks, the patches before and two linear layers after
        14
    """
    found: dict[Tensor, int] = {}
    depth = -1
    for layer in model.ordered_layers():
        parameters = list(layer.parameters())
        depth += any(parameter.ndim > 1 for parameter in parameters)
        for parameter in parameters:
            found.setdefault(parameter, max(depth, 0))
    return {name: found.get(parameter, 0) for name, parameter in model.named_parameters()}


def apply_in_full_precision(x: Tensor, *layers: nn.Module) -> Tensor:
    """Applies the last layers outside autocast, in the precision of their weights.

    The embedding is small, so this costs nothing, and a half-precision embedding would round
    cosines to two or three digits.
    """
    kind = x.device.type
    # Without autocast there is nothing to leave, and an exported graph stays free of it. The meta
    # device, which counts operations, has none.
    if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
        with torch.autocast(kind, enabled=False):
            return apply_in_full_precision(x.to(next(layers[0].parameters()).dtype), *layers)
    for layer in layers:
        x = layer(x)
    return x


# The names of the backbones.

Builder = Callable[..., Backbone]

_BUILDERS = Registry("model", ("embedding_size", "image_size"))


def register_model(name: str) -> Callable[[Builder], Builder]:
    """Registers a builder of a backbone under `name`, as a decorator.

    It decorates a callable `builder(*, embedding_size, image_size, **options)` that returns a
    `Backbone`. The keywords in its signature are the options that users can give.

    Raises:
        ValueError: If the name belongs to another model.

    Example:
        >>> @register_model("flat")
        ... class Flat(Backbone):
        ...     def __init__(self, *, embedding_size: int, image_size: int):
        ...         super().__init__(embedding_size, image_size)
        ...         self.linear = nn.Linear(3 * image_size**2, embedding_size)
        ...     def forward(self, images):
        ...         return self.linear(images.flatten(1))
        >>> create_model("flat", embedding_size=4, image_size=16)(torch.zeros(2, 3, 16, 16)).shape
        torch.Size([2, 4])
        >>> del _BUILDERS["flat"]
    """
    return _BUILDERS.register(name)


def list_models() -> list[str]:
    """Returns the names that `create_model` accepts, sorted."""
    return _BUILDERS.names()


def is_built_in(name: str) -> bool:
    """Whether a backbone is one of the library's own, which every installation has."""
    return name in _BUILDERS and _BUILDERS[name].__module__.startswith(f"{__package__}.")


def create_model(
    name: str,
    *,
    embedding_size: int = 512,
    image_size: int = 112,
    generator: torch.Generator | None = None,
    **options: Any,
) -> Backbone:
    """Builds a backbone with fresh weights.

    Args:
        name: One of `list_models()`.
        embedding_size: D, the length of the embedding.
        image_size: S, the side of the input image in pixels; a multiple of 16.
        generator: Draws the initial weights, for models that can be reproduced; None uses torch's
            global generator, as any `nn.Module` does.
        **options: Further options of this backbone, such as `dropout` of the iresnets.

    Returns:
        A module from `(N, 3, S, S)` float images, scaled as `to_input` does, to `(N, D)` raw
        (not normalized) embeddings.

    Raises:
        ValueError: If the name or an option is unknown, or a value is out of range.

    Example:
        >>> import torch
        >>> model = create_model("mobilefacenet", embedding_size=128, image_size=64).eval()
        >>> model(torch.zeros(1, 3, 64, 64)).shape
        torch.Size([1, 128])
    """
    with torch.random.fork_rng(devices=[], enabled=generator is not None):
        if generator is not None:
            # torch's default initializers take no generator, so lend them the global one.
            torch.manual_seed(int(torch.randint(2**62, (), generator=generator)))
        model = _BUILDERS.build(name, options, embedding_size=embedding_size, image_size=image_size)
    if not isinstance(model, Backbone):
        raise ValueError(f"model {name!r} must be a Backbone, got {type(model).__name__}")
    model.recipe = Recipe(name, embedding_size, image_size, options)
    return model


def structure(model: nn.Module) -> list[tuple[str, type, str]]:
    """Returns name, class and settings of all parts of a model."""
    return [(name, type(part), part.extra_repr()) for name, part in model.named_modules()]


def is_watched(layer: nn.Module) -> bool:
    """Whether something else is to happen when a module is called: hooks, or another `forward`."""
    own = (
        *(layer._forward_hooks, layer._forward_pre_hooks),
        *(layer._backward_hooks, layer._backward_pre_hooks),
    )
    everywhere = _has_any_global_hook()  # type: ignore[no-untyped-call]
    return any(own) or bool(everywhere) or "forward" in vars(layer)
