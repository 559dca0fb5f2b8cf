"""A model as others get it: a folder of weights, settings and a card, here or on the Hub."""

import json
import os
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import load_file

from centerarc.io.files import atomic_path, files_sha256
from centerarc.io.yaml_file import dump_yaml, read_yaml
from centerarc.models.backbone import Backbone, is_built_in
from centerarc.models.hub import (
    HUB_WEIGHTS,
    HubModel,
    download,
    hub_model,
    named,
    require_hub_extra,
    upload,
)
from centerarc.models.model_card import (
    EVALUATION_FORMAT,
    SOURCES,
    Facts,
    evaluation_part,
    model_card,
)
from centerarc.models.opened import load_weights
from centerarc.models.weights import (
    CHECKSUM_KEY,
    METADATA_KEY,
    read_metadata,
    weights_file,
    write_tensors,
)

CONFIG, CARD = "config.yaml", "README.md"
_RESULTS = "results.json"
_FILES = (HUB_WEIGHTS, CONFIG, CARD)
# What a clone of a repository has beside them.
_OF_GIT = {".git", ".gitattributes", ".gitignore", ".huggingface", ".cache"}
_LICENSE = re.compile(r"[a-z0-9][a-z0-9.+-]*")


@dataclass(frozen=True)
class PushReport:
    """What was published.

    Args:
        model: The repository, at the commit that was made.
        url: Its page.
        left_out: Names of settings and metadata that stayed here; see `save_pretrained`.
    """

    model: HubModel
    url: str
    left_out: list[str]


def from_pretrained(
    model: str | os.PathLike[str],
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
) -> Backbone:
    """Loads a model from the Hugging Face Hub, or from a folder, ready to embed.

    Only `model.safetensors` is read, and nothing in it is executed.

    Args:
        model: `owner/name` or `hf://owner/name[@revision]`; a folder of that name comes first, of
            `save_pretrained` or of a run. Also a weights file.
        revision: A branch, a tag or a commit; None is the branch `main`.
        token: Of a user who may read it; None takes HF_TOKEN or that of `hf auth login`, False
            none.
        cache_dir: Where downloads are kept; None is the cache of huggingface-hub.
        local_files_only: Ask no server: take what is in the cache.

    Returns:
        The model on the CPU, in eval mode, as of `load_weights`.

    Raises:
        ImportError: If it is on the Hub and the extra `hub` is not installed.
        ValueError: If there is no such model, the user may not read it, or it is not one of ours.
        OSError: If the Hub cannot be reached and the cache lacks the model.

    Example:
        >>> from centerarc.models import create_model, save_weights
        >>> with tempfile.TemporaryDirectory() as place:
        ...     save_weights(f"{place}/w.safetensors", create_model("mobilefacenet_small"))
        ...     left = save_pretrained(f"{place}/w.safetensors", f"{place}/me", repo_id="ann/me")
        ...     from_pretrained(f"{place}/me").embedding_size
        512
    """
    shared = hub_model(model)
    if shared is None and Path(model).exists():
        if revision is not None:
            raise ValueError(
                f"revision is for the Hub, but {os.fspath(model)!r} is on this machine"
            )
        return load_weights(model)
    if shared is None:
        text = os.fspath(model)
        try:
            shared = HubModel(text)
        except ValueError as error:
            raise ValueError(
                f"there is no model {text!r}: neither a folder or file of that name, nor "
                "owner/name, as models on the Hub are called"
            ) from error
    if revision is not None:
        if shared.revision is not None:
            raise ValueError(f"revision is {revision!r}, but {shared} names one itself")
        shared = HubModel(shared.repo_id, revision)
    file = download(shared, token=token, cache_dir=cache_dir, local_files_only=local_files_only)
    with named(shared):
        return load_weights(file)


