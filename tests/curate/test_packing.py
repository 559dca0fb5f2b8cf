"""A pack holds what its source holds, in the same order, however often it is stopped."""

import csv
import errno
import hashlib
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from centerarc.curate import PackReport, pack
from centerarc.curate.packing import WORK
from centerarc.data import (
    FaceSource,
    FolderSource,
    ListSource,
    RecordIOSource,
    ShardSource,
    TrainLoader,
    create_source,
    decode_image,
    write_list,
)
from tests.curate.pictures import contents, faces, many, people_of, picture

FORMATS = ("rec", "shards")


def opened(report: PackReport) -> FaceSource:
    return RecordIOSource(report.path) if report.path.suffix else ShardSource(report.path)


def left_out(folder: Path) -> list[dict[str, str]]:
    with open(folder / "left-out.csv", encoding="utf-8", errors="surrogateescape") as file:
        return list(csv.DictReader(file))


def batches(source: FaceSource) -> list[tuple[torch.Tensor, torch.Tensor]]:
    loader = TrainLoader(source, batch_size=8, augmentation=None, seed=3)
    loader.set_epoch(1)
    return list(loader)


def test_folder_to_rec_to_shards_to_rec_keeps_bytes_labels_and_names(tmp_path: Path) -> None:
    root = faces(tmp_path / "faces", {"p10": ["a.jpg"], "p2": ["1.png", "10.jpg", "2.jpg"]})
    first = FolderSource(root)
    rec = opened(pack(first, tmp_path / "rec", format="rec", workers=0))
    shards = opened(pack(rec, tmp_path / "shards", format="shards", images_per_shard=3, workers=0))
    again = opened(pack(shards, tmp_path / "again", format="rec", workers=0))
    expected = [path.read_bytes() for path in first.paths]
    for source in (rec, shards, again):
        assert source.identities == ["p2", "p10"]
        assert source.labels.tolist() == [0, 0, 0, 1]
        assert [source.encoded(i) for i in range(4)] == expected
    assert len(list((tmp_path / "shards").glob("*.tar"))) == 2


def test_a_seed_gives_the_same_batches_from_folder_rec_and_shards(tmp_path: Path) -> None:
    folder = FolderSource(many(tmp_path / "faces"))
    expected = batches(folder)
    for format in FORMATS:
        report = pack(folder, tmp_path / format, format=format, workers=0)
        for (images, labels), (same_images, same_labels) in zip(
            expected, batches(opened(report)), strict=True
        ):
            assert torch.equal(images, same_images)
            assert torch.equal(labels, same_labels)


@pytest.mark.parametrize("format", FORMATS)
def test_any_number_of_processes_writes_the_same_bytes(tmp_path: Path, format: str) -> None:
    root = many(tmp_path / "faces")
    (root / "p3" / "2.jpg").write_bytes(picture(1)[:-200])
    source = FolderSource(root)
    options = {"images_per_shard": 10} if format == "shards" else {}
    for workers in (0, 1, 3):
        pack(source, tmp_path / f"{workers}", format=format, workers=workers, **options)
    assert contents(tmp_path / "0") == contents(tmp_path / "1") == contents(tmp_path / "3")


@pytest.mark.slow
def test_processes_that_are_not_forked_write_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = FolderSource(many(tmp_path / "faces", people=3))
    pack(source, tmp_path / "0", format="shards", workers=0)
    monkeypatch.setattr("centerarc.io.parallel._start_method", lambda: "spawn")
    pack(source, tmp_path / "2", format="shards", workers=2)
    assert contents(tmp_path / "0") == contents(tmp_path / "2")


