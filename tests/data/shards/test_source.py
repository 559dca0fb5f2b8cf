"""Shards that others wrote are read, and what is wrong with one is said with shard and byte."""

import gzip
import json
import os
import pickle
import tarfile
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
import webdataset

from centerarc.curate import check_source, inspect_source, pack
from centerarc.data import FolderSource, ShardSource, open_source
from centerarc.data.shards import ShardSample, scan_shard, write_index, write_shard
from centerarc.data.shards.tar import read_index
from tests.data.pictures import picture, tar


def values(source: ShardSource) -> list[int]:
    return [int(source.image(i)[0, 0, 0]) for i in range(len(source))]


def named(source: ShardSource) -> list[str]:
    return [source.identities[label] for label in source.labels]


@pytest.mark.parametrize("kind", ["png", "jpg", "jpeg", "webp"])
def test_shards_of_webdatasets_writer_are_read(tmp_path: Path, kind: str) -> None:
    written = {
        f"face{i:03d}": (picture(20 * i, kind.replace("jpg", "jpeg")), i % 3) for i in range(9)
    }
    for shard in range(3):
        with webdataset.TarWriter(str(tmp_path / f"s-{shard}.tar")) as writer:
            for key in list(written)[3 * shard : 3 * shard + 3]:
                image, label = written[key]
                writer.write({"__key__": key, kind: image, "cls": label, "txt": "a face"})
    source = ShardSource(tmp_path)
    assert [source.encoded(i) for i in range(9)] == [image for image, _ in written.values()]
    assert source.labels.tolist() == [label for _, label in written.values()]
    assert source.labels.dtype == np.int64
    assert source.identities == ["0", "1", "2"]
    assert source.place(4) == f"s-1.tar/face004.{kind}"
    assert source.image(3).shape == (8, 8, 3)
    assert ShardSource(tmp_path, image_size=5).image(3).shape == (5, 5, 3)
    assert source.summary() == "9 images of 3 identities in 3 shards"


def test_names_and_numbers_in_json_are_labels(tmp_path: Path) -> None:
    with webdataset.TarWriter(str(tmp_path / "a.tar")) as writer:
        for key, name in (("1", "p10"), ("2", "p2"), ("3", "p10")):
            writer.write({"__key__": key, "png": picture(int(key)), "json": {"identity": name}})
    source = ShardSource(tmp_path / "a.tar")
    assert source.identities == ["p2", "p10"]
    assert source.labels.tolist() == [1, 0, 1]
    with webdataset.TarWriter(str(tmp_path / "b.tar")) as writer:
        for key, number in (("1", 7), ("2", 3), ("3", 7)):
            writer.write({"__key__": key, "png": picture(int(key)), "json": {"label": number}})
    source = ShardSource(tmp_path / "b.tar")
    assert source.identities == ["3", "7"]
    assert source.labels.tolist() == [1, 0, 1]


