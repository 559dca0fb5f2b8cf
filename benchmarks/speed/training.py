"""Images a second, and memory, of training steps on a CPU beside an earlier build and plain loops.

Images come from memory: only steps are measured, with the defaults of `centerarc train`, but for
the batch size. Imports the library only where it measures.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, cast

import torch
from benchmarks.common.machine import machine_words
from benchmarks.common.page import Record, Table, filled_regions
from benchmarks.common.runner import ROOT, new_record, publish
from benchmarks.common.spread import Spread, shown
from benchmarks.common.turns import take_turns
from benchmarks.speed.builds import Build, serve
from torch import Tensor, nn

PEOPLE, SCALE, MARGIN, LR = 1000, 30.0, 0.5, 0.01
PAIRS = [(name, size) for name in ("iresnet18", "mobilefacenet") for size in (112, 64)]
# Images of a step, and of one whose memory is measured: the default of `centerarc train`.
BATCH, LARGE = 32, 128
PLAIN = ("plain", "channels_last")
OVER_BEFORE, OVER_PLAIN, OVER_COMPILED, MEMORY = 1.5, 1.3, 1.0, 0.8
Step = Callable[[], Tensor]


def as_the_command_does() -> None:
    """Takes memory as `centerarc train` does."""
    try:
        from centerarc.io.memory import use_huge_pages
    except ImportError:  # an earlier build
        return
    use_huge_pages()


def library_step(name: str, size: int, images: Tensor, labels: Tensor) -> Step:
    """A step as the command `centerarc train` makes it; returns the embeddings."""
    from centerarc.distributed import Processes
    from centerarc.training import TrainConfig
    from centerarc.training.optimizer import set_rate

    processes, parts = Processes(0, 1, torch.device("cpu")), cast("Any", None)
    with tempfile.TemporaryDirectory() as folder:
        config = TrainConfig(
            run_dir=f"{folder}/run",
            data={"source": "synthetic", "num_identities": PEOPLE, "images_per_identity": 1},
            model={"name": name, "image_size": size},
            loss={"s": SCALE, "m": MARGIN, "center_weight": 0.0},
            batch_size=len(images),
            workers=0,
        )
        try:
            from centerarc.training.assembly import make_parts
        except ImportError:  # an earlier build
            from centerarc.training import loop

            trainer: Any = loop.Trainer
            parts = trainer(config, processes, resume=False, overwrite=False)
        else:
            parts = make_parts(config, processes)
    set_rate(parts.optimizers, LR)
    kept: list[Tensor] = []
    parts.criterion.register_forward_pre_hook(lambda _, given: kept.append(given[0].detach()))

    def step() -> Tensor:
        parts.train_step(images, labels)
        return kept.pop()

    return step


def plain_step(name: str, size: int, images: Tensor, labels: Tensor, way: str) -> Step:
    """A step as one writes it in plain PyTorch: textbook ArcFace, SGD with momentum."""
    from centerarc.models import create_model

    model: Any = create_model(
        name, image_size=size, generator=torch.Generator().manual_seed(0)
    ).train()
    head = nn.Parameter(torch.randn(PEOPLE, 512, generator=torch.Generator().manual_seed(1)))
    optimizer = torch.optim.SGD([*model.parameters(), head], lr=LR, momentum=0.9, weight_decay=5e-4)
    if way == "channels_last":
        model = model.to(memory_format=torch.channels_last)

    def loss_of(batch: Tensor) -> tuple[Tensor, Tensor]:
        embedding = model(batch)
        cosines = nn.functional.linear(
            nn.functional.normalize(embedding), nn.functional.normalize(head)
        )
        angles = torch.acos(cosines.clamp(-1 + 1e-7, 1 - 1e-7))
        target = nn.functional.one_hot(labels, PEOPLE).bool()
        logits = SCALE * torch.where(target, torch.cos(angles + MARGIN), cosines)
        return nn.functional.cross_entropy(logits, labels), embedding

    forward: Any = torch.compile(loss_of) if way == "compiled" else loss_of

    def step() -> Tensor:
        batch = images.permute(0, 3, 1, 2).float().sub_(127.5).div_(127.5)
        layout = torch.channels_last if way == "channels_last" else torch.contiguous_format
        optimizer.zero_grad()
        loss, embedding = forward(batch.contiguous(memory_format=layout))
        loss.backward()
        optimizer.step()
        return embedding.detach()

    return step


def make_step(way: str, name: str, size: int, count: int) -> Step:
    """What a process plays: `library` or one of the plain loops."""
    generator = torch.Generator().manual_seed(2)
    images = torch.randint(256, (count, size, size, 3), generator=generator, dtype=torch.uint8)
    labels = torch.randint(PEOPLE, (count,), generator=generator)
    if way == "library":
        return library_step(name, size, images, labels)
    return plain_step(name, size, images, labels, way)


def peak_megabytes() -> float:
    """The most memory that this process has held."""
    words = Path("/proc/self/status").read_text(encoding="utf-8").split()
    return int(words[words.index("VmHWM:") + 1]) / 1e3


def child(way: str, name: str, size: int, count: int, task: str) -> None:
    """The main of a process that measures."""
    if way == "library":
        as_the_command_does()  # before the first tensor
    torch.set_num_threads(1)
    step = make_step(way, name, size, count)
    if task == "memory":
        before = peak_megabytes()
        step(), step()
        print(json.dumps(peak_megabytes() - before))
        return

    def seconds(_: int) -> float:
        start = time.perf_counter()
        step()
        return time.perf_counter() - start

    serve({"embed": lambda _: step()[:4, :8].tolist(), "step": seconds})


def _arguments(way: str, name: str, size: int, count: int, task: str) -> list[str]:
    return [way, name, str(size), str(count), task]


def measure_speed(
    before: Path | None, name: str, size: int, count: int, ways: list[str], rounds: int
) -> list[dict[str, float]]:
    """Seconds of a step of each, round by round; all have embedded the same first."""
    found: list[dict[str, float]] = []
    # The plain loops have the plain layers, which an earlier build's model has in any layout.
    places = {"now": ROOT} | ({"before": before.absolute()} if before else {})
    with ExitStack() as stack:
        playing = {}
        for who in [*places, *ways]:
            way = "library" if who in places else who
            checkout = places.get(who, places.get("before", ROOT))
            playing[who] = Build(__name__, checkout, *_arguments(way, name, size, count, "speed"))
            stack.enter_context(playing[who].process)
            stack.callback(playing[who].process.stdin.close)  # type: ignore[union-attr]
        embedded = {who: torch.tensor(one.play("embed", 0)) for who, one in playing.items()}
        for who, values in embedded.items():
            if not torch.allclose(values, embedded["now"], rtol=1e-3, atol=1e-3):
                raise AssertionError(f"{who} embeds other than now")

        def play_round(turn: int) -> dict[str, float]:
            order = torch.randperm(len(playing), generator=torch.Generator().manual_seed(turn))
            names = [list(playing)[at] for at in order.tolist()]
            return {who: playing[who].play("step", turn) for who in names}

        take_turns(f"{name} at {size}", rounds, play_round, found)
    return found


def measure_memory(before: Path | None, name: str, size: int, count: int) -> dict[str, float]:
    """Megabytes that two steps take above the start, each in a process of its own."""
    places = {"now": ROOT} | ({"before": before.absolute()} if before else {})
    found = {}
    for who in [*places, *PLAIN]:
        way = "library" if who in places else who
        path = os.pathsep.join(
            [str(places.get(who, places.get("before", ROOT)) / "src"), str(ROOT)]
        )
        words = [sys.executable, "-m", __name__, *_arguments(way, name, size, count, "memory")]
        done = subprocess.run(
            words,
            env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        found[who] = float(done.stdout.splitlines()[-1])
    return found


def table(record: Record) -> Table:
    """What was to be reached, and what was."""

    def times(value: float) -> str:
        return f"{value:.2f}x"

    def cell(rounds: list[dict[str, float]], others: tuple[str, ...]) -> str:
        there = [one for one in others if rounds and one in rounds[0]]
        if not there:
            return ""
        spreads = [Spread.of(one[other] / one["now"] for one in rounds) for other in there]
        # The faster of two ways to write a loop.
        return shown(min(spreads, key=lambda one: one.middle if one else 0.0), times)

    rows = []
    for entry in record["speed"]:
        words = f"{entry['name']} at {entry['size']}: images/s over"
        for others, said, target in (
            (("before",), "the earlier build's", OVER_BEFORE),
            (PLAIN, "a plain loop's, in the faster layout", OVER_PLAIN),
            (("compiled",), "a plain loop's under `torch.compile`", OVER_COMPILED),
        ):
            reached = cell(entry["rounds"], others)
            rows.append([f"{words} {said}", f"at least {times(target)}", reached])
    for entry in record["memory"]:
        found = entry["megabytes"]
        words = f"{entry['name']} at {entry['size']}, batches of {entry['batch']}: peak memory over"
        for other, target in (("before", f"at most {times(MEMORY)}"), *((p, "") for p in PLAIN)):
            reached = times(found["now"] / found[other]) if other in found else ""
            said = "the earlier build's" if other == "before" else f"a plain loop's ({other})"
            rows.append([f"{words} {said}", target, reached])
    return ["", "target", "reached"], rows


def main(chosen: argparse.Namespace) -> int:
    """Measures and writes."""
    record = new_record("benchmarks.speed", None)
    record.update(torch=torch.__version__, threads=1, speed=[], memory=[])
    rounds = chosen.rounds or (1 if chosen.quick else 5)
    ways = [*PLAIN] if chosen.quick else [*PLAIN, "compiled"]
    count, large = (4, 8) if chosen.quick else (BATCH, LARGE)
    for name, size in [("mobilefacenet", 32)] if chosen.quick else PAIRS:
        found = measure_speed(chosen.before, name, size, count, ways, rounds)
        record["speed"].append({"name": name, "size": size, "rounds": found})
    name, size = ("iresnet18", 32) if chosen.quick else PAIRS[0]
    found_memory = measure_memory(chosen.before, name, size, large)
    record["memory"] = [{"name": name, "size": size, "batch": large, "megabytes": found_memory}]
    caption = (
        f"{record['date']}, `{record['command']}`; steps of {count} images. {machine_words(record)}"
    )
    publish("speed-training", record, filled_regions(record, {"training": table}, caption), chosen)
    return 0


if __name__ == "__main__":
    child(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5])
