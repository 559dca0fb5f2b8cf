"""Plugins from the command line: a file, an installed distribution, and weights of a stranger."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.io.test_plugins import install
from tests.training.helpers import write_faces
from tests.training.test_plugins import CONFIG, PLUGIN


def command(
    folder: Path, *words: str, path: Path | None = None
) -> "subprocess.CompletedProcess[str]":
    """Runs the command in a folder, with another one on PYTHONPATH."""
    paths = [str(path)] if path else []
    return subprocess.run(
        [sys.executable, "-m", "centerarc", *words],
        cwd=folder,
        env={
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join([*paths, *filter(None, sys.path)]),
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.mark.slow
def test_a_file_registers_what_a_run_and_its_evaluation_need(tmp_path: Path) -> None:
    folder = tmp_path / "settings"
    folder.mkdir()
    (folder / "plugin_own.py").write_text(PLUGIN)
    (folder / "config.yaml").write_text(CONFIG)
    done = command(tmp_path, "train", "settings/config.yaml", "--run-dir", "run")
    assert done.returncode == 0, done.stderr
    # Nothing that is in the folder of a run is imported unasked.
    write_faces(tmp_path / "faces", people=2, images=1)
    judged = ("embed", "faces", "--model", "run", "-o", "faces.npz", "--workers", "0")
    done = command(tmp_path, *judged)
    assert done.returncode == 2
    plugin = folder / "plugin_own.py"
    assert "unknown model 'plugin_net'" in done.stderr
    assert f"if you trust them, add --plugin {plugin}\n" in done.stderr
    own = ("--plugin", "settings/plugin_own.py")
    done = command(tmp_path, *judged, *own)
    assert done.returncode == 0, done.stderr
    done = command(tmp_path, "export", "run", "-o", "run.onnx", *own)
    assert done.returncode == 0, done.stderr
    # Exported, it needs no plugin: its embeddings are those of the run.
    for model in (("run", *own), ("run.onnx",)):
        done = command(tmp_path, "evaluate", *model, "--gallery", "faces.npz", "--probes", "faces")
        assert done.returncode == 0, done.stderr
    bare = "model: {name: plugin_net}\ndata: {source: synthetic}\nrun_dir: other\n"
    (folder / "bare.yaml").write_text(bare)
    done = command(tmp_path, "train", "settings/bare.yaml")
    assert done.returncode == 2
    assert "for one of your own, set plugins to the module or .py file" in done.stderr


@pytest.mark.slow
def test_an_installed_distribution_is_found_by_the_names_that_it_registers(tmp_path: Path) -> None:
    site = tmp_path / "site"
    install(site, "own-faces", "plugin_dist", PLUGIN)
    config = tmp_path / "config.yaml"
    config.write_text(CONFIG.replace("plugins: [./plugin_own.py]\n", ""))
    done = command(tmp_path, "train", "config.yaml", path=site)
    assert done.returncode == 0, done.stderr
    # One that is broken.
    (site / "plugin_dist.py").write_text("import plugin_none\n")
    flags = ("--data.source", "synthetic", "--overwrite")
    done = command(tmp_path, "train", "config.yaml", *flags, path=site)
    assert done.returncode == 2
    assert "the plugin 'own-faces' of own-faces 1.2 cannot be imported: " in done.stderr
    assert done.stderr.count("\n") == 1
