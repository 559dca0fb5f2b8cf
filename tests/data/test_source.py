"""Sources by name and by path, and what those of encoded images share."""

import pickle
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from centerarc.curate import check_source, inspect_source, pack
from centerarc.data import (
    CachedSource,
    EncodedSource,
    MixedSource,
    Part,
    Shuffled,
    TrainLoader,
    create_source,
    open_source,
    source_kind,
    subset,
)
from centerarc.data.decode import WrongSizeError
from centerarc.data.source import chosen_people, namesakes, one_list
from tests.data.pictures import put


def test_sources_are_opened_by_name() -> None:
    source = create_source("synthetic", num_identities=2, images_per_identity=1, image_size=64)
    assert len(source) == 2
    with pytest.raises(
        ValueError, match="one of folder, list, parquet, recordio, shards, synthetic, got 'web'"
    ):
        create_source("web")
    with pytest.raises(ValueError, match=r"wrong options for source 'folder'.*rooot"):
        create_source("folder", rooot="x")


def test_a_path_tells_the_kind(tmp_path: Path) -> None:
    for name in ("faces.rec", "list.csv", "LIST.Parquet", "one.tar", "notes.md"):
        (tmp_path / name).touch()
    for folder, name in (("r", "train.rec"), ("t", "a-0.tar"), ("f", "ann/1.jpg")):
        (tmp_path / folder / name).parent.mkdir(parents=True)
        (tmp_path / folder / name).touch()
    kinds = {
        "faces.rec": "recordio",
        "list.csv": "list",
        "LIST.Parquet": "list",
        "one.tar": "shards",
        "t/a-{0..3}.tar": "shards",
        "t/*.tar": "shards",
        "r": "recordio",
        "t": "shards",
        "f": "folder",
    }
    for name, kind in kinds.items():
        assert source_kind(tmp_path / name) == kind
    with pytest.raises(ValueError, match=r"there is no .*nowhere.*a source is a folder of"):
        source_kind(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"a source must be a folder of .*, got .*notes\.md'"):
        source_kind(tmp_path / "notes.md")


class Files(EncodedSource):
    """Pictures in memory."""

    def __init__(self, files: list[bytes], image_size: int | None = None) -> None:
        super().__init__(image_size)
        self.files = files
        self.labels = np.zeros(len(files), dtype=np.int64)
        self.identities = ["ann"]

    def encoded(self, index: int) -> bytes:
        return self.files[index]

    def place(self, index: int) -> str:
        return f"ann/{index}"


def file(kind: str, size: tuple[int, int] = (20, 10)) -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    buffer = BytesIO()
    PIL.Image.fromarray(noise).save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_decoding_in_place_gives_the_same_pixels(kind: str) -> None:
    for source in (Files([file(kind)]), Files([file(kind)], image_size=16)):
        image = source.image(0)
        batch = np.full((2, *image.shape), 7, dtype=np.uint8)
        source.image_into(0, batch[1])
        assert (batch[1] == image).all()
        assert (batch[0] == 7).all()
    with PIL.Image.open(BytesIO(file(kind))) as picture:
        expected = np.asarray(picture.convert("RGB")).astype(int)
    assert np.abs(Files([file(kind)]).image(0) - expected).max() <= (2 if kind == "JPEG" else 0)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_another_size_is_an_error_of_its_own(kind: str) -> None:
    source = Files([file(kind)])
    for shape in ((10, 21, 3), (20, 10, 3), (11, 20, 3)):
        with pytest.raises(WrongSizeError, match=r"'ann/0': the image has 20 x 10 pixels and"):
            source.image_into(0, np.zeros(shape, dtype=np.uint8))


def test_damage_names_the_place() -> None:
    source = Files([file("JPEG")[:-50], b"", b"text"])
    row = np.zeros((10, 20, 3), dtype=np.uint8)
    for index, reason in enumerate(["damaged or cut off", "empty", "not an image"]):
        with pytest.raises(ValueError, match=f"^cannot read 'ann/{index}': .*{reason}"):
            source.image(index)
        with pytest.raises(ValueError, match=f"^cannot read 'ann/{index}': .*{reason}"):
            source.image_into(index, row)


def test_a_source_travels_to_other_processes() -> None:
    source = pickle.loads(pickle.dumps(Files([file("PNG")], image_size=16)))
    assert source.image(0).shape == (16, 16, 3)
    with pytest.raises(ValueError, match="image_size must be at least 1 or None, got 0"):
        Files([], image_size=0)


