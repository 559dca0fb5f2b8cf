"""Files of torch, read without executing what they hold."""

import pickle
from pathlib import Path
from typing import Any

import torch


def read_torch_file(path: Path) -> Any:
    """Reads a file that `torch.save` wrote, as far as it holds tensors and plain values.

    Args:
        path: The file.

    Returns:
        Its content, on the CPU.

    Raises:
        ValueError: If it is absent, damaged, or holds other objects; says which, but not the path.
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
