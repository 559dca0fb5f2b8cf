"""The state of a run that it can go on from."""

from pathlib import Path
from typing import Any

import torch

from centerarc.data.files import atomic_path
from centerarc.models.torchfile import read_torch_file

_FORMAT = 1


def state_path(run_dir: Path) -> Path:
    """Returns where the resumable state of a run is kept."""
    return run_dir / "state" / "state.pt"


def save_state(run_dir: Path, state: dict[str, Any]) -> None:
    """Writes the state in place of the old one, which stays until the new one is complete.

    Args:
        run_dir: Folder of the run.
        state: Nested dictionaries and lists of tensors, numbers, strings, None.

    Raises:
        OSError: If it cannot be written, as on a full disk.
    """
    path = state_path(run_dir)
    with atomic_path(path) as temporary:
        try:
            torch.save({"format": _FORMAT, **state}, temporary)
        except (OSError, RuntimeError) as error:  # torch's archive writer raises the latter
            raise OSError(f"cannot write {str(path)!r}; is the disk full? ({error})") from error


def load_state(run_dir: Path) -> dict[str, Any]:
    """Reads the state without executing anything in it.

    Args:
        run_dir: Folder of the run.

    Returns:
        What `save_state` was given, on the CPU.

    Raises:
        ValueError: If there is none, or it is damaged, or of another version.
    """
    path = state_path(run_dir)
    if not path.exists():
        raise ValueError(f"nothing to resume: there is no {str(path)!r}; start without --resume")
    try:
        state: dict[str, Any] = read_torch_file(path)
    except ValueError as error:
        raise ValueError(f"cannot read the state {str(path)!r}: {error}") from error
    if not isinstance(state, dict) or state.get("format") != _FORMAT:
        raise ValueError(f"{str(path)!r} was not written by this version of centerarc")
    return state