@pytest.mark.parametrize("name", ["ann", "p.rec", "p.tar"])
def test_a_folder_is_opened_even_if_a_person_is_named_like_a_container(
    tmp_path: Path, name: str
) -> None:
    put(tmp_path / name / "1.png")
    assert source_kind(tmp_path) == "folder"
    source = open_source(tmp_path, image_size=4)
    assert source.identities == [name]
    assert source.image(0).shape == (4, 4, 3)


class Plain:
    """A source of someone else's, which derives from nothing."""

    identities = ("ann", "bob")
    labels = np.array([0, 0, 1, 1])

    def __len__(self) -> int:
        return 4

    def image(self, index: int) -> np.ndarray:
        return np.full((16, 16, 3), 10 * index, dtype=np.uint8)


def test_a_class_of_four_members_is_a_source_everywhere(tmp_path: Path) -> None:
    plain: Any = Plain()
    for source in (plain, subset(plain, ["bob", "ann"]), CachedSource(plain, limit_bytes=10**6)):
        loader = TrainLoader(source, batch_size=2, augmentation=None, seed=0, workers=0)
        loader.set_epoch(0)
        assert sum(len(labels) for _, labels in loader) == 4
    mixed = MixedSource([Part(plain, 1.0, "a"), Part(plain, 2.0, "b")], merge=True)
    assert mixed.image(5)[0, 0, 0] == 10
    assert mixed.place(5) == "b/image 1"
    assert len(Shuffled(plain).order(0, 0)) == 4
    assert inspect_source(plain, workers=0).sizes == {(16, 16): 4}
    assert check_source(plain, workers=0).images == 4
    assert pack(plain, tmp_path / "pack", format="shards", workers=0).images == 4


def test_what_is_not_a_source_is_refused_by_what_it_lacks() -> None:
    with pytest.raises(ValueError, match="source must have labels, got list without"):
        TrainLoader([], batch_size=2, augmentation=None, seed=0)  # type: ignore[arg-type]


# One name in Unicode's composed and decomposed form, and in another case.
COMPOSED, DECOMPOSED, OTHER_CASE = "Zo\u00eb L\u00e9a", "Zoe\u0308 Le\u0301a", "zo\u00eb l\u00e9a"


def test_names_of_several_places_are_one_persons_whatever_their_form() -> None:
    found = one_list([COMPOSED, "Bob"], [DECOMPOSED, "bob", "Cyd", "bob"])
    assert found.names == [COMPOSED, "Bob", "Cyd"]
    assert [numbers.tolist() for numbers in found.numbers] == [[0, 1], [0, 1, 2, 1]]
    assert found.by_case == [("Bob", "bob")]
    assert found.notes() == ["1 name is taken for that of another place although the case differs"]
    assert one_list([COMPOSED], [f"{DECOMPOSED} "]).numbers[1].tolist() == [0]
    assert one_list([COMPOSED], [DECOMPOSED]).notes() == []


def test_case_tells_people_apart_where_one_place_says_so() -> None:
    found = one_list(["aB", "Ab", DECOMPOSED], ["ab", "aB", OTHER_CASE])
    assert found.names == ["aB", "Ab", DECOMPOSED, "ab"]
    assert [numbers.tolist() for numbers in found.numbers] == [[0, 1, 2], [3, 0, 2]]


def test_a_namesake_is_found_in_any_form_case_or_part_of_a_mixture() -> None:
    there = [DECOMPOSED, OTHER_CASE, f"web/{DECOMPOSED}", "Zoe Lea", f"x/{COMPOSED}s"]
    assert namesakes(there, [COMPOSED]) == there[:3]
    assert namesakes(there, [f" {COMPOSED}"]) == there[:3]
    assert namesakes([COMPOSED, "Bob"], [f"web/{DECOMPOSED}"]) == [COMPOSED]
    # Two folders that end alike may be two people's.
    assert namesakes(["Ann/old"], ["Bob/old"]) == []


def test_people_chosen_by_a_list_may_have_another_form_and_not_another_case() -> None:
    assert chosen_people([COMPOSED], [DECOMPOSED, "Bob"], "l") == {DECOMPOSED}
    with pytest.raises(ValueError, match=r"l names 1 person .* first 'bob'; 'Bob' differs in case"):
        chosen_people(["bob"], [DECOMPOSED, "Bob"], "l")
