"""``centerarc embed`` and ``centerarc export`` as a user meets them."""

import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from centerarc.cli import main
from centerarc.evaluation import read_embeddings
from centerarc.losses.head.products import CPU_HAS_BFLOAT16
from centerarc.models import backbone as registry
from centerarc.models import create_model, save_weights
from tests.cli.test_evaluate import closed_stdout
from tests.commands import Command
from tests.curate.pictures import many, picture
from tests.models.tiny import left_means, tiny
from tests.training.helpers import Tiny


@pytest.fixture
def files(tmp_path: Path) -> Path:
    many(tmp_path / "faces", people=3, images=4)
    (tmp_path / "faces" / "p1" / "2.jpg").write_bytes(picture(1)[:-200])
    tiny(tmp_path / "m.onnx", ("n", 3, "h", "w"))
    model = create_model("mobilefacenet_small", embedding_size=8, image_size=32)
    save_weights(tmp_path / "w.safetensors", model)
    return tmp_path


def run(*words: object) -> int:
    with pytest.raises(SystemExit) as stop:
        main([str(word) for word in words])
    assert isinstance(stop.value.code, int)
    return stop.value.code


@pytest.mark.skipif(not CPU_HAS_BFLOAT16, reason="the processor has no such instructions")
def test_weights_embed_in_bfloat16_and_the_file_says_so(files: Path) -> None:
    words = ["embed", files / "faces", "--model", files / "w.safetensors", "--workers", 0]
    assert run(*words, "-o", files / "e.npz") == 0
    assert run(*words, "-o", files / "half.npz", "--precision", "bf16") == 0
    whole, half = read_embeddings(files / "e.npz"), read_embeddings(files / "half.npz")
    assert half.metadata["features"] == "bfloat16"
    assert "features" not in whole.metadata
    one, other = whole.embedding, half.embedding
    assert 1e-4 < np.linalg.norm(one - other) / np.linalg.norm(one) < 0.1


