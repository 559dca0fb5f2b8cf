"""Trains for hours under random kills, and the same run undisturbed beside it; compares their bits.

    python -m benchmarks.faults.long_run --hours 2 --folder runs/long --json runs/long.json

Two processes train an IResNet with a sharded head, mean centers, a unified threshold, an average of
the weights and a validation. Every few minutes one of these happens to the disturbed run, and it is
started again: a rank is killed, all are, all are in the middle of a state's write, a reader of
images is, torchrun is asked to stop; now and then a random bit of the last state is flipped before
it resumes. Every 10 steps each rank of both runs writes a digest of all that it holds: weights,
prototypes, centers, momentum, average. All digests of a step and rank must be one, in whichever
life of the run the step was made, up to the last step of the disturbed run.
"""

import argparse
import contextlib
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import psutil
import torch
from torch import Tensor

from centerarc.data.source import create_source
from centerarc.training.callbacks import Callback, register_callback

PEOPLE, IMAGES, SIZE, RANKS = 300, 8, 32, 2
KINDS = ("one rank", "all ranks", "in a write", "a reader", "SIGTERM")


@register_callback("digests")
class Digests(Callback):
    """Writes a digest of all that a rank holds every 10 steps, and stops where a file says so."""

    def __init__(self, *, path: str, stop: str) -> None:
        self.path, self.stop = Path(path), Path(stop)

    def on_step_end(self, trainer: Any, row: dict[str, Any] | None) -> None:
        if trainer.step % 10:
            return
        digest = hashlib.sha256()
        for tensor in _held(trainer):
            digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
        line = json.dumps([trainer.step, trainer.processes.rank, digest.hexdigest()]) + "\n"
        with self.path.open("a") as file:
            file.write(line)
        if self.stop.exists() and trainer.step == int(self.stop.read_text()):
            trainer.request_stop("the comparison ends here")


def _held(trainer: Any) -> Iterator[Tensor]:
    modules = [trainer.model, trainer.judged, trainer.criterion, trainer.terms]
    for module in modules:
        yield from (value.reshape(-1) for value in module.state_dict().values())
    for optimizer in trainer.optimizers:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                kept = optimizer.state.get(parameter, {})
                values = (kept[name] for name in sorted(kept))
                yield from (value.reshape(-1) for value in values if isinstance(value, Tensor))


def write_faces(root: Path) -> None:
    """Writes drawn faces as a folder of images."""
    source = create_source(
        "synthetic", num_identities=PEOPLE, images_per_identity=IMAGES, image_size=SIZE
    )
    for index in range(len(source)):
        path = root / source.identities[source.labels[index]] / f"{index % IMAGES}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), source.image(index)[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])


def write_config(folder: Path, name: str, epochs: int) -> Path:
    """Writes the configuration of a run; all but the places is the same."""
    options = {"path": str(folder / f"{name}.digests"), "stop": str(folder / f"{name}.stop")}
    content = {
        "plugins": [str(Path(__file__).resolve())],
        "run_dir": str(folder / name),
        "data": {
            "source": "folder",
            "root": str(folder / "faces"),
            "sampler": {"kind": "identities", "images_per_identity": 2},
        },
        "model": {
            "name": "iresnet10",
            "embedding_size": 64,
            "image_size": SIZE,
            "options": {"width": 0.25},
        },
        "loss": {"threshold_weight": 1.0, "centers": "mean", "center_weight": 0.1},
        "validation": {"identities": 0.1, "every_epochs": 10},
        "optimizer": {"lr": 0.05},
        "schedule": {"epochs": epochs},
        "batch_size": 32,
        "ema_decay": 0.999,
        "clip_norm": 5.0,
        "workers": 1,
        "device": "cpu",
        "save_every": 60,
        "callbacks": [{"name": "digests", "options": options}],
    }
    path = folder / f"{name}.yaml"
    path.write_text(json.dumps(content))  # which is YAML
    return path


