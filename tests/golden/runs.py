"""The golden runs: short trainings whose numbers no rebuilding of the code may change.

Imports only from packages, not from the files in them, so that it holds while files move.
"""

import contextlib
import io
import itertools
import json
import math
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import PIL.Image
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from centerarc.distributed import ClassShards, Processes
from centerarc.losses import (
    CenterArcFaceLoss,
    Chunked,
    CombinedMargin,
    CosFace,
    PrototypeSGD,
    SphereFaceR,
)
from centerarc.models import Backbone, list_models, register_model
from centerarc.training import TrainConfig, Trainer
from tests.distributed.pool import Pool
from tests.golden.record import Numbers, summarize

Centers = Literal["none", "shared", "separate"]
STEPS = 20

# Of the trainer: 160 images in batches of 16, twice.
PEOPLE, IMAGES, SIZE, BATCH = 10, 16, 16, 16
# Of the own loop: shards of 31 and 30 classes, 16 samples a step of which some do not count.
CLASSES, INPUTS, DIM, SAMPLES = 61, 12, 8, 16


@dataclass(frozen=True)
class TrainerRun:
    """A run of `Trainer` on a folder of images.

    Args:
        centers: Which centers the center term pulls to; with `none` its weight is 0.
        precision: Of the backbone.
        accumulate: Micro-batches a step.
        processes: 1 or 2.
        variant: What else is different, in a word.
        sharded: Whether each process holds its own classes.
        changes: Sections of the configuration that are.
    """

    centers: Centers
    precision: str = "fp32"
    accumulate: int = 1
    processes: int = 1
    variant: str = "plain"
    sharded: bool = False
    changes: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        parts = (self.variant, self.centers, self.precision)
        return f"trainer/{'/'.join(parts)}/accumulate {self.accumulate}/ranks {self.processes}"

    @property
    def tolerance(self) -> str:
        return "sensitive" if self.variant in ("adamw", "mobilefacenet") else self.precision

    @property
    def uses_default_center_term(self) -> bool:
        return self.centers == "shared"

    def config(self, folder: Path) -> TrainConfig:
        content: dict[str, Any] = {
            "run_dir": folder / "runs" / self.name.replace("/", "-"),
            "model": {"name": "golden_tiny", "embedding_size": DIM, "image_size": SIZE},
            "data": {
                "source": "folder",
                "root": folder / "faces",
                "augmentation": {
                    "move": 0,
                    "light": 0,
                    "grey": 0,
                    "low_resolution": 0,
                    "occlusion": 0,
                },
            },
            "loss": _center_options(self.centers),
            "head": {"sharded": self.sharded},
            "optimizer": {"lr": 0.005},
            "schedule": {"epochs": STEPS * BATCH // (PEOPLE * IMAGES)},
            "batch_size": BATCH,
            "accumulate": self.accumulate,
            "precision": self.precision,
            # Some steps are clipped, others not.
            "clip_norm": 40.0,
            "workers": 0,
            "device": "cpu",
            "log": {"every": 1},
        }
        for name, value in self.changes.items():
            content[name] = {**content[name], **value} if isinstance(value, dict) else value
        return TrainConfig(**content)

    def run(self, rank: int, folder: Path) -> Numbers:
        processes = Processes(rank, self.processes, torch.device("cpu"))
        config = self.config(folder)
        with contextlib.redirect_stderr(io.StringIO()):
            trainer = Trainer(config, processes, resume=False, overwrite=False)
            trainer.run()
        numbers = Numbers()
        for line in (config.run_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            if row["kind"] != "train":
                continue
            numbers.add("arcface", row["arcface_loss"])
            if config.loss.center_weight:
                numbers.add("center", row["center_loss"])
            if config.loss.center_weight or config.loss.separation_weight:
                numbers.add("total", row["loss"])
            if config.clip_norm:
                numbers.add("gradient norm", row["grad_norm"])
            if config.loss.separation_weight:
                numbers.add("separation", row["separation"])
        numbers.weights = _weights(trainer.model, trainer.criterion)
        return numbers


@dataclass(frozen=True)
class LoopRun:
    """A run of the losses in a loop of its own, as a user of plain PyTorch writes one.

    Args:
        centers: Which centers the center term pulls to; with `none` it is not in the loss.
        precision: Of the autocast around backbone and loss.
        accumulate: Micro-batches a step.
        shards: Whether the classes are spread over two ranks, each with half of the samples.
        fused: Whether the backward pass steps the prototypes.
        separation: Weight of the separation of centers.
        variant: What else is different, in a word.
        options: Of `CenterArcFaceLoss`.
    """

    centers: Centers
    precision: str = "fp32"
    accumulate: int = 1
    shards: bool = False
    fused: bool = False
    separation: float = 0.0
    variant: str = "plain"
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        parts = (self.variant, self.centers, self.precision)
        shards = "shards" if self.shards else "no shards"
        return f"loop/{'/'.join(parts)}/accumulate {self.accumulate}/{shards}"

    @property
    def tolerance(self) -> str:
        return self.precision

    @property
    def processes(self) -> int:
        return 2 if self.shards else 1

    @property
    def uses_default_center_term(self) -> bool:
        return self.centers == "shared"

    def run(self, rank: int, folder: Path) -> Numbers:
        torch.manual_seed(0)
        backbone: nn.Module = nn.Linear(INPUTS, DIM)
        options = {**_center_options(self.centers), **self.options}
        center_weight = options.pop("center_weight", 1.0)
        criterion = CenterArcFaceLoss(
            CLASSES,
            DIM,
            shards=ClassShards(CLASSES) if self.shards else None,
            generator=torch.Generator().manual_seed(1),
            sample_generator=torch.Generator().manual_seed(2 + rank),
            **options,
        )
        rates = {"lr": 0.01, "momentum": 0.9, "weight_decay": 5e-4}
        optimizers = [
            torch.optim.SGD(backbone.parameters(), **rates),
            PrototypeSGD(criterion.parameters(), **rates, fused=self.fused),
        ]
        model = DistributedDataParallel(backbone) if self.shards else backbone
        numbers = Numbers()
        for inputs, labels in _loop_batches():
            if self.shards:
                inputs, labels = inputs[rank::2], labels[rank::2]
            parts = [
                *zip(inputs.chunk(self.accumulate), labels.chunk(self.accumulate), strict=True)
            ]
            sums = {"arcface": 0.0, "center": 0.0, "total": 0.0}
            for number, (x, y) in enumerate(parts, 1):
                last = number == len(parts)
                waits = model.no_sync() if self.shards and not last else contextlib.nullcontext()
                bf16 = self.precision == "bf16"
                with waits, torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
                    arcface, center = criterion(model(x), y)
                    total = arcface
                    if center_weight:
                        total = total + center_weight * center
                    if self.separation:
                        total = total + self.separation * criterion.separation(y)
                    (total / len(parts)).backward()
                for name, loss in (("arcface", arcface), ("center", center), ("total", total)):
                    sums[name] += loss.item() / len(parts)
            if not center_weight:
                del sums["center"]
                if not self.separation:
                    del sums["total"]
            for name, value in sums.items():
                numbers.add(name, value)
            numbers.add("gradient norm of backbone", _gradient_norm(backbone.parameters()))
            if not self.fused:  # which leaves no gradient
                norm = _gradient_norm(criterion.parameters(), self.shards)
                numbers.add("gradient norm of head", norm)
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()
        numbers.weights = _weights(backbone, criterion)
        return numbers


Run = TrainerRun | LoopRun


def all_runs() -> dict[str, Run]:
    """Returns the runs by name."""
    runs: list[Run] = []
    for centers, processes in itertools.product(("none", "shared", "separate"), (1, 2)):
        cuts, loop_cuts = [("fp32", 1), ("bf16", 4)], [("fp32", 1), ("bf16", 1)]
        if centers != "none":  # which only has to hold the ArcFace term on its own
            cuts += [("fp32", 4), ("bf16", 1)]
            loop_cuts += [("fp32", 4)]
        for precision, accumulate in cuts:
            runs.append(TrainerRun(centers, precision, accumulate, processes))
        for precision, accumulate in loop_cuts:
            runs.append(LoopRun(centers, precision, accumulate, shards=processes == 2))
    gradient = {"loss": {"centers": "separate", "center_update": "gradient"}}
    raw = {"loss": {"centers": "separate", "center_space": "raw", "center_weight": 0.01}}
    for processes in (1, 2):
        for variant, centers, changes in (
            ("gradient", "separate", gradient),
            ("raw", "separate", raw),
            ("separation", "none", {"loss": {"center_weight": 0, "separation_weight": 0.5}}),
        ):
            runs.append(TrainerRun(centers, processes=processes, variant=variant, changes=changes))
    plain: dict[str, Any] = {"center_weight": 0}
    for variant, centers, precision, changes in (
        ("sharded", "separate", "fp32", {}),
        ("sharded", "shared", "bf16", {}),
        ("sampled", "none", "fp32", {"loss": {**plain, "sample_rate": 0.5}}),
        ("fused", "shared", "fp32", {"head": {"fused": True}, "clip_norm": 0}),
        ("weighted", "none", "fp32", {"loss": {**plain, "class_weights": "balanced"}}),
    ):
        for processes in (2,) if variant == "sharded" else (1, 2):
            options = {"variant": variant, "sharded": True, "changes": changes}
            runs.append(TrainerRun(centers, precision, processes=processes, **options))
    adamw = {"optimizer": {"name": "adamw", "lr": 0.005}, "schedule": {"shape": "cosine"}}
    # A real backbone, of which 20 steps are long; gentle steps, or rounding grows without end.
    mobile = {
        "model": {"name": "mobilefacenet_small"},
        "optimizer": {"lr": 0.0002},
        "batch_size": 8,
        "schedule": {"epochs": 1},
    }
    runs += [
        TrainerRun("none", variant="adamw", changes=adamw),
        TrainerRun("none", variant="augmented", changes={"data": {"augmentation": {}}}),
        TrainerRun("none", variant="mobilefacenet", changes=mobile),
    ]
    small = Chunked(workspace=1000)  # several blocks of classes
    for shards in (False, True):
        for centers, precision in (
            ("none", "fp32"),
            ("none", "bf16"),
            ("shared", "fp32"),
            ("separate", "fp32"),
        ):
            plain = {"centers": centers, "precision": precision, "shards": shards}
            runs.append(LoopRun(**plain, variant="fused", fused=True))
            runs.append(LoopRun(**plain, variant="sampled", options={"sample_rate": 0.5}))
        for variant, options in (
            ("gradient", {"center_update": "gradient"}),
            ("raw", {"center_space": "raw", "center_weight": 0.01}),
        ):
            runs.append(LoopRun("separate", shards=shards, variant=variant, options=options))
        runs.append(LoopRun("none", shards=shards, variant="separation", separation=0.5))
        for variant, options in (
            ("chunked", {"implementation": small}),
            ("recomputed", {"implementation": Chunked(workspace=1000, recompute=True)}),
            ("sub-centers", {"sub_centers": 3}),
            ("smoothed", {"label_smoothing": 0.1}),
            ("weighted", {"weight": torch.linspace(0.5, 2.0, CLASSES)}),
            ("conflicts", {"conflict_threshold": 0.3}),
        ):
            runs.append(LoopRun("none", shards=shards, variant=variant, options=options))
    # What is the same on shards: the margin is of the target's cosine alone.
    for variant, options in (
        ("reference", {"implementation": "reference"}),
        ("cosface", {"margin": CosFace(0.35)}),
        ("sphereface-r", {"margin": SphereFaceR()}),
        ("combined", {"margin": CombinedMargin(m1=1.1, m2=0.3, m3=0.2)}),
        ("summed", {"reduction": "sum", "s": 4.0}),
    ):
        runs.append(LoopRun("none", variant=variant, options=options))
    named = {run.name: run for run in runs}
    assert len(named) == len(runs)
    return named


def make_runs(pool: Pool) -> dict[str, Numbers]:
    """Makes all runs in the processes of a pool, each with one thread.

    Args:
        pool: Two processes.

    Returns:
        Their numbers by name; those of two processes as the first of them sees them.
    """
    runs = all_runs()
    numbers = {}
    with tempfile.TemporaryDirectory() as folder:
        _write_faces(Path(folder) / "faces")
        for processes in (2, 1):  # so that both workers start at once
            for name, run in runs.items():
                if run.processes == processes:
                    # A job each: a busy machine could be too slow for all in one.
                    made = pool.run(_make_on_rank, name, Path(folder), world_size=processes)
                    numbers[name] = made[0]
    return numbers


def _make_on_rank(rank: int, name: str, folder: Path) -> Numbers:
    if "golden_tiny" not in list_models():  # of this process, not of the one that tests
        register_model("golden_tiny")(_Tiny)
    return all_runs()[name].run(rank, folder)


class _Tiny(Backbone):
    """Convolution, batch norm, PReLU, noise, linear: 2 ms a step.

    The noise is drawn as dropout draws, but by uniform numbers, which are alike on all machines.
    """

    def __init__(self, *, embedding_size: int, image_size: int) -> None:
        super().__init__(embedding_size, image_size)
        self.features = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=4, padding=1), nn.BatchNorm2d(8), nn.PReLU(8), nn.Flatten()
        )
        self.embedding = nn.Linear(8 * (image_size // 4) ** 2, embedding_size)

    def forward(self, images: Tensor) -> Tensor:
        x = self.features(images)
        if self.training:
            x = x * (torch.rand(x.shape) < 0.9)
        output: Tensor = self.embedding(x)
        return output


def _center_options(centers: Centers) -> dict[str, Any]:
    if centers == "none":
        return {"center_weight": 0.0}
    return {"centers": centers}


def _write_faces(root: Path) -> None:
    """Writes blobs, each person with a color of their own; PNG, so that every bit is kept."""
    rng = np.random.default_rng(0)
    for person in range(PEOPLE):
        folder = root / f"P{person:02d}"
        folder.mkdir(parents=True)
        color = rng.integers(40, 215, 3)
        for number in range(IMAGES):
            noise = rng.integers(-40, 41, (SIZE, SIZE, 3))
            image = PIL.Image.fromarray(np.clip(color + noise, 0, 255).astype(np.uint8))
            image.save(folder / f"P{person:02d}_{number:04d}.png")


def _loop_batches() -> Iterable[tuple[Tensor, Tensor]]:
    """Yields (N, INPUTS) inputs near a point of their class, and (N,) labels."""
    generator = torch.Generator().manual_seed(3)
    points = torch.randn(CLASSES, INPUTS, generator=generator)
    for _ in range(STEPS):
        labels = torch.randint(0, CLASSES, (SAMPLES,), generator=generator)
        noise = torch.randn(SAMPLES, INPUTS, generator=generator)
        inputs = points[labels] + 0.3 * noise
        labels[::7] = -100
        yield inputs, labels


def _gradient_norm(parameters: Iterable[Tensor], over_ranks: bool = False) -> float:
    """The norm of all gradients together, added up in float64."""
    squares = torch.zeros((), dtype=torch.float64)
    for parameter in parameters:
        gradient = parameter.grad
        if gradient is not None:
            values = gradient.coalesce().values() if gradient.is_sparse else gradient
            squares += values.double().square().sum()
    if over_ranks:
        dist.all_reduce(squares)
    return math.sqrt(squares.item())


def _weights(backbone: nn.Module, criterion: CenterArcFaceLoss) -> dict[str, dict[str, Any]]:
    """Summaries of the weights; classes of several ranks in their order."""
    tensors = backbone.state_dict().values()
    backbone_weights = torch.cat([t.detach().float().flatten() for t in tensors])
    head = {"prototypes": criterion.arcface.prototypes}
    if criterion.center is not None:
        head["centers"] = criterion.center.centers
    weights = {"backbone": summarize(backbone_weights)}
    for name, rows in head.items():
        pieces = [rows.detach()]
        if criterion.arcface.shards is not None:
            pieces = [torch.empty(0)] * 2
            dist.all_gather_object(pieces, rows.detach())
        weights[name] = summarize(torch.cat(pieces))
    return weights