@pytest.mark.parametrize("format", FORMATS)
def test_damaged_images_are_left_out_by_name_and_people_without_images_go(
    tmp_path: Path, format: str
) -> None:
    root = faces(
        tmp_path / "faces",
        {"ann": ["1.jpg", "2.jpg"], "bob": ["1.jpg", "2.jpg"], "cyd": ["1.png", "2.png"]},
    )
    good = [(root / name).read_bytes() for name in ("ann/2.jpg", "cyd/2.png")]
    (root / "ann" / "1.jpg").write_bytes(picture(9)[:-300])
    for number in (1, 2):
        (root / "bob" / f"{number}.jpg").write_bytes(picture(number)[:-100])
    png = picture(7, suffix=".png")
    (root / "cyd" / "1.png").write_bytes(png[:60] + b"\0" * 40 + png[100:])
    (root / "cyd" / "empty.jpg").touch()
    (root / "cyd" / "text.jpg").write_text("no picture")
    (root / "cyd" / "notes.txt").write_text("no picture")
    report = pack(FolderSource(root), tmp_path / "out", format=format, workers=0)
    source = opened(report)
    assert source.identities == ["ann", "cyd"]
    assert source.labels.tolist() == [0, 1]
    assert [source.encoded(i) for i in range(2)] == good
    rows = {row["place"]: row for row in left_out(tmp_path / "out")}
    assert set(rows) == {
        "ann/1.jpg", "bob/1.jpg", "bob/2.jpg", "cyd/1.png",
        "cyd/empty.jpg", "cyd/text.jpg", "cyd/notes.txt",
    }  # fmt: skip
    assert rows["bob/2.jpg"]["identity"] == "bob"
    assert "damaged or cut off" in rows["bob/2.jpg"]["problem"]
    assert "empty" in rows["cyd/empty.jpg"]["problem"]
    assert sum(report.left_out.values()) == 7
    assert (report.images, report.identities) == (2, 2)


def test_too_few_images_counts_those_that_can_be_read(tmp_path: Path) -> None:
    root = faces(
        tmp_path / "faces",
        {"ann": ["1.jpg", "2.jpg"], "bob": ["1.jpg"], "cyd": ["1.jpg", "2.jpg", "3.jpg"]},
    )
    (root / "ann" / "1.jpg").write_bytes(picture(9)[:-300])
    report = pack(FolderSource(root), tmp_path / "out", format="rec", min_images=2, workers=0)
    assert people_of(opened(report)) == ["cyd"] * 3
    problems = {row["place"]: row["problem"] for row in left_out(tmp_path / "out")}
    assert "damaged" in problems["ann/1.jpg"]
    assert problems["ann/2.jpg"] == problems["bob/1.jpg"]
    assert problems["bob/1.jpg"] == "its identity has fewer than 2 images"


def test_people_and_images_can_be_chosen(tmp_path: Path) -> None:
    source = FolderSource(many(tmp_path / "faces", people=4, images=3))
    report = pack(
        source,
        tmp_path / "out",
        format="shards",
        identities=["p3", "p1"],
        leave_out={"p1/0.jpg", "p2/1.jpg"},
        workers=0,
    )
    assert people_of(opened(report)) == ["p1", "p1", "p3", "p3", "p3"]
    assert [row["place"] for row in left_out(tmp_path / "out")] == ["p1/0.jpg"]


@pytest.mark.parametrize("format", FORMATS)
def test_shuffled_images_keep_their_people(tmp_path: Path, format: str) -> None:
    source = FolderSource(many(tmp_path / "faces"))
    owner = {path.read_bytes(): path.parent.name for path in source.paths}
    orders = []
    for seed in (1, 1, 2):
        out = tmp_path / "out"
        shutil.rmtree(out, ignore_errors=True)
        packed = opened(pack(source, out, format=format, shuffle=seed, workers=0))
        files = [packed.encoded(i) for i in range(len(packed))]
        assert [owner[data] for data in files] == people_of(packed)
        assert packed.identities == source.identities
        orders.append(files)
    assert sorted(orders[0]) == sorted(owner)
    assert orders[0] == orders[1] != orders[2]
    assert orders[0] != [path.read_bytes() for path in source.paths]


