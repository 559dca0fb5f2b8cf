"""What a run trains on: every kind of source by configuration, and whom and what it leaves out."""

import pickle
import shutil
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from centerarc.curate import pack
from centerarc.data import Balanced, FolderSource, IdentityBatches, InBlocks, Shuffled, write_list
from centerarc.training import TrainConfig, check_config, dump_config, load_config, train
from centerarc.training.assembly import make_sampler
from centerarc.training.sources import make_sources
from tests.data.pictures import tar
from tests.training.helpers import make_config, same_bits, write_faces


def with_data(tmp_path: Path, data: dict[str, Any], **changes: Any) -> TrainConfig:
    config = make_config(tmp_path / "run", tmp_path, **changes).model_dump(mode="json")
    return check_config({**config, "data": data})


@pytest.fixture(scope="module")
def listed(faces: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = FolderSource(faces)
    path = tmp_path_factory.mktemp("list") / "faces.csv"
    people = [source.identities[label] for label in source.labels.tolist()]
    write_list(path, list(zip(map(str, source.paths), people, strict=True)))
    return path


def test_a_list_trains_as_its_folder_does(tmp_path: Path, faces: Path, listed: Path) -> None:
    folder = make_sources(make_config(tmp_path / "run", faces)).train
    config = with_data(tmp_path, {"source": "list", "path": str(listed)})
    other = make_sources(config).train
    assert other.identities == folder.identities
    np.testing.assert_array_equal(other.labels, folder.labels)
    np.testing.assert_array_equal(other.image(7), folder.image(7))
    train(config)
    assert (config.run_dir / "last.safetensors").exists()


@pytest.mark.parametrize(("format", "kind"), [("rec", "recordio"), ("shards", "shards")])
def test_a_pack_trains_to_the_same_bits_as_its_folder(
    tmp_path: Path, faces: Path, format: Literal["rec", "shards"], kind: str
) -> None:
    packed = pack(FolderSource(faces), tmp_path / "packed", format=format, workers=0)
    from_folder = make_config(tmp_path / "folder", faces, schedule={"epochs": 1})
    train(from_folder)
    path = tmp_path / "config.yaml"
    path.write_text(dump_config(from_folder))
    flags = ["--data.source", kind, "--data.path", str(packed.path)]
    from_pack = load_config(path, [*flags, "--run-dir", str(tmp_path / "other")])
    train(from_pack)
    assert same_bits(
        from_folder.run_dir / "last.safetensors", from_pack.run_dir / "last.safetensors"
    )


def test_sources_mix_by_weight_and_merge_by_name(tmp_path: Path, faces: Path, listed: Path) -> None:
    parts = [
        {"source": "folder", "root": str(faces), "name": "clean"},
        {"source": "list", "path": str(listed), "weight": 0.5},
        {"source": "synthetic", "num_identities": 2, "images_per_identity": 4, "weight": 2},
    ]
    config = with_data(tmp_path, {"source": "mixed", "parts": parts})
    source = make_sources(config).train
    assert len(source.identities) == 6 + 2
    assert len(source) == 36 + 36 + 8
    assert len(make_sampler(config, source)) == 36 + 18 + 16
    apart = with_data(tmp_path, {"source": "mixed", "parts": parts, "merge": False})
    assert len(make_sources(apart).train.identities) == 6 + 6 + 2
    train(config)
    sampler = {"kind": "balanced"}
    config = with_data(tmp_path, {"source": "mixed", "parts": parts, "sampler": sampler})
    with pytest.raises(ValueError, match=r"kind is balanced, but data\.parts have weights"):
        make_sampler(config, source)


def test_a_mixture_in_yaml_comes_back(tmp_path: Path, faces: Path) -> None:
    parts = [{"source": "folder", "root": str(faces), "weight": 0.5}, {"source": "synthetic"}]
    config = with_data(tmp_path, {"source": "mixed", "parts": parts})
    path = tmp_path / "config.yaml"
    path.write_text(dump_config(config))
    assert load_config(path) == config


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"source": "folder"}, r"data\.parts\.0\.root is missing"),
        ({"source": "folder", "root": "x", "weight": 0}, r"data\.parts\.0\.weight is 0"),
        ({"source": "foldr"}, r"data\.parts\.0\.source is 'foldr'; it must be one of folder, li"),
        ({"root": "x"}, r"data\.parts\.0\.source is missing"),
        ({"source": "folder", "root": "x", "min_images": 2}, r"data\.parts\.0\.min_images"),
    ],
)
def test_a_wrong_part_is_named(tmp_path: Path, part: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        with_data(tmp_path, {"source": "mixed", "parts": [part]})


def test_images_and_people_are_left_out(tmp_path: Path) -> None:
    faces = write_faces(tmp_path / "faces", people=5, images=4)
    problems = tmp_path / "problems.csv"
    problems.write_text(
        "place,identity,problem,severity,detail\n"
        "P01/P01_0001.png,P01,cut off,error,\n"
        "P01/P01_0002.png,P01,cut off,error,\n"
    )
    people = tmp_path / "people.txt"
    people.write_text("P00\nP01\nP03\n")
    data = {"leave_out": problems, "identities": people, "min_images": 3}
    config = make_config(tmp_path / "run", faces, data=data)
    sources = make_sources(config)
    assert sources.train.identities == ["P00", "P03"]
    assert sources.notes == [
        f"left out 2 images named in {problems}",
        "left out 1 person with fewer than 3 images (2 images; P01)",
    ]
    people.write_text("P00\nP01\nQ\n")
    with pytest.raises(ValueError, match="names 1 person whom the source lacks, first 'Q'"):
        make_sources(config)


def test_samplers_are_made_as_configured(tmp_path: Path, faces: Path) -> None:
    kinds: list[tuple[dict[str, Any], type]] = [
        ({}, Shuffled),
        ({"distinct": True}, Shuffled),
        ({"kind": "identities", "images_per_identity": 2}, IdentityBatches),
        ({"kind": "balanced"}, Balanced),
        ({"kind": "blocks", "block": 6}, InBlocks),
    ]
    for number, (sampler, kind) in enumerate(kinds):
        changes = {"data": {"sampler": sampler}, "schedule": {"epochs": 1}}
        config = make_config(tmp_path / f"run{number}", faces, **changes)
        source = make_sources(config).train
        assert type(make_sampler(config, source)) is kind
        train(config)
    with pytest.raises(ValueError, match=r"data\.sampler: distinct goes with kind: shuffled"):
        make_config(tmp_path, faces, data={"sampler": {"kind": "balanced", "distinct": True}})
    sampler = {"kind": "identities", "images_per_identity": 3}
    config = make_config(tmp_path, faces, data={"sampler": sampler})
    with pytest.raises(ValueError, match="images_per_identity must divide batch_size 8, got 3"):
        make_sampler(config, source)


def test_an_opening_that_takes_long_is_told_by_one_process_only(
    tmp_path: Path,
    faces: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("centerarc.io.progress._LINE_SECONDS", 0)
    packed = pack(FolderSource(faces), tmp_path / "packed", format="shards", workers=0)
    config = with_data(tmp_path, {"source": "shards", "path": str(packed.path)})
    make_sources(config, quiet=True)
    assert capsys.readouterr().err == ""
    make_sources(config)
    assert f"opening {packed.path}: 100%" in capsys.readouterr().err


def test_damaged_images_judge_nobody_and_are_told(tmp_path: Path) -> None:
    faces = write_faces(tmp_path / "faces", people=6, images=6)
    for person in range(6):
        path = faces / f"P{person:02d}" / f"P{person:02d}_0002.png"
        path.write_bytes(path.read_bytes()[:-300])
    config = make_config(tmp_path / "run", faces, validation={"identities": 2})
    sources = make_sources(config)
    assert sources.validation is not None
    held_out = sources.validation.sets[0].source
    assert len(held_out) == 10
    for index in range(10):
        held_out.image(index)
    assert len(sources.notes) == 2
    assert all("left out of the validation: cannot read 'P" in note for note in sources.notes)


def test_an_epoch_is_not_lost_when_its_validation_fails(
    tmp_path: Path, faces: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = make_config(tmp_path / "whole", faces, validation={"identities": 2})
    train(whole)
    config = make_config(tmp_path / "run", faces, validation={"identities": 2})

    def fail(*_: object) -> None:
        raise OSError("the share is gone")

    with monkeypatch.context() as patch:
        patch.setattr("centerarc.training.validation.score_images", fail)
        with pytest.raises(
            ValueError, match="validation after epoch 1: held_out: the share is gone"
        ):
            train(config)
    train(config, resume=True)
    for name in ("best.safetensors", "last.safetensors"):
        assert same_bits(whole.run_dir / name, config.run_dir / name)


def held_out(run_dir: Path, root: Path, identities: float) -> tuple[list[str], list[str]]:
    """Whom a run holds out and what it says."""
    config = make_config(run_dir, root, validation={"identities": identities})
    sources = make_sources(config)
    if sources.validation is None:
        return [], sources.notes
    (pairs,) = sources.validation.sets
    assert pairs.same.any()
    assert not pairs.same.all()
    people = list(pairs.source.identities)
    assert set(people).isdisjoint(sources.train.identities)
    assert len(sources.train.identities) >= 2
    return people, sources.notes


def test_two_people_with_several_images_are_held_out_at_least(tmp_path: Path) -> None:
    root = write_faces(tmp_path / "faces", people=12, images=2)
    for number in range(9):
        (root / f"P{number:02d}" / f"P{number:02d}_0001.png").unlink()
    people, _ = held_out(tmp_path / "run", root, 0.01)
    assert len(people) == 2
    assert set(people) <= {"P09", "P10", "P11"}  # the others have an image each, and make no pair
    people, _ = held_out(tmp_path / "run", root, 5)
    assert len(people) == 5
    assert {"P09", "P10", "P11"} <= set(people)


@pytest.mark.parametrize(("people", "images"), [(2, 2), (3, 2), (4, 1), (9, 1)])
def test_too_few_people_to_hold_out_are_trained_on_alone(
    tmp_path: Path, people: int, images: int
) -> None:
    root = write_faces(tmp_path / "faces", people=people, images=images)
    assert held_out(tmp_path / "run", root, 0.5)[0] == []
    (note,) = held_out(tmp_path / "run", root, 0.5)[1]
    assert note.startswith("no validation: it takes ")
    with pytest.raises(ValueError, match=r"validation\.identities is 2, .*; --validation none"):
        held_out(tmp_path / "run", root, 2)


def test_messages_about_few_people_have_a_value_that_works(tmp_path: Path) -> None:
    root = write_faces(tmp_path / "faces", people=7, images=3)

    def run(**changes: Any) -> int:
        return len(make_sources(make_config(tmp_path / "run", root, **changes)).train.identities)

    for wanted in (6, 0.9):
        with pytest.raises(ValueError, match=r"identities is .* at most [\d.]+$") as found:
            run(validation={"identities": wanted})
        value = float(str(found.value).rsplit(" ", 1)[1])
        assert run(validation={"identities": value}) == 2
    (root / "P00" / "P00_0001.png").unlink()
    for person in range(2, 7):
        for number in (1, 2):
            (root / f"P{person:02d}" / f"P{person:02d}_000{number}.png").unlink()
    for wanted in (9, 3):
        with pytest.raises(ValueError, match=rf"data\.min_images is {wanted}, .* at most 2$"):
            run(data={"source": "folder", "root": root, "min_images": wanted})
    pairs = tmp_path / "pairs.txt"
    three = [("P00", "P01", "P02"), ("P03", "P04", "P05"), ("P06", "P06", "P01")]
    lines = [f"{a} 1 2\n{b} 1 {c} 1\n" for a, b, c in three]
    pairs.write_text("3 1\n" + "".join(lines))
    data = {"source": "folder", "root": root, "exclude_pairs": pairs}
    with pytest.raises(ValueError, match=r"must have 2: .*; --data\.exclude_folds 3 leaves 5 "):
        run(data=data)
    assert run(data={**data, "exclude_folds": [3]}) == 5


def test_few_images_fill_a_batch_several_times(tmp_path: Path) -> None:
    root = write_faces(tmp_path / "faces", people=3, images=3)
    config = make_config(tmp_path / "run", root, batch_size=32, schedule={"epochs": 2})
    sampler = make_sampler(config, make_sources(config).train)
    assert "9 images, fewer than a batch of 32, which shows each up to 4 times" in sampler.note
    for epoch in range(2):
        shown = np.bincount(sampler.order(0, epoch), minlength=9)
        assert shown.sum() == 32
        assert set(shown) == {3, 4}
    assert not np.array_equal(sampler.order(0, 0), sampler.order(0, 1))
    assert train(config).summary["steps"] == 2


@pytest.mark.parametrize(
    ("data", "setting"),
    [
        ({"source": "folder", "root": "gone"}, "data.root"),
        ({"source": "recordio", "path": "gone"}, "data.path"),
        ({"source": "shards", "path": "gone"}, "data.path"),
        (
            {
                "source": "mixed",
                "parts": [{"source": "synthetic"}, {"source": "folder", "root": "gone"}],
            },
            "data.parts.1.root",
        ),
    ],
)
def test_a_source_that_is_not_there_names_its_setting(
    tmp_path: Path, data: dict[str, Any], setting: str
) -> None:
    with pytest.raises(ValueError, match=rf"^{setting} (must|is) .*'gone', which is n"):
        make_sources(with_data(tmp_path, data))


def test_pairs_whose_images_are_not_there_name_their_setting(tmp_path: Path, faces: Path) -> None:
    pairs = tmp_path / "pairs.csv"
    pairs.write_text("image_a,image_b,same\na/1.jpg,a/2.jpg,1\na/1.jpg,b/1.jpg,0\n")
    one = {"pairs": str(pairs), "images": "gone"}
    for validation, where in ((one, "validation"), ({"sets": [one]}, "validation.sets.0")):
        config = make_config(tmp_path / "run", faces, validation=validation)
        with pytest.raises(
            ValueError, match=rf"^{where}\.images must .*'gone', which is not there"
        ):
            make_sources(config)


# A name in Unicode's composed form, as most lists have it, and decomposed, as a Mac's folders.
COMPOSED, DECOMPOSED = "Zo\u00eb", "Zoe\u0308"


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    """Six people, of whom one has a decomposed name and one that of a title in small letters."""
    root = write_faces(tmp_path / "odd", people=6, images=3)
    (root / "P00").rename(root / DECOMPOSED)
    (root / "P01").rename(root / "p01")
    return root


def pairs_of(path: Path, a: str, b: str) -> Path:
    path.write_text(f"1\n{a}\t1\t2\n{a}\t1\t{b}\t1\n", encoding="utf-8")
    return path


@pytest.mark.parametrize("kind", ["folder", "mixed", "apart"])
def test_people_of_pairs_are_left_out_whatever_the_form_of_their_names(
    tmp_path: Path, odd: Path, kind: str
) -> None:
    pairs = pairs_of(tmp_path / "pairs.txt", COMPOSED, "P01")
    data: dict[str, Any] = {"source": "folder", "root": str(odd)}
    if kind != "folder":
        data = {"source": "mixed", "parts": [data], "merge": kind == "mixed"}
    sources = make_sources(with_data(tmp_path, {**data, "exclude_pairs": str(pairs)}))
    names = [name.rpartition("/")[2] for name in sources.train.identities]
    assert names == ["P02", "P03", "P04", "P05"]
    assert "left out 2 people; the pairs name 2" in sources.notes
    assert sum("write" in note and "otherwise" in note for note in sources.notes) == 1
    held = with_data(tmp_path, {**data, "exclude_pairs": str(pairs)}, validation={"identities": 2})
    assert {name.rpartition("/")[2] for name in make_sources(held).train.identities} < set(names)


def test_pairs_that_leave_out_no_one_are_refused_with_both_spellings(
    tmp_path: Path, odd: Path
) -> None:
    pairs = pairs_of(tmp_path / "pairs.txt", "Ann", "Bob")
    message = r"data\.exclude_pairs, '.*pairs\.txt', would leave out no one.* 'Ann', .*'P02'"
    with pytest.raises(ValueError, match=message):
        make_sources(make_config(tmp_path / "run", odd, data={"exclude_pairs": pairs}))


def test_pairs_that_leave_out_most_people_are_told(tmp_path: Path, odd: Path) -> None:
    lines = ["2\t1", "P02\t1\t2", "P02\t1\tP03\t1", "P04\t1\t2", "P04\t1\tP05\t1"]
    pairs = tmp_path / "pairs.txt"
    pairs.write_text("\n".join(lines), encoding="utf-8")
    notes = make_sources(make_config(tmp_path / "run", odd, data={"exclude_pairs": pairs})).notes
    assert any("most of the 6 people of the training images; 2 are left" in note for note in notes)


def test_people_who_validate_and_are_no_ones_namesake_are_told(tmp_path: Path, odd: Path) -> None:
    others = write_faces(tmp_path / "others", people=2, images=2)
    (others / "P00").rename(others / "Ann")
    for image in (others / "Ann").iterdir():
        image.rename(image.with_name(image.name.replace("P00", "Ann")))
    pairs = tmp_path / "pairs.csv"
    rows = ["Ann/Ann_0001.png,Ann/Ann_0002.png,1", "Ann/Ann_0001.png,P01/P01_0001.png,0"]
    (others / "P01").rename(others / "Q01")
    rows = [row.replace("P01/", "Q01/") for row in rows]
    pairs.write_text("\n".join(["image_a,image_b,same", *rows]), encoding="utf-8")
    listed = {"pairs": pairs, "images": others}
    notes = make_sources(make_config(tmp_path / "run", odd, validation=listed)).notes
    assert any("left out no one" in n and "'Ann'" in n and "'P02'" in n for n in notes)


def test_two_spellings_in_one_source_are_told_before_the_training(
    tmp_path: Path, odd: Path
) -> None:
    (odd / "P02").rename(odd / COMPOSED)
    notes = make_sources(make_config(tmp_path / "run", odd)).notes
    assert any(COMPOSED in note and DECOMPOSED in note for note in notes)


def test_a_list_of_people_may_have_another_form(tmp_path: Path, odd: Path) -> None:
    people = tmp_path / "people.txt"
    people.write_text(f"{COMPOSED}\nP02\n", encoding="utf-8")
    config = make_config(tmp_path / "run", odd, data={"identities": people})
    assert make_sources(config).train.identities == ["P02", DECOMPOSED]
    people.write_text("P01\nP02\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"data\.identities, .* first .P01.; .p01. differs in"):
        make_sources(config)


def test_what_shards_left_out_is_told_before_the_training(tmp_path: Path, faces: Path) -> None:
    members = [(place.relative_to(faces).as_posix(), place) for place in faces.rglob("*.png")]
    files = [(name, place.read_bytes()) for name, place in members]
    tar(tmp_path / "in" / "a.tar", [*files, ("P00/phone.heic", b"...."), ("P00/x.2.png", b"....")])
    shards = {"source": "shards", "path": str(tmp_path / "in")}
    mixed = {"source": "mixed", "parts": [shards]}
    for data in (shards, mixed):
        notes = make_sources(with_data(tmp_path, data)).notes
        assert any("left out 2 (" in n and "1 a format that is not read" in n for n in notes)


def copies(notes: list[str]) -> list[str]:
    return [note for note in notes if "byte by byte" in note]


@pytest.mark.parametrize("kind", ["folder", "list", "rec", "shards", "mixed"])
def test_training_images_that_validate_too_are_found_by_their_bytes(
    tmp_path: Path, faces: Path, listed: Path, kind: str
) -> None:
    images = [(faces / f"P0{p}" / f"P0{p}_000{n}.png").read_bytes() for p in (1, 2) for n in (1, 2)]
    other = write_faces(tmp_path / "other", people=9, images=1)
    images += [path.read_bytes() for path in sorted(other.rglob("P0[78]*.png"))]
    order = [0, 1, 2, 3, 0, 4, 2, 5]
    pairs = tmp_path / "s.bin"
    pairs.write_bytes(pickle.dumps(([images[n] for n in order], [True, True, False, False])))
    data: dict[str, Any] = {"source": "folder", "root": str(faces)}
    if kind == "list":
        data = {"source": "list", "path": str(listed)}
    elif kind == "mixed":
        data = {"source": "mixed", "parts": [data]}
    elif kind != "folder":
        out = pack(FolderSource(faces), tmp_path / "out", format=kind, workers=0)  # type: ignore[arg-type]
        data = {"source": "recordio" if kind == "rec" else kind, "path": str(out.path)}
    config = with_data(tmp_path, data, validation={"pairs": str(pairs)})
    (note,) = copies(make_sources(config).notes)
    assert note.startswith("4 training images are pictures of the validation s too")
    assert "P01" in note
    assert copies(make_sources(config, quiet=True).notes) == []


def test_validation_pairs_of_one_picture_are_counted(tmp_path: Path, faces: Path) -> None:
    images = [path.read_bytes() for path in sorted(write_faces(tmp_path / "o").rglob("*.png"))[:9]]
    order = [0, 0, 1, 2, 3, 3, 4, 8]
    pairs = tmp_path / "s.bin"
    pairs.write_bytes(pickle.dumps(([images[n] for n in order], [True, True, False, False])))
    config = make_config(tmp_path / "run", faces, validation={"pairs": pairs})
    notes = make_sources(config).notes
    assert any(n.startswith("2 of 4 pairs of the validation s have the same") for n in notes)


def test_a_copy_of_a_held_out_picture_under_another_name_is_found(tmp_path: Path) -> None:
    root = write_faces(tmp_path / "faces", people=6, images=3)
    config = make_config(tmp_path / "run", root, validation={"identities": 2})
    first = make_sources(config)
    assert copies(first.notes) == []
    assert first.validation is not None
    held_out = first.validation.sets[0].source
    trained = root / first.train.identities[0] / "zz_copy.png"
    trained.write_bytes(held_out.encoded(int(first.validation.sets[0].index_a[0])))  # type: ignore[arg-type]
    (note,) = copies(make_sources(config).notes)
    assert note.startswith("1 training image is a picture of the validation held_out too")
    assert "zz_copy.png" in note


def test_all_spellings_of_a_held_out_name_are_held_out(tmp_path: Path) -> None:
    root = write_faces(tmp_path / "faces", people=5, images=3)
    for person in range(5):
        shutil.copytree(root / f"P0{person}", root / f"p0{person}")
        for image in list((root / f"p0{person}").iterdir())[1:]:
            image.unlink()
    for seed in range(4):
        config = make_config(tmp_path / "run", root, validation={"identities": 2}, seed=seed)
        sources = make_sources(config)
        assert sources.validation is not None
        out = set(sources.validation.sets[0].source.identities)
        assert not {name.lower() for name in out} & {n.lower() for n in sources.train.identities}
