"""Plugins from the command line: a file, an installed distribution, and weights of a stranger."""

from pathlib import Path

import pytest

from tests.commands import run
from tests.io.test_plugins import install
from tests.training.helpers import write_faces
from tests.training.test_plugins import CONFIG, PLUGIN


@pytest.mark.slow
def test_a_file_registers_what_a_run_and_its_evaluation_need(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "settings"
    folder.mkdir()
    (folder / "plugin_own.py").write_text(PLUGIN)
    (folder / "config.yaml").write_text(CONFIG)
    done = run("train", "settings/config.yaml", "--run-dir", "run")
    assert done.returncode == 0, done.stderr
    # Nothing that is in the folder of a run is imported unasked.
    write_faces(tmp_path / "faces", people=2, images=1)
    judged = ("embed", "faces", "--model", "run", "-o", "faces.npz", "--workers", "0")
    done = run(*judged)
    assert done.returncode == 2
    plugin = folder / "plugin_own.py"
    assert "unknown model 'plugin_net'" in done.stderr
    assert f"if you trust them, add --plugin {plugin}\n" in done.stderr
    own = ("--plugin", "settings/plugin_own.py")
    done = run(*judged, *own)
    assert done.returncode == 0, done.stderr
    done = run("export", "run", "-o", "run.onnx", *own)
    assert done.returncode == 0, done.stderr
    # Exported, it needs no plugin: its embeddings are those of the run.
    for model in (("run", *own), ("run.onnx",)):
        done = run("evaluate", *model, "--gallery", "faces.npz", "--probes", "faces")
        assert done.returncode == 0, done.stderr
    bare = "model: {name: plugin_net}\ndata: {source: synthetic}\nrun_dir: other\n"
    (folder / "bare.yaml").write_text(bare)
    done = run("train", "settings/bare.yaml")
    assert done.returncode == 2
    assert "for one of your own, set plugins to the module or .py file" in done.stderr


@pytest.mark.slow
def test_an_installed_distribution_is_found_by_the_names_that_it_registers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    site = tmp_path / "site"
    install(site, "own-faces", "plugin_dist", PLUGIN)
    config = tmp_path / "config.yaml"
    config.write_text(CONFIG.replace("plugins: [./plugin_own.py]\n", ""))
    done = run("train", "config.yaml", path=site)
    assert done.returncode == 0, done.stderr
    # One that is broken.
    (site / "plugin_dist.py").write_text("import plugin_none\n")
    flags = ("--data.source", "synthetic", "--overwrite")
    done = run("train", "config.yaml", *flags, path=site)
    assert done.returncode == 2
    assert "the plugin 'own-faces' of own-faces 1.2 cannot be imported: " in done.stderr
    assert done.stderr.count("\n") == 1
