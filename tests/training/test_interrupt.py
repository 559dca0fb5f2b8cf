"""Ctrl-C on a process."""

import json
import signal
import time
from pathlib import Path

import pytest

from tests.commands import Command
from tests.training.helpers import write_faces

pytestmark = pytest.mark.slow


def _wait_for_rows(process: Command, path: Path, rows: int) -> None:
    for _ in range(600):
        if path.exists() and len(path.read_text().splitlines()) >= rows:
            return
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.1)
    raise AssertionError("the run makes no progress")


def test_a_signal_leaves_a_run_that_resumes(tmp_path: Path) -> None:
    run = tmp_path / "run"
    config = tmp_path / "config.yaml"
    config.write_text(
        f"run_dir: {run}\n"
        f"data: {{source: folder, root: {write_faces(tmp_path / 'faces')}}}\n"
        "model: {embedding_size: 8, image_size: 16}\n"
        "schedule: {epochs: 500}\nbatch_size: 8\nworkers: 1\nlog: {every: 1}\ndevice: cpu\n"
    )
    with Command("train", str(config)) as process:
        _wait_for_rows(process, run / "metrics.jsonl", 3)
        process.signal_all(signal.SIGINT)  # the loader's workers get it too
        _, errors = process.communicate()
    assert process.returncode == 130, errors
    assert f"centerarc train {run / 'config.yaml'} --resume" in errors
    assert "Traceback" not in errors
    before = len((run / "metrics.jsonl").read_text().splitlines())

    with Command("train", str(run / "config.yaml"), "--resume") as process:
        _wait_for_rows(process, run / "metrics.jsonl", before + 2)
        process.signal_all(signal.SIGTERM)
        assert process.wait() == 130
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(1, len(rows) + 1))
