"""Runs of the command line under faults, and how they end. Imports nothing of the library."""

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
from benchmarks.common.runner import ROOT
from safetensors import SafetensorError
from safetensors.numpy import load_file

# How a fault ends. The first two are what is wanted.
SURVIVED, SAID, UNCLEAR, LOST = "survived", "said", "unclear", "lost"
# Seconds after which a command is hung; it takes one on an idle machine.
LIMIT = 90.0
# Characters at the end of what was said that tell what is wrong.
TAIL = 3000
SIZE, PEOPLE, IMAGES = 16, 8, 6
NOBODY = 65534  # a user who owns nothing
# Of a row of metrics.jsonl, what no two runs share.
_TIMES = ("images_per_second",)

# A backbone of milliseconds. Its numbers go wrong from a call on, if a run is told so.
PLUGIN = """
import os

from torch import Tensor, nn

from centerarc.models import Backbone, register_model


@register_model("tiny_faults")
class Tiny(Backbone):
    def __init__(self, *, embedding_size: int, image_size: int) -> None:
        super().__init__(embedding_size, image_size)
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=4, padding=1),
            nn.BatchNorm2d(8),
            nn.PReLU(8),
            nn.Flatten(),
            nn.Dropout(0.2),
            nn.Linear(8 * (image_size // 4) ** 2, embedding_size),
        )
        self.calls = 0

    def forward(self, images: Tensor) -> Tensor:
        wrong, _, call = os.environ.get("WRONG_NUMBERS", "").partition("@")
        self.calls += self.training
        if not wrong or not self.training or self.calls != int(call):
            return self.layers(images)
        norm = self.layers[1]
        if wrong == "weight":
            norm.weight.data[0] = float("inf")
        elif wrong == "running_mean":
            norm.running_mean[0] = float("nan")
        elif wrong == "running_var":
            norm.running_var[0] = float("inf")
        output = self.layers(images)
        if wrong == "output":
            return output * float("nan")
        if wrong == "overflow":
            return output * 3e38 * 10
        if wrong == "half":
            return (output * 1e5).half().float()
        if "gradient" in wrong:
            by = float("inf" if wrong == "gradient" else "nan")
            output.register_hook(lambda gradient: gradient * by)
        return output
"""
Settings = dict[str, Any]
# What is trained: several ways in which a run keeps something from step to step.
VARIANTS: dict[str, Settings] = {
    "plain": {},
    "validated": {"validation": {"identities": 2, "num_pairs": 20}, "workers": 2},
    "terms": {
        "optimizer": {"name": "adamw", "lr": 0.001},
        "ema_decay": 0.9,
        "loss": {
            "centers": "separate",
            "center_space": "raw",
            "threshold_weight": 0.3,
            "threshold_over": "both",
        },
    },
}


@dataclass(frozen=True)
class Outcome:
    """How a fault ended.

    Args:
        verdict: One of the words above.
        words: What was said, or what is wrong.
        named: Whether what is damaged was named.
    """

    verdict: str
    words: str
    named: bool = True


@dataclass(frozen=True)
class Fault:
    """Something to try.

    Args:
        kind: A row of the table.
        name: What is done, in words.
        act: Does it; None if it could not be done here.
    """

    kind: str
    name: str
    act: Callable[["Lab"], Outcome | None]


@dataclass
class Ended:
    """A command that has ended.

    Args:
        codes: The exit code of each process, the negative number of a signal that killed it; empty
            if they hung.
        said: What they wrote.
    """

    codes: list[int]
    said: str

    @property
    def done(self) -> bool:
        """Whether all processes did what was asked."""
        return bool(self.codes) and not any(self.codes)

    @property
    def error(self) -> str:
        """The last line of error; empty without one."""
        lines = [line for line in self.said.splitlines() if line.startswith("error: ")]
        return lines[-1] if lines else ""

    @property
    def traceback(self) -> bool:
        """Whether a process ended with an exception that the command line did not put in words."""
        return "Traceback (most recent call last)" in self.said

    def unclear(self, names: Sequence[str]) -> str:
        """Why what was said is not one clear line; empty if it is.

        Args:
            names: Words of which one must be in it.
        """
        if not self.codes:
            return f"hung: {self.said[-TAIL:]}"
        if self.traceback:
            return f"traceback: {self.said.strip().splitlines()[-1]}\n{self.said[-TAIL:]}"
        if not self.error:
            return f"no line of error, exit codes {self.codes}: {self.said[-200:]!r}"
        if not any(name in self.error for name in names):
            return f"does not name {' or '.join(map(repr, names))}: {self.error}"
        return ""


