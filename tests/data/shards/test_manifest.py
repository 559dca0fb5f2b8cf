"""Which shards a path means; the list of a packed set names people and finds what changed."""

import json
from dataclasses import replace
from pathlib import Path

import braceexpand
import pytest
from hypothesis import given
from hypothesis import strategies as st

from centerarc.data import ShardSource
from centerarc.data.shards import (
    MANIFEST_NAME,
    ShardInfo,
    ShardSample,
    read_manifest,
    verify_checksums,
    write_manifest,
    write_shard,
)
from centerarc.data.shards.manifest import expand_braces
from tests.data.pictures import picture

NAMES = ["Zoë", "Ann / Lee", "not utf-8 \udcff"]


def pack(folder: Path) -> list[ShardInfo]:
    rows = [(label, number) for number in range(2) for label in range(3)]
    infos = [
        write_shard(
            folder / f"s-{shard}.tar",
            [ShardSample(f"{NAMES[i]}/{n}", picture(10 * i + n), i) for i, n in rows[shard::3]],
        )
        for shard in range(3)
    ]
    write_manifest(folder, reversed(infos), NAMES)
    return infos


def test_the_list_names_the_identities(tmp_path: Path) -> None:
    infos = pack(tmp_path)
    source = ShardSource(tmp_path)
    assert source.identities == NAMES
    assert [(int(source.image(i)[0, 0, 0]) // 10) for i in range(6)] == source.labels.tolist()
    manifest = read_manifest(tmp_path)
    assert manifest is not None
    assert manifest.shards == infos
    assert manifest.images == 6
    # A part of the shards has a part of the people.
    part = ShardSource(tmp_path / "s-1.tar")
    assert part.identities == [NAMES[1]]
    assert part.labels.tolist() == [0, 0]


def test_shards_that_are_missing_cut_off_or_strange_are_one_clear_error(tmp_path: Path) -> None:
    pack(tmp_path)
    whole = (tmp_path / "s-1.tar").read_bytes()
    (tmp_path / "s-1.tar").unlink()
    with pytest.raises(ValueError, match=r"lacks 1 of the 3 shards .* first 's-1\.tar'"):
        ShardSource(tmp_path)
    (tmp_path / "s-1.tar").write_bytes(whole[:-512])
    with pytest.raises(ValueError, match=rf"s-1\.tar' has {len(whole) - 512} bytes and should"):
        ShardSource(tmp_path)
    (tmp_path / "s-1.tar").write_bytes(whole)
    write_shard(tmp_path / "t.tar", [ShardSample("p/1", picture(1), 0)])
    with pytest.raises(ValueError, match=r"'t\.tar' is not in .*dataset\.json"):
        ShardSource(tmp_path)
    write_shard(tmp_path / "sub" / "s-0.tar", [ShardSample("p/1", picture(1), 0)])
    with pytest.raises(ValueError, match="names shards of 2 folders"):
        ShardSource(f"{tmp_path}/{{s-0,sub/s-0}}.tar")


def test_labels_beyond_the_names_are_refused(tmp_path: Path) -> None:
    infos = pack(tmp_path)
    write_manifest(tmp_path, infos, NAMES[:2])
    with pytest.raises(ValueError, match=r"s-2\.tar' has label 2, .* names 2 identities"):
        ShardSource(tmp_path)


def test_checksums_find_every_change(tmp_path: Path) -> None:
    infos = pack(tmp_path)
    total = sum(info.bytes for info in infos)
    seen: list[tuple[int, int]] = []
    assert verify_checksums(tmp_path, lambda done, of: seen.append((done, of))) == []
    assert seen == sorted(seen)
    assert seen[-1] == (total, total)
    data = bytearray((tmp_path / "s-0.tar").read_bytes())
    data[700] ^= 1
    (tmp_path / "s-0.tar").write_bytes(data)
    (tmp_path / "s-1.tar").unlink()
    (tmp_path / "s-2.tar").write_bytes(b"short")
    (tmp_path / "s-3.tar").write_bytes(b"")
    assert verify_checksums(tmp_path) == [
        "s-0.tar: its content changed (SHA-256)",
        "s-1.tar: is missing",
        f"s-2.tar: has 5 bytes and should have {infos[2].bytes}",
        "s-3.tar: is not in dataset.json",
    ]
    (tmp_path / MANIFEST_NAME).unlink()
    with pytest.raises(ValueError, match=r"has no dataset\.json"):
        verify_checksums(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 2}, "has version 2"),
        ({"identities": [1]}, "identities is not a list"),
        ({"identities": ["a", "a"]}, "identity 'a' comes 2 times"),
        ({"shards": []}, "at least one shard"),
        (
            {"shards": [{"name": "../s-0.tar", "images": 1, "bytes": 1, "sha256": ""}]},
            "not a file name",
        ),
        ({"shards": [{"name": "s-0.tar"}]}, "images of shard 's-0.tar' is None"),
    ],
)
def test_a_damaged_list_is_refused(tmp_path: Path, change: dict[str, object], message: str) -> None:
    pack(tmp_path)
    path = tmp_path / MANIFEST_NAME
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, **change}))
    with pytest.raises(ValueError, match=rf"dataset\.json.*{message}"):
        ShardSource(tmp_path)
    path.write_text(path.read_text()[:50])
    with pytest.raises(ValueError, match=r"dataset\.json' is damaged"):
        ShardSource(tmp_path)


def test_another_tools_list_is_left_alone(tmp_path: Path) -> None:
    pack(tmp_path)
    (tmp_path / MANIFEST_NAME).write_text('{"name": "my faces"}')
    assert len(ShardSource(tmp_path)) == 6
    assert read_manifest(tmp_path) is None


def test_a_list_with_a_name_twice_is_not_written(tmp_path: Path) -> None:
    infos = pack(tmp_path)
    before = (tmp_path / MANIFEST_NAME).read_bytes()
    with pytest.raises(ValueError, match="identity 'a' comes 2 times"):
        write_manifest(tmp_path, infos, ["a", "b", "a"])
    with pytest.raises(ValueError, match=r"shard 's-0\.tar' comes 2 times"):
        write_manifest(tmp_path, [infos[0], replace(infos[1], name="s-0.tar")], NAMES)
    assert (tmp_path / MANIFEST_NAME).read_bytes() == before


pieces = st.one_of(
    st.sampled_from(["faces-", ".tar", "a", "/", "{a}", "{}"]),
    st.tuples(st.integers(0, 12), st.integers(0, 12)).map(lambda p: f"{{{p[0]}..{p[1]}}}"),
    st.tuples(st.integers(0, 12), st.integers(0, 12)).map(lambda p: f"{{{p[0]:03d}..{p[1]:03d}}}"),
    st.sampled_from(["{x,y}", "{p,{1..3}}", "{train,val-{00..02}}", "{,z}"]),
)


@given(st.lists(pieces, min_size=1, max_size=3).map("".join))
def test_braces_expand_as_in_webdataset(pattern: str) -> None:
    assert sorted(expand_braces(pattern)) == sorted(set(braceexpand.braceexpand(pattern)))


@pytest.mark.parametrize("pattern", ["f-{0..99999999}.tar", "{0..999}{0..999}{0..9}"])
def test_a_slip_of_the_keyboard_does_not_fill_the_memory(pattern: str) -> None:
    with pytest.raises(ValueError, match="more than 100000 names"):
        expand_braces(pattern)
