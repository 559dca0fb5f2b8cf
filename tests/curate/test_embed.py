"""A file of embeddings holds what the model gives, row by row, whatever stops it on its way."""

import csv
import errno
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
from torch.utils.data._utils import worker as torch_worker

from centerarc.curate import embed as embed_source
from centerarc.curate import embed_to_file
from centerarc.curate.embed import work_folder
from centerarc.data import FaceSource, FolderSource, create_source, subset
from centerarc.evaluation import read_embeddings
from centerarc.io.jobs import locked_job
from centerarc.models import OpenedModel, Preprocessing
from tests.curate.pictures import many, picture

SIZE = 8


class Looker:
    """Mean of the left half of each channel; counts images, without those it is tried on."""

    image_size = SIZE

    def __init__(self) -> None:
        self.all_seen = 0

    @property
    def seen(self) -> int:
        return max(self.all_seen - 6, 0)  # four together, and one of them twice alone

    def embed(self, images: np.ndarray, *, mirror: bool = False) -> np.ndarray:
        self.all_seen += len(images)
        assert images.shape[1:] == (SIZE, SIZE, 3)
        result = left(images)
        return result + left(images[:, :, ::-1]) if mirror else result


def left(images: np.ndarray) -> np.ndarray:
    """What it gives."""
    return images[:, :, : SIZE // 2].mean(axis=(1, 2), dtype=np.float64).astype(np.float32)


def opened(sha256: str = "ab" * 32, embedder: Looker | None = None) -> OpenedModel:
    """It as a model of a file."""
    looker = Looker() if embedder is None else embedder
    return OpenedModel(Path("looker.onnx"), "onnx", sha256, looker, None, Preprocessing(SIZE))


KINDS = ("parquet", "npz")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return many(tmp_path / "faces", people=4, images=5)


def faces(root: Path) -> FolderSource:
    return FolderSource(root, image_size=SIZE)


def expected(source: FaceSource, numbers: list[int] | None = None) -> np.ndarray:
    chosen = range(len(source)) if numbers is None else numbers
    return left(np.stack([source.image(number) for number in chosen]))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("workers", [0, 2])
def test_rows_are_those_of_the_source(root: Path, tmp_path: Path, kind: str, workers: int) -> None:
    source, out = faces(root), tmp_path / f"e.{kind}"
    seen: list[tuple[int, int]] = []
    report = embed_to_file(
        opened(),
        source,
        out,
        batch_size=8,
        workers=workers,
        progress=lambda done, total: seen.append((done, total)),
    )
    found = read_embeddings(out)
    assert found.places == [source.place(i) for i in range(20)]
    assert found.identities == [source.identities[label] for label in source.labels]
    np.testing.assert_allclose(found.embedding, expected(source), rtol=1e-6)
    assert found.embedding.dtype == np.float32
    assert found.metadata["model"] == "ab" * 32
    assert found.metadata["model_file"] == "looker.onnx"
    assert found.metadata["preprocessing"]["image_size"] == SIZE
    assert (found.metadata["mirror"], found.metadata["left_out"]) == (False, 0)
    assert (report.images, report.identities, report.embedding_size) == (20, 4, 3)
    assert report.left_out_file is None
    assert seen == [(0, 20), (8, 20), (16, 20), (20, 20)]
    assert {path.name for path in tmp_path.iterdir()} == {"faces", out.name}


def test_other_programs_read_it_without_unpickling(root: Path, tmp_path: Path) -> None:
    source = faces(root)
    for kind in KINDS:
        embed_to_file(opened(), source, tmp_path / f"e.{kind}", mirror=True)
    both = expected(source) + left(np.stack([source.image(i)[:, ::-1] for i in range(20)]))
    with np.load(tmp_path / "e.npz", allow_pickle=False) as file:
        assert file["place"][7] == source.place(7)
        assert file["identity"][7] == "p1"
        np.testing.assert_allclose(file["embedding"], both, rtol=1e-6)
    table = pq.read_table(tmp_path / "e.parquet")
    assert str(table.schema.field("embedding").type) == "fixed_size_list<element: float>[3]"
    assert table.column("place").to_pylist() == [source.place(i) for i in range(20)]
    np.testing.assert_allclose(np.array(table.column("embedding").to_pylist()), both, rtol=1e-6)


def test_readers_start_after_this_process_used_opencv(root: Path, tmp_path: Path) -> None:
    # OpenCV's threads do not survive a fork; a reader that touched them would hang.
    threads = cv2.getNumThreads()
    cv2.setNumThreads(4)
    try:
        cv2.warpAffine(np.zeros((999, 999, 3), np.uint8), np.eye(2, 3), (900, 900))
        embed_to_file(opened(), faces(root), tmp_path / "e.npz", workers=2)
        assert cv2.getNumThreads() == 4
    finally:
        cv2.setNumThreads(threads)


@pytest.mark.parametrize("workers", [0, 2])
def test_damaged_images_are_left_out_and_named(root: Path, tmp_path: Path, workers: int) -> None:
    # A whole batch among them.
    for name in ("p0/1", "p1/0", "p1/1", "p1/2", "p1/3"):
        (root / f"{name}.jpg").write_bytes(picture(1)[:-200])
    (root / "p2" / "notes.txt").touch()
    out = tmp_path / "e.npz"
    source = faces(root)
    report = embed_to_file(opened(), source, out, batch_size=2, workers=workers)
    good = [i for i in range(20) if i not in (1, 5, 6, 7, 8)]
    found = read_embeddings(out)
    assert found.places == [source.place(i) for i in good]
    np.testing.assert_allclose(found.embedding, expected(source, good), rtol=1e-6)
    assert report.images == 15
    assert report.left_out == {"damaged": 5, "no image by its extension": 1}
    assert report.left_out_file == tmp_path / "e.npz.left-out.csv"
    with open(report.left_out_file, encoding="utf-8") as file:
        rows = {row["place"]: row for row in csv.DictReader(file)}
    assert set(rows) == {"p2/notes.txt", "p0/1.jpg", "p1/0.jpg", "p1/1.jpg", "p1/2.jpg", "p1/3.jpg"}
    assert rows["p1/2.jpg"]["identity"] == "p1"
    assert rows["p1/2.jpg"]["problem"].startswith("damaged: the JPEG is damaged or cut off")
    assert read_embeddings(out).metadata["left_out"] == 6
    # The next run, with nothing left out, leaves no list of an earlier one.
    (root / "p2" / "notes.txt").unlink()
    for name in ("p0/1", "p1/0", "p1/1", "p1/2", "p1/3"):
        (root / f"{name}.jpg").write_bytes(picture(1))
    embed_to_file(opened(), faces(root), out, overwrite=True)
    assert not report.left_out_file.exists()
    assert len(read_embeddings(out)) == 20


def test_no_sound_image_at_all_is_an_error(root: Path, tmp_path: Path) -> None:
    for path in root.rglob("*.jpg"):
        path.write_bytes(picture(1)[:-200])
    with pytest.raises(ValueError, match=r"no image is left .* all 20 are damaged, .*p3/4\.jpg"):
        embed_to_file(opened(), faces(root), tmp_path / "e.npz")
    assert not (tmp_path / "e.npz").exists()


@pytest.mark.parametrize("workers", [0, 2])
def test_a_file_that_cannot_be_read_stops_it_and_the_same_call_goes_on(
    root: Path, tmp_path: Path, workers: int
) -> None:
    # A share that is gone would otherwise leave out everything.
    source, out = faces(root), tmp_path / "e.npz"
    data = (root / "p2" / "3.jpg").read_bytes()
    (root / "p2" / "3.jpg").unlink()
    with pytest.raises(OSError, match=r"cannot read 'p2/3\.jpg': No such file"):
        embed_to_file(opened(), source, out, batch_size=4, workers=workers)
    assert not out.exists()
    (root / "p2" / "3.jpg").write_bytes(data)


def test_pixels_of_another_size_than_the_model_takes_are_refused(tmp_path: Path) -> None:
    drawn = create_source("synthetic", num_identities=2, images_per_identity=2, image_size=16)
    with pytest.raises(ValueError, match="16 x 16 pixels"):
        embed_to_file(opened(), drawn, tmp_path / "e.npz")


def test_subsets_keep_their_places(root: Path, tmp_path: Path) -> None:
    part = subset(faces(root), ["p2"])
    embed_to_file(opened(), part, tmp_path / "e.npz")
    assert read_embeddings(tmp_path / "e.npz").places == [f"p2/{i}.jpg" for i in range(5)]


def interrupted(root: Path, out: Path, after: int = 12) -> None:
    """Leaves embeddings that were stopped after some images."""

    def stop(done: int, total: int) -> None:
        if done >= after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        embed_to_file(opened(), faces(root), out, batch_size=4, progress=stop)
    assert not out.exists()
    assert work_folder(out).is_dir()


@pytest.mark.parametrize("kind", KINDS)
def test_ctrl_c_loses_nothing(root: Path, tmp_path: Path, kind: str) -> None:
    out, looker = tmp_path / f"e.{kind}", Looker()
    interrupted(root, out)
    seen: list[int] = []
    report = embed_to_file(
        opened(embedder=looker),
        faces(root),
        out,
        batch_size=7,
        progress=lambda done, total: seen.append(done),
    )
    assert looker.seen == report.embedded == 8
    assert seen == [12, 19, 20]
    found = read_embeddings(out)
    np.testing.assert_allclose(found.embedding, expected(faces(root)), rtol=1e-6)
    assert found.places == [faces(root).place(i) for i in range(20)]
    assert not work_folder(out).exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("model", "with another model;"),
        ("mirror", r"with another mirror \(False, now True\)"),
        ("images", r"with another number of images \(20, now 19\)"),
        ("files", "with another state of the source's files;"),
    ],
)
def test_another_request_is_told_what_differs(
    root: Path, tmp_path: Path, change: str, words: str
) -> None:
    out = tmp_path / "e.npz"
    interrupted(root, out)
    before = sorted(path.name for path in work_folder(out).iterdir())
    model = opened("cd" * 32) if change == "model" else opened()
    if change == "images":
        (root / "p0" / "1.jpg").unlink()
    if change == "files":
        (root / "p0" / "1.jpg").write_bytes(picture(77))
    mirror = change == "mirror"
    with pytest.raises(ValueError, match=f"{words}.*--overwrite starts over"):
        embed_to_file(model, faces(root), out, mirror=mirror)
    assert sorted(path.name for path in work_folder(out).iterdir()) == before
    looker = Looker()
    model = opened(model.sha256, looker)
    embed_to_file(model, faces(root), out, mirror=mirror, overwrite=True)
    assert looker.seen == len(faces(root))
    assert len(read_embeddings(out)) == len(faces(root))


