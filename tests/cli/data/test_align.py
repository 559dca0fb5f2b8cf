"""``centerarc data align`` from photos to faces, as a user meets it."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from cyclopts import App

from centerarc.cli import main
from centerarc.cli.data.align import align
from centerarc.curate import yunet
from centerarc.data.alignment import arcface_template
from tests.curate.blob_model import build, photo
from tests.curate.drawn_photos import drawn_photo, needs_carrier
from tests.curate.pictures import save, write_landmarks


def run(*words: object) -> int:
    app = App(result_action="return_value")
    app.command(align, name="align")
    code = app(["align", *map(str, words)], exit_on_error=False, print_error=False)
    assert isinstance(code, int)
    return code


@pytest.fixture
def album(tmp_path: Path) -> Path:
    for number in range(3):
        save(tmp_path / "photos" / "ann" / f"{number}.png", np.full((300, 300, 3), 90, np.uint8))
    rows = [(f"ann/{number}.png", arcface_template() * 2 + 20) for number in range(2)]
    write_landmarks(tmp_path / "l.csv", rows)
    return tmp_path


def test_landmarks_give_faces_a_table_and_where_to_read_more(
    album: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = album / "out"
    words = [album / "photos", "--out", out, "--landmarks", album / "l.csv", "--workers", 0]
    assert run(*words, "--size", 96, "--format", "png") == 0
    shown = capsys.readouterr().out.replace("\n", "")
    assert "aligned faces" in shown
    assert "no landmarks" in shown
    assert "alignment.csv" in shown
    assert PIL.Image.open(out / "ann" / "1.png").size == (96, 96)
    assert not (out / "ann" / "2.png").exists()


def test_a_run_that_aligned_nothing_says_so_and_fails(
    album: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    detector = build(album / "blobs.onnx")
    words = [album / "photos", "--out", album / "out", "--workers", 0, "--detector", detector]
    assert run(*words) == 1
    assert "no face was aligned" in capsys.readouterr().err


def test_a_detector_gives_faces(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(tmp_path / "photos" / "1.png", photo(400, 200, (100, 100), (300, 100)))
    words = [tmp_path / "photos", "--out", tmp_path / "out", "--workers", 0]
    words += ["--detector", build(tmp_path / "blobs.onnx"), "--faces", "all"]
    assert run(*words, "--min-score", 0.5, "--detect-side", 320, "--min-face", 50) == 0
    found = sorted(path.name for path in (tmp_path / "out").glob("*.jpg"))
    assert found == ["1-2.jpg", "1.jpg"]
    assert "not aligned" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--landmarks", "L", "--detector", "L"],
            "give either --landmarks FILE.csv or --detector FILE.onnx",
        ),
        (["--landmarks", "L", "--min-score", "0.5"], "--min-score is for a detector"),
        (["--landmarks", "L", "--detect-side", "320"], "--detect-side is for a detector"),
        (["--landmarks", "L", "--faces", "score"], "some landmarks have no score"),
        (["--detector", "L"], "this is not an ONNX model that OpenCV can read"),
    ],
)
def test_what_does_not_go_together_is_one_error(
    album: Path, words: list[str], message: str
) -> None:
    more = [str(album / "l.csv") if word == "L" else word for word in words]
    with pytest.raises(ValueError, match=message) as caught:
        run(album / "photos", "--out", album / "out", *more)
    assert "\n" not in str(caught.value)
    assert not (album / "out").exists()


def test_without_a_detector_one_line_says_what_to_install(
    album: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(yunet, "find_spec", lambda name: None)
    with pytest.raises(SystemExit) as stop:
        main(["data", "align", str(album / "photos"), "--out", str(album / "out")])
    assert stop.value.code == 2
    assert capsys.readouterr().err == (
        "error: no face detector is installed: pip install 'centerarc[detect]', or give --detector "
        "FILE.onnx (a YuNet model) or --landmarks FILE.csv\n"
    )
    assert not (album / "out").exists()


@needs_carrier
def test_the_installed_detector_is_taken_and_its_settings_are_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(tmp_path / "photos" / "1.png", drawn_photo((90, 60)))
    words = [tmp_path / "photos", "--out", tmp_path / "out", "--workers", 0]
    assert run(*words) == 0
    assert PIL.Image.open(tmp_path / "out" / "1.jpg").size == (112, 112)
    # The same file, named, is the same detector: nothing is left to do.
    assert run(*words, "--detector", yunet.bundled_yunet()) == 0
    assert "done by an earlier run" in capsys.readouterr().out
    with pytest.raises(ValueError, match="another min_score"):
        run(*words, "--min-score", 0.3)


def test_the_command_loads_no_torch_before_it_works() -> None:
    code = "import sys, centerarc.cli.data.align; assert not {'torch', 'cv2'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_wrong_input_is_one_line_and_exit_2(
    album: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    both = ["--landmarks", str(album / "l.csv"), "--detector", str(album / "l.csv")]
    with pytest.raises(SystemExit) as stop:
        main(["data", "align", str(album / "absent"), "--out", str(album / "out"), *both])
    assert stop.value.code == 2
    words = ["--out", str(album / "out"), "--landmarks", str(album / "l.csv")]
    with pytest.raises(SystemExit) as stop:
        main(["data", "align", str(album / "absent"), *words])
    assert stop.value.code == 2
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("error: give either --landmarks")
    assert second.startswith("error: ")
    assert "absent' is not a folder" in second


SLOW = """
import sys, time
import centerarc.curate.align as alignment
from centerarc.cli.data.align import align
from centerarc.curate import yunet
from pathlib import Path
root, landmarks, out = map(Path, sys.argv[1:])
work = alignment.align_folder
def told(*words, progress, **more):
    def slow(done, total):
        progress(done, total)
        print(done, flush=True)
        time.sleep(60)
    return work(*words, progress=slow, **more)
alignment.align_folder = told
sys.exit(align(root, out=out, landmarks=landmarks, workers=0))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_ctrl_c_is_one_line_that_says_how_to_go_on(album: Path) -> None:
    paths = [str(album / name) for name in ("photos", "l.csv", "out")]
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW, *paths],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "1\n"
    os.kill(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert "interrupted; the same command resumes with what is left" in errors
    assert (album / "out" / "alignment.csv").exists()
