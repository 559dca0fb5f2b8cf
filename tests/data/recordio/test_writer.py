"""Written data sets: other readers read them, parts join, nothing wrong is written."""

import struct
from concurrent.futures import ProcessPoolExecutor
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from centerarc.data import RecordIOSource
from centerarc.data.recordio import finish, image_keys, write_part
from tests.data.recordio import by_hand

NAMES = ["Ann Lee", "Bo", "Zoë"]


def packed(
    folder: Path, labels: list[int], cuts: list[int], images: list[bytes] | None = None
) -> Path:
    """Writes a data set in parts that end at `cuts`; image i is a picture of gray i."""
    images = images or [by_hand.picture(i) for i in range(len(labels))]
    keys = image_keys(labels)
    parts = []
    borders = [0, *cuts, len(labels)]
    for number, (start, stop) in enumerate(pairwise(borders)):
        path = folder / f"part{number}"
        samples = zip(labels[start:stop], images[start:stop], strict=True)
        parts.append((path, write_part(path, samples, first_key=keys[0] + start)))
    rec = folder / "out" / "train.rec"
    finish(
        rec,
        parts,
        labels,
        identities=NAMES[: max(labels) + 1],
        image_size=(112, 96),
        places=[f"deep/er/{i}.jpg" for i in range(len(labels))],
    )
    return rec


def as_arcface_torch_reads(rec: Path) -> list[tuple[int, bytes]]:
    """Labels and images by the steps of its data set class, in struct."""
    starts = dict(by_hand.records(rec.read_bytes()))
    lines = rec.with_suffix(".idx").read_text().splitlines()
    idx = {int(line.split("\t")[0]): int(line.split("\t")[1]) for line in lines}
    assert len(idx) == len(lines) == len(starts)

    def unpack(key: int) -> tuple[int, tuple[float, ...], bytes]:
        payload = starts[idx[key]]
        flag, label, stored_key, _ = struct.unpack_from("<IfQQ", payload)
        assert stored_key == key
        labels = struct.unpack_from(f"<{flag}f", payload, 24) if flag else (label,)
        return flag, labels, payload[24 + 4 * flag :]

    flag, labels, _ = unpack(0)
    keys = range(1, int(labels[0])) if flag > 0 else list(idx)
    if flag > 0:
        assert idx[0] == 0
        # As its older readers check: identity records tile the images, one label in each.
        people = [unpack(key)[1] for key in range(int(labels[0]), int(labels[1]))]
        assert int(labels[1]) == len(idx)
        assert [key for first, end in people for key in range(int(first), int(end))] == list(keys)
        for first, end in people:
            assert len({unpack(key)[1][0] for key in range(int(first), int(end))}) == 1
    return [(int(unpack(key)[1][0]), unpack(key)[2]) for key in keys]


@pytest.mark.parametrize("cuts", [[], [1], [3, 3, 5]])
def test_images_grouped_by_person_get_insightface_layout(tmp_path: Path, cuts: list[int]) -> None:
    labels = [1, 1, 0, 0, 0, 2]
    rec = packed(tmp_path, labels, cuts)
    pictures = [by_hand.picture(i) for i in range(6)]
    assert as_arcface_torch_reads(rec) == list(zip(labels, pictures, strict=True))
    assert rec.with_name("property").read_text() == "3,112,96\n"
    lst = rec.with_suffix(".lst").read_text(encoding="utf-8").splitlines()
    assert lst[0] == "1\tBo/0.jpg\t1"
    assert lst[5] == "1\tZoë/5.jpg\t2"
    assert sorted(path.name for path in rec.parent.iterdir()) == [
        "property",
        "train.idx",
        "train.lst",
        "train.rec",
    ]
    source = RecordIOSource(rec)
    assert source.labels.tolist() == labels
    assert source.identities == NAMES
    assert [source.encoded(i) for i in range(6)] == pictures
    assert source.place(0) == "record 1"
    assert source.problems == []


def test_shuffled_images_get_im2rec_layout(tmp_path: Path) -> None:
    labels = [1, 0, 1, 2, 0]
    rec = packed(tmp_path, labels, [2])
    pictures = [by_hand.picture(i) for i in range(5)]
    assert as_arcface_torch_reads(rec) == list(zip(labels, pictures, strict=True))
    lst = rec.with_suffix(".lst").read_text(encoding="utf-8").splitlines()
    assert lst[3] == "3\t2.000000\tZoë/3.jpg"
    for missing in ((), (".lst",), (".lst", ".idx")):
        for suffix in missing:
            rec.with_suffix(suffix).unlink(missing_ok=True)
        source = RecordIOSource(rec)
        assert source.labels.tolist() == labels
        assert source.identities == (["0", "1", "2"] if missing else NAMES)
        assert [source.encoded(i) for i in range(5)] == pictures
        assert source.problems == []


