"""What we pack, WebDataset and tar read; the same samples give the same bytes."""

import hashlib
import os
import subprocess
import tarfile
from pathlib import Path

import pytest
import webdataset
from hypothesis import example, given, settings
from hypothesis import strategies as st

from centerarc.data import FolderSource, ShardSource
from centerarc.data.shards import ShardSample, write_shard
from centerarc.data.shards.writer import member_header, safe_key
from tests.data.pictures import picture

ODD = [
    "Ann Lee",
    "Jürgen 名前",
    "a/b\\c",
    "..",
    ".hidden",
    "__meta__",
    "CON",
    "100%",
    "tab\tline\nfeed",
    "not utf-8 \udcff",
    "dot.",
    "x" * 300,
    "ü" * 90,
    "ü" * 200,
    "-rf",
]


def test_webdataset_reads_our_shards(tmp_path: Path) -> None:
    samples = [
        ShardSample(f"{name}/{stem}", picture(10 * label + stem_number, kind), label)
        for label, name in enumerate(ODD)
        for stem_number, (stem, kind) in enumerate(
            [("1", "png"), ("2.front.v2", "jpeg"), ("long" * 60, "webp")]
        )
    ]
    path = tmp_path / "faces-000000.tar"
    info = write_shard(path, samples)
    read = list(webdataset.WebDataset(str(path), shardshuffle=False))
    assert len(read) == len(samples) == info.images
    kinds = {"png": "png", "jpg": "jpeg", "webp": "webp"}
    for theirs, ours in zip(read, samples, strict=True):
        (field,) = kinds.keys() & theirs.keys()
        assert theirs[field] == ours.image
        assert int(theirs["cls"]) == ours.label
    assert info.name == path.name
    assert info.bytes == path.stat().st_size
    assert info.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    source = ShardSource(path)
    assert [source.encoded(i) for i in range(len(source))] == [s.image for s in samples]
    assert source.labels.tolist() == [s.label for s in samples]


@pytest.mark.skipif(os.name != "posix", reason="needs tar")
def test_tar_unpacks_our_shards_to_a_folder_of_identities(tmp_path: Path) -> None:
    samples = [
        ShardSample(f"{name}/{number}.a", picture(number), label)
        for label, name in enumerate(ODD)
        for number in range(2)
    ]
    write_shard(tmp_path / "s.tar", samples)
    (tmp_path / "out").mkdir()
    subprocess.run(["tar", "xf", tmp_path / "s.tar", "-C", tmp_path / "out"], check=True)
    unpacked = FolderSource(tmp_path / "out")
    assert len(unpacked.identities) == len(ODD)
    assert len(unpacked) == len(samples)
    assert {"Ann Lee", "Jürgen 名前", "ü" * 90, "-rf"} <= set(unpacked.identities)
    assert {item.reason for item in unpacked.skipped} == {"no image by its extension"}


def test_the_same_samples_give_the_same_bytes(tmp_path: Path) -> None:
    samples = [ShardSample(f"p{i}/1", picture(i), i) for i in range(5)]
    infos = [write_shard(tmp_path / place / "s.tar", samples) for place in ("a", "b")]
    assert infos[0] == infos[1]
    for name in ("s.tar", "s.index.npz"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    with tarfile.open(tmp_path / "a" / "s.tar") as archive:
        for member in archive:
            assert (member.mtime, member.uid, member.gid, member.uname) == (0, 0, 0, "")


def test_images_of_one_name_are_all_kept(tmp_path: Path) -> None:
    keys = ["p/1", "p/1", "p/1-2", "p/1"]
    write_shard(tmp_path / "s.tar", [ShardSample(k, picture(i), 0) for i, k in enumerate(keys)])
    read = list(webdataset.WebDataset(str(tmp_path / "s.tar"), shardshuffle=False))
    assert [sample["png"] for sample in read] == [picture(i) for i in range(4)]
    assert len({sample["__key__"] for sample in read}) == 4


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        (ShardSample("p/1", b"not a picture", 0), r"'p/1' is no JPEG.*b'not a pi'"),
        (ShardSample("p/1", b"", 0), "'p/1' is no JPEG"),
        (ShardSample("p/1", picture(0), -1), "label of 'p/1' is -1"),
        (ShardSample("1", picture(0), 0), "key is '1'"),
        (ShardSample("/1", picture(0), 0), "key is '/1'"),
        (ShardSample("p/", picture(0), 0), "key is 'p/'"),
    ],
)
def test_a_wrong_sample_leaves_the_old_shard_as_it_was(
    tmp_path: Path, sample: ShardSample, message: str
) -> None:
    good = ShardSample("p/0", picture(3), 0)
    write_shard(tmp_path / "s.tar", [good])
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(ValueError, match=message):
        write_shard(tmp_path / "s.tar", [good, sample])
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_an_index_does_not_outlive_its_shard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError("no space left on device")

    write_shard(tmp_path / "s.tar", [ShardSample(f"p/{i}", picture(i), i) for i in range(3)])
    monkeypatch.setattr("centerarc.data.shards.writer.write_index", full)
    # The headers are the same; only the labels are others.
    with pytest.raises(OSError, match="no space"):
        write_shard(tmp_path / "s.tar", [ShardSample(f"p/{i}", picture(i), 0) for i in range(3)])
    assert ShardSource(tmp_path).labels.tolist() == [0, 0, 0]


def test_a_shard_needs_a_sample_and_its_ending(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="samples is empty"):
        write_shard(tmp_path / "s.tar", [])
    with pytest.raises(ValueError, match=r"must end in \.tar"):
        write_shard(tmp_path / "s.zip", [ShardSample("p/0", picture(3), 0)])
    assert list(tmp_path.iterdir()) == []


key_parts = st.text(st.characters(codec=None), min_size=1, max_size=300)
awkward = st.one_of(
    key_parts, st.text("./%_ ~aé\udc80", min_size=1, max_size=8), st.sampled_from(ODD)
)


@settings(max_examples=300)
@given(awkward, awkward, awkward, awkward)
def test_safe_keys_are_plain_and_stay_different(a: str, b: str, c: str, d: str) -> None:
    b, d = b.replace("/", ":"), d.replace("/", ":")
    first, second = safe_key(f"{a}/{b}"), safe_key(f"{c}/{d}")
    assert (first == second) == ((a, b) == (c, d))
    assert webdataset.tariterators.base_plus_ext(f"{first}.jpg") == (first, "jpg")
    folder, stem = first.split("/")
    assert not folder.startswith(".")
    assert not folder.endswith((".", " "))
    assert max(len(part.encode("utf-8")) for part in (folder, stem)) < 250
    assert not set(first) & set('\\:*?"<>|' + "".join(map(chr, range(32))))


names = st.text(st.characters(exclude_categories=["Cs"]), max_size=120)
plain = st.text(st.characters(max_codepoint=127), max_size=120)
sizes = st.integers(0, 8**11 + 10) | st.integers(0, 100_000)


@given(names | plain, sizes)
@example("", 0)
@example("a" * 100, 8**11 - 1)
@example("a" * 101, 0)
@example("p/" + "a" * 98 + ".jpg", 512)
@example("é.jpg", 1)
@example("a\0b", 1)
@example("folder/", 8**11)
def test_headers_are_those_of_tarfile(name: str, size: int) -> None:
    info = tarfile.TarInfo(name)
    info.size = size
    assert member_header(name, size) == info.tobuf(tarfile.PAX_FORMAT, "utf-8", "strict")