class Server:
    """A process that forks for each command, see `benchmarks.faults.server`.

    Args:
        source: The folder `src` of the build to run.
    """

    def __init__(self, source: Path) -> None:
        path = os.pathsep.join((str(source), str(ROOT)))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.faults.server"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        )
        self.pids: list[int] = []
        self._groups: list[int] = []
        self._ready = False

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer

    def start(self, **asked: Any) -> None:
        """Starts a command, see the server's `_become`."""
        assert self._process.stdin is not None
        self._ready = self._ready or bool(self._answer())
        self._output = Path(asked["output"])
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        self.pids = self._answer()["pids"]
        self._groups += self.pids

    def wait(self, limit: float = LIMIT) -> Ended:
        """Waits for its processes, and kills them after so many seconds.

        Their own processes are left; `kill_all` ends those.
        """
        hung = threading.Event()

        def end() -> None:
            hung.set()
            self.signal(signal.SIGUSR1, *range(len(self.pids)))
            time.sleep(1)
            self.kill_all()

        timer = threading.Timer(limit, end)
        timer.start()
        try:
            codes = self._answer()["codes"]
        finally:
            timer.cancel()
        said = self._output.read_text(errors="replace") if self._output.exists() else ""
        return Ended([] if hung.is_set() else codes, said)

    def signal(self, number: int, *ranks: int) -> None:
        """Signals the processes of some ranks, without their own processes."""
        for rank in ranks:
            self.signal_pid(number, self.pids[rank])

    def signal_pid(self, number: int, pid: int) -> None:
        """Signals a process, if it is there."""
        with suppress(ProcessLookupError):
            os.kill(pid, number)

    def children(self) -> list[int]:
        """The processes that the first process of the last command has started."""
        found = []
        for place in Path("/proc").glob("[0-9]*/stat"):
            with suppress(OSError):
                if place.read_text().rpartition(")")[2].split()[1] == str(self.pids[0]):
                    found.append(int(place.parent.name))
        return found

    def kill_all(self) -> None:
        """Kills what all commands started, workers that they left included."""
        for pid in self._groups:
            with suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
        self._groups.clear()

    def close(self) -> None:
        """Ends the server and what it started."""
        self.kill_all()
        self._process.kill()
        self._process.wait()


@dataclass
class Shared:
    """What all labs of a build use: images, undisturbed runs, and runs that were stopped.

    Args:
        folder: Where they are.
        source: The folder `src` of the build.
        quick: Whether only one variant is trained.
    """

    folder: Path
    source: Path
    quick: bool = False
    lock: threading.RLock = field(default_factory=threading.RLock)
    lives: dict[Path, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True)
        (self.folder / "plugin_tiny.py").write_text(PLUGIN)
        write_faces(self.folder / "faces")


def write_faces(root: Path) -> None:
    """Writes blobs, each person with a color of their own."""
    rng = np.random.default_rng(0)
    for person in range(PEOPLE):
        color = rng.integers(40, 215, 3)
        (root / f"P{person}").mkdir(parents=True)
        for number in range(IMAGES):
            noise = rng.integers(-40, 41, (SIZE, SIZE, 3))
            image = PIL.Image.fromarray(np.clip(color + noise, 0, 255).astype(np.uint8))
            image.save(root / f"P{person}" / f"{number}.png")