def save_pretrained(
    model: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    repo_id: str,
    evaluations: Sequence[str | os.PathLike[str]] = (),
    license: str | None = None,
    overwrite: bool = False,
) -> list[str]:
    """Writes the folder that `push_to_hub` uploads.

    - `model.safetensors`: the weights with the recipe that rebuilds the model.
    - `config.yaml`: the settings of the run, if it is one.
    - `README.md`: the model card: how to use the model, how it was trained, what was measured, and
      its limits.

    What belongs to the machine or to people stays here: `people.txt`, and from the settings and
    the metadata of the weights every text but the library's own words (names of sources, losses and
    optimizers) and the names of validation sets, so no path and no name of a person. Numbers are
    published. Weights whose metadata holds nothing else are copied byte for byte, so their SHA-256
    is that in evaluations.

    Args:
        model: A run folder, a weights file, or a folder that this function wrote. The card of the
            last is kept as it is, so it can be edited before it is published.
        folder: Where to write; new, empty, or with `overwrite` a folder that this function wrote.
        repo_id: `owner/name`, what the card tells users to load.
        evaluations: Files of `centerarc evaluate --json` to show on the card.
        license: Of the model, in the Hub's spelling, such as "apache-2.0"; None states none.
        overwrite: Replace the model of `folder`, and its card, which may have been edited.

    Returns:
        Names of the settings and metadata that stayed here.

    Raises:
        ValueError: If an argument is wrong, the weights are not ours, a file cannot be read, or an
            evaluation is of another model.
        OSError: If a file cannot be written.
    """
    repository = HubModel(repo_id)
    if license is not None and not _LICENSE.fullmatch(license):
        raise ValueError(
            f"license must be an identifier of the Hub such as apache-2.0 or mit, got {license!r}"
        )
    if hub_model(model) is not None:
        raise ValueError(f"model must be on this machine, got {os.fspath(model)!r}")
    target = Path(folder)
    _check_folder(target, overwrite=overwrite)
    weights = weights_file(Path(model))
    recipe = read_metadata(weights)
    metadata, hidden = public_part(recipe["metadata"], METADATA)
    recipe["metadata"] = metadata
    settings = _settings_of(weights, recipe)
    config, private = public_part(settings or {})
    card = weights.with_name(CARD)
    written_before = weights.name == HUB_WEIGHTS and card.is_file()
    if written_before:
        for name, value in (("evaluations", evaluations), ("license", license)):
            if value:
                raise ValueError(
                    f"{name} must not be given for {str(model)!r}, whose {CARD} is published as it "
                    "is; give the run instead to write a new one"
                )
        text = card.read_text(encoding="utf-8")
    else:
        sha256 = files_sha256(weights) if evaluations else ""
        results = _read(weights.with_name(_RESULTS)) if settings is not None else None
        facts = Facts(
            model=str(repository),
            recipe=recipe,
            config=config,
            results=results if isinstance(results, dict) else {},
            own_backbone=not is_built_in(recipe["name"]),
            evaluations=[_evaluation(Path(path), sha256, weights) for path in evaluations],
            license=license,
        )
        text = model_card(facts)
    target.mkdir(parents=True, exist_ok=True)
    with atomic_path(target / HUB_WEIGHTS) as temporary:
        _write_weights(weights, temporary, recipe)
    if settings is None:
        (target / CONFIG).unlink(missing_ok=True)
    elif written_before and not private:
        with atomic_path(target / CONFIG) as temporary:
            shutil.copyfile(weights.with_name(CONFIG), temporary)
    else:
        with atomic_path(target / CONFIG) as temporary:
            temporary.write_text(_config_text(config, private), encoding="utf-8")
    with atomic_path(target / CARD) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return [*private, *hidden]


def push_to_hub(
    model: str | os.PathLike[str],
    repo_id: str,
    *,
    private: bool = False,
    token: str | bool | None = None,
    branch: str | None = None,
    commit_message: str = "Model trained with centerarc",
    evaluations: Sequence[str | os.PathLike[str]] = (),
    license: str | None = None,
) -> PushReport:
    """Publishes a model on the Hugging Face Hub, in one commit of the files of `save_pretrained`.

    Args:
        model: A run folder, a weights file, or a folder of `save_pretrained`.
        repo_id: `owner/name`; the repository is made if it is not there.
        private: Only its owner may read it. A repository that is there and public is refused.
        token: Of a user who may write there; None takes HF_TOKEN or that of `hf auth login`.
        branch: The branch to commit to, made if it is not there; None is `main`.
        commit_message: Of the commit.
        evaluations: As of `save_pretrained`.
        license: Likewise.

    Returns:
        What was published.

    Raises:
        ImportError: If the extra `hub` is not installed.
        ValueError: As of `save_pretrained`; also if the user may not write there.
        OSError: If the Hub cannot be reached or refuses.
    """
    require_hub_extra()
    repository = HubModel(repo_id, branch)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        left_out = save_pretrained(
            model, folder, repo_id=repo_id, evaluations=evaluations, license=license
        )
        pushed, url = upload(
            folder, _FILES, repository, private=private, token=token, message=commit_message
        )
    return PushReport(pushed, url, left_out)


def _check_folder(folder: Path, *, overwrite: bool) -> None:
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"folder is {str(folder)!r}, a file; it must be a folder")
    there = {path.name for path in folder.iterdir()} if folder.exists() else set()
    if others := sorted(there - set(_FILES) - _OF_GIT):
        raise ValueError(
            f"folder is {str(folder)!r}, which holds other files, first {others[0]!r}; it must be "
            "new, empty or a model written before"
        )
    # A run without weights yet has a config.yaml, which would be lost.
    if CONFIG in there and HUB_WEIGHTS not in there:
        raise ValueError(f"folder is {str(folder)!r}, whose {CONFIG} is not of a shared model")
    if there & set(_FILES) and not overwrite:
        raise ValueError(
            f"folder is {str(folder)!r}, which holds a model already, with a card that may have "
            "been edited; --overwrite replaces both"
        )


def _settings_of(weights: Path, recipe: Mapping[str, Any]) -> dict[str, Any] | None:
    """The settings of the run that a weights file is in; None if it is in none."""
    file = weights.with_name(CONFIG)
    content = read_yaml(file) if file.exists() else {}
    if not isinstance(content.get("model"), dict):
        return None
    for name, value in content["model"].items():
        if name in recipe and recipe[name] != value:
            raise ValueError(
                f"{str(file)!r} is not of {weights.name}: its model.{name} is {value!r}, that of "
                f"the weights {recipe[name]!r}; move the weights to a folder of their own"
            )
    return content


