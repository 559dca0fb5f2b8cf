"""``centerarc evaluate`` from files to a table and JSON."""

import json
import subprocess
import sys

import numpy as np
import pytest
from cyclopts import App
from PIL import Image

from centerarc.cli.evaluate import evaluate


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Weights of a fresh model, six small people, and pairs of two folds."""
    import torch

    from centerarc.models import create_model, save_weights

    root = tmp_path_factory.mktemp("evaluate")
    rng = np.random.default_rng(0)
    for name in "ABCDEF":
        (root / "faces" / name).mkdir(parents=True)
        base = rng.integers(0, 256, size=(7, 7, 3))
        for number in (1, 2):
            noisy = np.clip(base + rng.integers(-9, 10, size=base.shape), 0, 255).astype(np.uint8)
            image = Image.fromarray(noisy).resize((112, 112), Image.Resampling.BICUBIC)
            image.save(root / "faces" / name / f"{name}_{number:04d}.jpg")
    lines = ["2\t3"]
    for fold in ("ABC", "DEF"):
        lines += [f"{name}\t1\t2" for name in fold]
        lines += [f"{fold[i]}\t1\t{fold[i - 1]}\t2" for i in range(3)]
    (root / "pairs.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    torch.manual_seed(0)
    model = create_model("mobilefacenet", embedding_size=32)
    save_weights(root / "best.safetensors", model)
    return root


def run(files, *more):
    app = App(result_action="return_value")
    app.command(evaluate)
    arguments = ["--images", f"{files}/faces", "--pairs", f"{files}/pairs.txt", "--device", "cpu"]
    app(["evaluate", str(files), *arguments, *more], exit_on_error=False)


def test_a_run_folder_gives_a_table_and_json(files, tmp_path, capsys):
    run(files, "--json", str(tmp_path / "out.json"))
    shown = capsys.readouterr().out
    assert "2 folds" in shown
    assert "EER" in shown
    result = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    assert result["distinct_images"] == 12
    assert (result["num_genuine"], result["num_impostor"], result["num_people"]) == (6, 6, 6)
    assert f"{100 * result['kfold_accuracy']['value']:.2f} %" in shown
    assert result["tar_at_far"]["0.1"]["value"] is None


def test_one_fold_is_called_optimistic(files, tmp_path, capsys):
    run(files, "--folds", "2", "--mirror", "--json", str(tmp_path / "out.json"))
    assert "best accuracy" in capsys.readouterr().out
    result = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    assert "kfold_accuracy" not in result
    assert (result["folds"], result["mirror"], result["distinct_images"]) == ([2], True, 6)


def test_a_public_checkpoint_needs_its_models_name(files, tmp_path, capsys):
    import torch

    from centerarc.models import create_model

    path = tmp_path / "public.pt"
    torch.save(create_model("mobilefacenet").state_dict(), path)
    app = App(result_action="return_value")
    app.command(evaluate)
    arguments = ["--images", f"{files}/faces", "--pairs", f"{files}/pairs.txt"]
    app(["evaluate", str(path), *arguments, "--model", "mobilefacenet"], exit_on_error=False)
    assert "accuracy" in capsys.readouterr().out


def test_folds_that_are_no_numbers_are_refused(files):
    with pytest.raises(ValueError, match="numbers with commas between"):
        run(files, "--folds", "a,b")
    with pytest.raises(ValueError, match=r"some of \[1, 2\]"):
        run(files, "--folds", "3")


def test_the_command_loads_without_torch():
    code = "import sys, centerarc.cli.evaluate; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
