"""A pack holds what its source holds, in the same order, and says what it leaves out."""

import csv
import hashlib
import json
import shutil
import subprocess
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

from centerarc.curate import PackReport, pack
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
from tests.curate.packing_helpers import contents, faces, many, people_of, picture

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
