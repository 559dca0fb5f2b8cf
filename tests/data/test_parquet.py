"""Parquet files with images, as Hugging Face's datasets write them."""

import json
import pickle
from collections.abc import Sequence
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from centerarc.data import FolderSource, ParquetSource, open_source, source_kind
from centerarc.data import parquet as module
from tests.data.pictures import picture, put

IMAGE = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
NAMES = ["Ann", "Bo", "Cyd"]


def write(
    path: Path,
    values: Sequence[int],
    labels: Sequence[Any],
    *,
    names: Sequence[str] | None = None,
    column: str = "label",
    rows: int = 2,
    more: dict[str, Any] | None = None,
) -> Path:
    """Writes pictures of one gray each as `datasets` does, `rows` of them in a row group."""
    images = [{"bytes": picture(value), "path": f"{value}.png"} for value in values]
    table = pyarrow.table({"image": pyarrow.array(images, IMAGE), column: labels, **(more or {})})
    if names is not None:
        features = {"image": {"_type": "Image"}, column: {"names": names, "_type": "ClassLabel"}}
        notes = json.dumps({"info": {"features": features}})
        table = table.replace_schema_metadata({"huggingface": notes})
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(table, path, row_group_size=rows)
    return path


def values(source: ParquetSource) -> list[int]:
    return [int(source.image(i)[0, 0, 0]) for i in range(len(source))]


def named(source: ParquetSource) -> list[str]:
    return [source.identities[label] for label in source.labels]


@pytest.fixture
def split(tmp_path: Path) -> Path:
    for number, (grays, labels) in enumerate(
        (([1, 2, 3], [2, 0, 2]), ([4], [0]), ([5, 6], [2, 2]))
    ):
        write(tmp_path / f"train-0000{number}-of-00003.parquet", grays, labels, names=NAMES)
    return tmp_path


def test_a_split_in_several_files(split: Path) -> None:
    for path in (
        split,
        f"{split}/train-*.parquet",
        f"{split}/train-{{00000..00002}}-of-00003.parquet",
    ):
        assert source_kind(path) == "parquet"
        source = open_source(path)
        assert values(source) == [1, 2, 3, 4, 5, 6]
        assert source.identities == ["Ann", "Cyd"]
        assert named(source) == ["Cyd", "Ann", "Cyd", "Ann", "Cyd", "Cyd"]
        assert source.labels.dtype == np.int64
    assert source.place(2) == "train-00000-of-00003.parquet[2]"
    assert source.place(5) == "train-00002-of-00003.parquet[1]"
    assert len({source.place(i) for i in range(6)}) == 6
    assert [Path(file).name[:11] for file in source.files()] == [f"train-0000{k}" for k in range(3)]
    assert values(pickle.loads(pickle.dumps(source))) == [1, 2, 3, 4, 5, 6]
    one = open_source(split / "train-00002-of-00003.parquet", image_size=4)
    assert one.image(-1).shape == (4, 4, 3)
    assert not source.problems


def read(source: ParquetSource, order: list[int]) -> list[bytes]:
    return [source.encoded(index) for index in order]


def test_any_order_and_processes_give_the_same_images(split: Path) -> None:
    source = ParquetSource(split)
    expected = read(source, list(range(6)))
    order = np.random.default_rng(0).permutation(6).tolist()
    assert read(source, order) == [expected[index] for index in order]
    for method in ("fork", "spawn"):
        with get_context(method).Pool(2) as pool:
            assert pool.apply(read, (source, order)) == [expected[index] for index in order]


@pytest.mark.parametrize(
    ("labels", "column", "identities"),
    [
        (["Bo", "Ann", "Bo"], "label", ["Ann", "Bo"]),
        (["p10", "p2", "p10"], "identity", ["p2", "p10"]),
        ([30, 4, 30], "label", ["4", "30"]),
        (pyarrow.array(["b", "a", "b"]).dictionary_encode(), "person", ["a", "b"]),
        (pyarrow.array(["b", "a", "b"], pyarrow.string_view()), "label", ["a", "b"]),
    ],
)
def test_people_by_name_or_number(
    tmp_path: Path, labels: Any, column: str, identities: list[str]
) -> None:
    path = write(tmp_path / "a.parquet", [1, 2, 3], labels, column=column)
    source = open_source(path)
    assert source.identities == identities
    assert source.labels.tolist() == [1, 0, 1]