def test_odd_names_come_back(tmp_path: Path) -> None:
    people = {
        "Zoë Ånström": ["a b.jpg", "a b.png", "ü.jpg"],
        "J. R. R.": ["1.2.3.jpg", "1.2.4.jpg"],
        "con": ["..x.jpg", "%41.jpg"],
        "100%": ["[bold].jpg", "-1.jpg"],
        "back\\slash": ["new\nline.jpg"],
        "tab\there": ["1.jpg"],
        "李": ["1.JPG"],
    }
    source = FolderSource(faces(tmp_path / "faces", people))
    report = pack(source, tmp_path / "shards", format="shards", workers=0)
    packed = opened(report)
    assert packed.identities == source.identities
    assert people_of(packed) == people_of(source)
    assert [packed.encoded(i) for i in range(len(packed))] == [
        path.read_bytes() for path in source.paths
    ]
    with pytest.raises(ValueError, match=r"'back\\\\slash' is not the name .*; format shards"):
        pack(source, tmp_path / "rec", format="rec", workers=0)
    assert not (tmp_path / "rec").exists()
    plain = [name for name in source.identities if not set(name) & set("\\\t")]
    rec = opened(pack(source, tmp_path / "rec", format="rec", identities=plain, workers=0))
    assert rec.identities == plain


def test_names_that_are_no_utf8_come_back(tmp_path: Path) -> None:
    try:
        root = faces(tmp_path / "faces", {"caf\udce9": ["caf\udce9.jpg"], "b": ["1.jpg"]})
    except OSError:
        pytest.skip("the file system takes UTF-8 only")
    (root / "caf\udce9" / "bad.jpg").write_bytes(picture(0)[:-300])
    for format in FORMATS:
        report = pack(FolderSource(root), tmp_path / format, format=format, workers=0)
        assert opened(report).identities == ["b", "caf\udce9"]
        assert left_out(tmp_path / format)[0]["place"] == "caf\udce9/bad.jpg"


def test_checksums_are_those_of_other_programs(tmp_path: Path) -> None:
    source = FolderSource(many(tmp_path / "faces", people=3))
    pack(source, tmp_path / "rec", format="rec", workers=0)
    sums = [
        f"{hashlib.sha256((tmp_path / 'rec' / name).read_bytes()).hexdigest()}  {name}"
        for name in ("train.rec", "train.idx", "train.lst", "property")
    ]
    assert (tmp_path / "rec" / "train.sha256").read_text().splitlines() == sums
    if shutil.which("sha256sum"):
        command = ["sha256sum", "--strict", "-c", "train.sha256"]
        subprocess.run(command, cwd=tmp_path / "rec", check=True, capture_output=True)
    pack(source, tmp_path / "shards", format="shards", images_per_shard=10, workers=0)
    notes = json.loads((tmp_path / "shards" / "dataset.json").read_text(encoding="utf-8"))
    for shard in notes["shards"]:
        data = (tmp_path / "shards" / shard["name"]).read_bytes()
        assert hashlib.sha256(data).hexdigest() == shard["sha256"]
    with tarfile.open(tmp_path / "shards" / "faces-000000.tar") as tar:
        assert sum(name.endswith(".jpg") for name in tar.getnames()) == 10


def test_a_shard_can_end_by_its_megabytes(tmp_path: Path) -> None:
    source = FolderSource(many(tmp_path / "faces"))
    pack(source, tmp_path / "out", format="shards", shard_mb=0.01, workers=0)
    files = [path.stat().st_size for path in source.paths]
    for shard in (tmp_path / "out").glob("*.tar"):
        with tarfile.open(shard) as tar:
            sizes = [member.size for member in tar if member.name.endswith(".jpg")]
        assert sum(sizes) - max(files) < 10_000
    assert len(opened_shards := list((tmp_path / "out").glob("*.tar"))) >= sum(files) // 10_000
    assert len(ShardSource(tmp_path / "out")) == len(source), opened_shards