class Run:
    """A run that is started as often as it takes."""

    def __init__(self, folder: Path, name: str, epochs: int, port: int) -> None:
        self.run_dir, self.log = folder / name, folder / f"{name}.log"
        self.config, self.port = write_config(folder, name, epochs), port
        self.process: subprocess.Popen[bytes] | None = None
        self.starts = 0

    def states(self) -> list[Path]:
        found = [p for p in (self.run_dir / "state").glob("*-step-*") if p.name[0].isdigit()]
        return sorted(found, key=lambda path: int(path.name.split("-")[0]))

    def start(self) -> None:
        command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(RANKS)]
        command += ["--master-port", str(self.port), "-m", "centerarc", "train", str(self.config)]
        command += ["--resume", "auto"]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )
        self.starts += 1

    def ranks(self) -> list[psutil.Process]:
        assert self.process is not None
        try:
            return psutil.Process(self.process.pid).children()
        except psutil.NoSuchProcess:
            return []

    def wait(self, seconds: float) -> int | None:
        assert self.process is not None
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    def disturb(self, kind: str, draw: random.Random) -> None:
        """Lets something happen; returns when it has."""
        assert self.process is not None
        ranks = self.ranks()
        if kind == "SIGTERM":
            self.process.terminate()
            return
        if kind == "in a write":
            end = time.monotonic() + 120
            while time.monotonic() < end and not list((self.run_dir / "state").glob(".*-step-*")):
                time.sleep(0.005)
            time.sleep(draw.uniform(0, 0.1))
        victims = ranks
        if kind == "one rank":
            victims = draw.sample(ranks, 1)
        elif kind == "a reader":
            readers = [child for rank in ranks for child in rank.children()]
            victims = draw.sample(readers, 1) if readers else ranks
        for victim in victims:
            with contextlib.suppress(psutil.NoSuchProcess):
                victim.kill()

    def end(self) -> None:
        """Waits for the processes to end, and kills what is left of them."""
        if self.wait(120) is None:
            assert self.process is not None
            print("torchrun did not end in 120 s", flush=True)
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        for process in psutil.process_iter(["cmdline"]):
            if str(self.config) in (process.info["cmdline"] or []):
                process.kill()


def flip(state: Path, draw: random.Random) -> None:
    """Flips a random bit of a random file of a state."""
    path = draw.choice([p for p in sorted(state.iterdir()) if p.stat().st_size])
    data = bytearray(path.read_bytes())
    at = draw.randrange(8 * len(data))
    data[at // 8] ^= 1 << at % 8
    path.write_bytes(data)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--hours", type=float, default=2.0)
    parser.add_argument("--epochs", type=int, default=1000)
    parser.add_argument("--every", type=float, default=150.0, help="mean seconds between faults")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--json", type=Path, required=True)
    given = parser.parse_args()
    folder = given.folder.resolve()
    if not (folder / "faces").exists():
        write_faces(folder / "faces")
    draw = random.Random(given.seed)
    disturbed = Run(folder, "disturbed", given.epochs, 29611)
    undisturbed = Run(folder, "undisturbed", given.epochs, 29612)
    undisturbed.start()
    disturbed.start()
    begin, done, flips = time.monotonic(), Counter[str](), 0
    codes: Counter[str] = Counter()
    while time.monotonic() - begin < 3600 * given.hours:
        code = disturbed.wait(draw.uniform(0.2, 1.8) * given.every)
        if code is None:
            kind = draw.choice(KINDS)
            disturbed.disturb(kind, draw)
            done[kind] += 1
        else:
            kind = "itself"
        disturbed.end()
        assert disturbed.process is not None
        codes[f"{kind}: {disturbed.process.returncode}"] += 1
        if len(disturbed.states()) == 2 and draw.random() < 0.2:
            flip(disturbed.states()[-1], draw)
            flips += 1
        print(f"{time.monotonic() - begin:6.0f} s {kind}, {flips} flips", flush=True)
        disturbed.start()
    # The disturbed run ends a little later, and the other one when it is past that.
    last = 10 * (max(step for step, _, _ in read(folder, "disturbed")) // 10 + 20)
    (folder / "disturbed.stop").write_text(str(last))
    while disturbed.wait(10) is None:
        pass
    while max(step for step, _, _ in read(folder, "undisturbed")) < last:
        time.sleep(10)
    undisturbed.disturb("SIGTERM", draw)
    undisturbed.end()
    result = compare(folder) | {
        "hours": (time.monotonic() - begin) / 3600,
        "faults": dict(done),
        "flipped bits": flips,
        "starts": disturbed.starts,
        "exits": dict(codes),
        "seed": given.seed,
    }
    given.json.write_text(json.dumps(result, indent=1))
    print(json.dumps(result, indent=1))


def read(folder: Path, name: str) -> list[tuple[int, int, str]]:
    """The digests of a run: step, rank, digest; a line that a kill cut short is left out."""
    found = []
    for line in (folder / f"{name}.digests").read_text().splitlines():
        try:
            step, rank, digest = json.loads(line)
        except ValueError:
            continue
        found.append((step, rank, digest))
    return found


def compare(folder: Path) -> dict[str, Any]:
    """Compares the digests of the two runs."""
    of: dict[tuple[int, int], set[str]] = defaultdict(set)
    lines = {name: read(folder, name) for name in ("disturbed", "undisturbed")}
    steps = {name: {(s, r) for s, r, _ in found} for name, found in lines.items()}
    for found in lines.values():
        for step, rank, digest in found:
            of[step, rank].add(digest)
    both = steps["disturbed"] & steps["undisturbed"]
    return {
        "compared": len(both),
        "made more than once": len(lines["disturbed"]) - len(steps["disturbed"]),
        "different": sum(len(digests) > 1 for digests in of.values()),
        "last step": max(step for step, _ in both),
    }


if __name__ == "__main__":
    main()