class Lab:
    """Where one fault after another is tried.

    Args:
        shared: Of the build.
        name: Of the lab's folder.

    Attributes:
        run: The folder of the run that is disturbed.
        config: Its file of settings.
    """

    def __init__(self, shared: Shared, name: str) -> None:
        self.shared = shared
        self.server = Server(shared.source)
        self.place = shared.folder / name
        self.place.mkdir()
        self.place.chmod(0o755)

    def close(self) -> None:
        """Ends every process."""
        self.server.close()

    def variant(self, wanted: str) -> str:
        """What is trained where a fault wants one."""
        return "plain" if self.shared.quick else wanted

    def fresh(self, variant: str = "plain", ranks: int = 1, **changes: Any) -> None:
        """Forgets the run before and writes the settings of a new one.

        Args:
            variant: What is trained.
            ranks: Processes.
            changes: Sections and fields of the settings.
        """
        variant = self.variant(variant)
        self.server.kill_all()
        shutil.rmtree(self.place, ignore_errors=True)
        self.place.mkdir()
        self.place.chmod(0o777)
        self.run, self.config = self.place / "run", self.place / "config.yaml"
        self.ranks = ranks
        self.reference_key = self.shared.folder / f"{variant}-{ranks}"
        self.write_config(variant, **changes)

    def write_config(self, variant: str = "plain", **changes: Any) -> None:
        """Writes the settings."""
        settings = self._settings(self.run, self.variant(variant), changes)
        self.config.write_text(json.dumps(settings))

    def _settings(self, run: Path, variant: str, changes: Mapping[str, Any]) -> Settings:
        settings: Settings = {
            "run_dir": str(run),
            "plugins": [str(self.shared.folder / "plugin_tiny.py")],
            "model": {"name": "tiny_faults", "embedding_size": 8, "image_size": SIZE},
            "data": {"source": "folder", "root": str(self.shared.folder / "faces")},
            "schedule": {"epochs": 3},
            "batch_size": 8,
            "workers": 0,
            "device": "cpu",
            "save_every": 4,
            "log": {"every": 1},
        }
        for name, value in {**VARIANTS[variant], **changes}.items():
            before = settings.get(name)
            merged = isinstance(before, dict) and isinstance(value, dict)
            settings[name] = {**before, **value} if merged else value
        return settings

    def start(self, *words: str, config: Path | None = None, **hindrances: Any) -> None:
        """Starts the training of the settings, with flags."""
        output = self.place / "output"
        output.unlink(missing_ok=True)
        output.touch()
        output.chmod(0o666)
        environment = hindrances.pop("environment", {})
        if self.ranks > 1:
            rendezvous = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port())}
            environment = {**environment, **rendezvous}
        self.server.start(
            commands=[["train", str(config or self.config), *words]] * self.ranks,
            output=str(output),
            folder=str(self.place),
            environment=environment,
            **hindrances,
        )

    def train(self, *words: str, config: Path | None = None, **hindrances: Any) -> Ended:
        """Starts it and waits for its end."""
        self.start(*words, config=config, **hindrances)
        return self.server.wait()

    def read_settings(self) -> Ended:
        """Reads the settings without training; what they say is a line of JSON."""
        output = self.place / "output"
        words = ["read", str(self.config)]
        self.server.start(commands=[words], output=str(output), folder=str(self.place))
        return self.server.wait()

    def await_rows(self, rows: int) -> bool:
        """Waits until so many rows are logged; False if the run ended before."""
        end = time.monotonic() + LIMIT
        path = self.run / "metrics.jsonl"
        while time.monotonic() < end:
            with suppress(OSError):
                if path.read_bytes().count(b"\n") >= rows:
                    return True
            if not _alive(self.server.pids[0]):
                return False
            time.sleep(0.002)
        return False

    def await_words(self) -> None:
        """Waits until the run has said something, as it does once its ranks have found each other.

        Before, a rank waits for one that was killed as long as `timeout_minutes` says, and whoever
        started them ends it, such as torchrun.
        """
        end = time.monotonic() + LIMIT
        while time.monotonic() < end and not (self.place / "output").stat().st_size:
            time.sleep(0.002)

    # The undisturbed run, and what to compare with it.

    def reference(self, variant: str, ranks: int = 1) -> tuple[Path, float]:
        """The folder of an undisturbed run, and the seconds that it took."""
        folder = self.shared.folder / f"{self.variant(variant)}-{ranks}"
        with self.shared.lock:
            if folder not in self.shared.lives:
                self.fresh(variant, ranks)
                start = time.monotonic()
                ended = self.train()
                if not ended.done:
                    raise RuntimeError(f"the undisturbed run failed: {ended.said}")
                self.shared.lives[folder] = time.monotonic() - start
                self.run.rename(folder)
        return folder, self.shared.lives[folder]

    def stopped(self, variant: str, ranks: int = 1) -> None:
        """Makes `run` a copy of one that was stopped by SIGTERM after most of its steps."""
        kept = self.shared.folder / f"{self.variant(variant)}-{ranks}-stopped"
        self.reference(variant, ranks)
        with self.shared.lock:
            while not kept.exists():
                self.fresh(variant, ranks)
                self.start()
                self.await_rows(11)
                self.server.signal(signal.SIGTERM, *range(ranks))
                if any(self.server.wait().codes) and len(newest_states(self.run)) > 0:
                    self.run.rename(kept)
        self.fresh(variant, ranks)
        shutil.copytree(kept, self.run)

    def difference(self) -> str:
        """How the run differs from the undisturbed one; empty if it does not, to the last bit."""
        return difference(self.reference_key, self.run)

    def proceed(self, *words: str) -> tuple[Ended, Outcome]:
        """Resumes the run to its end, or starts again where nothing was saved, and compares it."""
        end = time.monotonic() + 15
        flag = "--resume"
        while True:
            ended = self.train(flag, *words)
            if "nothing to resume" in ended.error:
                flag = "--overwrite"
            elif "is in use" in ended.error and time.monotonic() < end:
                time.sleep(0.5)  # workers of the process that was killed have not noticed yet
            else:
                break
        return ended, self.judge(ended)

    def judge(self, ended: Ended) -> Outcome:
        """The outcome of a run that should have ended as the undisturbed one."""
        if not ended.codes:
            return Outcome(LOST, ended.unclear([""]))
        if not ended.done:
            return Outcome(UNCLEAR, ended.unclear([""]) or ended.error)
        wrong = self.difference()
        return Outcome(LOST if wrong else SURVIVED, wrong)

    def ended_or_said(
        self, ended: Ended, names: Sequence[str], repair: Callable[[], object] = lambda: None
    ) -> Outcome:
        """The outcome of a run that may end with an error, and must resume after a repair.

        Args:
            ended: How it ended.
            names: Words of which one must be in the error.
            repair: Undoes the fault.
        """
        if not ended.codes or ended.done:
            return self.judge(ended)
        unclear = ended.unclear(names)
        repair()
        _, after = self.proceed()
        if after.verdict != SURVIVED:
            return Outcome(LOST, f"then: {after.words}; first: {ended.error}")
        return Outcome(UNCLEAR, unclear) if unclear else Outcome(SAID, ended.error)