@settings(max_examples=30, deadline=None)  # files are flushed to the disk
@given(
    st.lists(st.tuples(st.integers(0, 2), st.binary(min_size=1, max_size=30)), max_size=8),
    st.data(),
)
def test_any_bytes_in_any_parts_come_back(
    tmp_path_factory: pytest.TempPathFactory, some: list[tuple[int, bytes]], data: st.DataObject
) -> None:
    samples = [(0, by_hand.MAGIC), (1, b"x"), (2, by_hand.MAGIC * 2 + b"yz"), *some]
    if data.draw(st.booleans()):
        samples.sort()
    labels = [label for label, _ in samples]
    cuts = sorted(data.draw(st.lists(st.integers(0, len(samples)), max_size=3)))
    rec = packed(tmp_path_factory.mktemp("any"), labels, cuts, [image for _, image in samples])
    assert as_arcface_torch_reads(rec) == samples
    source = RecordIOSource(rec)
    read = [(int(source.labels[i]), source.encoded(i)) for i in range(len(source))]
    assert read == samples


def _write(task: tuple[Path, int]) -> "np.ndarray[tuple[int], np.dtype[np.int64]]":
    path, start = task
    samples = [(start // 10, by_hand.picture(start + i)) for i in range(10)]
    return write_part(path, samples, first_key=1 + start)


def test_parts_may_be_written_by_several_processes(tmp_path: Path) -> None:
    tasks = [(tmp_path / str(start), start) for start in (0, 10, 20)]
    with ProcessPoolExecutor(2) as pool:
        offsets = list(pool.map(_write, tasks))
    labels = [0] * 10 + [1] * 10 + [2] * 10
    rec = tmp_path / "a.rec"
    finish(
        rec,
        [(path, found) for (path, _), found in zip(tasks, offsets, strict=True)],
        labels,
        identities=NAMES,
        image_size=(8, 8),
        places=map(str, range(30)),
    )
    source = RecordIOSource(rec)
    assert source.labels.tolist() == labels
    assert [int(source.image(i)[0, 0, 0]) for i in range(30)] == list(range(30))


def test_keys_that_record_0_cannot_hold_are_written_without_it() -> None:
    people = 2
    most = 2**24 - 1 - people
    labels = np.zeros(most, dtype=np.int64)
    labels[-1] = 1
    assert image_keys(labels) == range(1, most + 1)
    assert image_keys(np.append(labels, 1)) == range(most + 1)


def test_labels_that_a_float32_cannot_hold_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="record 5 has label 16777216; it must be from 0"):
        write_part(tmp_path / "part", [(2**24, b"x")], first_key=5)
    with pytest.raises(ValueError, match="labels are 0 to 16777216; they must be from 0"):
        image_keys([0, 2**24])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("samples", "first_key", "words"),
    [
        ([(0, b"x"), (-1, b"x")], 1, "record 2 has label -1"),
        ([(0, b"")], 1, "record 1 has an empty image"),
        ([(0, b"x")], -1, "first_key is -1"),
    ],
)
def test_a_wrong_part_is_not_written(
    tmp_path: Path, samples: list[tuple[int, bytes]], first_key: int, words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        write_part(tmp_path / "part", samples, first_key=first_key)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"path": "train.bin"}, "must end in .rec"),
        ({"labels": [0, 1]}, "2 labels for 3 records"),
        ({"labels": [0, 1, 1], "first_key": 0}, "has keys 0 to 2; it must have 1 to 3"),
        ({"labels": [1, 1, 0]}, "has labels 0 at its start and 1 at its end; labels has 1 and 0"),
        ({"labels": [0, 0, 2]}, "label 1 has no image"),
        ({"labels": []}, r"shape \(0,\)"),
        ({"labels": [0.0, 0.0, 1.0]}, "float64"),
        ({"labels": [0, 1, 0]}, "has keys 1 to 3; it must have 0 to 2"),
        ({"identities": ["a"]}, "1 identities for 2 labels"),
        ({"identities": ["a", "a"]}, "a name twice"),
        ({"identities": ["a", "b/c"]}, "'b/c' is not the name of a folder"),
        ({"identities": ["a", "b\nc"]}, r"'b\\nc' is not the name of a folder"),
        ({"places": ["1", "2"]}, "only 2 places for 3 images"),
        ({"places": ["1", "2", "3", "4"]}, "more places for 3 images"),
    ],
)
def test_a_wrong_data_set_is_not_written(
    tmp_path: Path, changed: dict[str, object], words: str
) -> None:
    part = tmp_path / "part"
    samples = [(0, b"x"), (0, b"y"), (1, b"z")]
    offsets = write_part(part, samples, first_key=int(str(changed.pop("first_key", 1))))
    right = {
        "path": "train.rec",
        "labels": [0, 0, 1],
        "identities": ["a", "b"],
        "places": ["1", "2", "3"],
    }
    options = right | changed
    path = tmp_path / "out" / str(options.pop("path"))
    with pytest.raises(ValueError, match=words):
        finish(path, [(part, offsets)], image_size=(112, 112), **options)  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists() or list((tmp_path / "out").iterdir()) == []


def test_file_names_cannot_break_the_lst(tmp_path: Path) -> None:
    part = tmp_path / "part"
    offsets = write_part(part, [(0, b"x"), (1, b"y")], first_key=1)
    names = ["ok", "not utf-8 \udcff"]
    places = ["a\tb\n1\tc.jpg", "C:\\faces\\\udcfe.jpg"]
    rec = tmp_path / "train.rec"
    finish(rec, [(part, offsets)], [0, 1], identities=names, image_size=(1, 1), places=iter(places))
    source = RecordIOSource(rec)
    assert source.identities == names
    assert source.problems == []