@pytest.mark.parametrize("tar_format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_a_folder_packed_by_tar_is_named_by_its_folders(tmp_path: Path, tar_format: int) -> None:
    long, other = "é" * 120, "名" * 60
    members = [
        ("./p10/2.png", picture(1)),
        ("./p10/10.png", picture(2)),
        (f"./{long}/1.png", picture(3)),
        ("./p2/1.front.png", picture(99)),  # a field `front.png`, no image by the convention
        (f"p2/{other}.png", picture(4)),
        ("__MACOSX__/p2/1.png", picture(99)),
        ("p2/._1.png", b"\0"),
        ("README", b"text"),
    ]
    tar(tmp_path / "faces.tar", members, tar_format)
    source = ShardSource(tmp_path)
    assert source.identities == ["p2", "p10", long]
    assert named(source) == ["p10", "p10", long, "p2"]
    assert values(source) == [1, 2, 3, 4]
    assert source.place(3) == f"faces.tar/p2/{other}.png"


def test_numbers_take_the_names_of_their_folders_where_each_has_its_own(tmp_path: Path) -> None:
    def members(*rows: tuple[str, int]) -> list[tuple[str, bytes]]:
        return [m for k, n in rows for m in ((f"{k}.png", picture(n)), (f"{k}.cls", b"%d\n" % n))]

    tar(tmp_path / "a-0.tar", members(("Bob/1", 0), ("Ann/1", 1)))
    tar(tmp_path / "a-1.tar", members(("Ann/2", 1), ("Cyd/1", 5)))
    assert ShardSource(tmp_path).identities == ["Bob", "Ann", "Cyd"]
    tar(tmp_path / "a-2.tar", members(("Dan/1", 5)))
    assert ShardSource(tmp_path).identities == ["0", "1", "5"]
    assert ShardSource(f"{tmp_path}/a-{{0..1}}.tar").labels.tolist() == [0, 1, 1, 2]


def test_shards_come_in_natural_order_from_folders_patterns_and_braces(tmp_path: Path) -> None:
    folder = tmp_path / "odd [x] ?{1}"
    folder.mkdir()
    for number in (10, 9, 8, 1):
        tar(folder / f"f-{number}.tar", [(f"p/{number}.png", picture(number))])
    tar(folder / ".f-2.123.tar", [])  # as it is while a shard is written
    assert values(ShardSource(folder)) == [1, 8, 9, 10]
    assert values(ShardSource(f"{folder}/f-1*.tar")) == [1, 10]
    assert values(ShardSource(f"{folder}/f-{{8..10}}.tar")) == [8, 9, 10]
    assert values(ShardSource(folder / "f-9.tar")) == [9]
    (folder / "sub").mkdir()
    tar(folder / "sub" / "f-1.tar", [("p/1.png", picture(77))])
    both = ShardSource(f"{folder}/{{f-1,sub/f-*}}.tar")
    assert [both.place(i) for i in (0, 1)] == ["f-1.tar/p/1.png", "sub/f-1.tar/p/1.png"]
    with pytest.raises(ValueError, match=r"2 of the 4 files .* are not there, first .*f-11\.tar"):
        ShardSource(f"{folder}/f-{{9..12}}.tar")
    with pytest.raises(ValueError, match="no file matches"):
        ShardSource(f"{folder}/g-*.tar")
    with pytest.raises(ValueError, match="not there"):
        ShardSource(folder / "g.tar")


def test_compressed_shards_are_refused_with_the_reason(tmp_path: Path) -> None:
    plain = tar(tmp_path / "a.tar", [("p/1.png", picture(1))]).read_bytes()
    (tmp_path / "b.tar.gz").write_bytes(gzip.compress(plain))
    for location in (tmp_path, tmp_path / "b.tar.gz", f"{tmp_path}/b*"):
        with pytest.raises(ValueError, match=r"b\.tar\.gz' is a compressed tar file"):
            ShardSource(location)
    with pytest.raises(ValueError, match=r"without unpacking all before it; decompress"):
        open_source(tmp_path / "b.tar.gz")
    (tmp_path / "only").mkdir()
    (tmp_path / "only" / "b.tgz").write_bytes(gzip.compress(plain))
    with pytest.raises(ValueError, match=r"b\.tgz' is a compressed tar file"):
        open_source(tmp_path / "only")
    (tmp_path / "c.tar").write_bytes(gzip.compress(plain))
    with pytest.raises(ValueError, match=r"c\.tar' is compressed by gzip"):
        ShardSource(tmp_path / "c.tar")


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([("1.png", b"x")], r"image '1' at byte 0 has no label"),
        ([("p/1.png", b"x"), ("2.png", b"x")], r"image '2' at byte 1024 has no label"),
        ([("1.png", b"x"), ("1.json", b"{}")], r"image '1' at byte 0 has no label"),
        (
            [("1.png", b"x"), ("1.cls", b"0"), ("p/2.png", b"x")],
            r"mixes labels: '1' has a number .*'p/2' at byte 2048 its folder alone",
        ),
        ([("1.png", b"x"), ("1.cls", b"-1")], r"'1\.cls' at byte 1024 is '-1'"),
        ([("1.png", b"x"), ("1.cls", b"")], r"'1\.cls' at byte 1024 is ''"),
        ([("1.png", b"x"), ("1.cls", b"9" * 30)], r"must be below 2"),
        ([("1.png", b"x"), ("1.cls", b"9" * 90)], r"must be a whole number"),
        ([("1.png", b"x"), ("1.txt", b"Ann\nLee")], r"the name in '1\.txt'.* it must be one line"),
        (
            [("1.png", b"x"), ("1.txt", b" \n")],
            r"the name in '1\.txt'.* is ''; it must be one line",
        ),
        ([("1.png", b"x"), ("1.json", b"{")], r"'1\.json' at byte 1024 is no JSON"),
        ([("1.png", b"x"), ("1.json", b'{"label": true}')], r"label in '1\.json'.* is True"),
        ([("1.png", b"x"), ("1.json", b'{"identity": ""}')], r"identity in '1\.json'.* is ''"),
        (
            [("p/1.png", b"x"), ("p/1.jpg", b"y")],
            r"'p/1' has two images: 'p/1\.png' at byte 0 and 'p/1\.jpg' at byte 1024",
        ),
        (
            [("1.png", b"x"), ("1.cls", b"0"), ("1.cls", b"1")],
            r"'1' has two labels: '1\.cls' at byte 1024 and '1\.cls' at byte 2048",
        ),
    ],
)
def test_wrong_labels_and_keys_are_named_with_shard_and_byte(
    tmp_path: Path, members: list[tuple[str, bytes]], message: str
) -> None:
    tar(tmp_path / "s.tar", members)
    with pytest.raises(ValueError, match=rf"s\.tar.*{message}"):
        ShardSource(tmp_path)


