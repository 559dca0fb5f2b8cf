"""Every kind of bad image is reported for what it is, and unusual good ones are not errors."""

import io
import os
import struct
import unicodedata
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from centerarc.curate import (
    check_checksums,
    check_source,
    inspect_source,
    judge_labels,
    write_problems,
)
from centerarc.curate.check import two_spellings
from centerarc.curate.duplicates import damage
from centerarc.curate.inspect import tail_plot
from centerarc.data import FaceSource, FolderSource, create_source, leave_out, read_leave_out
from centerarc.data.decode import Image
from centerarc.data.views import Subset
from centerarc.report.dataset_pages import write_check_page, write_inspect_page
from tests.curate.pictures import save, scene

AS_ROOT = not hasattr(os, "geteuid") or os.geteuid() == 0


def encoded(image: PIL.Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png_of_size(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds nothing."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IEND", b"")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("bad set")
    for person in ("ann", "bob", "cyd"):
        for number in range(4):
            save(root / person / f"{number}.jpg", scene(10 * ord(person[0]) + number), quality=95)
    ann, bob = root / "ann", root / "bob"
    one = PIL.Image.fromarray(scene(1))
    jpeg, png = encoded(one, "JPEG", quality=95), encoded(one, "PNG")
    (ann / "empty.jpg").touch()
    (ann / "text.jpg").write_text("no picture")
    (ann / "cut.jpg").write_bytes(jpeg[: len(jpeg) // 2])
    (ann / "cut.png").write_bytes(png[: len(png) // 2])
    (ann / "huge.png").write_bytes(png_of_size(60_000, 60_000))
    (ann / "spoiled.jpg").write_bytes(jpeg[:600] + bytes(400) + jpeg[1000:])
    PIL.Image.new("RGB", (112, 112), (9, 8, 7)).save(ann / "blank.jpg")
    # Good but unusual.
    wide = np.array(PIL.Image.fromarray(scene(2)).convert("L")).astype(np.uint16) * 257
    PIL.Image.fromarray(wide).save(bob / "deep.png")
    PIL.Image.fromarray(scene(3)).convert("CMYK").save(bob / "cmyk.jpg")
    turned = PIL.Image.Exif()
    turned[0x0112] = 6
    save(bob / "turned.jpg", scene(4), exif=turned)
    # Odd.
    PIL.Image.fromarray(scene(5)).convert("L").save(bob / "grey.jpg")
    grey = np.repeat(np.array(PIL.Image.fromarray(scene(6)).convert("L"))[:, :, None], 3, axis=2)
    save(bob / "grey as colour.png", grey)
    save(bob / "tiny.png", scene(7, 40))
    frames = [PIL.Image.fromarray(scene(seed)) for seed in (80, 81, 82)]
    (bob / "moving.jpg").write_bytes(
        encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    )
    (bob / "renamed.jpg").write_bytes(encoded(PIL.Image.fromarray(scene(9)), "PNG"))
    (bob / "gone.jpg").symlink_to(bob / "nowhere.jpg")
    (bob / "notes.txt").write_text("x")
    if not AS_ROOT:
        (bob / "secret.jpg").write_bytes(jpeg)
        (bob / "secret.jpg").chmod(0)
    # Again.
    (ann / "9 again.jpg").write_bytes((ann / "2.jpg").read_bytes())
    (bob / "stolen.jpg").write_bytes((ann / "3.jpg").read_bytes())
    pixels = np.asarray(PIL.Image.open(root / "cyd" / "3.jpg"))
    save(bob / "same pixels.png", pixels)
    resaved = PIL.Image.open(root / "cyd" / "0.jpg").resize((90, 90))
    resaved.save(root / "cyd" / "9 resaved.jpg", quality=60)
    cropped = PIL.Image.open(root / "cyd" / "1.jpg").crop((1, 1, 110, 110)).resize((112, 112))
    cropped.save(ann / "cropped.jpg", quality=80)
    return root


EXPECTED = {
    ("ann/empty.jpg", "empty"),
    ("ann/text.jpg", "unreadable"),
    ("ann/cut.jpg", "truncated"),
    ("ann/cut.png", "truncated"),
    ("ann/huge.png", "unreadable"),
    ("ann/spoiled.jpg", "unreadable"),
    ("ann/blank.jpg", "blank"),
    ("bob/deep.png", "grey"),
    ("bob/grey.jpg", "grey"),
    ("bob/grey as colour.png", "grey"),
    ("bob/tiny.png", "tiny"),
    ("bob/moving.jpg", "wrong extension"),
    ("bob/moving.jpg", "animated"),
    ("bob/renamed.jpg", "wrong extension"),
    ("bob/gone.jpg", "out of reach"),
    ("bob/notes.txt", "left out"),
    ("ann/9 again.jpg", "duplicate"),
    ("ann/3.jpg", "duplicate across identities"),
    ("bob/stolen.jpg", "duplicate across identities"),
    ("cyd/3.jpg", "duplicate across identities"),
    ("bob/same pixels.png", "duplicate across identities"),
    ("cyd/9 resaved.jpg", "near duplicate"),
    ("cyd/1.jpg", "near duplicate across identities"),
    ("ann/cropped.jpg", "near duplicate across identities"),
}
ERRORS = {
    "ann/empty.jpg",
    "ann/text.jpg",
    "ann/cut.jpg",
    "ann/cut.png",
    "ann/huge.png",
    "ann/spoiled.jpg",
    "ann/blank.jpg",
    "ann/3.jpg",
    "bob/stolen.jpg",
    "cyd/3.jpg",
    "bob/same pixels.png",
}
if not AS_ROOT:
    EXPECTED.add(("bob/secret.jpg", "unreadable"))
    ERRORS.add("bob/secret.jpg")


def test_each_image_is_reported_for_what_it_is_and_nothing_else(root: Path) -> None:
    result = check_source(FolderSource(root), workers=0)
    assert {(p.place, p.problem) for p in result.problems} == EXPECTED
    assert {p.place for p in result.problems if p.severity == "error"} == ERRORS
    assert result.errors == len(ERRORS)
    assert len(result.problems) == len(EXPECTED)


def test_details_say_what_and_with_what(root: Path) -> None:
    problems = check_source(FolderSource(root), workers=0).problems
    details = {(p.place, p.problem): p.detail for p in problems}
    assert details["bob/stolen.jpg", "duplicate across identities"] == "same file as ann/3.jpg"
    assert (
        details["bob/same pixels.png", "duplicate across identities"] == "same pixels as cyd/3.jpg"
    )
    assert details["ann/9 again.jpg", "duplicate"] == "same file as ann/2.jpg"
    assert details["bob/tiny.png", "tiny"] == "40 x 40 pixels"
    assert details["bob/moving.jpg", "wrong extension"] == "GIF named .jpg"
    assert details["bob/moving.jpg", "animated"] == "3 pictures in one GIF"
    assert details["bob/gone.jpg", "out of reach"] == "a broken link"
    assert "too many pixels" in details["ann/huge.png", "unreadable"]
    assert details["ann/blank.jpg", "blank"].startswith("every pixel is RGB (")
    assert not any("\n" in detail for detail in details.values())


def test_any_number_of_workers_finds_the_same(root: Path, tmp_path: Path) -> None:
    for number in range(300):  # several chunks
        save(tmp_path / "people" / f"p{number % 7}" / f"{number}.png", scene(number % 290, 64))
    for path in (root, tmp_path / "people"):
        source = FolderSource(path)
        one, two = (check_source(source, workers=workers) for workers in (0, 2))
        assert one.problems == two.problems
        assert np.array_equal(one.readable, two.readable)
    assert one.counts() == {"duplicate across identities": 20}


def test_a_training_without_the_errors_reads_every_image(root: Path, tmp_path: Path) -> None:
    source = FolderSource(root)
    result = check_source(source, workers=0)
    write_problems(tmp_path / "problems.csv", result.problems)
    places = read_leave_out(tmp_path / "problems.csv")
    assert places == ERRORS
    rest = leave_out(source, places)
    for index in range(len(rest)):
        rest.image(index)
    again = check_source(rest, workers=0)
    assert again.errors == 0


def test_small_images_are_tiny_only_below_the_limit(root: Path) -> None:
    source = FolderSource(root)
    at, above = (check_source(source, min_side=side, workers=0).counts() for side in (40, 41))
    assert "tiny" not in at
    assert above["tiny"] == 1
    with pytest.raises(ValueError, match="min_side must be at least 1, got 0"):
        check_source(source, min_side=0)


def test_a_source_without_files_is_checked_by_its_pixels() -> None:
    source = create_source("synthetic", num_identities=3, images_per_identity=3)
    assert check_source(source, workers=0).counts().keys() <= {"grey"}
    assert check_checksums(source) == []


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_file_cut_anywhere_is_truncated_and_a_whole_one_is_not(kind: str) -> None:
    data = encoded(PIL.Image.fromarray(scene(0)), kind)
    for part in (0.3, 0.6, 0.9):
        assert damage(data[: int(part * len(data))]) == "truncated"
    assert damage(data) == "unreadable"
    assert damage(b"") == "empty"


def test_a_preview_inside_a_cut_photograph_does_not_make_it_whole() -> None:
    exif = PIL.Image.Exif()
    exif[0x010E] = "x"
    preview = encoded(PIL.Image.fromarray(scene(0, 32)), "JPEG")
    photograph = encoded(PIL.Image.fromarray(scene(1)), "JPEG")
    segment = b"Exif\0\0" + preview
    data = photograph[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment
    data += photograph[2:]
    assert damage(data[:-50]) == "truncated"
    assert damage(data) == "unreadable"


def test_a_shard_that_changed_is_named(tmp_path: Path) -> None:
    from centerarc.curate import pack
    from centerarc.data import ShardSource

    for person in ("ann", "bob"):
        save(tmp_path / "faces" / person / "1.png", scene(ord(person[0])))
    pack(FolderSource(tmp_path / "faces"), tmp_path / "packed", format="shards", workers=0)
    shard = next((tmp_path / "packed").rglob("*.tar"))
    source = ShardSource(shard.parent)
    assert check_checksums(source) == []
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    (problem,) = check_checksums(source)
    assert (problem.place, problem.problem, problem.severity) == (shard.name, "checksum", "error")
    assert "content changed" in problem.detail
    write_problems(tmp_path / "problems.csv", [problem])
    assert read_leave_out(tmp_path / "problems.csv") == set()  # no image is meant


def test_a_model_names_the_image_and_whom_it_resembles() -> None:
    source = create_source("synthetic", num_identities=30, images_per_identity=5)
    rng = np.random.default_rng(0)
    truth = source.labels.copy()
    truth[0] = 7  # the first image of the first person shows the eighth
    centers = rng.normal(size=(30, 32))
    embeddings = centers[truth] + 0.3 * rng.normal(size=(len(truth), 32))
    kept = np.arange(len(source)) != 3  # one could not be read
    (problem,) = judge_labels(source, np.flatnonzero(kept), embeddings[kept])
    assert (problem.index, problem.problem) == (0, "other person")
    assert problem.identity == source.identities[0]
    assert source.identities[7] in problem.detail
    assert source.labels[problem.other] == 7
    assert problem.confidence is not None
    assert problem.confidence > 0.9


def test_images_that_are_never_trained_on_are_warnings_and_other_files_notes(
    tmp_path: Path,
) -> None:
    for number in range(3):
        save(tmp_path / "ann" / f"{number}.png", scene(number))
        save(tmp_path / "ann" / "2019" / f"{number}.png", scene(10 + number))
    save(tmp_path / "stray.png", scene(20))
    (tmp_path / "ann" / "phone.HEIC").write_bytes(b"\0\0\0\x18ftypheic")
    for name in (".DS_Store", "notes.txt", "empty folder/x.txt"):
        (tmp_path / "ann" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "ann" / name).touch()
    result = check_source(FolderSource(tmp_path), workers=0)
    assert {(p.place, p.problem, p.severity) for p in result.problems} == {
        ("ann/2019", "out of reach", "warning"),
        ("stray.png", "out of reach", "warning"),
        ("ann/phone.HEIC", "unread format", "warning"),
        ("ann/.DS_Store", "left out", "note"),
        ("ann/notes.txt", "left out", "note"),
        ("ann/empty folder", "left out", "note"),
    }
    assert (result.decoded, result.left_out) == (3, 5)
    write_problems(tmp_path / "problems.csv", result.problems, least="warning")
    assert read_leave_out(tmp_path / "problems.csv") == set()  # none of them is served anyway


def spelt(*names: str) -> list[tuple[str, str]]:
    return [(problem.place, problem.detail) for problem in two_spellings(names)]


def test_one_person_under_two_spellings_is_found() -> None:
    assert spelt("Ann Lee", "Bob", "ann lee", "ANN LEE") == [
        ("ann lee", "'Ann Lee' differs in case only"),
        ("ANN LEE", "'Ann Lee' differs in case only"),
    ]
    composed, apart = "Zo\u00eb", "Zoe\u0308"
    assert [place for place, _ in spelt(composed, "Zoe", apart)] == [apart]
    assert "Unicode normal form" in spelt(composed, apart)[0][1]
    assert [place for place, _ in spelt(composed, apart.upper())] == [apart.upper()]
    assert "case and" in spelt(composed, apart.upper())[0][1]
    assert spelt("Zoe", composed, "Ann_Lee", "Ann Lee") == []


@given(st.text(min_size=1), st.sampled_from(["NFC", "NFD"]))
def test_every_other_form_of_a_name_is_found(name: str, form: str) -> None:
    other = unicodedata.normalize(form, name)
    assert bool(spelt(name, other)) == (name != other)


def test_two_folders_of_one_person_are_a_warning_of_their_own(tmp_path: Path) -> None:
    for number, name in enumerate(("Zo\u00eb", "Zoe\u0308")):
        save(tmp_path / name / "1.png", scene(number))
    if len(list(tmp_path.iterdir())) < 2:
        pytest.skip("this file system takes both names for one")
    problems = check_source(FolderSource(tmp_path), workers=0).problems
    assert [(p.problem, p.severity) for p in problems] == [
        ("one identity under two spellings", "warning")
    ]


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> FaceSource:
    """Drawn faces, 8 of each of 20 people, and some of nearly every odd kind."""
    root = tmp_path_factory.mktemp("drawn")
    faces = create_source("synthetic", num_identities=20, images_per_identity=8, image_size=32)
    for number, label in enumerate(faces.labels):
        save(root / faces.identities[label] / f"{number}.jpg", faces.image(number), quality=90)
    k, x = np.mgrid[:8, :32]
    waves = np.cos(np.pi * (x + 0.5) * k / 32)
    rng = np.random.default_rng(0)
    for number in range(4):
        # Signs of its frequencies, of which hashes are made, as the others'; amplitudes its own.
        amplitudes = np.abs(rng.normal(size=(8, 8)))
        amplitudes[0, 0] = 0
        striped = np.clip(128 + 12 * waves.T @ amplitudes @ waves, 0, 255).astype(np.uint8)
        save(root / "signs" / f"{number}.png", striped)
        image = faces.image(0).astype(float)
        save(root / "alike" / f"same{number}.png", faces.image(0))
        save(root / "alike" / f"dark{number}.png", (image * (0.9 - 0.1 * number)).astype(np.uint8))
        save(root / "odd" / f"blank{number}.png", np.full((32, 32, 3), 60 * number, np.uint8))
        save(root / "odd" / f"dot{number}.png", scene(number, 1))
        save(root / "odd" / f"line{number}.png", scene(number, 40)[:1])
        (root / "odd" / f"damaged{number}.jpg").write_bytes(b"\xff\xd8\xff" + bytes(number))
    return FolderSource(root)


@settings(max_examples=25)
@given(data=st.data())
def test_any_part_of_a_set_is_inspected_and_checked(
    drawn: FaceSource, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    people = data.draw(st.sets(st.integers(0, len(drawn.identities) - 1), min_size=1))
    most = data.draw(st.sampled_from([1, 2, 5, len(drawn)]))
    chosen = np.random.default_rng(data.draw(st.integers(0, 999))).permutation(len(drawn))
    chosen = chosen[np.isin(drawn.labels[chosen], list(people))][:most]
    kept = np.zeros(len(drawn), dtype=bool)
    kept[chosen] = True
    source = Subset(drawn, images=kept)

    result = check_source(source, workers=0)
    damaged = sum("damaged" in source.place(index) for index in range(len(source)))
    assert (result.images, result.decoded) == (len(chosen), len(chosen) - damaged)
    assert all(p.other is None or p.other != p.index for p in result.problems)
    copies = [source.place(index).startswith("alike/same") for index in range(len(source))]
    assert result.counts().get("duplicate", 0) == max(sum(copies) - 1, 0)
    overview = inspect_source(source, workers=0)
    assert (overview.counts.sum(), len(overview.unreadable)) == (len(chosen), damaged)
    assert tail_plot(overview.counts).count("\n") == 11
    folder = tmp_path_factory.mktemp("pages")
    write_check_page(folder / "check.html", source, result, name="part")
    write_inspect_page(folder / "inspect.html", source, overview, name="part")


def test_a_set_without_images_has_no_problems_and_is_not_inspected() -> None:
    class Empty(FaceSource):
        identities: Sequence[str] = ()
        labels = np.zeros(0, dtype=np.int64)

        def image(self, index: int) -> Image:
            raise IndexError(index)

    assert check_source(Empty(), workers=0).problems == []
    with pytest.raises(ValueError, match="source has no image"):
        inspect_source(Empty(), workers=0)
