"""Processes that are killed, stopped or fewer after a restart: the run resumes, or says why not."""

import signal
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch

from centerarc.distributed import Processes
from centerarc.training import Trainer, load_config
from centerarc.training.checkpoint import load_state
from tests.commands import Command, torchrun
from tests.distributed.pool import Pool
from tests.training.helpers import TINY_PLUGIN, same_bits, write_faces

pytestmark = [pytest.mark.slow, pytest.mark.distributed]

# The second of two processes is killed in its second step, before any state is saved, and in its
# second life in the fourth, once the state of the third is written.
KILLS = """
import os, signal, time
from pathlib import Path
from centerarc.training.step import TrainStep

life, left = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "9")), [1, 3]
call = TrainStep.__call__


def killed(self, *arguments, **options):
    if os.environ["RANK"] == "1" and life < len(left):
        left[life] -= 1
        if left[life] < 0:
            while life and not list(Path(__file__).parent.glob("run/state/[0-9]-step-3")):
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGKILL)
    return call(self, *arguments, **options)


TrainStep.__call__ = killed
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(
        f"run_dir: {tmp_path / 'run'}\n"
        f"data: {{source: folder, root: {write_faces(tmp_path / 'faces')}}}\n"
        "model: {name: tiny, embedding_size: 8, image_size: 16}\n"
        f"plugins: [{TINY_PLUGIN}]\n"
        "schedule: {epochs: 2, warmup_epochs: 0}\n"
        "batch_size: 12\nsave_every: 2\nlog: {every: 1}\nworkers: 0\ndevice: cpu\n"
    )
    return path


def _undisturbed(rank: int, config: Path, run_dir: Path) -> int:
    torch.set_num_threads(1)
    loaded = load_config(config, ["--run-dir", str(run_dir)])
    processes = Processes(rank, 2, torch.device("cpu"))
    steps: int = Trainer(loaded, processes, resume=False, overwrite=False).run().summary["steps"]
    return steps


def test_a_run_whose_rank_is_killed_restarts_and_ends_with_the_same_bits(
    pool: Pool, tmp_path: Path, config: Path
) -> None:
    plugin = tmp_path / "kills.py"
    plugin.write_text(KILLS)
    plugins = f"[{TINY_PLUGIN}, {plugin}]"
    words = ("train", str(config), "--resume", "auto", "--plugins", plugins)
    with torchrun(*words, restarts=2) as launcher:
        _, said = launcher.communicate()
    assert launcher.returncode == 0, said
    assert said.count("starts again: the run in") == 1, said
    assert said.count("from step 3") == 1, said
    assert pool.run(_undisturbed, config, tmp_path / "whole") == [6, 6]
    assert same_bits(tmp_path / "run/last.safetensors", tmp_path / "whole/last.safetensors")
    # Resumed by fewer, only rounding differs, and a line says so.
    longer = load_config(config, ["--schedule.epochs", "3"])
    alone = Processes(0, 1, torch.device("cpu"))
    notes = Trainer(longer, alone, resume="auto", overwrite=False).notes
    assert "processes: 2 -> 1; results are the same up to rounding" in notes


@pytest.fixture
def pair(config: Path) -> Iterator[list[Command]]:
    """Two processes of one run, started without torchrun, which would end both."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = ["--schedule.epochs", "100000", "--timeout_minutes", "0.2", "--save_every", "0"]
    group = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    with ExitStack() as stack:
        yield [
            stack.enter_context(
                Command("train", str(config), *words, environment={**group, "RANK": str(rank)})
            )
            for rank in range(2)
        ]


def test_a_stopped_rank_ends_the_others_with_an_error_in_time(
    tmp_path: Path, pair: list[Command]
) -> None:
    rows = tmp_path / "run/metrics.jsonl"
    end = time.monotonic() + 300
    while not (rows.exists() and rows.read_text().count("\n") > 3):
        assert time.monotonic() < end
        assert pair[0].poll() is None, pair[0].communicate()[1]
        time.sleep(0.1)
    pair[1].send_signal(signal.SIGSTOP)
    _, errors = pair[0].communicate()
    assert pair[0].returncode == 2
    assert "process 0 lost another one, which did not answer for 0.2 minutes" in errors


def test_torchrun_that_is_asked_to_stop_saves_the_run_and_does_not_start_it_again(
    tmp_path: Path, config: Path
) -> None:
    words = ("train", str(config), "--schedule.epochs", "100000", "--save_every", "0")
    rows, end = tmp_path / "run/metrics.jsonl", time.monotonic() + 300
    with torchrun(*words, restarts=2) as launcher:
        while not (rows.exists() and rows.read_text().count("\n") > 3):
            assert time.monotonic() < end
            assert launcher.poll() is None, launcher.communicate()[1]
            time.sleep(0.1)
        launcher.send_signal(signal.SIGTERM)
        _, said = launcher.communicate()
    assert launcher.returncode not in (0, -signal.SIGKILL)
    resume = "resume with: torchrun --nproc-per-node 2 --max-restarts 2 -m centerarc train"
    assert said.count(f"the state is saved, {resume}") == 1, said
    assert said.count("on 2 x cpu") == 1, said  # of one life
    step = load_state(tmp_path / "run").content["step"]
    assert f"stopped after step {step} of" in said
