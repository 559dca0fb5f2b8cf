"""From a folder as people have them to a run: checked, reported, trained on without what is bad."""

import multiprocessing
import struct
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from centerarc.cli.data.check import check
from centerarc.training import train
from tests.curate.pictures import save, scene
from tests.training.helpers import make_config


def encoded(pixels: np.ndarray, kind: str = "JPEG", mode: str | None = None) -> bytes:
    buffer = BytesIO()
    picture = PIL.Image.fromarray(pixels)
    (picture.convert(mode) if mode else picture).save(buffer, kind)
    return buffer.getvalue()


def huge_png() -> bytes:
    """A header that promises 50,000 x 50,000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + checksum

    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    end = chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + end


@pytest.fixture
def spoilt(tmp_path: Path) -> Path:
    root = tmp_path / "spoilt"
    for person in range(4):
        for number in range(4):
            save(root / f"Person {person}" / f"{number}.jpg", scene(10 * person + number, 64))
    good = (root / "Person 0" / "0.jpg").read_bytes()
    png = encoded(scene(77, 64), "PNG")
    deep = scene(62, 64).astype(np.uint16).sum(axis=2, dtype=np.uint16) * 85
    bad = {
        "empty.jpg": b"",
        "text.jpg": b"Not a picture, although its name says so.",
        "cut.jpg": encoded(scene(50, 64))[:-300],
        "cut.png": png[: len(png) // 2],
        "huge.png": huge_png(),
        "blank.png": encoded(np.full((64, 64, 3), 9, np.uint8), "PNG"),
        "someone else.jpg": (root / "Person 2" / "1.jpg").read_bytes(),
    }
    for name, data in bad.items():
        (root / "Person 1" / name).write_bytes(data)
    unusual = {
        "cmyk.jpg": encoded(scene(60, 64), mode="CMYK"),
        "grey.png": encoded(scene(61, 64), "PNG", mode="L"),
        "16bit.png": encoded(deep, "PNG"),
        "same again.jpg": good,
        "wrong name.png": encoded(scene(63, 64)),
    }
    for name, data in unusual.items():
        (root / "Person 0" / name).write_bytes(data)
    (root / "Person 3" / "notes.txt").write_text("hello")
    (root / "Person 3" / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    (root / "stray.jpg").write_bytes(good)
    return root


@pytest.mark.filterwarnings("error:.*takes its place")
def test_a_folder_of_every_bad_kind_is_checked_and_trained_on_without_it(
    spoilt: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    problems = tmp_path / "problems.csv"
    assert check(spoilt, problems=problems, workers=0) == 1
    named = problems.read_text(encoding="utf-8")
    for bad in ("empty.jpg", "text.jpg", "cut.jpg", "cut.png", "huge.png", "blank.png"):
        assert f"Person 1/{bad}," in named
    assert "Person 1/someone else.jpg," in named
    assert "Person 2/1.jpg," in named
    for good in ("cmyk.jpg", "16bit.png", "same again.jpg", "wrong name.png", "grey.png"):
        assert good not in named
    shown = capsys.readouterr().out
    assert "duplicate across identities" in shown
    data = {"leave_out": problems}
    config = make_config(tmp_path / "run", spoilt, data=data, schedule={"epochs": 2}, batch_size=4)
    # The warning about an image that could not be read is an error here: there is none.
    result = train(config)
    assert result.summary["train_identities"] == 4
    assert result.summary["train_images"] == 16 + 5 - 1


def test_a_run_that_fails_while_it_reads_leaves_no_process(spoilt: Path, tmp_path: Path) -> None:
    for path in (spoilt / "Person 2").iterdir():
        path.write_bytes(path.read_bytes()[:-200])
    config = make_config(tmp_path / "run", spoilt, batch_size=16, workers=2)
    before = set(multiprocessing.active_children())  # of other tests
    with pytest.raises(ValueError, match="no image of identity 'Person 2' can be read") as error:
        train(config)
    # The error's traceback still holds what reads from the workers.
    assert error.traceback
    assert not set(multiprocessing.active_children()) - before
