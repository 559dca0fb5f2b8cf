"""The names of the backbones."""

import difflib
import inspect
from collections.abc import Callable
from typing import Any

import torch

from centerarc.models.backbone import Backbone, Recipe

Builder = Callable[..., Backbone]

_BUILDERS: dict[str, Builder] = {}
# What an option may be given as, by the annotation of the builder's argument.
_ACCEPTED: dict[Any, tuple[type, ...]] = {
    float: (float, int),
    int: (int,),
    bool: (bool,),
    str: (str,),
}


def register_model(name: str) -> Callable[[Builder], Builder]:
    """Registers a builder of a backbone under `name`, as a decorator.

    Args:
        name: The name for `create_model`; must be new.

    Returns:
        A decorator for a callable `builder(*, embedding_size, image_size, **options)` that
        returns a `Backbone`. The keywords in its signature are the options that users can give.

    Raises:
        ValueError: If the name is taken.
    """

    def register(builder: Builder) -> Builder:
        if name in _BUILDERS:
            raise ValueError(f"a model named {name!r} is registered already")
        _BUILDERS[name] = builder
        return builder

    return register


def list_models() -> list[str]:
    """Returns the names that `create_model` accepts, sorted."""
    return sorted(_BUILDERS)


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
        generator: Source of the first weights, for models that repeat; None takes torch's
            global generator, as any `nn.Module` does.
        **options: Further options of this backbone, such as `dropout` of the iresnets.

    Returns:
        A module from `(N, 3, S, S)` float images, scaled as `to_input` does, to `(N, D)` raw
        (not normalised) embeddings.

    Raises:
        ValueError: If the name or an option is unknown, or a value is out of range.

    Example:
        >>> import torch
        >>> model = create_model("mobilefacenet", embedding_size=128, image_size=64).eval()
        >>> model(torch.zeros(1, 3, 64, 64)).shape
        torch.Size([1, 128])
    """
    if name not in _BUILDERS:
        close = difflib.get_close_matches(name, _BUILDERS, n=3, cutoff=0.4)
        hint = f"did you mean {' or '.join(close)}? " if close else ""
        raise ValueError(f"unknown model {name!r}; {hint}known models: {', '.join(list_models())}")
    builder = _BUILDERS[name]
    parameters = inspect.signature(builder, eval_str=True).parameters
    known = sorted(set(parameters) - {"embedding_size", "image_size"})
    for option, value in options.items():
        if option not in known:
            allowed = ", ".join(known) if known else "none"
            raise ValueError(f"model {name!r} has no option {option!r}; its options: {allowed}")
        wanted = parameters[option].annotation
        accepted = _ACCEPTED.get(wanted, (object,))
        # Python takes True for the number 1.
        if not isinstance(value, accepted) or (isinstance(value, bool) and wanted in (float, int)):
            raise ValueError(
                f"option {option} of model {name!r} is {value!r}; it must be of type "
                f"{wanted.__name__}"
            )
    if generator is None:
        model = builder(embedding_size=embedding_size, image_size=image_size, **options)
    else:
        # torch's default initialisers take no generator, so lend them the global one.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(torch.randint(2**62, (), generator=generator)))
            model = builder(embedding_size=embedding_size, image_size=image_size, **options)
    model.recipe = Recipe(name, embedding_size, image_size, options)
    return model