def test_shards_that_label_differently_are_not_mixed(tmp_path: Path) -> None:
    tar(tmp_path / "a.tar", [("p/1.png", b"x")])
    tar(tmp_path / "b.tar", [("1.png", b"x"), ("1.cls", b"0")])
    with pytest.raises(ValueError, match=r"a\.tar.*'p/1\.png'.*b\.tar.*'1\.png'"):
        ShardSource(tmp_path)


def test_links_are_refused_and_samples_without_an_image_counted(tmp_path: Path) -> None:
    tar(tmp_path / "a.tar", [("1.png", b"x"), ("1.cls", b"0"), ("2.cls", b"0"), ("3.cls", b"1")])
    assert "left out 2 (2 a sample without an image)" in ShardSource(tmp_path).summary()
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        link = tarfile.TarInfo("p/1.png")
        link.type, link.linkname = tarfile.SYMTYPE, "elsewhere.png"
        archive.addfile(link)
    with pytest.raises(ValueError, match=r"'p/1\.png' at byte 0 is a link"):
        ShardSource(tmp_path)
    tar(tmp_path / "a.tar", [])
    with pytest.raises(ValueError, match="hold no image"):
        ShardSource(tmp_path)


def test_a_shard_cut_off_anywhere_is_refused(tmp_path: Path) -> None:
    whole = tar(tmp_path / "w.tar", [(f"p/{i}.png", picture(i)) for i in range(4)]).read_bytes()
    end = max(at for at, byte in enumerate(whole) if byte)
    for size in [0, 1, 511, 512, 513, *range(1000, end + 1, 97)]:
        (tmp_path / "w.tar").write_bytes(whole[:size])
        with pytest.raises(ValueError, match=r"w\.tar' is cut off"):
            ShardSource(tmp_path)
    (tmp_path / "w.tar").write_bytes(whole + whole)
    with pytest.raises(ValueError, match=r"continues after its end at byte 4096"):
        ShardSource(tmp_path)
    (tmp_path / "w.tar").write_bytes(whole[:2048] + b"?" * 512 + whole[2560:])
    with pytest.raises(ValueError, match=r"damaged: there is no tar header at byte 2048"):
        ShardSource(tmp_path)
    (tmp_path / "w.tar").write_bytes(b"?" * 5000)
    with pytest.raises(ValueError, match="no tar file"):
        ShardSource(tmp_path)


def test_a_shard_changed_after_it_was_opened_gives_no_wrong_image(tmp_path: Path) -> None:
    path = tar(tmp_path / "s.tar", [(f"p/{i}.png", picture(i)) for i in range(4)])
    source = ShardSource(tmp_path)
    tar(path, [(f"p/{9 - i}.png", picture(i)) for i in range(4)])
    with pytest.raises(ValueError, match=r"s\.tar/p/1\.png'.* something else at byte 1024"):
        source.image(1)
    os.truncate(path, 1100)
    with pytest.raises(ValueError, match=r"s\.tar/p/1\.png'.* ends at byte 1100"):
        source.image(1)
    path.unlink()
    with pytest.raises(ValueError, match=r"s\.tar/p/1\.png'.* No such file"):
        pickle.loads(pickle.dumps(source)).image(1)


