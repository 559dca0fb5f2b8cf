"""The Hugging Face Hub: what `hf://owner/name` names, its weights here, and a folder there."""

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from centerarc import __version__
from centerarc.io.plugins import UnknownNameError

# The one file that is read of a repository.
HUB_WEIGHTS = "model.safetensors"
# What begins so names a model on the Hub. pathlib makes one slash of two.
_PREFIX = re.compile("hf:/{1,2}")
_PART = r"[A-Za-z0-9_](?:[A-Za-z0-9._-]*[A-Za-z0-9_])?"
_REPO = re.compile(f"{_PART}/{_PART}")
_LONGEST = 96
# Letters of a message of the client that are shown.
_MOST_WORDS = 300
_LOG_IN = "log in with `hf auth login`, or set HF_TOKEN"


def require_hub_extra() -> None:
    """Says how to install what the Hub needs, if it is not there; cheap enough to call first.

    Raises:
        ImportError: If huggingface-hub is missing.

    Example:
        >>> require_hub_extra()
    """
    if find_spec("huggingface_hub") is None:
        raise ImportError(
            "models on the Hugging Face Hub need huggingface-hub: pip install 'centerarc[hub]'"
        )


@dataclass(frozen=True)
class HubModel:
    """A repository of the Hub.

    Args:
        repo_id: `owner/name`.
        revision: A branch, a tag or a commit; None is the branch `main`.

    Raises:
        ValueError: If it is not written so.

    Example:
        >>> str(HubModel("ann/faces", "v1"))
        'hf://ann/faces@v1'
    """

    repo_id: str
    revision: str | None = None

    def __post_init__(self) -> None:
        good = _REPO.fullmatch(self.repo_id) and len(self.repo_id) <= _LONGEST
        if not good or "--" in self.repo_id or ".." in self.repo_id:
            raise ValueError(
                "repo_id must be owner/name, of letters, digits and single - . _ within, "
                f"got {self.repo_id!r}"
            )
        if self.revision is not None and not re.fullmatch(r"(?:(?!\.\.)[^\s@])+", self.revision):
            raise ValueError(f"revision must be a branch, a tag or a commit, got {self.revision!r}")

    def __str__(self) -> str:
        return f"hf://{self.repo_id}" + (f"@{self.revision}" if self.revision else "")


def hub_model(name: str | os.PathLike[str]) -> HubModel | None:
    """Reads `hf://owner/name` or `hf://owner/name@revision`; None if it is a path.

    Raises:
        ValueError: If it begins so and goes on otherwise.

    Example:
        >>> hub_model("hf://ann/faces@v1")
        HubModel(repo_id='ann/faces', revision='v1')
        >>> hub_model("runs/mine") is None
        True
    """
    text = os.fspath(name)
    if (start := _PREFIX.match(text)) is None:
        return None
    repo_id, at, revision = text[start.end() :].partition("@")
    try:
        return HubModel(repo_id, revision if at else None)
    except ValueError as error:
        raise ValueError(f"{text!r} must be hf://owner/name or hf://owner/name@revision") from error


def download(
    model: HubModel,
    *,
    token: str | bool | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
) -> Path:
    """Returns `model.safetensors` of a repository, from the cache where it is there already.

    Args:
        model: The repository.
        token: Of a user who may read it; None takes HF_TOKEN or that of `hf auth login`, False
            none.
        cache_dir: Where downloads are kept; None is the cache of huggingface-hub.
        local_files_only: Ask no server.

    Returns:
        The file; its folder has the name of the commit.

    Raises:
        ImportError: If the extra `hub` is not installed.
        ValueError: If there is no such repository, revision or file, or the user may not read it.
        OSError: If the Hub cannot be reached and the cache lacks the file.
    """
    require_hub_extra()
    with _explained(model):
        return Path(
            _api(token).hf_hub_download(
                model.repo_id,
                HUB_WEIGHTS,
                revision=model.revision,
                cache_dir=cache_dir,
                local_files_only=local_files_only,
            )
        )