def test_bfloat16_is_not_for_onnx_files(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["embed", files / "faces", "--model", files / "m.onnx", "-o", files / "e.npz"]
    assert run(*words, "--precision", "bf16") == 2
    assert "ONNX files compute in their own" in capsys.readouterr().err


def test_any_onnx_model_embeds_a_folder(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--size", 4, "--mean", "10,20,30", "--std", "2", "--channels", "bgr"]
    out = files / "e.parquet"
    words = ["embed", files / "faces", "--model", files / "m.onnx", "-o", out, *flags]
    assert run(*words, "--workers", 0) == 0
    shown = capsys.readouterr().out.replace("\n", "")
    assert "left out: damaged" in shown
    assert "images a second" in shown
    assert "left-out.csv" in shown
    found = read_embeddings(out)
    assert len(found) == 11
    assert found.metadata["preprocessing"] == {
        "image_size": 4,
        "mean": [10, 20, 30],
        "std": [2, 2, 2],
        "channels": "bgr",
        "layout": "nchw",
    }
    from centerarc.data import FolderSource

    image = FolderSource(files / "faces", image_size=4).image(0)
    expected = left_means(image[None, ..., ::-1], (10, 20, 30), (2, 2, 2))
    np.testing.assert_allclose(found.embedding[:1], expected, rtol=1e-5)


def embedded(files: Path, name: str, *flags: object) -> np.ndarray:
    """What the command makes of the folder without its damaged image."""
    (files / "faces" / "p1" / "2.jpg").unlink(missing_ok=True)
    words = ["embed", files / "faces", "--model", files / "m.onnx", "-o", files / name, *flags]
    assert run(*words, "--mean", 0, "--std", 1, "--workers", 0) == 0
    return read_embeddings(files / name).embedding


def test_forms_that_a_file_does_not_tell_are_flags(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from centerarc.data import FolderSource

    source = FolderSource(files / "faces", image_size=8)
    found = embedded(files, "e.npz", "--size", "8x6")
    expected = source.image(0)[None, :, 1:7][:, :, :2].mean(axis=(1, 2))
    np.testing.assert_allclose(found[:1], expected, rtol=1e-5)
    tiny(files / "m.onnx", ("n", 3, "h", "w"), second_input=True)
    more = embedded(files, "more.npz", "--size", "8x6", "--constant", "more=1,2,3")
    np.testing.assert_allclose(more, found + np.array([1, 2, 3]), rtol=1e-6)
    for words, message in (
        (["--size", "8x6"], "--constant must give all but the images, such as more=0"),
        (["--size", "8x6", "--constant", "more"], "--constant must be NAME=NUMBER"),
        (["--size", "8by6"], "--size must be a number of pixels, or height x width"),
    ):
        assert (
            run("embed", files / "faces", "--model", files / "m.onnx", "-o", "x.npz", *words) == 2
        )
        assert message in capsys.readouterr().err


def test_mirror_images_are_concatenated_and_a_mean_is_subtracted(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = embedded(files, "e.npz", "--size", 4)
    both = embedded(files, "both.npz", "--size", 4, "--concat-mirror")
    summed = embedded(files, "sum.npz", "--size", 4, "--mirror")
    np.testing.assert_allclose(both[:, :3], plain, rtol=1e-6)
    np.testing.assert_allclose(both[:, :3] + both[:, 3:], summed, rtol=1e-6)
    less = embedded(files, "less.npz", "--size", 4, "--subtract", files / "e.npz")
    np.testing.assert_allclose(less, plain - plain.mean(axis=0), rtol=1e-4, atol=1e-4)
    words = ["--concat-mirror", "--subtract", files / "both.npz"]
    less = embedded(files, "bothless.npz", "--size", 4, *words)
    np.testing.assert_allclose(less, both - both.mean(axis=0), rtol=1e-4, atol=1e-4)
    command = ["evaluate", files / "m.onnx", "--size", 4, "--mean", 0, "--std", 1, "--workers", 0]
    command += ["--gallery", files / "e.npz", "--probes", files / "faces", "--resamples", 0]
    assert run(*command) == 0
    capsys.readouterr()
    for flags, message in (
        (
            ["--subtract", files / "e.npz"],
            "are of different features (as they are and less the mean",
        ),
        (["--subtract", files / "sum.npz"], "differ in mirror: True, here False"),
        (["--mirror", "--concat-mirror"], "--mirror must not be given with --concat-mirror"),
    ):
        assert run(*command, *flags) == 2
        assert message in capsys.readouterr().err
    assert run("evaluate", "--gallery", files / "e.npz", "--probes", files / "less.npz") == 2
    assert "are of different features" in capsys.readouterr().err


def test_a_run_embeds_too_and_a_second_time_only_when_told(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["embed", files / "faces", "--model", files / "w.safetensors", "--mirror"]
    words += ["-o", files / "e.npz", "--device", "cpu", "--workers", 0]
    assert run(*words) == 0
    assert read_embeddings(files / "e.npz").embedding.shape == (11, 8)
    capsys.readouterr()
    assert run(*words) == 2
    assert "exists already; --overwrite replaces it" in capsys.readouterr().err
    assert run(*words, "--overwrite") == 0


def test_the_file_is_there_though_no_one_reads_what_is_printed(
    files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed_stdout(monkeypatch)
    words = ["embed", files / "faces", "--model", files / "w.safetensors", "--workers", 0]
    assert run(*words, "-o", files / "e.npz") != 0
    assert len(read_embeddings(files / "e.npz")) == 11


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model", "w.safetensors", "-o", "e.csv"], "must end in .parquet or .npz"),
        (["--model", "gone.onnx", "-o", "e.npz"], "there is no model"),
        (["--model", "m.onnx", "-o", "e.npz"], "leaves the size of the images open"),
        (["--model", "m.onnx", "-o", "e.npz", "--mean", "a"], "--mean must be one number or three"),
        (["--model", "m.onnx", "-o", "e.npz", "--channels", "xyz"], "channels"),
        (["--model", "w.safetensors", "-o", "e.npz", "--layout", "nchw"], "--layout is for ONNX"),
        (["--model", "w.safetensors"], "--out"),
    ],
)
def test_wrong_input_is_one_line_and_exit_2(
    files: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(files)
    assert run("embed", "faces", *words) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not list(files.glob("e.*"))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_ctrl_c_says_how_to_go_on_and_the_command_does(files: Path) -> None:
    many(files / "more", people=20, images=20)
    words = ["embed", files / "more", "--model", files / "w.safetensors", "-o", files / "e.npz"]
    work = files / ".e.npz.centerarc-embed"
    with Command(*map(str, words), "--batch-size", "1", "--workers", "1") as process:
        while not (work / "request.json").exists():
            assert process.poll() is None
        process.signal_all(signal.SIGINT)
        _, error = process.communicate()
    assert process.returncode == 130
    assert "the same command resumes" in error
    assert "Traceback" not in error
    assert not (files / "e.npz").exists()
    assert run(*words, "--workers", 0) == 0
    assert len(read_embeddings(files / "e.npz")) == 400
    assert not work.exists()


@pytest.mark.slow
def test_an_exported_run_is_a_model_for_the_other_commands(
    files: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # How the families' own layers export is a test of theirs, and takes ten times as long.
    monkeypatch.setitem(registry._BUILDERS, "tiny", Tiny)
    model = create_model("tiny", embedding_size=8, image_size=32)
    save_weights(files / "tiny.safetensors", model)
    (files / "faces" / "p1" / "2.jpg").unlink()
    out = files / "model.onnx"
    words = ["export", files / "tiny.safetensors", "-o", out]
    assert run(*words, "--images", files / "faces") == 0
    shown = capsys.readouterr().out
    for word in ("largest difference, 1 at a time", "largest difference, 11 at", "(N, 3, 32, 32)"):
        assert word in shown
    made = []
    for name in ("tiny.safetensors", "model.onnx"):
        file = files / f"{name}.npz"
        words = ["embed", files / "faces", "--model", files / name, "-o", file, "--workers", 0]
        assert run(*words) == 0
        made.append(read_embeddings(file))
    np.testing.assert_allclose(made[0].embedding, made[1].embedding, rtol=1e-3, atol=1e-7)
    assert made[0].places == made[1].places


def test_without_images_drawn_faces_are_compared_on() -> None:
    from centerarc.cli.models import _samples

    samples, words = _samples(None, 32)
    assert words == "drawn faces"
    assert (samples.dtype, samples.shape) == (np.uint8, (16, 32, 32, 3))
    assert len({image.tobytes() for image in samples}) == 16


def test_what_cannot_be_exported_is_one_line(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(create_model("mobilefacenet_small").state_dict(), files / "public.pth")
    for words, message in (
        ([files / "m.onnx", "-o", files / "n.onnx", "--size", 4], "is an ONNX file already"),
        ([files / "w.safetensors", "-o", files / "n.pt"], "--out must end in .onnx"),
        ([files / "public.pth", "-o", files / "n.onnx"], "give its architecture"),
        ([files / "w.safetensors", "-o", files / "n.onnx", "--opset", 9], "opset is 9"),
    ):
        assert run("export", *words) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
    assert not list(files.glob("n.*"))
