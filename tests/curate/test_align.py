"""A folder of photos becomes aligned faces; nothing is lost, done twice or overwritten."""

import csv
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import PIL.Image
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from centerarc.curate import AlignmentSummary, YuNetDetector, align_folder, read_landmarks
from centerarc.curate.align import (
    COLUMNS,
    JOURNAL_NAME,
    Journal,
    Row,
    read_journal,
    read_report,
    write_report,
)
from centerarc.data import FolderSource, read_image
from centerarc.data.alignment import apply_transform, arcface_template
from centerarc.data.synthetic import SyntheticFaces
from tests.curate.blob_model import OFFSETS, build, photo
from tests.curate.pictures import XY, save, write_landmarks


def placed(
    face: np.ndarray, degrees: float, scale: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """A photo with an aligned face put into it under a known similarity, and its landmarks."""
    angle = np.deg2rad(degrees)
    c, s = scale * np.cos(angle), scale * np.sin(angle)
    matrix = np.array([[c, -s, 0], [s, c, 0]])
    middle = np.array([400, 350]) + np.random.default_rng(seed).uniform(-20, 20, 2)
    matrix[:, 2] = middle - matrix[:, :2] @ [55.5, 55.5]
    image = cv2.warpAffine(
        face, matrix, (800, 700), flags=cv2.INTER_CUBIC, borderValue=(60, 70, 80)
    )
    return np.asarray(image, np.uint8), apply_transform(matrix, arcface_template())


def psnr(found: np.ndarray, original: np.ndarray) -> float:
    """Of the inside, in decibels: the outermost pixels touch the background."""
    error = (found.astype(np.float64) - original)[6:-6, 6:-6]
    return float(10 * np.log10(255**2 / (error**2).mean()))


def report(out: Path) -> list[dict[str, str]]:
    with open(
        out / "alignment.csv", newline="", encoding="utf-8", errors="surrogateescape"
    ) as file:
        return list(csv.DictReader(file))


def files(out: Path) -> list[str]:
    return sorted(p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file())


def faces(out: Path) -> list[str]:
    return [name for name in files(out) if not name.startswith("alignment.")]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("detector") / "blobs.onnx")


SCENES = [(0.0, 1.0), (25.0, 1.6), (-38.0, 3.3), (170.0, 4.7)]


def test_faces_come_back_as_they_were_before_they_were_turned(tmp_path: Path) -> None:
    source = SyntheticFaces(num_identities=2, images_per_identity=2, image_size=112)
    rows, originals = [], {}
    for index, (degrees, scale) in enumerate(SCENES):
        image, points = placed(source.image(index), degrees, scale, index)
        name = f"p{source.labels[index]}/{index}"
        save(tmp_path / "photos" / f"{name}.png", image)
        rows.append((f"{name}.png", points))
        originals[name] = source.image(index)
    table = read_landmarks(write_landmarks(tmp_path / "l.csv", rows))
    summary = align_folder(tmp_path / "photos", tmp_path / "out", table, workers=0)
    assert summary.counts == {"aligned": 4}
    aligned = FolderSource(tmp_path / "out")  # as training will see it
    assert len(aligned) == 4
    assert aligned.identities == ["p0", "p1"]
    for name, original in originals.items():
        found = read_image(tmp_path / "out" / f"{name}.jpg")
        assert found.shape == (112, 112, 3)
        assert psnr(found, original) > 29  # the rest is grain, which interpolation smooths
        for axis in (0, 1):  # a shift of one pixel would be seen
            for shift in (-1, 1):
                assert psnr(np.roll(found, shift, axis), original) < psnr(found, original) - 4
    for row, (degrees, scale) in zip(report(tmp_path / "out"), SCENES, strict=True):
        assert float(row["scale"]) == pytest.approx(1 / scale), degrees


def test_a_photo_turned_by_its_camera_is_upright_first(tmp_path: Path) -> None:
    source = SyntheticFaces(num_identities=2, images_per_identity=1, image_size=112)
    image, points = placed(source.image(0), 10, 2, 0)
    exif = PIL.Image.Exif()
    exif[0x0112] = 6  # to be shown turned by a quarter clockwise
    path = tmp_path / "photos" / "a" / "1.png"
    path.parent.mkdir(parents=True)
    PIL.Image.fromarray(np.rot90(image)).save(path, exif=exif)
    table = read_landmarks(write_landmarks(tmp_path / "l.csv", [("a/1.png", points)]))
    align_folder(tmp_path / "photos", tmp_path / "out", table, workers=0, format="png")
    assert psnr(read_image(tmp_path / "out" / "a" / "1.png"), source.image(0)) > 29