def test_an_index_spares_the_scan_and_a_stale_one_is_not_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scanned: list[str] = []

    def counted(path: Path) -> object:
        scanned.append(path.name)
        return scan_shard(path)

    monkeypatch.setattr("centerarc.data.shards.source.scan_shard", counted)
    for number in range(2):
        tar(tmp_path / f"{number}.tar", [(f"p/{number}.png", picture(number))])
    before = sorted(tmp_path.iterdir())
    seen: list[tuple[int, int]] = []
    source = ShardSource(tmp_path, progress=lambda done, total: seen.append((done, total)))
    assert scanned == ["0.tar", "1.tar"]
    assert seen == [(1, 2), (2, 2)]
    assert sorted(tmp_path.iterdir()) == before  # reading writes nothing
    for shard in source.shards:
        write_index(shard, scan_shard(shard))
        os.utime(shard, (0, 0))  # copying changes times
    scanned.clear()
    assert values(ShardSource(tmp_path)) == [0, 1]
    assert scanned == []
    tar(tmp_path / "0.tar", [("q/0.png", picture(7))])  # as large as before
    again = ShardSource(tmp_path)
    assert scanned == ["0.tar"]
    assert (values(again), again.identities) == ([7, 1], ["p", "q"])
    for damage in (b"", b"no archive", (tmp_path / "1.index.npz").read_bytes()[:-30]):
        scanned.clear()
        (tmp_path / "1.index.npz").write_bytes(damage)
        assert values(ShardSource(tmp_path)) == [7, 1]
        assert scanned == ["0.tar", "1.tar"]


def test_an_index_that_was_made_up_is_not_believed(tmp_path: Path) -> None:
    path = tar(tmp_path / "s.tar", [("p/1.png", picture(5)), ("p/2.png", picture(6))])
    write_index(path, scan_shard(path))
    with np.load(tmp_path / "s.index.npz") as arrays:
        good = dict(arrays)

    def images(field: str, change: int) -> np.ndarray:
        changed = good["images"].copy()
        changed[field] += change
        return changed

    for field, value in (
        ("images", images("offset", 10**6)),
        ("images", images("offset", 2**63 - 1500)),
        ("images", images("size", -(10**6))),
        ("images", images("person", 1)),
        ("images", good["images"][:1]),
        ("images", good["images"]["offset"]),
        ("member_ends", good["member_ends"][::-1]),
        ("people", np.array([{"a": 1}], dtype=object)),
        ("about", good["about"] + [98, 0, 0, 0]),
        ("about", good["about"] + [0, 0, 512, 0]),
        ("about", good["about"] + [0, 3, 0, 0]),
        ("about", good["about"][:3]),
    ):
        np.savez(tmp_path / "s.index.npz", **{**good, field: value})
        source = ShardSource(tmp_path)
        assert (values(source), source.identities) == ([5, 6], ["p"]), field


def read_all(source: ShardSource, order: list[int]) -> list[bytes]:
    return [source.encoded(i) for i in order]


def test_processes_read_at_the_same_time_and_few_files_stay_open(tmp_path: Path) -> None:
    images = [picture(i) for i in range(100)]
    for number in range(100):
        tar(tmp_path / f"{number}.tar", [(f"p/{number}.png", images[number])])
    source = ShardSource(tmp_path)
    order = np.random.default_rng(0).permutation(100).tolist()
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else None
    assert read_all(source, order) == [images[i] for i in order]
    if before is not None:
        assert len(os.listdir("/proc/self/fd")) - before <= 64
    assert read_all(pickle.loads(pickle.dumps(source)), order) == [images[i] for i in order]
    if os.name == "posix":
        with get_context("fork").Pool(2) as pool:
            jobs = [pool.apply_async(read_all, (source, order)) for _ in range(3)]
            assert read_all(source, order) == [images[i] for i in order]
            assert all(job.get(60) == [images[i] for i in order] for job in jobs)
    with ThreadPoolExecutor(8) as threads:
        read = threads.map(lambda _: read_all(source, order), range(8))
        assert all(got == [images[i] for i in order] for got in read)


