"""Embeddings: of images, in files; what is wrong with them is named."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from centerarc.data import FaceSource
from centerarc.evaluation import embed, pair_scores, read_embeddings
from centerarc.evaluation.embedding import Part, write_npz, write_parquet


class LeftRight(nn.Module):
    """The mean of the left half and of the right half; notices its mode."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(2, affine=False)
        self.frozen = nn.Dropout(0.5)
        self.image_size = 4

    def forward(self, x):
        halves = torch.stack([x[..., :2].mean((1, 2, 3)), x[..., 2:].mean((1, 2, 3))], 1)
        return self.frozen(self.norm(halves))


class Source(FaceSource):
    labels = np.zeros(5, dtype=np.int64)
    identities = ("somebody",)

    def __init__(self, images):
        self.images = images

    def __len__(self):
        return len(self.images)

    def image(self, index):
        return self.images[index]


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, size=(5, 4, 4, 3), dtype=np.uint8)


def test_embeddings_come_in_order_whatever_the_batch(images):
    whole = embed(LeftRight(), images, batch_size=5)
    assert whole.dtype == np.float32
    expected = (images[:, :, :2].mean((1, 2, 3)) - 127.5) / 127.5
    np.testing.assert_allclose(whole[:, 0], expected, atol=1e-4)
    np.testing.assert_allclose(embed(LeftRight(), images, batch_size=2), whole, rtol=1e-6)
    np.testing.assert_allclose(embed(LeftRight(), Source(images), batch_size=2), whole, rtol=1e-6)


def test_mirror_sums_the_features_of_both(images):
    plain = embed(LeftRight(), images)
    both = embed(LeftRight(), images, mirror=True)
    np.testing.assert_allclose(both, plain + plain[:, ::-1], rtol=1e-5)


def test_every_module_gets_its_own_mode_back_after_an_error_too(images):
    for shown in (images, images[:, :, :3]):
        model = LeftRight().train()
        model.frozen.eval()
        with nullcontext() if shown is images else pytest.raises(ValueError, match="4 x 3"):
            embed(model, shown)
        assert model.training
        assert model.norm.training
        assert not model.frozen.training
        assert model.norm.num_batches_tracked == 0  # the statistics did not move


def test_progress_counts_images(images):
    seen = []
    embed(LeftRight(), images, batch_size=2, progress=seen.append)
    assert seen == [2, 2, 1]


def test_bad_images_and_embeddings_are_named(images):
    with pytest.raises(ValueError, match="uint8 of shape"):
        embed(LeftRight(), images.astype(np.float32))
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        embed(LeftRight(), images, batch_size=0)
    with pytest.raises(ValueError, match="at least one image"):
        embed(LeftRight(), images[:0])
    broken = LeftRight()
    broken.norm.running_mean[0] = float("nan")
    with pytest.raises(ValueError, match="embedding of image 0 is not finite"):
        embed(broken, images)


def test_scores_are_cosines():
    scores = pair_scores(np.array([[3.0, 4.0], [6.0, 8.0], [-4.0, 3.0]]), [0, 0, 1], [1, 2, 0])
    np.testing.assert_allclose(scores, [1, 0, 1], atol=1e-15)
    with pytest.raises(ValueError, match="row 1 has length 0"):
        pair_scores(np.array([[1.0, 0.0], [0.0, 0.0]]), [0], [1])


GOOD: dict[str, Any] = {
    "place": ["a/1", "a/2", "b/1"],
    "identity": ["a", "a", "b"],
    "embedding": [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]],
}


@pytest.fixture(params=["e.npz", "e.parquet"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return tmp_path / str(request.param)


def write(path: Path, content: dict[str, Any]) -> Path:
    if path.suffix == ".npz":
        np.savez(path, **content)
    else:
        pq.write_table(pa.table(content), path)
    return path


def test_files_of_others_are_read(path: Path) -> None:
    found = read_embeddings(write(path, GOOD))
    assert (found.places, found.identities) == (GOOD["place"], GOOD["identity"])
    np.testing.assert_array_equal(found.embedding, np.array(GOOD["embedding"], np.float32))
    assert found.embedding.dtype == np.float32
    assert found.metadata == {}
    assert len(found) == 3
    # Numbers of people are names.
    found = read_embeddings(write(path, {**GOOD, "identity": [7, 7, 10]}))
    assert found.identities == ["7", "7", "10"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"embedding": [[1, 2], [np.nan, 4], [5.0, np.inf]]}, r"2 .* row 1 \('a/2'\), 2 \('b/1'\)"),
        ({"embedding": [[1.0, 2.0], [1e300, 0.0], [5.0, 6.0]]}, r"too long .* row 1 \('a/2'\)"),
        ({"embedding": [[1.0, 2.0], [3.0, 4.0], [3e38, 3e38]]}, r"too long .* row 2 \('b/1'\)"),
        ({"embedding": [[0.0, 0.0], [3.0, 4.0], [5.0, 6.0]]}, r"length 0 .* row 0 \('a/1'\)"),
        ({"embedding": [[1.0, 2.0], [1e-60, 0.0], [5.0, 6.0]]}, r"length 0 .* row 1 \('a/2'\)"),
        ({"embedding": None}, "has no 'embedding'; it has place, identity"),
        ({"place": None}, "has no 'place'"),
        ({"identity": [1.0, 2.0, 3.0]}, "identity of .* must be text or.* got (float64|double)"),
        ({"embedding": [1.0, 2.0, 3.0]}, "embedding of .* must be (floats|lists)"),
        ({"embedding": [[1, 2], [3, 4], [5, 6]]}, "embedding of .* must be .* got .*int64"),
    ],
)
def test_what_is_wrong_is_named(path: Path, change: dict[str, Any], message: str) -> None:
    content = {key: value for key, value in {**GOOD, **change}.items() if value is not None}
    with pytest.raises(ValueError, match=message) as caught:
        read_embeddings(write(path, content))
    assert path.name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_empty_file_is_named(path: Path) -> None:
    names, numbers = np.array([], dtype="U1"), np.zeros((0, 2))
    if path.suffix == ".parquet":
        names, numbers = pa.array([], pa.string()), pa.array([], pa.list_(pa.float32(), 2))
    write(path, {"place": names, "identity": names, "embedding": numbers})
    with pytest.raises(ValueError, match="holds no embedding"):
        read_embeddings(path)


