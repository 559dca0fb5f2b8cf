"""What is measured: shapes, tasks, modes, and who takes part in which. Imports no torch."""

from dataclasses import asdict, dataclass
from typing import Any

SHAPES = {
    "10k": (128, 10_000, 512),
    "100k": (256, 100_000, 512),
    "1m": (128, 1_000_000, 512),
    "1m-1024": (1024, 1_000_000, 512),
}
CUDA_SHAPES = ("1m-1024",)
MODES = ("float32", "reduced")
GIB = 1 << 30

# Task -> implementations in the order of the tables. ``step`` is loss, backward and SGD, and so are
# ``sampled``, with a tenth of the classes, and ``largest``, with as many classes as fit.
TASKS = {
    "loss": (
        "products",
        "textbook",
        "pml",
        "arcface_torch",
        "compiled",
        "torch_chunked",
        "ours",
        "ours_recompute",
    ),
    "step": (
        "products",
        "textbook",
        "pml",
        "arcface_torch",
        "compiled",
        "torch_chunked",
        "ours",
        "ours_fused",
    ),
    "sampled": ("arcface_torch_sampled", "ours_sampled"),
    "center": ("center_cube", "center_matrix", "center"),
    "means": ("pass", "means_textbook", "means"),
    "largest": ("textbook", "pml", "arcface_torch", "compiled", "ours", "ours_fused"),
}
DEFAULT_TASKS = ("loss", "step", "sampled", "center", "means")

# They do the work of ours: the same loss and gradients, as ``verify`` sees. torch_chunked has no
# margin, products no loss at all.
EAGER_PEERS = ("textbook", "pml", "arcface_torch")
PEERS = (*EAGER_PEERS, "compiled")

# Rounds: every implementation runs once in each. All is to take 20 minutes on a CPU, and a few
# on a GPU, whose times vary little.
ROUNDS = {
    "cpu": {"10k": 3, "100k": 2, "1m": 1, "1m-1024": 1},
    "cuda": {"10k": 1, "100k": 1, "1m": 1, "1m-1024": 1},
}
# The most classes on a CPU, of what would take longer than all others together.
MOST_ON_CPU = {"compiled": 100_000, "torch_chunked": 10_000}


@dataclass(frozen=True)
class Case:
    """One measurement.

    Attributes:
        implementation: name in ``implementations.BUILDERS``.
        task: key of ``TASKS``.
        mode: ``"float32"``, or ``"reduced"`` for bfloat16 autocast.
        shape: key of ``SHAPES``.
        device: ``"cpu"`` or ``"cuda"``.
        thp: whether PyTorch asks for transparent huge pages (CPU).
    """

    implementation: str
    task: str
    mode: str
    shape: str
    device: str = "cpu"
    thp: bool = False

    @property
    def size(self) -> tuple[int, int, int]:
        """N, C, D."""
        return SHAPES[self.shape]

    @property
    def comparison(self) -> tuple[str, str, str, str, bool]:
        """What the cases have in common that may be set against each other."""
        return (self.shape, self.task, self.mode, self.device, self.thp)

    @property
    def steps(self) -> bool:
        """Whether the prototypes are stepped."""
        return self.task in ("step", "sampled", "largest")

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def comparisons(
    shapes: list[str], tasks: list[str], modes: list[str], device: str, thp: bool
) -> list[list[Case]]:
    """The cases of each comparison, in the order of the tables."""
    found = []
    for shape in shapes:
        for task in tasks:
            if task == "largest" or (task == "sampled" and shape != "100k"):
                continue
            for mode in modes:
                # The center term has no product worth the name; sampling is compared in float32.
                if task in ("center", "sampled") and mode != "float32":
                    continue
                found.append([Case(name, task, mode, shape, device, thp) for name in TASKS[task]])
    if "largest" in tasks and device == "cuda":
        names = TASKS["largest"]
        found.append([Case(name, "largest", "reduced", "1m-1024", device) for name in names])
    return found


def rounds_of(case: Case, rounds: int | None) -> int:
    """In how many rounds a case takes part."""
    if case.implementation in ("torch_chunked", "center_cube") or case.task == "largest":
        return 1
    return rounds or (1 if case.thp else ROUNDS[case.device][case.shape])


def needed_bytes(case: Case) -> int:
    """About the most memory that a case takes, inputs included; too much rather than too little."""
    n, c, d = case.size
    matrix, entries, inputs = 4 * c * d, 4 * n * c, 1 + case.steps
    name = case.implementation
    if name == "center_cube":
        return 4 * n * c * d * 3
    if name.startswith("center"):
        return 3 * matrix + 4 * entries
    if name.startswith("ours") or name in ("pass", "means"):
        return (inputs + 1) * matrix + entries + GIB
    if name == "products":
        return (inputs + 2) * matrix + entries + GIB
    return (inputs + 4 + case.steps) * matrix + 6 * entries + GIB


def why_not(case: Case, available: int) -> str | None:
    """Why a case is left out on this machine, or None."""
    n, c, d = case.size
    most = MOST_ON_CPU.get(case.implementation, c)
    if case.device == "cpu" and c > most:
        return f"not run beyond {most:,} classes on a CPU"
    need = needed_bytes(case)
    if case.implementation == "center_cube" and need > available // 2:
        return f"one N x C x D array is {4 * n * c * d / 1e9:.0f} GB: does not fit"
    if case.task != "largest" and need > available:
        return f"needs about {need / GIB:.0f} GiB, {available / GIB:.0f} are free"
    return None