def test_a_finished_file_is_replaced_only_when_told(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "e.parquet"
    out.write_bytes(b"mine")
    with pytest.raises(ValueError, match="which exists already; --overwrite replaces it"):
        embed_to_file(opened(), faces(root), out)
    assert out.read_bytes() == b"mine"
    assert not work_folder(out).exists()
    embed_to_file(opened(), faces(root), out, overwrite=True)
    assert len(read_embeddings(out)) == 20


def stopped(root: Path, out: Path, moment: int, number: signal.Signals) -> None:
    """Embeds in a process that gets a signal after some images."""
    here, there = multiprocessing.Pipe(duplex=False)

    class Slow(Looker):
        def embed(self, images: np.ndarray, *, mirror: bool = False) -> np.ndarray:
            time.sleep(0.02)
            return super().embed(images, mirror=mirror)

    def child() -> None:
        # Seconds after which readers of images look whether their process is still there.
        torch_worker.MP_STATUS_CHECK_INTERVAL = 0.1  # type: ignore[attr-defined]
        embed_source._CHUNK_IMAGES = 3
        embed_to_file(
            opened(embedder=Slow()),
            faces(root),
            out,
            batch_size=2,
            workers=2,
            progress=lambda done, total: there.send(done),
        )

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    there.close()
    while here.recv() != moment:
        pass
    assert process.pid is not None
    os.kill(process.pid, number)
    process.join()
    assert process.exitcode != 0


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_killed_at_any_time_the_same_call_goes_on(
    root: Path, tmp_path: Path, number: signal.Signals
) -> None:
    source, out = faces(root), tmp_path / "e.npz"
    for moment in (4, 14):
        stopped(root, out, moment, number)
        assert not out.exists()
    report = embed_to_file(opened(), source, out)
    assert 0 < report.embedded <= 8
    found = read_embeddings(out)
    assert found.places == [source.place(i) for i in range(20)]
    np.testing.assert_allclose(found.embedding, expected(source), rtol=1e-6)
    assert {path.name for path in tmp_path.iterdir()} == {"faces", "e.npz"}


@pytest.mark.skipif(sys.platform == "win32", reason="no locks")
def test_two_runs_do_not_write_one_file(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("centerarc.io.jobs._LOCK_SECONDS", 0.1)
    out = tmp_path / "e.npz"
    with (
        locked_job(work_folder(out), out),
        pytest.raises(ValueError, match="which another process is writing"),
    ):
        embed_to_file(opened(), faces(root), out)
    embed_to_file(opened(), faces(root), out)


@pytest.mark.skipif(sys.platform == "win32", reason="no locks")
@pytest.mark.parametrize("overwrite", [False, True])
def test_another_run_is_kept_out_of_one_that_began_anew(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, overwrite: bool
) -> None:
    monkeypatch.setattr("centerarc.io.jobs._LOCK_SECONDS", 0.1)
    out = tmp_path / "e.npz"
    if overwrite:
        interrupted(root, out)

    class First(Looker):
        def embed(self, images: np.ndarray, *, mirror: bool = False) -> np.ndarray:
            with pytest.raises(ValueError, match="which another process is writing"):
                embed_to_file(opened("ef" * 32), faces(root), out, overwrite=True)
            return super().embed(images, mirror=mirror)

    model = opened("cd" * 32, First())
    embed_to_file(model, faces(root), out, batch_size=7, overwrite=overwrite)
    assert read_embeddings(out).metadata["model"] == "cd" * 32
    np.testing.assert_allclose(read_embeddings(out).embedding, expected(faces(root)), rtol=1e-6)
    assert not work_folder(out).exists()


@pytest.mark.parametrize("content", [b"{bad", b"[1]", b"\xff", b"[" * 100_000])
def test_a_damaged_note_of_what_was_asked_for_is_named_and_overwritten(
    root: Path, tmp_path: Path, content: bytes
) -> None:
    out, looker = tmp_path / "e.npz", Looker()
    interrupted(root, out)
    (work_folder(out) / "request.json").write_bytes(content)
    with pytest.raises(OSError, match=r"cannot read .*request\.json.*--overwrite starts over"):
        embed_to_file(opened(), faces(root), out)
    embed_to_file(opened(embedder=looker), faces(root), out, overwrite=True)
    assert looker.seen == len(read_embeddings(out)) == 20


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def of_other_images(path: Path) -> None:
    with np.load(path) as file:
        np.savez(path, **{**file, "numbers": file["numbers"] + 1})


def no_zip(path: Path) -> None:
    path.write_bytes(b"hello")


@pytest.mark.parametrize("damage", [cut, of_other_images, no_zip])
def test_a_damaged_chunk_is_named_before_the_work_and_overwritten(
    root: Path, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    out, looker = tmp_path / "e.npz", Looker()
    interrupted(root, out)
    (chunk,) = work_folder(out).glob("0*.npz")
    damage(chunk)
    with pytest.raises(OSError, match=rf"cannot read .*{chunk.name}.*--overwrite starts") as caught:
        embed_to_file(opened(embedder=looker), faces(root), out)
    assert looker.seen == 0
    assert "pickle" not in str(caught.value)
    embed_to_file(opened(embedder=looker), faces(root), out, overwrite=True)
    assert looker.seen == 20
    np.testing.assert_allclose(read_embeddings(out).embedding, expected(faces(root)), rtol=1e-6)


@pytest.mark.parametrize(
    ("value", "words"), [(np.nan, "is not finite: take weights from"), (0.0, "has length 0")]
)
def test_an_embedding_that_nothing_can_be_compared_with_names_its_image(
    root: Path, tmp_path: Path, value: float, words: str
) -> None:
    class Broken(Looker):
        def embed(self, images: np.ndarray, *, mirror: bool = False) -> np.ndarray:
            result = super().embed(images, mirror=mirror)
            if self.seen > 8:
                result[1] = value
            return result

    with pytest.raises(ValueError, match=rf"'p1/4\.jpg' {words}"):
        embed_to_file(opened(embedder=Broken()), faces(root), tmp_path / "e.npz", batch_size=8)
    report = embed_to_file(opened(), faces(root), tmp_path / "e.npz", batch_size=8)
    assert report.embedded == 12


@pytest.mark.skipif(sys.platform != "linux", reason="file names of any bytes")
def test_names_that_are_no_unicode_are_kept_or_refused_before_the_work(tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path / "faces") + b"/\xff person"
    os.makedirs(folder)
    with open(folder + b"/1.jpg", "wb") as file:
        file.write(picture(0))
    source = faces(tmp_path / "faces")
    looker = Looker()
    with pytest.raises(ValueError, match=r"not Unicode, as Parquet needs; write \.npz"):
        embed_to_file(opened(embedder=looker), source, tmp_path / "e.parquet")
    assert looker.seen == 0
    embed_to_file(opened(), source, tmp_path / "e.npz")
    assert read_embeddings(tmp_path / "e.npz").places == [source.place(0)]


@pytest.mark.parametrize(
    ("out", "options", "message"),
    [
        ("e.csv", {}, r"must end in \.parquet or \.npz"),
        ("e.npz", {"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ("e.npz", {"workers": -1}, "workers must be .* got -1"),
        ("faces.npz", {}, "a folder; it must name a file"),
    ],
)
def test_bad_arguments_are_named_before_anything_is_made(
    root: Path, tmp_path: Path, out: str, options: dict[str, Any], message: str
) -> None:
    (tmp_path / "faces.npz").mkdir()
    before = sorted(tmp_path.iterdir())
    with pytest.raises(ValueError, match=message):
        embed_to_file(opened(), faces(root), tmp_path / out, **options)
    assert sorted(tmp_path.iterdir()) == before


def test_a_full_disk_is_told_and_the_same_call_goes_on(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsync, left_over = os.fsync, 3

    def full(descriptor: int) -> None:
        nonlocal left_over
        left_over -= 1
        if left_over < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    monkeypatch.setattr(embed_source, "_CHUNK_IMAGES", 4)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match=r"no space is left for .*same command to resume"):
            embed_to_file(opened(), faces(root), tmp_path / "e.npz", batch_size=4)
    report = embed_to_file(opened(), faces(root), tmp_path / "e.npz", batch_size=4)
    assert report.embedded < 20
    np.testing.assert_allclose(
        read_embeddings(tmp_path / "e.npz").embedding, expected(faces(root)), rtol=1e-6
    )