def test_a_list_is_packed_in_its_order(tmp_path: Path) -> None:
    root = many(tmp_path / "faces", people=3, images=2)
    rows = [("p2/0.jpg", "b"), ("p1/1.jpg", "a"), ("p2/1.jpg", "b"), ("p0/0.jpg", "a")]
    write_list(root / "list.csv", rows)
    source = ListSource(root / "list.csv")
    expected = [(root / path).read_bytes() for path, _ in rows]
    for format in FORMATS:
        packed = opened(pack(source, tmp_path / format, format=format, workers=0))
        assert people_of(packed) == ["b", "a", "b", "a"]
        assert packed.identities == ["a", "b"]
        assert [packed.encoded(i) for i in range(4)] == expected


def test_drawn_faces_are_packed_without_loss(tmp_path: Path) -> None:
    source = create_source("synthetic", num_identities=2, images_per_identity=2)
    packed = opened(pack(source, tmp_path / "out", format="rec", workers=0))
    for index in range(4):
        np.testing.assert_array_equal(packed.image(index), source.image(index))


def test_a_source_that_resizes_is_packed_in_its_size(tmp_path: Path) -> None:
    source = FolderSource(many(tmp_path / "faces", people=2), image_size=8)
    report = pack(source, tmp_path / "out", format="rec", workers=0)
    assert report.sizes == {"8x8": 14}
    assert opened(report).image(0).shape == (8, 8, 3)
    assert (tmp_path / "out" / "property").read_text().strip() == "2,8,8"
    data = opened(report).encoded(0)
    assert data is not None
    assert decode_image(data).shape == (8, 8, 3)


def test_progress_goes_up_to_the_number_of_images(tmp_path: Path) -> None:
    source = FolderSource(many(tmp_path / "faces"))
    seen: list[tuple[str, int, int]] = []
    for workers in (0, 2):
        seen.clear()
        out = tmp_path / f"{workers}"
        pack(source, out, format="rec", workers=workers, progress=lambda *step: seen.append(step))
        assert seen[0] == ("reading", 0, 84)
        assert ("reading", 84, 84) in seen
        assert ("writing", 84, 84) in seen
        assert seen[-1] == ("finishing", 84, 84)
        stages = ["reading", "writing", "finishing"]
        assert seen == sorted(seen, key=lambda step: (stages.index(step[0]), step[1]))


# Stopped, it resumes.


