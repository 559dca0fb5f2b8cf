"""Weights of backbones on disk: safetensors of our own, and public checkpoints."""

import json
import math
import os
import pickle
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from centerarc.io.files import atomic_path
from centerarc.io.plugins import UnknownNameError
from centerarc.models.backbone import Backbone, create_model, is_built_in
from centerarc.models.hub import HUB_WEIGHTS, download, hub_model, named


def read_torch_file(path: Path) -> Any:
    """Reads a file that `torch.save` wrote, on the CPU, without executing what it holds.

    Raises:
        ValueError: If it is absent, damaged, or holds more than tensors and plain values; says
            which, but not the path.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # torch's own text advises to load the file unsafely.
        if "global" in str(error).lower():
            reason = "the file holds objects that are not tensors, which could run code; refused"
        else:
            reason = "the file is damaged, or no file of torch"
        raise ValueError(reason) from error
    except Exception as error:  # a damaged file can fail in any way
        raise ValueError((str(error) or type(error).__name__).splitlines()[0]) from error


METADATA_KEY = "centerarc"
# What a folder of a run, or of a shared model, is asked for, the first that exists.
_IN_FOLDERS = ("best.safetensors", "last.safetensors", HUB_WEIGHTS)
# Beside them, who was trained on: one name a line.
PEOPLE_FILE = "people.txt"
_RECIPE = {"name": str, "embedding_size": int, "image_size": int, "options": dict, "metadata": dict}
_PARALLEL = "module."
_SHOWN = 3
# Arguments of `create_model` that are not options of a backbone.
_NO_OPTIONS = {"name", "embedding_size", "image_size", "generator"}


def save_weights(
    path: str | os.PathLike[str],
    model: nn.Module,
    *,
    metadata: Mapping[str, Any] | None = None,
) -> None:
    """Writes a model's weights and the recipe that rebuilds it to one safetensors file.

    The file is complete or absent: an interrupted save leaves what was there.

    Args:
        path: The file to write, usually `*.safetensors`.
        model: A model from `create_model`, on any device.
        metadata: Anything worth keeping beside the weights, such as the epoch and scores; must
            survive JSON.

    Raises:
        ValueError: If the model was not built by `create_model`, or the metadata is not JSON.
        OSError: If the file cannot be written, as on a full disk.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_weights(f"{folder}/face.safetensors", create_model("mobilefacenet"))
        ...     load_weights(f"{folder}/face.safetensors").embedding_size
        512
    """
    recipe = model.recipe if isinstance(model, Backbone) else None
    if recipe is None:
        raise ValueError(
            f"model is a {type(model).__name__} without a recipe; "
            "only models built by create_model can be saved with the recipe to rebuild them"
        )
    try:
        text = json.dumps({**recipe.to_dict(), "metadata": dict(metadata or {})})
    except TypeError as error:
        raise ValueError(f"metadata and model options must be JSON: {error}") from error
    tensors = {key: tensor.contiguous() for key, tensor in model.state_dict().items()}
    with atomic_path(path) as temporary:
        try:
            save_file(tensors, temporary, metadata={METADATA_KEY: text})
        except (OSError, SafetensorError) as error:
            raise OSError(
                f"cannot write {os.fspath(path)!r}; is the disk full? ({error})"
            ) from error


def read_metadata(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads the recipe and metadata of a file of `save_weights` without its tensors.

    Returns:
        A dictionary with `name`, `embedding_size`, `image_size`, `options` and `metadata`.

    Raises:
        ValueError: If the file is missing, damaged, or not one of ours.
    """
    try:
        with safe_open(str(path), framework="pt") as file:
            text = (file.metadata() or {}).get(METADATA_KEY)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"cannot read weights from {str(path)!r}: {error}") from error
    if text is None:
        raise ValueError(
            f"{str(path)!r} does not say which model it holds; "
            "build that model and use load_pretrained(model, path)"
        )
    try:
        return _check_recipe(json.loads(text))
    except (ValueError, RecursionError) as error:  # not JSON, or nested too deeply
        raise ValueError(f"{str(path)!r} holds no valid recipe of a model: {error}") from error


def _check_recipe(content: Any) -> dict[str, Any]:
    """Refuses what `save_weights` never writes: the file may come from anyone."""
    if not isinstance(content, dict):
        raise ValueError(f"it is {content!r:.50}; it must be an object with names")
    for key, kind in _RECIPE.items():
        if key not in content:
            raise ValueError(f"{key} is missing")
        value = content[key]
        if not isinstance(value, kind) or isinstance(value, bool):
            raise ValueError(f"{key} is {value!r:.50}; it must be of type {kind.__name__}")
    if clash := sorted(_NO_OPTIONS & set(content["options"])):
        raise ValueError(f"options holds {clash[0]!r}, which is not an option of a backbone")
    return content


def weights_file(path: Path) -> Path:
    """The file itself, or the best one of a folder."""
    if not path.is_dir():
        return path
    found = [path / name for name in _IN_FOLDERS if (path / name).is_file()]
    if not found:
        raise ValueError(f"{str(path)!r} holds no weights: neither {' nor '.join(_IN_FOLDERS)}")
    return found[0]


