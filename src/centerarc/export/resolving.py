"""How a model wants its images, from what its file, its input's shape and the caller say."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from centerarc.export.graph import GraphFacts
from centerarc.export.preprocessing import Preprocessing


def resolve(
    path: Path, facts: GraphFacts, model_input: Any, given: Mapping[str, Any]
) -> Preprocessing:
    """Brings together what is known; nothing of it may contradict the rest.

    Args:
        path: The file, for errors.
        facts: What it says.
        model_input: Name, shape and type of its input, as onnxruntime has them.
        given: Arguments of `Preprocessing` that the caller gave.

    Returns:
        The preprocessing.

    Raises:
        ValueError: If something is contradicted, or missing and not to be guessed.
    """
    name, shape = f"input {model_input.name!r} of {str(path)!r}", shape_words(model_input.shape)
    said: dict[str, Any] = {}
    if facts.metadata is not None:
        try:
            said = dict(Preprocessing.from_dict(facts.metadata).__dict__)
        except ValueError as error:
            raise ValueError(f"{str(path)!r} holds no valid metadata of ours: {error}") from error
    try:
        shown = _from_shape(model_input.shape, said.get("layout") or given.get("layout"))
    except ValueError as error:
        raise ValueError(f"{name} has shape {shape}: {error}") from error
    for argument, value in shown.items():
        if said.get(argument, value) != value:
            raise ValueError(
                f"{name} has shape {shape}, but the metadata of ours in it says {argument} "
                f"{said[argument]!r}"
            )
    said |= shown
    for argument, value in given.items():
        if argument in said and said[argument] != value:
            raise ValueError(f"{argument} is {value!r}, but {str(path)!r} takes {said[argument]!r}")
    chosen = said | dict(given)
    if "layout" not in chosen:
        raise ValueError(
            f"{name} has shape {shape}, which does not tell the order of its dimensions; "
            "layout must be given, 'nchw' or 'nhwc'"
        )
    if "image_size" not in chosen:
        raise ValueError(
            f"{name} has shape {shape}, which leaves the size of the images open; "
            "image_size must be given"
        )
    if model_input.type == "tensor(uint8)":
        if "mean" in given or "std" in given:
            raise ValueError(
                f"{name} takes uint8 pixels, which the model scales itself; neither mean nor std "
                "can be given"
            )
        chosen |= {"mean": 0.0, "std": 1.0}
    elif facts.scales_input and not {"mean", "std"} <= set(chosen):
        raise ValueError(
            f"{str(path)!r} begins with arithmetic on its input, so it may scale pixels itself; "
            "give mean and std: 0 and 1 where it takes [0, 255], 127.5 and 127.5 for [-1, 1]"
        )
    return Preprocessing(**chosen)


def shape_words(shape: Sequence[Any]) -> str:
    """Returns a declared shape in words: (any, 3, 112, 112)."""
    return f"({', '.join(str(n) if isinstance(n, int) else 'any' for n in shape)})"


def _from_shape(shape: Sequence[Any], layout: str | None) -> dict[str, Any]:
    """What the declared shape of the input tells: layout and side, as far as it does."""
    if layout is None:
        places = [at for at in (1, 3) if shape[at] == 3]
        if len(places) != 1:
            return {}
        layout = "nchw" if places == [1] else "nhwc"
    height, width = (shape[2], shape[3]) if layout == "nchw" else (shape[1], shape[2])
    channels = shape[1] if layout == "nchw" else shape[3]
    if isinstance(channels, int) and channels != 3:
        raise ValueError(f"as {layout} it has {channels} channels; it must have 3")
    known: dict[str, Any] = {"layout": layout}
    if isinstance(height, int) and isinstance(width, int):
        if height != width:
            raise ValueError(f"{height} x {width} pixels; only square images are supported")
        known["image_size"] = height
    return known