def test_columns_that_do_not_fit_together_are_named(tmp_path: Path) -> None:
    path = tmp_path / "e.parquet"
    write(tmp_path / "e.npz", {**GOOD, "place": ["a"]})
    with pytest.raises(ValueError, match="1 of place, 3 of identity, 3 of embedding"):
        read_embeddings(tmp_path / "e.npz")
    with pytest.raises(ValueError, match="must be lists of one length, got 1 and 2"):
        read_embeddings(write(path, {**GOOD, "embedding": [[1.0], [1.0, 2.0], [1.0]]}))
    with pytest.raises(ValueError, match=r"embedding of .* has no value in row 1"):
        read_embeddings(write(path, {**GOOD, "embedding": [[1.0], None, [1.0]]}))
    pq.write_table(pa.table(GOOD).append_column("place", pa.array(["x", "y", "z"])), path)
    with pytest.raises(ValueError, match=r"e\.parquet' has 2 columns 'place'"):
        read_embeddings(path)


NO_OBJECTS = ('{"model": NaN}', '{"mirror": 1e999}', "[1]", "{")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        *((text, "metadata of .*{name}' must be a JSON object") for text in NO_OBJECTS),
        ('{"model": 5}', "model in the metadata of .*{name}' must be text, got 5"),
    ],
)
def test_metadata_that_no_result_could_repeat_is_named(path: Path, text: str, message: str) -> None:
    if path.suffix == ".npz":
        np.savez(path, **GOOD, centerarc=np.array(text))
    else:
        pq.write_table(pa.table(GOOD).replace_schema_metadata({"centerarc": text}), path)
    with pytest.raises(ValueError, match=message.format(name=path.name)):
        read_embeddings(path)


class Payload:
    """Would create a file, were it ever unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        import os

        return os.mkdir, (str(self.path),)


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    trap = np.array([Payload(tmp_path / "harm")] * 3, dtype=object)
    np.savez(tmp_path / "e.npz", **{**GOOD, "place": trap})
    with pytest.raises(ValueError, match=r"cannot read .*e\.npz': an array of Python objects$"):
        read_embeddings(tmp_path / "e.npz")
    assert not (tmp_path / "harm").exists()


def test_a_missing_or_damaged_file_is_named(path: Path) -> None:
    with pytest.raises(ValueError, match="there is no file of embeddings"):
        read_embeddings(path)
    data = write(path, GOOD).read_bytes()
    for length in (0, 4, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:length])
        with pytest.raises(ValueError, match="cannot read") as caught:
            read_embeddings(path)
        assert "\n" not in str(caught.value)
    path.with_suffix(".txt").write_text("place,identity,embedding")
    with pytest.raises(ValueError, match="must end in"):
        read_embeddings(path.with_suffix(".txt"))


def test_an_npz_file_that_is_something_else_is_said_to_be_none(tmp_path: Path) -> None:
    path = tmp_path / "e.npz"
    with open(path, "wb") as file:
        np.save(file, np.zeros((3, 2)))
    for _ in range(2):
        with pytest.raises(ValueError, match=r"e\.npz': it is damaged or not an npz file"):
            read_embeddings(path)
        path.write_bytes(b"\x80\x04K\x05. a pickle, or whatever")


TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=8)


@settings(deadline=None)
@given(
    rows=st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=9),
    cut=st.integers(0, 9),
    size=st.integers(1, 4),
)
def test_what_is_written_in_parts_comes_back(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]], cut: int, size: int
) -> None:
    folder = tmp_path_factory.mktemp("parts")
    places, identities = [list(column) for column in zip(*rows, strict=True)]
    embedding = np.random.default_rng(0).normal(size=(len(rows), size)).astype(np.float32)

    def parts(with_embedding: bool) -> list[Part]:
        ranges = (slice(0, cut), slice(cut, None))
        given = embedding if with_embedding else embedding[:, :0]
        return [Part(places[r], identities[r], given[r]) for r in ranges if places[r]]

    write_npz(folder / "e.npz", parts, size, {"mirror": True})
    write_parquet(folder / "e.parquet", parts, size, {"mirror": True})
    for name in ("e.npz", "e.parquet"):
        found = read_embeddings(folder / name)
        assert (found.places, found.identities) == (places, identities)
        np.testing.assert_array_equal(found.embedding, embedding)
        assert found.metadata == {"mirror": True}