def upload(
    folder: Path,
    files: Sequence[str],
    model: HubModel,
    *,
    private: bool,
    token: str | bool | None,
    message: str,
) -> tuple[HubModel, str]:
    """Writes files of a folder to a repository in one commit; makes the repository and branch.

    Args:
        folder: Where the files are.
        files: Their names; nothing else is uploaded.
        model: The repository, its revision the branch.
        private: No one else may read it. A public repository of that name is refused.
        token: As of `download`, of a user who may write.
        message: Of the commit.

    Returns:
        The model at its commit, and the address of its page.

    Raises:
        ImportError: If the extra `hub` is not installed.
        ValueError: If the user may not write there, or it is public and must not be.
        OSError: If the Hub cannot be reached or refuses.
    """
    require_hub_extra()
    api = _api(token)
    with _explained(model):
        url = api.create_repo(model.repo_id, private=private or None, exist_ok=True)
        public = private and not api.model_info(model.repo_id).private
    if public:
        raise ValueError(
            f"private is true, but {model} is there already and public; make it private in its "
            "settings, or choose another name"
        )
    with _explained(model):
        if model.revision is not None:
            api.create_branch(model.repo_id, branch=model.revision, exist_ok=True)
        commit = api.upload_folder(
            repo_id=model.repo_id,
            folder_path=folder,
            allow_patterns=list(files),
            revision=model.revision,
            commit_message=message,
        )
    return HubModel(model.repo_id, commit.oid), str(url)


def _api(token: str | bool | None) -> Any:
    from huggingface_hub import HfApi

    return HfApi(token=token, library_name="centerarc", library_version=__version__)


@contextmanager
def named(model: HubModel) -> Iterator[None]:
    """Puts a model's name before what is wrong with its file, whose own place says little."""
    try:
        yield
    except ValueError as error:
        kind = UnknownNameError if isinstance(error, UnknownNameError) else ValueError
        raise kind(f"{model}: {error}") from error


@contextmanager
def _explained(model: HubModel) -> Iterator[None]:
    """Makes one line of an error of the Hub, with the repository and what to do."""
    from huggingface_hub import errors

    try:
        yield
    except ImportError:
        raise  # an installation that is broken
    except Exception as error:  # the client's own, its transport's, and the system's
        # That it is not in the cache matters only where the server was not asked.
        absent = isinstance(error, errors.LocalEntryNotFoundError)
        cause = error.__cause__ if absent else None
        problem = cause if isinstance(cause, errors.HfHubHTTPError) else error
        raise _reason(model, problem, errors) from error


def _reason(model: HubModel, problem: Exception, errors: Any) -> Exception:
    if isinstance(problem, errors.GatedRepoError):
        return ValueError(
            f"{model} is gated: ask for access at https://huggingface.co/{model.repo_id}, then "
            f"{_LOG_IN}"
        )
    if isinstance(problem, errors.RepositoryNotFoundError):
        return ValueError(
            f"there is no {model}, or it is private; check the name, or {_LOG_IN}, with a token "
            "that may read it"
        )
    if isinstance(problem, errors.RevisionNotFoundError):
        return ValueError(f"{model}: there is no branch, tag or commit {model.revision!r}")
    if isinstance(problem, errors.LocalEntryNotFoundError):
        return OSError(
            f"cannot reach the Hub for {model}, and no earlier download is in the cache; check "
            "the connection, HF_ENDPOINT and HF_HUB_OFFLINE, or name a folder on this machine"
        )
    if isinstance(problem, errors.EntryNotFoundError):
        return ValueError(
            f"{model} has no {HUB_WEIGHTS}; it is not a model that centerarc push wrote"
        )
    what = " ".join(str(problem).split())[:_MOST_WORDS] or type(problem).__name__
    status = getattr(getattr(problem, "response", None), "status_code", None)
    if said := getattr(problem, "server_message", None):
        what = f"{status}, {' '.join(str(said).split())}"
    if status in (401, 403):
        return ValueError(f"no access to {model} ({what}); {_LOG_IN}, with a token that may do it")
    return OSError(f"the Hub cannot serve {model}: {what}")
