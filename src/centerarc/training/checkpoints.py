"""The state of a run that it can go on from."""

from pathlib import Path
from typing import Any

import torch

from centerarc.data.files import atomic_path

_FORMAT = 1


def state_path(run_dir: Path) -> Path:
    """Returns where the resumable state of a run is kept."""
    return run_dir / "state" / "state.pt"


def save_state(run_dir: Path, state: dict[str, Any]) -> None:
    """Writes the state in place of the old one, which stays until the new one is complete.

    Args:
        run_dir: Folder of the run.
        state: Nested dictionaries and lists of tensors, numbers, strings, None.
    """
    with atomic_path(state_path(run_dir)) as temporary:
        torch.save({"format": _FORMAT, **state}, temporary)


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
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file can fail in any way
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(f"cannot read the state {str(path)!r}: {reason}") from error
    if not isinstance(state, dict) or state.get("format") != _FORMAT:
        raise ValueError(f"{str(path)!r} was not written by this version of centerarc")
    return state
