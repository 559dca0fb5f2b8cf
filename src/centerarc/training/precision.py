"""Half precision: where it is used and on which device it is allowed."""

from contextlib import AbstractContextManager

import torch
from torch.amp.grad_scaler import GradScaler

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def fast_bf16(device: torch.device) -> bool:
    """Whether a device computes in bfloat16 itself; where a CPU does not, PyTorch emulates it."""
    return device.type != "cpu" or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


class Precision:
    """Autocast of the backbone and, for fp16, the scaling of the gradients.

    Weights, gradients and the whole loss stay float32; only the backbone's forward and backward
    are done in half precision.

    Args:
        name: `fp32`, `bf16` or `fp16`.
        device: Where the model is. fp16 is for CUDA only: its narrow range needs gradient scaling,
            and the CPU has nothing to gain over bf16, which needs none.

    Attributes:
        note: What a user should know about it, in a line; empty if nothing.

    Raises:
        ValueError: If fp16 is asked for on another device than CUDA.
    """

    def __init__(self, name: str, device: torch.device) -> None:
        if name == "fp16" and device.type != "cuda":
            raise ValueError(
                f"precision is 'fp16', which needs CUDA; on {device.type} use 'bf16' or 'fp32'"
            )
        self.device = device
        self.note = ""
        if name == "bf16" and not fast_bf16(device):
            self.note = (
                "precision is bf16, which this processor has no instructions for: "
                "many times slower than fp32"
            )
        self.dtype = _DTYPES.get(name)
        self.scaler = GradScaler("cuda", enabled=name == "fp16")

    def autocast(self) -> AbstractContextManager[None]:
        """Returns the context for the backbone's forward."""
        return torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype is not None)