def test_views_as_polars_writes_them_are_images(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", [1, 2], ["Ann", "Bo"])
    table = pyarrow.parquet.read_table(path)
    files = [image["bytes"] for image in table.column("image").to_pylist()]
    views = pyarrow.table({"image": pyarrow.array(files, pyarrow.binary_view()), "label": [3, 4]})
    pyarrow.parquet.write_table(views, tmp_path / "b.parquet")
    source = open_source(tmp_path / "b.parquet")
    assert [source.encoded(index) for index in (0, 1)] == files


def test_other_columns_are_named(tmp_path: Path) -> None:
    second = pyarrow.array([picture(9), picture(8)], pyarrow.binary())
    more = {"crop": second, "who": ["Bo", "Ann"]}
    path = write(tmp_path / "a.parquet", [1, 2], [0, 1], more=more)
    assert values(ParquetSource(path)) == [1, 2]  # image is the usual name
    source = open_source(path, path_column="crop", identity_column="who")
    assert values(source) == [9, 8]
    assert named(source) == ["Bo", "Ann"]


def test_a_path_is_read_where_there_are_no_bytes(tmp_path: Path) -> None:
    put(tmp_path / "faces" / "1.png", 7)
    images = [{"bytes": None, "path": "faces/1.png"}, {"bytes": None, "path": None}]
    table = pyarrow.table({"image": pyarrow.array(images, IMAGE), "label": [0, 1]})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    source = ParquetSource(tmp_path / "a.parquet")
    assert int(source.image(0)[0, 0, 0]) == 7
    with pytest.raises(ValueError, match=r"cannot read 'a\.parquet\[1\]': the row has no image"):
        source.image(1)


def test_what_is_wrong_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    for labels, options, message in (
        ([0, 3], {"names": NAMES}, r"row 2: label must be one of 3 classes, got 3"),
        ([0, -1], {"names": NAMES}, r"row 2: label must be one of 3 classes, got -1"),
        ([None, 1], {}, r"row 1: label must be a name, or a number from 0, got None"),
        (["a", ""], {}, r"row 2: label must be a name, .* got ''"),
        ([0.5, 1.0], {}, r"'label' must hold text or whole numbers, got double"),
        ([0, 1], {"column": "age"}, r"no column 'identity or label' of the people; .* 'age'"),
        ([0, 1], {"names": ["A", "A"]}, "two classes of one name"),
    ):
        write(path, [1, 2], labels, **options)
        with pytest.raises(ValueError, match=message):
            ParquetSource(path)
    write(path, [1, 2], [0, 1])
    with pytest.raises(
        ValueError, match=r"column 'label' holds no images; those with bytes are 'im"
    ):
        ParquetSource(path, image_column="label")
    with pytest.raises(ValueError, match=r"no column 'who' of the people"):
        ParquetSource(path, identity_column="who")
    with pytest.raises(ValueError, match="root is 'x', which is for lists"):
        open_source(path, root="x")
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ValueError, match=r"a\.parquet: not a Parquet file or damaged"):
        ParquetSource(path)
    with pytest.raises(ValueError, match="no file matches"):
        open_source(tmp_path / "b*.parquet")


def test_splits_and_classes_are_not_mixed(tmp_path: Path) -> None:
    write(tmp_path / "train-00000-of-00001.parquet", [1], [0], names=NAMES)
    write(tmp_path / "test-00000-of-00001.parquet", [2], [0], names=["Zoe"])
    with pytest.raises(ValueError, match=r"several splits, test and train; .* such as '.*test\*"):
        open_source(tmp_path)
    with pytest.raises(ValueError, match=r"train.*: 'label' has other classes than .*test"):
        open_source(f"{tmp_path}/*.parquet")
    assert named(open_source(f"{tmp_path}/train-*.parquet")) == ["Ann"]


def test_a_folder_of_people_with_a_list_in_it_stays_a_folder(tmp_path: Path) -> None:
    put(tmp_path / "Ann" / "1.png", 1)
    pyarrow.parquet.write_table(pyarrow.table({"path": ["Ann/1.png"]}), tmp_path / "l.parquet")
    assert isinstance(open_source(tmp_path), FolderSource)
    assert source_kind(tmp_path / "l.parquet") == "list"


def test_large_row_groups_are_said_and_huge_ones_refused(
    split: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_LARGE", 10)
    assert "row groups of up to 0 MB are read whole" in ParquetSource(split).problems[0]
    monkeypatch.setattr(module, "_MOST", 10)
    with pytest.raises(ValueError, match=r"row group 0 has \d+ bytes of images"):
        ParquetSource(split)