OPTIONS: dict[str, dict[str, Any]] = {
    "rec": {"format": "rec"},
    "shards": {"format": "shards", "images_per_shard": 9},
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = many(tmp_path / "faces", people=5)
    (folder / "p3" / "2.jpg").write_bytes(picture(1)[:-200])
    assert len(FolderSource(folder)) == 35, "damage that shows when it is decoded"
    return folder


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("centerarc.curate.pack_parts._PART_BYTES", 20_000)


def killed_at(step: int, root: Path, out: Path, options: dict[str, Any]) -> bool:
    """Packs in a process that kills itself before its `step`-th rename or deletion."""

    def child() -> None:
        left = step

        def counted(call: Callable[..., Any]) -> Callable[..., Any]:
            def wrapper(*args: Any, **kwargs: Any) -> Any:
                nonlocal left
                if not left:
                    os.kill(os.getpid(), signal.SIGKILL)
                left -= 1
                return call(*args, **kwargs)

            return wrapper

        for name in ("replace", "unlink", "rmdir"):
            setattr(os, name, counted(getattr(os, name)))
        pack(FolderSource(root), out, workers=0, **options)

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode != 0


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")
@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("format", OPTIONS)
def test_killed_at_any_step_it_goes_on_to_the_same_bytes(
    root: Path, tmp_path: Path, format: str
) -> None:
    pack(FolderSource(root), tmp_path / "whole", workers=0, **OPTIONS[format])
    expected = contents(tmp_path / "whole")
    step = 0
    while killed_at(step, root, out := tmp_path / f"{step}", OPTIONS[format]):
        if (out / "left-out.csv").exists() and not list(out.glob(f"{WORK}/[!.]*")):
            break  # all is there; what is left is a lock or an empty folder
        visible = {path.name for path in out.iterdir()} - {WORK}
        assert not visible or (out / WORK / "done.json").exists()
        pack(FolderSource(root), out, workers=0, **OPTIONS[format])
        assert contents(out) == expected
        assert not (out / WORK).exists()
        step += 1
    assert step > 20


SLOW = """
import sys, time
from pathlib import Path
from centerarc.data import FolderSource
from centerarc.curate import pack

class Slow(FolderSource):
    def encoded(self, index):
        time.sleep(0.005)
        return super().encoded(index)

if __name__ == "__main__":
    print("begun", flush=True)
    pack(Slow(sys.argv[1]), sys.argv[2], format="rec", workers=2)
"""


def started(root: Path, out: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW, str(root), str(out)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    return process


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_stopped_with_its_processes_it_goes_on(root: Path, tmp_path: Path, number: int) -> None:
    pack(FolderSource(root), tmp_path / "whole", format="rec", workers=0)
    out = tmp_path / "out"
    process = started(root, out)
    wait_for(lambda: len(list(out.glob(f"{WORK}/spool/[0-9]*.json"))) >= 1)
    if number == signal.SIGKILL:
        process.kill()  # the parent alone: its workers must notice
    else:
        os.killpg(process.pid, number)  # as a terminal does
    _, error = process.communicate()
    assert error.count("Traceback") <= 1, "a worker complained too"
    assert not (out / "train.rec").exists()
    # Waits for workers of the killed run, which hold the folder's lock until they end.
    pack(FolderSource(root), out, format="rec", workers=2)
    assert contents(out) == contents(tmp_path / "whole")


@pytest.mark.skipif(sys.platform == "win32", reason="no lock there")
def test_two_cannot_pack_into_one_folder(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("centerarc.io.jobs._LOCK_SECONDS", 0.1)
    out = tmp_path / "out"
    process = started(root, out)
    try:
        wait_for(lambda: (out / WORK / "request.json").exists())
        with pytest.raises(ValueError, match="another process is writing"):
            pack(FolderSource(root), out, format="rec", overwrite=True, workers=0)
    finally:
        process.kill()
        process.communicate()


def unfinished(root: Path, out: Path, **options: Any) -> None:
    """Leaves a pack that was stopped after its first images."""

    def stop(stage: str, done: int, total: int) -> None:
        if done > 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pack(FolderSource(root), out, workers=0, progress=stop, **options)


def test_what_was_read_is_not_read_again(root: Path, tmp_path: Path) -> None:
    unfinished(root, tmp_path / "out", format="rec")
    report = pack(FolderSource(root), tmp_path / "out", format="rec", workers=0)
    assert (report.images, report.read) == (34, 35 - 16)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"format": "shards"}, r"another format \(rec, now shards\)"),
        ({"format": "rec", "size": 8}, r"another size \(None, now 8\)"),
        ({"format": "rec", "quality": 90}, r"another quality \(None, now 90\)"),
        ({"format": "rec", "min_images": 7}, r"another min_images \(1, now 7\)"),
        ({"format": "rec", "shuffle": 0}, r"another shuffle \(None, now 0\)"),
        ({"format": "rec", "leave_out": {"p0/1.jpg"}}, "another choice of images;"),
        ({"format": "rec", "identities": ["p0"]}, r"another identities \(None, now 1\)"),
    ],
)
def test_another_command_is_told_what_differs(
    root: Path, tmp_path: Path, options: dict[str, Any], words: str
) -> None:
    out = tmp_path / "out"
    unfinished(root, out, format="rec")
    before = contents(out)
    with pytest.raises(ValueError, match=f"{words}.*--overwrite starts over"):
        pack(FolderSource(root), out, workers=0, **options)
    assert contents(out) == before
    if "min_images" in options:
        options = {"format": "rec"}
    pack(FolderSource(root), tmp_path / "fresh", workers=0, **options)
    pack(FolderSource(root), out, workers=0, overwrite=True, **options)
    assert contents(out) == contents(tmp_path / "fresh")


