"""The pass over the classes where torch.compile meets what it cannot compile."""

from typing import Any

import torch

from centerarc.losses.chunked import ChunkedPass


@torch.compiler.disable  # type: ignore[untyped-decorator]
def outside_graph(*arguments: Any) -> Any:
    """``ChunkedPass`` between two graphs."""
    return ChunkedPass.apply(*arguments)  # type: ignore[no-untyped-call]