def difference(reference: Path, run: Path) -> str:
    """How a run differs from another one; empty if it does not, to the last bit."""
    for name in ("last.safetensors", "best.safetensors"):
        if (reference / name).exists() != (run / name).exists():
            return f"{name} is {'missing' if (reference / name).exists() else 'there'}"
        if (reference / name).exists():
            try:
                a, b = load_file(reference / name), load_file(run / name)
            except (OSError, SafetensorError) as error:
                return f"{name}: {error}"
            for tensor in sorted(a.keys() | b.keys()):
                if tensor not in a or tensor not in b:
                    return f"{name}: {tensor} is only in one"
                if a[tensor].tobytes() != b[tensor].tobytes():
                    return f"{name}: {tensor} has other bits"
    rows = [_rows(folder / "metrics.jsonl") for folder in (reference, run)]
    if rows[0] != rows[1]:
        return f"metrics.jsonl: {len(rows[1])} rows, other than the {len(rows[0])} that must be"
    best = [
        json.loads((folder / "results.json").read_text())["best"] for folder in (reference, run)
    ]
    return "" if best[0] == best[1] else f"results.json: best is {best[1]}"


def _rows(path: Path) -> list[dict[str, Any]]:
    try:
        rows = [json.loads(line) for line in path.read_text().splitlines()]
    except (OSError, ValueError) as error:
        return [{"damaged": str(error)}]
    return [{k: v for k, v in row.items() if k not in _TIMES} for row in rows]


def newest_states(run: Path) -> list[list[Path]]:
    """The files of each saved state, the last state first, however the build names them."""
    place = run / "state"
    numbered = [
        (int(folder.name.partition("-")[0]), folder)
        for folder in place.glob("[0-9]*-step-*")
        if folder.is_dir()
    ]
    if numbered:
        folders = [folder for _, folder in sorted(numbered, reverse=True)]
        return [sorted(path for path in folder.iterdir()) for folder in folders]
    files = sorted(path for path in place.rglob("*") if path.is_file()) if place.is_dir() else []
    return [files] if files else []


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def drawn(seed: int, kind: str) -> random.Random:
    """The generator of a kind, so that no kind depends on how many of another there are."""
    return random.Random(f"{seed} {kind}")


@contextmanager
def labs(shared: Shared, count: int) -> Iterator[list[Lab]]:
    """Some labs, closed at the end whatever happens."""
    with ExitStack() as stack:
        made = [Lab(shared, f"lab-{number}") for number in range(count)]
        for lab in made:
            stack.callback(lab.close)
        yield made