def test_a_changed_source_is_told(root: Path, tmp_path: Path) -> None:
    unfinished(root, tmp_path / "out", format="rec")
    (root / "p0" / "1.jpg").write_bytes(picture(99))
    with pytest.raises(ValueError, match="another state of the source's files;"):
        pack(FolderSource(root), tmp_path / "out", format="rec", workers=0)
    (root / "p0" / "new.jpg").write_bytes(picture(99))
    with pytest.raises(ValueError, match=r"another number of images \(35, now 36\)"):
        pack(FolderSource(root), tmp_path / "out", format="rec", workers=0)


def test_a_folder_with_something_else_is_left_alone(root: Path, tmp_path: Path) -> None:
    source = FolderSource(root)
    mine = tmp_path / "mine"
    mine.mkdir()
    for name in ("notes.txt", "train.rec"):
        (mine / name).write_text("mine")
        for overwrite in (False, True):
            with pytest.raises(ValueError, match=f"holds something else: '{name}'"):
                pack(source, mine, format="rec", workers=0, overwrite=overwrite)
        assert (mine / name).read_text() == "mine"
        (mine / name).unlink()
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"must be a folder, got .*, which is a file"):
        pack(source, tmp_path / "file", format="rec", workers=0)
    with pytest.raises(ValueError, match="lies in the source"):
        pack(source, root / "packed", format="rec", workers=0)
    assert not (root / "packed").exists()


def test_a_finished_pack_is_replaced_only_when_told(root: Path, tmp_path: Path) -> None:
    from centerarc.data import RecordIOSource

    out = tmp_path / "out"
    pack(FolderSource(root), out, format="rec", workers=0)
    before = contents(out)
    with pytest.raises(ValueError, match=r"holds a pack already; --overwrite replaces it"):
        pack(FolderSource(root), out, format="rec", workers=0)
    with pytest.raises(ValueError, match="holds files of the source"):
        pack(RecordIOSource(out), out, format="shards", overwrite=True, workers=0)
    assert contents(out) == before
    pack(FolderSource(root), out, format="shards", overwrite=True, workers=0)
    pack(FolderSource(root), tmp_path / "fresh", format="shards", workers=0)
    assert contents(out) == contents(tmp_path / "fresh")


@pytest.mark.parametrize("workers", [0, 2])
def test_a_full_disk_is_told_and_the_same_call_goes_on(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    pack(FolderSource(root), tmp_path / "whole", format="rec", workers=0)
    fsync = os.fsync
    left = 3

    def full(descriptor: int) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        # Others would not have that.
        patch.setattr("centerarc.io.parallel._start_method", lambda: "fork")
        with pytest.raises(OSError, match=r"no space is left for .*same command to resume"):
            pack(FolderSource(root), tmp_path / "out", format="rec", workers=workers)
    pack(FolderSource(root), tmp_path / "out", format="rec", workers=workers)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_a_file_that_cannot_be_read_stops_the_pack(root: Path, tmp_path: Path) -> None:
    # A share that is gone would otherwise leave out everything.
    source = FolderSource(root)
    data = (root / "p2" / "3.jpg").read_bytes()
    (root / "p2" / "3.jpg").unlink()
    with pytest.raises(OSError, match=r"cannot read 'p2/3\.jpg': No such file"):
        pack(source, tmp_path / "out", format="rec", workers=0)
    assert not (tmp_path / "out" / "train.rec").exists()
    (root / "p2" / "3.jpg").write_bytes(data)


@pytest.mark.parametrize("content", ["{bad", "[1]", '"text"'])
def test_a_damaged_note_is_named_and_overwritten_when_told(
    root: Path, tmp_path: Path, content: str
) -> None:
    out = tmp_path / "out"
    assert killed_at(3, root, out, OPTIONS["rec"])
    note = out / WORK / "request.json"
    note.write_text(content, encoding="utf-8")
    with pytest.raises(OSError, match=r"cannot read .*request\.json'.*--overwrite starts over"):
        pack(FolderSource(root), out, workers=0, **OPTIONS["rec"])
    pack(FolderSource(root), out, workers=0, overwrite=True, **OPTIONS["rec"])
    whole = tmp_path / "whole"
    pack(FolderSource(root), whole, workers=0, **OPTIONS["rec"])
    assert contents(out) == contents(whole)