def load_start(model: Backbone, name: str | os.PathLike[str]) -> Path:
    """Loads the weights that a training starts from: a run, any file of weights, or the Hub.

    Args:
        model: The backbone to train.
        name: As of `load_weights`, or a public checkpoint, as of `load_pretrained`.

    Returns:
        The file.

    Raises:
        ImportError, OSError: As `load_weights`.
        ValueError: If they are not of this backbone; says what the file holds, if it says so.
    """
    file = find_weights(name)
    try:
        load_pretrained(model, file)
    except ValueError as error:
        hint = ""
        if file.suffix.lower() == ".onnx":
            hint = "; an ONNX file cannot be trained, give the weights that it was made of"
        elif file.is_file():
            hint = "; the settings of the model must be those of the file"
            with suppress(ValueError):
                held = read_metadata(file)
                said = ", ".join(f"{key}: {held[key]}" for key in _RECIPE if key != "metadata")
                hint += f": {said}"
        raise ValueError(f"{error}{hint}") from error
    return file


def find_weights(name: str | os.PathLike[str]) -> Path:
    """Returns the file that a user names: itself, the best of a folder, or one of the Hub."""
    shared = hub_model(name)
    return weights_file(Path(name)) if shared is None else download(shared)


def load_weights(path: str | os.PathLike[str]) -> Backbone:
    """Rebuilds a saved model with its weights, ready to embed.

    A backbone of one's own must be registered before, or by an installed plugin; the file is not
    trusted to name a module to import.

    Args:
        path: A file that `save_weights` wrote; a run folder, of which `best.safetensors` is
            taken, else `last.safetensors`; a folder of `save_pretrained`; or a model on the Hub,
            `hf://owner/name` or `hf://owner/name@revision`.

    Returns:
        The model on the CPU, in eval mode.

    Raises:
        ImportError: If it is on the Hub and the extra `hub` is not installed.
        ValueError: If there is no such file, or it is damaged or not one of ours.
        OSError: If the Hub cannot be reached.
    """
    if (shared := hub_model(path)) is not None:
        file = download(shared)
        with named(shared):
            return load_weights(file)
    file = weights_file(Path(path))
    recipe = read_metadata(file)
    sizes = {name: recipe[name] for name in ("embedding_size", "image_size")}
    try:
        if is_built_in(recipe["name"]):
            # Sizes that a stranger wrote must not ask for all memory.
            with torch.device("meta"):
                _check_size(create_model(recipe["name"], **sizes, **recipe["options"]), file)
        model = create_model(recipe["name"], **sizes, **recipe["options"])
    except ValueError as error:
        kind = UnknownNameError if isinstance(error, UnknownNameError) else ValueError
        raise kind(f"cannot build the model of {str(file)!r}: {error}") from error
    load_pretrained(model, file)
    return model.eval()


def _check_size(model: nn.Module, path: Path) -> None:
    """Refuses a model that is larger than what a file holds; its tensors may be on no device."""
    wanted = sum(tensor.numel() for tensor in model.state_dict().values())
    with safe_open(str(path), framework="pt") as file:
        held = sum(math.prod(file.get_slice(key).get_shape()) for key in file.keys())  # noqa: SIM118
    if wanted > held:
        raise ValueError(f"it has {wanted:,} numbers, and the file holds {held:,}")


def load_pretrained(model: nn.Module, path: str | os.PathLike[str]) -> None:
    """Loads a checkpoint's weights into a model, all of them or none.

    Takes safetensors files and torch checkpoints: a state dict, as the public arcface_torch
    backbones are, or its training checkpoints, of which the backbone is taken. The `module.` that
    DDP puts before each name is taken away. Nothing in a checkpoint is executed.

    Args:
        model: The model that the checkpoint was saved from, e.g. `create_model("iresnet50")`.
        path: The checkpoint.

    Raises:
        ValueError: If the file cannot be read as weights, or its names or shapes are not the
            model's; the model is unchanged then.
    """
    state = _read_state(Path(path))
    expected = model.state_dict()
    if not any(key in expected for key in state):
        # What was saved through DDP has this before each name.
        state = {str(key).removeprefix(_PARALLEL): tensor for key, tensor in state.items()}
    problems = []
    if missing := [key for key in expected if key not in state]:
        problems.append(f"{len(missing)} missing ({_first(missing)})")
    if unexpected := [key for key in state if key not in expected]:
        problems.append(f"{len(unexpected)} unexpected ({_first(unexpected)})")
    if misshapen := [
        f"{key} is {tuple(state[key].shape)} instead of {tuple(tensor.shape)}"
        for key, tensor in expected.items()
        if key in state and state[key].shape != tensor.shape
    ]:
        problems.append(f"{len(misshapen)} of another shape ({_first(misshapen)})")
    if problems:
        raise ValueError(f"{str(path)!r} does not fit the model: {'; '.join(problems)}")
    model.load_state_dict(state)


def _read_state(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content = read_torch_file(path)
    except Exception as error:  # a damaged file can fail in any way
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(f"cannot read weights from {str(path)!r}: {reason}") from error
    # arcface_torch's training checkpoints keep the backbone under this name.
    if isinstance(content, dict) and "state_dict_backbone" in content:
        content = content["state_dict_backbone"]
    if not isinstance(content, dict) or not all(isinstance(v, Tensor) for v in content.values()):
        held = _first(content) if isinstance(content, dict) else type(content).__name__
        raise ValueError(f"{str(path)!r} holds no state dict of tensors; it holds {held}")
    return content


def _first(items: Iterable[object]) -> str:
    shown = [str(item) for item in items]
    return ", ".join(shown[:_SHOWN]) + (", ..." if len(shown) > _SHOWN else "")