def test_landmarks_of_other_photos_are_refused_and_earlier_faces_stay(tmp_path: Path) -> None:
    root, out = tmp_path / "photos", tmp_path / "out"
    save(root / "ann" / "1.png", np.full((300, 300, 3), 90, np.uint8))
    points = arcface_template() * 2 + 20
    table = read_landmarks(write_landmarks(tmp_path / "l.csv", [("ann/1.png", points)]))
    align_folder(root, out, table, workers=0)
    for name in ("ann/2", "1.png", "photos/ann/1.png"):
        other = read_landmarks(write_landmarks(tmp_path / "other.csv", [(name, points)]))
        with pytest.raises(ValueError, match=rf"such as 'ann/1\.png'; none of 1 .* is '{name}'"):
            align_folder(root, out, other, workers=0)
        with pytest.raises(ValueError, match="landmarks must name photos"):
            align_folder(root, tmp_path / "new", other, workers=0)
    assert faces(out) == ["ann/1.jpg"]
    assert not (tmp_path / "new").exists()


def test_a_report_from_before_detectors_were_named_is_resumed(tmp_path: Path) -> None:
    root, out = tmp_path / "photos", tmp_path / "out"
    save(root / "ann" / "1.png", np.full((300, 300, 3), 90, np.uint8))
    rows = [("ann/1.png", arcface_template() * 2 + 20)]
    table = read_landmarks(write_landmarks(tmp_path / "l.csv", rows))
    align_folder(root, out, table, workers=0)
    old = [{k: v for k, v in row.items() if k != "detector"} for row in report(out)]
    with open(out / "alignment.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, old[0])
        writer.writeheader()
        writer.writerows(old)
    assert align_folder(root, out, table, workers=0).unchanged == 1
    assert [*report(out)[0]] == COLUMNS


def test_a_detector_finds_the_faces_and_every_photo_is_accounted_for(
    tmp_path: Path, model: Path
) -> None:
    root, out = tmp_path / "photos", tmp_path / "out"
    save(root / "ann" / "1.png", photo(300, 200, (150.4, 100.2)))
    save(root / "ann" / "2.png", photo(300, 200))
    save(root / "bob" / "deep" / "3.png", photo(400, 200, (100, 100), (300, 100)))
    save(root / "top.png", photo(300, 200, (140, 90)))
    (root / "bob" / "broken.jpg").write_bytes(b"\xff\xd8\xffno picture")
    (root / "bob" / "notes.txt").write_text("x")
    detector = YuNetDetector(model)
    summary = align_folder(root, out, detector, faces="only", workers=0)
    sha256 = hashlib.sha256(model.read_bytes()).hexdigest()
    named = {row["detector"] for row in report(out) if row["status"] == "aligned"}
    assert named == {f"blobs.onnx {sha256[:12]}"}
    assert faces(out) == ["ann/1.jpg", "top.jpg"]
    statuses = {row["path"]: row["status"] for row in report(out)}
    assert statuses == {
        "ann/1.png": "aligned",
        "ann/2.png": "no face",
        "bob/broken.jpg": "unreadable",
        "bob/deep/3.png": "several faces",
        "top.png": "aligned",
    }
    assert (summary.photos, summary.faces, summary.others, summary.unchanged) == (5, 2, 1, 0)
    assert sum(summary.counts.values()) == 5
    [row] = [row for row in report(out) if row["path"] == "ann/1.png"]
    points = np.array([float(row[name]) for name in XY]).reshape(5, 2)
    np.testing.assert_allclose(points, OFFSETS + np.array([150.4, 100.2]), atol=0.02)
    assert float(row["score"]) > 0.6
    # The blob, the "nose" of these faces, lies on the template's nose.
    image = read_image(out / "ann" / "1.jpg").astype(np.float64)
    red = np.clip(image[..., 0] - image[..., 1] - 40, 0, None)
    y, x = np.mgrid[:112, :112]
    at = np.array([(x * red).sum(), (y * red).sum()]) / red.sum()
    assert np.abs(at - arcface_template()[2]).max() < 0.5


def test_all_faces_of_a_photo_get_names_of_their_own(tmp_path: Path, model: Path) -> None:
    root, out = tmp_path / "photos", tmp_path / "out"
    save(root / "a" / "1.png", photo(500, 200, (100, 100), (250, 100), (400, 100)))
    save(root / "a" / "1.bmp", photo(300, 200, (100, 100)))
    save(root / "b" / "1.png", photo(400, 200, (100, 100), (300, 100)))
    save(root / "b" / "1-2.png", photo(300, 200, (100, 100)))
    align_folder(root, out, YuNetDetector(model), faces="all", workers=0)
    assert faces(out) == [
        "a/1.jpg",
        "a/1.png-2.jpg",
        "a/1.png-3.jpg",
        "a/1.png.jpg",
        "b/1--2.jpg",
        "b/1-2.jpg",
        "b/1.jpg",
    ]
    rows = report(out)
    assert sorted(row["aligned"] for row in rows) == faces(out)
    assert [row["face"] for row in rows if row["path"] == "a/1.png"] == ["1", "2", "3"]


def test_landmarks_without_photos_and_photos_without_landmarks_are_reported(
    tmp_path: Path,
) -> None:
    root, out = tmp_path / "photos", tmp_path / "out"
    good = arcface_template() * 2 + 30
    for name in ("1", "2", "3", "4", "5"):
        save(root / f"{name}.png", np.full((300, 300, 3), 90, np.uint8))
    rows = [
        ("1.png", good),
        ("3.png", good[[1, 0, 2, 4, 3]]),
        ("4.png", arcface_template() / 4 + 50),
        ("5.png", good + 2000),
        ("6.png", good),
    ]
    table = read_landmarks(write_landmarks(tmp_path / "l.csv", rows))
    align_folder(root, out, table, workers=0, min_face=40)
    found = {row["path"]: (row["status"], row["reason"]) for row in report(out)}
    assert found["1.png"] == ("aligned", "")
    assert found["2.png"][0] == "no landmarks"
    assert found["3.png"][0] == "bad landmarks"
    assert "swapped" in found["3.png"][1]
    assert found["4.png"] == (
        "too small",
        "a square of 28.0 pixels; at least 40 are asked for",
    )
    assert found["5.png"][0] == "bad landmarks"
    assert "outside" in found["5.png"][1]
    assert found["6.png"][0] == "no photo"


def test_faces_go_to_the_identity_that_the_landmarks_name(tmp_path: Path) -> None:
    root, out = tmp_path / "photos", tmp_path / "out"
    save(root / "party" / "1.png", np.full((300, 600, 3), 90, np.uint8))
    good = arcface_template() * 2
    rows = [("party/1.png", good), ("party/1.png", good + np.array([300, 10]))]
    who = ("identity", ["Ann Lee", "Bob"])
    table = read_landmarks(write_landmarks(tmp_path / "l.csv", rows, who))
    align_folder(root, out, table, workers=0)
    assert faces(out) == ["Ann Lee/party_1.jpg", "Bob/party_1.jpg"]
    # The second was not Bob at all: nothing of his may stay among the training data.
    who = ("identity", ["Ann Lee", "Cyd"])
    table = read_landmarks(write_landmarks(tmp_path / "l.csv", rows, who))
    align_folder(root, out, table, workers=0)
    assert faces(out) == ["Ann Lee/party_1.jpg", "Cyd/party_1.jpg"]


@pytest.fixture
def album(tmp_path: Path) -> tuple[Path, Path, Path]:
    """30 photos with odd names in 3 folders, their landmarks, and a place for the faces."""
    root = tmp_path / "photos"
    rows = []
    for number in range(30):
        name = ["plain", "with space, comma", "ünï\udcff\nline"][number % 3] + f"/{number}.png"
        save(root / name, np.full((60, 70, 3), number, np.uint8))
        rows.append((name, arcface_template(50) + 5))
    return root, write_landmarks(tmp_path / "l.csv", rows), tmp_path / "out"


def stamps(out: Path) -> dict[str, int]:
    return {name: (out / name).stat().st_mtime_ns for name in faces(out)}


def test_several_processes_write_the_same_as_one(album: tuple[Path, Path, Path]) -> None:
    root, landmarks, out = album
    seen: list[tuple[int, int]] = []
    table = read_landmarks(landmarks)
    many = align_folder(
        root, out, table, workers=2, progress=lambda done, total: seen.append((done, total))
    )
    one = align_folder(root, out.with_name("one"), table, workers=0)
    assert many.counts == one.counts == {"aligned": 30}
    assert seen[-1] == (30, 30)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert faces(out) == faces(out.with_name("one"))
    for name in files(out):
        assert (out / name).read_bytes() == (out.with_name("one") / name).read_bytes()


def test_a_second_run_does_only_what_is_new_changed_or_gone(
    album: tuple[Path, Path, Path],
) -> None:
    root, landmarks, out = album
    align_folder(root, out, read_landmarks(landmarks), workers=0)
    before = stamps(out)
    first = (out / "alignment.csv").read_bytes()
    again = align_folder(root, out, read_landmarks(landmarks), workers=0)
    assert again.unchanged == 30
    assert again.faces == 30
    assert stamps(out) == before
    assert (out / "alignment.csv").read_bytes() == first

    save(root / "plain" / "0.png", np.full((60, 70, 3), 200, np.uint8))  # changed
    (out / "plain" / "3.jpg").unlink()  # gone
    text = landmarks.read_bytes()
    old = b"plain/6.png," + repr(float(arcface_template(50)[0, 0] + 5)).encode()
    assert old in text
    landmarks.write_bytes(text.replace(old, b"plain/6.png,20.5"))  # other landmarks
    again = align_folder(root, out, read_landmarks(landmarks), workers=0)
    assert again.unchanged == 27
    after = stamps(out)
    changed = {name for name in after if after[name] != before[name]}
    assert changed == {"plain/0.jpg", "plain/3.jpg", "plain/6.jpg"}
    assert read_image(out / "plain" / "0.jpg")[56, 56, 0] == 200


def test_a_photo_taken_away_keeps_its_face_and_its_row(album: tuple[Path, Path, Path]) -> None:
    root, landmarks, out = album
    align_folder(root, out, read_landmarks(landmarks), workers=0)
    (root / "plain" / "0.png").unlink()
    landmarks.write_bytes(landmarks.read_bytes().replace(b"plain/0.png", b"plain/99.png"))
    align_folder(root, out, read_landmarks(landmarks), workers=0)
    rows = {row["path"]: row["status"] for row in report(out)}
    assert rows["plain/0.png"] == "aligned"
    assert rows["plain/99.png"] == "no photo"
    assert "plain/0.jpg" in faces(out)


def test_fewer_faces_than_before_leave_none_behind(tmp_path: Path, model: Path) -> None:
    root, out = tmp_path / "photos", tmp_path / "out"
    save(root / "1.png", photo(500, 200, (100, 100), (250, 100), (400, 100)))
    align_folder(root, out, YuNetDetector(model), faces="all", workers=0)
    assert faces(out) == ["1-2.jpg", "1-3.jpg", "1.jpg"]
    save(root / "1.png", photo(500, 200, (100, 100)))
    align_folder(root, out, YuNetDetector(model), faces="all", workers=0)
    assert faces(out) == ["1.jpg"]


def test_other_settings_do_not_mix_with_what_is_there(album: tuple[Path, Path, Path]) -> None:
    root, landmarks, out = album
    table = read_landmarks(landmarks)
    align_folder(root, out, table, workers=0)
    before = {name: (out / name).read_bytes() for name in files(out)}
    with pytest.raises(ValueError, match=r"holds faces aligned with another size \(112, now 224\)"):
        align_folder(root, out, table, workers=0, size=224)
    with pytest.raises(ValueError, match=r"aligned with another format \(jpg, now png\)"):
        align_folder(root, out, table, workers=0, format="png")
    assert {name: (out / name).read_bytes() for name in files(out)} == before


def test_photos_and_foreign_files_are_never_overwritten(album: tuple[Path, Path, Path]) -> None:
    root, landmarks, out = album
    table = read_landmarks(landmarks)
    before = {name: (root / name).read_bytes() for name in files(root)}
    link = out.with_name("link")
    link.symlink_to(root)
    for place in (root, root / "faces", root / "plain" / "..", root.parent, link / "faces"):
        with pytest.raises(ValueError, match="neither may be in the other"):
            align_folder(root, place, table, workers=0)
    (out / "plain").mkdir(parents=True)
    (out / "plain" / "0.jpg").write_bytes(b"mine")
    with pytest.raises(ValueError, match="is not empty and not from an alignment"):
        align_folder(root, out, table, workers=0)
    assert files(out) == ["plain/0.jpg"]
    assert {name: (root / name).read_bytes() for name in files(root)} == before


def test_a_report_with_paths_outside_removes_nothing_there(
    album: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    root, landmarks, out = album
    align_folder(root, out, read_landmarks(landmarks), workers=0)
    mine = tmp_path / "mine.jpg"
    mine.write_bytes(b"mine")
    path = out / "alignment.csv"
    text = path.read_bytes()
    for place in (b"../mine.jpg", os.fsencode(mine)):
        path.write_bytes(text.replace(b"plain/0.jpg", place))
        align_folder(root, out, read_landmarks(landmarks), workers=0)
        assert mine.read_bytes() == b"mine"


def test_wrong_arguments_are_named_before_anything_is_written(
    album: tuple[Path, Path, Path],
) -> None:
    root, landmarks, out = album
    table = read_landmarks(landmarks)
    wrong = [
        ({"size": 0}, "size must be between 1 and 4096 pixels, got 0"),
        ({"size": 100_000}, "size must be between 1 and 4096 pixels, got 100000"),
        ({"faces": "biggest"}, "faces must be one of .* got 'biggest'"),
        ({"faces": "score"}, "some landmarks have no score"),
        ({"min_face": float("nan")}, "min_face must be .* got nan"),
        ({"min_face": float("inf")}, "min_face must be .* got inf"),
        ({"format": "gif"}, "format must be one of jpg, png, got 'gif'"),
        ({"workers": -1}, "workers must be .* got -1"),
    ]
    for options, message in wrong:
        with pytest.raises(ValueError, match=message):
            align_folder(root, out, table, **options)  # type: ignore[arg-type]
    assert not out.exists()


def test_a_foreign_report_is_refused(album: tuple[Path, Path, Path]) -> None:
    root, landmarks, out = album
    align_folder(root, out, read_landmarks(landmarks), workers=0)
    (out / "alignment.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match=r"alignment\.csv, line 1: this is not the report of"):
        align_folder(root, out, read_landmarks(landmarks), workers=0)
    (out / "alignment.json").write_text("[1")
    with pytest.raises(ValueError, match="is not what an alignment wrote"):
        align_folder(root, out, read_landmarks(landmarks), workers=0)


PROGRAM = """
import sys
from centerarc.curate import align_folder, read_landmarks
root, landmarks, out, workers = sys.argv[1:]
def told(done, total):
    print(done, total, flush=True)
    if done >= total // 3:
        input()  # waits here until it is stopped
align_folder(root, out, read_landmarks(landmarks), workers=int(workers), progress=told)
"""


def stopped(album: tuple[Path, Path, Path], number: int, workers: int) -> tuple[int, str]:
    """Runs until a third is done and sends a signal to it and all its processes, as a terminal."""
    root, landmarks, out = album
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *map(str, (root, landmarks, out, workers))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    while int(process.stdout.readline().split()[0]) < 10:
        pass
    time.sleep(0.2)
    os.killpg(process.pid, number)
    _, errors = process.communicate(timeout=60)
    return process.returncode, errors


def goes_on(album: tuple[Path, Path, Path]) -> AlignmentSummary:
    root, landmarks, out = album
    for name in faces(out):  # complete or absent, never a part, never a temporary file
        if not name.startswith("."):
            assert read_image(out / name).shape == (112, 112, 3)
    before = stamps(out)
    summary = align_folder(root, out, read_landmarks(landmarks), workers=0)
    assert summary.faces == 30
    kept = {row["aligned"] for row in report(out)} & before.keys()
    assert sum(stamps(out)[name] == before[name] for name in kept) >= summary.unchanged
    return summary


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize("workers", [0, 2])
def test_ctrl_c_ends_cleanly_and_the_next_run_goes_on(
    album: tuple[Path, Path, Path], workers: int
) -> None:
    _, errors = stopped(album, signal.SIGINT, workers)
    assert errors.strip().endswith("KeyboardInterrupt")
    assert errors.count("Traceback") == 1  # of the main process: no worker speaks
    out = album[2]
    assert not (out / ".alignment-unfinished.csv").exists()
    assert len(report(out)) >= 10
    assert goes_on(album).unchanged >= 10


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_a_killed_run_keeps_what_it_had_done(album: tuple[Path, Path, Path]) -> None:
    stopped(album, signal.SIGKILL, 0)
    out = album[2]
    assert not (out / "alignment.csv").exists()
    with open(out / ".alignment-unfinished.csv", "ab") as file:
        file.write(b'"plain/27.png,,ali')  # cut off while it was written
    assert goes_on(album).unchanged >= 9
    assert not (out / ".alignment-unfinished.csv").exists()


def test_a_face_that_cannot_be_written_ends_the_run_and_not_the_report(
    album: tuple[Path, Path, Path],
) -> None:
    root, landmarks, out = album
    align_folder(root, out, read_landmarks(landmarks), workers=0)
    (out / "plain" / "0.jpg").unlink()
    (out / "plain" / "0.jpg").mkdir()  # stands for anything that cannot be written over
    with pytest.raises(ValueError, match=r"plain/0\.jpg'?.*a folder"):
        align_folder(root, out, read_landmarks(landmarks), workers=0)
    assert len(report(out)) == 30


@pytest.mark.skipif(sys.platform == "win32", reason="limits of POSIX")
def test_a_full_disk_is_one_line_that_names_the_file(album: tuple[Path, Path, Path]) -> None:
    root, landmarks, out = album
    # No file may grow beyond 500 bytes: writing the first face fails as on a full disk.
    code = "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
    code += "import sys; from centerarc.curate import align_folder, read_landmarks\n"
    code += "resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500))\n"
    code += "align_folder(sys.argv[1], sys.argv[3], read_landmarks(sys.argv[2]), workers=0)"
    done = subprocess.run(
        [sys.executable, "-c", code, str(root), str(landmarks), str(out)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "OSError: cannot write " in done.stderr
    assert "0.jpg': File too large" in done.stderr
    assert faces(out) == []


def test_settings_are_written_down(album: tuple[Path, Path, Path], model: Path) -> None:
    root, _, out = album
    align_folder(root, out, YuNetDetector(model, min_score=0.7), size=96, workers=0)
    settings = json.loads((out / "alignment.json").read_text())
    assert settings["size"] == 96
    assert settings["min_score"] == 0.7
    assert settings["faces_from"].startswith("detector ")


# The report and the journal.


texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12)
rows = st.fixed_dictionaries(dict.fromkeys(COLUMNS, texts))


@given(st.lists(rows, max_size=4))
@settings(deadline=None)
def test_every_row_comes_back_as_it_was(
    tmp_path_factory: pytest.TempPathFactory, given_rows: list[Row]
) -> None:
    path = tmp_path_factory.mktemp("report") / "alignment.csv"
    write_report(path, given_rows)
    assert read_report(path) == given_rows


def row(path: str, face: int) -> Row:
    more = {"path": path, "status": "aligned", "face": str(face), "aligned": f"{path}-{face}"}
    return dict.fromkeys(COLUMNS, "") | more


@pytest.mark.parametrize("cut", range(0, 120, 7))
def test_a_journal_cut_anywhere_gives_only_whole_photos(tmp_path: Path, cut: int) -> None:
    journal = Journal(tmp_path)
    for name in ("a", "odd\n,b", "c"):
        journal.add([row(name, face) for face in (1, 2)])
    path = tmp_path / JOURNAL_NAME
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) - cut])
    found = [row["path"] for row in read_journal(tmp_path)]
    assert found in ([], ["a"] * 2, ["a"] * 2 + ["odd\n,b"] * 2)
    # The third has begun, so the second is whole; a cut row tells nothing and counts for none.
    assert cut >= 33 or found == ["a"] * 2 + ["odd\n,b"] * 2
    journal.discard()
    assert read_journal(tmp_path) == []