def _evaluation(path: Path, sha256: str, weights: Path) -> dict[str, Any]:
    content = _read(path)
    if content is None:
        raise ValueError(f"there is no evaluation {str(path)!r}")
    if not isinstance(content, dict) or content.get("format") != EVALUATION_FORMAT:
        raise ValueError(
            f"{str(path)!r} is not what centerarc evaluate --json writes ({EVALUATION_FORMAT!r})"
        )
    judged = content.get("model")
    found = judged.get("weights_sha256") if isinstance(judged, dict) else None
    if found != sha256:
        raise ValueError(
            f"{str(path)!r} is not an evaluation of {str(weights)!r}: the SHA-256 of its weights "
            f"is {str(found)[:12]}..., not {sha256[:12]}...; evaluate this model"
        )
    try:
        list(evaluation_part(content))
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{str(path)!r} is damaged: {type(error).__name__} {error}") from error
    return content


def _read(path: Path) -> Any:
    """What is in a JSON file; None where it is not there."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"cannot read {str(path)!r}: {reason}") from error


def _write_weights(weights: Path, path: Path, recipe: Mapping[str, Any]) -> None:
    """Copies weights byte for byte if what they say of themselves may be published."""
    with safe_open(weights, framework="pt") as file:
        said = file.metadata()
    if set(said) <= {METADATA_KEY, CHECKSUM_KEY} and json.loads(said[METADATA_KEY]) == recipe:
        shutil.copyfile(weights, path)
    else:
        tensors = load_file(weights)
        write_tensors(tensors, path, json.dumps(recipe))


def _config_text(config: Mapping[str, Any], left_out: Sequence[str]) -> str:
    lines = ["# The settings of the training, as centerarc train takes them."]
    if left_out:
        lines.append(f"# Not published: {', '.join(left_out)}.")
    return "\n".join(lines) + "\n" + dump_yaml(config)


# What may be published of settings and metadata.

# Where a text is one of the library's own words, or the name of a validation, without which its
# numbers say nothing. All others may be paths or names.
_WORDS = {
    "data.missing",
    "data.parts.missing",
    "validation.missing",
    "validation.sets.missing",
    "data.sampler.kind",
    "validation.name",
    "validation.sets.name",
    "validation.best_set",
    "validation.measure",
    "loss.margin",
    "data.on_change",
    "on_nonfinite",
    "loss.centers",
    "loss.center_space",
    "loss.center_weight",
    "loss.threshold_over",
    "loss.threshold_weight",
    "loss.center_update",
    "loss.class_weights",
    "optimizer.name",
    "schedule.shape",
    "precision",
}
_WORD = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")
# Settings that say nothing of the model.
_OF_THE_MACHINE = {
    *("run_dir", "workers", "read_timeout", "device", "save_every", "save_in_background", "log")
}
# What a model cannot be built without, whatever it is; its weights name it, too.
_RECIPE = ("model.name", "model.options.")
# What names in the metadata of weights begin with.
METADATA = "metadata"


def public_part(content: Mapping[str, Any], name: str = "") -> tuple[dict[str, Any], list[str]]:
    """Splits settings, or metadata of weights, into what may be published and the rest.

    Args:
        content: Plain data, as from YAML or JSON.
        name: What it is part of: "" for settings, "metadata" for those of weights.

    Returns:
        The public part, and the names of what is not in it, with dots.

    Example:
        >>> public_part({"run_dir": "/home/ann/runs/1", "loss": {"margin": "arcface", "m": 0.5}})
        ({'loss': {'margin': 'arcface', 'm': 0.5}}, ['run_dir'])
    """
    left_out = [key for key in content if not name and key in _OF_THE_MACHINE]
    rest = {key: value for key, value in content.items() if key not in left_out}
    return _public(rest, name, left_out), left_out


def _public(content: Any, name: str, left_out: list[str]) -> Any:
    if isinstance(content, Mapping):
        kept = {}
        for key, value in content.items():
            inner = f"{name}.{key}" if name else str(key)
            if _may_leave(value, inner):
                kept[key] = _public(value, inner, left_out)
            elif inner not in left_out:
                left_out.append(inner)
        return kept
    if isinstance(content, list):
        rest = [value for value in content if _may_leave(value, name)]
        if len(rest) < len(content) and name not in left_out:
            left_out.append(name)
        return [_public(value, name, left_out) for value in rest]
    return content


def _may_leave(value: Any, name: str) -> bool:
    if value in (None, "") or isinstance(value, bool | int | float | Mapping | list):
        return True
    if not isinstance(value, str):
        return False
    if name.startswith(_RECIPE):
        return True
    if name in ("data.source", "data.parts.source"):
        return value in SOURCES  # one of the user's own may have any name
    return name.removeprefix(f"{METADATA}.") in _WORDS and _WORD.fullmatch(value) is not None