def test_our_shards_give_the_same_source_with_and_without_index(tmp_path: Path) -> None:
    samples = [ShardSample(f"p{i % 3}/{i}", picture(i), i % 3) for i in range(7)]
    write_shard(tmp_path / "s.tar", samples)
    fast = ShardSource(tmp_path)
    (tmp_path / "s.index.npz").unlink()
    slow = ShardSource(tmp_path)
    assert values(fast) == values(slow) == list(range(7))
    assert fast.labels.tolist() == slow.labels.tolist() == [i % 3 for i in range(7)]
    assert fast.identities == slow.identities == ["p0", "p1", "p2"]
    assert [fast.place(i) for i in range(7)] == [slow.place(i) for i in range(7)]
    with pytest.raises(IndexError):
        fast.encoded(7)


def test_json_without_a_label_leaves_it_to_the_folder(tmp_path: Path) -> None:
    note = json.dumps({"caption": "a face"}).encode()
    tar(tmp_path / "s.tar", [("Ann/1.png", picture(1)), ("Ann/1.json", note)])
    assert ShardSource(tmp_path).identities == ["Ann"]


def test_names_in_text_files_are_labels(tmp_path: Path) -> None:
    with webdataset.TarWriter(str(tmp_path / "s.tar")) as writer:
        for key, name in (("1", "Bob\n"), ("2", "Ann Lee"), ("3", "Bob"), ("4", "7")):
            writer.write({"__key__": f"all/{key}", "png": picture(int(key)), "txt": name})
    source = ShardSource(tmp_path / "s.tar")
    assert source.identities == ["Ann Lee", "Bob", "7"]
    assert source.labels.tolist() == [1, 0, 1, 2]
    write_index(tmp_path / "s.tar", scan_shard(tmp_path / "s.tar"))
    assert named(ShardSource(tmp_path / "s.tar")) == named(source)
    assert not source.problems
    captions = [
        (f"Ann/{n}.{end}", data)
        for n in (1, 2)
        for end, data in (("png", picture(n)), ("txt", b"caption %d" % n))
    ]
    tar(tmp_path / "c.tar", captions)
    assert "a caption is no name" in ShardSource(tmp_path / "c.tar").summary()
    # Notes to people that belong to no image are no samples.
    tar(tmp_path / "s.tar", [("Ann/1.png", picture(1)), ("README.txt", b"one\ntwo")])
    source = ShardSource(tmp_path / "s.tar")
    assert (source.identities, source.skipped) == (["Ann"], [])


@pytest.mark.parametrize(("at", "value"), [(8, 1), (10, 99), (10, 1)])
def test_an_index_whose_zip_directory_is_damaged_is_scanned_again(
    tmp_path: Path, at: int, value: int
) -> None:
    path = tar(tmp_path / "s.tar", [("p/1.png", picture(5))])
    write_index(path, scan_shard(path))
    kept = tmp_path / "s.index.npz"
    data = bytearray(kept.read_bytes())
    data[data.index(b"PK\1\2") + at] = value  # flags (8: encrypted) or method (10)
    kept.write_bytes(data)
    assert values(ShardSource(tmp_path)) == [5]


def left_out(source: ShardSource) -> dict[str, str]:
    return {item.place: str(item) for item in source.skipped}


def test_pictures_that_are_not_read_are_left_out_as_in_folders(tmp_path: Path) -> None:
    picture_of = {
        "Ann/1.jpg": picture(1, "jpeg"),
        "Ann/2.jfif": picture(2, "jpeg"),
        "Ann/3.JPE": picture(3, "jpeg"),
        "Ann/4.heic": b"....ftypheic",
        "Bob/x.input.jpg": picture(5, "jpeg"),
        "Bob/y.v2.avif": b"....ftypavif",
        "Bob/1.png": picture(6),
        "Bob/._1.png": b"\0",
        ".trash/2.png": picture(7),
        "Bob/8": picture(8),
    }
    tar(tmp_path / "a.tar", picture_of.items())
    source = ShardSource(tmp_path)
    assert values(source) == [1, 2, 3, 6]
    assert named(source) == ["Ann", "Ann", "Ann", "Bob"]
    assert left_out(source) == {
        "a.tar/Ann/4.heic": "a format that is not read: .heic",
        "a.tar/Bob/x.input.jpg": "an image with further dots in its name: 'input.jpg' is a field "
        "of the sample 'Bob/x'",
        "a.tar/Bob/y.v2.avif": "a format that is not read: .avif",
        "a.tar/Bob/._1.png": "hidden",
        "a.tar/.trash/2.png": "hidden",
        "a.tar/Bob/8": "no image by its extension",
    }
    assert source.summary().startswith("4 images of 2 identities in 1 shards; left out 6 (")
    write_index(tmp_path / "a.tar", scan_shard(tmp_path / "a.tar"))
    assert left_out(ShardSource(tmp_path)) == left_out(source)
    # The same tree as a folder: what is read and what is left out is the same, dots apart.
    with tarfile.open(tmp_path / "a.tar") as archive:
        archive.extractall(tmp_path / "faces", filter="data")
    folder = FolderSource(tmp_path / "faces")
    assert [folder.place(i) for i in range(3)] == ["Ann/1.jpg", "Ann/2.jfif", "Ann/3.JPE"]
    reasons = {item.place: item.reason for item in folder.skipped}
    assert reasons["Ann/4.heic"] == source.skipped[0].reason


