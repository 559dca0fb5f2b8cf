"""Half precision: where it is used and on which device it is allowed."""

from contextlib import AbstractContextManager

import torch
from torch.amp.grad_scaler import GradScaler

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Precision:
    """Autocast of the backbone and, for fp16, the scaling of the gradients.

    Weights, gradients and the whole loss stay float32; only the backbone's forward and backward
    are done in half precision.

    Args:
        name: `fp32`, `bf16` or `fp16`.
        device: Where the model is. fp16 is for CUDA only: its narrow range needs gradient scaling,
            and the CPU has nothing to gain over bf16, which needs none.

    Raises:
        ValueError: If fp16 is asked for on another device than CUDA.
    """

    def __init__(self, name: str, device: torch.device) -> None:
        if name == "fp16" and device.type != "cuda":
            raise ValueError(
                f"precision is 'fp16', which needs CUDA; on {device.type} use 'bf16' or 'fp32'"
            )
        self.device = device
        self.dtype = _DTYPES.get(name)
        self.scaler = GradScaler("cuda", enabled=name == "fp16")

    def autocast(self) -> AbstractContextManager[None]:
        """Returns the context for the backbone's forward."""
        return torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype is not None)