def test_a_check_a_pack_and_an_inspection_name_what_shards_left_out(tmp_path: Path) -> None:
    good = [(f"Ann/{n}.png", picture(n)) for n in range(3)]
    bad = [("Ann/7.heic", b"...."), ("Ann/8.b.png", picture(8)), ("Ann/old/9.png", picture(9))]
    tar(tmp_path / "in" / "a.tar", good + bad)
    source = ShardSource(tmp_path / "in")
    checked = check_source(source, workers=0, min_side=1)
    assert (checked.decoded, checked.left_out) == (3, 3)
    assert checked.counts()["unread format"] == 1
    assert checked.counts()["out of reach"] == 2
    overview = inspect_source(source, workers=0)
    assert len(overview.left_out) == 3
    report = pack(source, tmp_path / "out", format="shards", workers=0)
    assert (report.images, sum(report.left_out.values())) == (3, 3)
    rows = report.left_out_file.read_text().splitlines()
    assert rows[1] == "a.tar/Ann/7.heic,Ann,a format that is not read: .heic"


def test_a_folder_in_a_persons_folder_is_no_person(tmp_path: Path) -> None:
    tar(tmp_path / "a-0.tar", [("Ann/1.png", picture(1)), ("Bob/1.png", picture(2))])
    tar(tmp_path / "a-1.tar", [("Ann/old/2.png", picture(3)), ("Cyd/new/1.png", picture(4))])
    source = ShardSource(tmp_path)
    assert source.identities == ["Ann", "Bob", "Cyd/new"]
    assert named(source) == source.identities
    assert values(source) == [1, 2, 4]
    assert source.place(2) == "a-1.tar/Cyd/new/1.png"
    (item,) = source.skipped
    assert (item.place, item.images, item.identity) == ("a-1.tar/Ann/old", 1, "Ann")
    assert item.reason == "a folder of images inside an identity's folder"
    (problem,) = source.problems
    assert "'Cyd/new' beside 'Ann'" in problem


def test_a_picture_beside_the_peoples_folders_is_no_person(tmp_path: Path) -> None:
    people = [(f"set/{name}/1.png", picture(1)) for name in ("Ann", "Bob")]
    tar(tmp_path / "a.tar", [("set/cover.png", picture(9)), *people])
    source = ShardSource(tmp_path)
    assert source.identities == ["set/Ann", "set/Bob"]
    assert left_out(source) == {"a.tar/set": "an image outside an identity's folder"}
    assert not source.problems


def test_shards_of_pictures_that_are_not_read_say_which(tmp_path: Path) -> None:
    tar(tmp_path / "a.tar", [("Ann/1.heic", b"...."), ("Ann/2.x.jpg", b"....")])
    with pytest.raises(ValueError, match=r"hold no image: .*left out 2 \(1 a format that is not"):
        ShardSource(tmp_path)


def test_an_index_of_the_version_before_is_read(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.tar", [ShardSample("Ann/1", picture(1), 0)])
    file = tmp_path / "a.index.npz"
    with np.load(file) as arrays:
        before = {name: arrays[name] for name in arrays if "skipped" not in name}
    kind, size = before["about"][1:3].tolist()
    for without_image in (0, 1):  # which ones there are, it did not say
        np.savez(file, **{**before, "about": np.array([2, kind, size, without_image])})
        assert (read_index(tmp_path / "a.tar") is None) == bool(without_image)
