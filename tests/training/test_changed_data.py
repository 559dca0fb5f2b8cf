"""Training images that are gone, new or changed when a run resumes."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import PIL.Image
import pytest
import torch

from centerarc.curate import pack
from centerarc.data import Augmentation, FolderSource, TrainLoader, write_list
from centerarc.training import Callback, TrainConfig, Trainer, check_config, load_config, train
from centerarc.training.assembly import make_sampler
from centerarc.training.sources import IMAGES, RunSources, check_same, make_sources
from tests.distributed.pool import Pool
from tests.training.helpers import make_config, same_bits
from tests.training.test_ddp import CHANGES, _same_run, _train_on_rank
from tests.training.test_lost_data import After

JUDGED: dict[str, Any] = {"identities": 2, "num_pairs": 20}
CONTINUE = {"on_change": "continue"}


@pytest.fixture
def root(tmp_path: Path, faces: Path) -> Path:
    shutil.copytree(faces, tmp_path / "faces")
    return tmp_path / "faces"


def listing(root: Path, path: Path) -> Path:
    pictures = sorted(root.glob("*/*.png"))
    write_list(
        path, [(str(picture.relative_to(root)), picture.parent.name) for picture in pictures]
    )
    return path


def configured(tmp_path: Path, root: Path, kind: str, **changes: Any) -> TrainConfig:
    path = str(listing(root, tmp_path / "faces.csv"))
    data: dict[str, Any] = {
        "folder": {"source": "folder", "root": str(root)},
        "list": {"source": "list", "path": path, "root": str(root)},
        "mixed": {
            "source": "mixed",
            "parts": [
                {"source": "folder", "root": str(root), "name": "a"},
                {"source": "list", "path": path, "root": str(root), "name": "b", "weight": 0.5},
            ],
        },
    }[kind]
    config = make_config(tmp_path / "run", root, validation=JUDGED).model_dump(mode="json")
    return check_config({**config, "data": {**data, **changes}})


def batches(config: TrainConfig, sources: RunSources) -> list[tuple[np.ndarray, torch.Tensor]]:
    """The numbers and the images of two epochs."""
    found = []
    loader = TrainLoader(
        sources.train,
        batch_size=8,
        augmentation=Augmentation(config.data.augmentation),
        seed=3,
        sampler=make_sampler(config, sources.train),
    )
    for epoch in range(2):
        loader.set_epoch(epoch)
        for number, (images, labels) in enumerate(loader):
            wanted = loader.images_of(epoch, number)
            assert labels.tolist() == sources.train.labels[wanted].tolist()
            found.append((wanted, images))
    return found


def trained_people(sources: RunSources) -> list[str]:
    return [name.rpartition("/")[2] for name in sources.train.identities]


def change(root: Path, people: list[str]) -> None:
    """Deletes and empties images, and adds one of a person of the run and a person."""
    (root / people[0] / f"{people[0]}_0002.png").unlink()
    (root / people[0] / f"{people[0]}_0005.png").write_bytes(b"")
    (root / people[1] / f"{people[1]}_0001.png").unlink()
    (root / "A").mkdir()
    for to in (root / people[1] / "0.png", root / "A/1.png", root / "A/2.png"):
        shutil.copy(root / people[2] / f"{people[2]}_0003.png", to)


@pytest.mark.filterwarnings("ignore:.*cannot read")
@pytest.mark.parametrize("kind", ["folder", "list", "mixed"])
def test_order_people_and_all_other_images_stay(tmp_path: Path, root: Path, kind: str) -> None:
    config = configured(tmp_path, root, kind)
    first = make_sources(config)
    first.keep(config.run_dir)
    before = batches(config, first)
    change(root, trained_people(first))
    config = configured(tmp_path, root, kind, **CONTINUE)
    now = make_sources(config, before=first.identity)
    assert now.differs == ""
    assert now.identity == first.identity
    assert first.validation is not None
    assert now.validation is not None
    assert now.validation.drawn["images"] == first.validation.drawn["images"]
    changed = 0
    for (numbers, images), (numbers_now, images_now) in zip(
        before, batches(config, now), strict=True
    ):
        assert numbers.tolist() == numbers_now.tolist()
        for number, image, image_now in zip(numbers.tolist(), images, images_now, strict=True):
            try:
                now.train.image(number)
            except ValueError:
                changed += 1
            else:
                assert torch.equal(image, image_now)
    assert changed >= 4


class Stop(Callback):
    """Ends a run after a step, as if it were the last."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, trainer: Trainer, row: dict[str, Any] | None) -> None:
        if trainer.step == self.step:
            trainer.request_stop("enough")


def interrupted(run: Path, root: Path, **changes: Any) -> TrainConfig:
    """Two steps of a run that has 9."""
    config = make_config(run, root, validation=JUDGED, **changes)
    train(config, callbacks=[Stop(2)])
    return config


def continued(config: TrainConfig) -> TrainConfig:
    content = config.model_dump(mode="json")
    content["data"]["on_change"] = "continue"
    return check_config(content)


def in_run(run: Path) -> list[str]:
    return (run / "people.txt").read_text().split()


@pytest.mark.filterwarnings("ignore:.*cannot read")
def test_a_run_resumes_as_if_the_images_had_gone_while_it_trained(
    tmp_path: Path, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = interrupted(tmp_path / "run", root)
    people = in_run(config.run_dir)
    shutil.copytree(root, tmp_path / "other")
    plain = make_config(tmp_path / "plain", tmp_path / "other", validation=JUDGED)
    train(plain, callbacks=[After(lambda: change(tmp_path / "other", people), step=2)])
    change(root, people)
    before = {p: p.read_bytes() for p in config.run_dir.rglob("*") if p.is_file()}
    a, b = people[:2]
    said = (
        f"cannot resume: of the 24 images of 4 people .* gone: 3 images of 2 people "
        rf"\('{a}/{a}_0002.png', '{a}/{a}_0005.png' \(unreadable: .*\), '{b}/{b}_0001.png'\); "
        rf"new: 3 images of 2 people \('A/1.png', 'A/2.png', '{b}/0.png'\); "
        r"--data\.on_change continue resumes without them; or restore what was there, or start"
    )
    with pytest.raises(ValueError, match=said):
        train(config, resume=True)
    assert {p: p.read_bytes() for p in config.run_dir.rglob("*") if p.is_file()} == before
    capsys.readouterr()
    train(continued(config), resume=True, callbacks=[Stop(5)])
    lines = " ".join(capsys.readouterr().err.split())
    assert "gone: 3 images of 2 people" in lines
    assert "other images of the same people take their place" in lines
    assert "new: 3 images of 2 people ('A/1.png'" in lines
    train(continued(config), resume=True)
    assert same_bits(config.run_dir / "last.safetensors", plain.run_dir / "last.safetensors")
    assert (config.run_dir / IMAGES).read_bytes() == before[config.run_dir / IMAGES]
    assert json.loads((config.run_dir / "results.json").read_text())["train_images"] == 24
    with pytest.raises(ValueError, match="cannot resume: of the 24 images"):
        train(config, resume=True)


@pytest.mark.filterwarnings("ignore:.*cannot read")
def test_a_person_without_an_image_left_is_not_trained_on_without(
    tmp_path: Path, root: Path
) -> None:
    config = interrupted(tmp_path / "run", root)
    person = in_run(config.run_dir)[1]
    shutil.move(root / person, tmp_path / "elsewhere")
    said = f"gone: 6 images of 1 person .*1 person has no image left, such as '{person}'; restore"
    for one in (config, continued(config)):
        with pytest.raises(ValueError, match=said):
            train(one, resume=True)
    # Other people than the validation holds out at first would be trained on.
    shutil.move(tmp_path / "elsewhere", root / person)
    for path in (root / person).glob("*_000[1-5].png"):
        path.unlink()
    train(continued(config), resume=True)
    assert person in in_run(config.run_dir)


def test_images_in_another_order_are_the_same(
    tmp_path: Path, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = configured(tmp_path, root, "list")
    first = make_sources(config)
    first.keep(config.run_dir)
    path = tmp_path / "faces.csv"
    head, *rows = path.read_text().splitlines()
    path.write_text("\n".join([head, *reversed(rows)]))
    now = make_sources(config, before=first.identity)
    assert now.differs == ""
    assert now.identity == first.identity
    assert "the images come in another order now; the run keeps its own" in now.notes


def test_people_of_the_run_stay_where_few_images_are_left(tmp_path: Path, root: Path) -> None:
    for path in (root / "P00").glob("*_000[1-3].png"):
        path.unlink()
    config = configured(tmp_path, root, "folder", min_images=4, **CONTINUE)
    first = make_sources(config)
    first.keep(config.run_dir)
    assert "P00" not in [*first.train.identities, *first.held_out]
    change(root, first.train.identities)
    for path in (root / first.train.identities[1]).glob("*_000[2-5].png"):
        path.unlink()
    now = make_sources(config, before=first.identity)
    assert now.differs == ""
    assert now.train.identities == first.train.identities
    new = next(note for note in now.notes if note.startswith("new"))
    assert new.startswith("new: 1 image of 1 person")  # not the two images of a new person


def test_lists_may_name_what_is_gone_by_the_time_of_a_resume(tmp_path: Path, root: Path) -> None:
    people = sorted(path.name for path in root.iterdir())
    out = tmp_path / "out.csv"
    out.write_text("place\nP00/P00_0001.png\n")
    chosen = tmp_path / "people.txt"
    chosen.write_text("\n".join(people))
    lists = {"leave_out": str(out), "identities": str(chosen)}
    config = configured(tmp_path, root, "folder", **lists)
    first = make_sources(config)
    first.keep(config.run_dir)
    (root / "P00/P00_0001.png").unlink()  # never trained on
    now = make_sources(config, before=first.identity)
    check_same(first.identity, now)
    with pytest.raises(ValueError, match=r"leave_out.* 1 of 1 places to leave out are not"):
        make_sources(config)
    person = first.train.identities[1]
    shutil.rmtree(root / person)
    said = rf"gone: 6 images of 1 person .*1 person has no image left, such as '{person}'"
    with pytest.raises(ValueError, match=said):
        check_same(first.identity, make_sources(config, before=first.identity))
    with pytest.raises(ValueError, match=r"data\.identities.* whom the source lacks"):
        make_sources(configured(tmp_path, root, "folder", identities=str(chosen)))


@pytest.mark.parametrize("kind", ["folder", "list", "mixed"])
def test_an_image_that_was_replaced_is_told_by_its_size(
    tmp_path: Path, root: Path, kind: str
) -> None:
    config = configured(tmp_path, root, kind)
    first = make_sources(config)
    first.keep(config.run_dir)
    a, b = trained_people(first)[:2]
    picture, other = root / a / f"{a}_0002.png", root / b / f"{b}_0003.png"
    size, size_now = picture.stat().st_size, other.stat().st_size
    shutil.copy(other, picture)
    assert size != size_now
    place = first.train.place(next(i for i in range(24) if picture.name in first.train.place(i)))
    resumed = make_sources(config, before=first.identity)
    images = 1 if kind != "mixed" else 2
    said = rf"'{place}': its size was {size} bytes, is {size_now}"
    many = f"{images} image{'s' * (images > 1)} of 1 person"
    assert re.search(
        rf"leave them, changed: {many} \({said}.*\); --data.on_change continue "
        "resumes with the changes; or restore what was there$",
        resumed.differs,
    )
    with pytest.raises(ValueError, match=f"cannot resume: of the .* images of .*{said}"):
        check_same(first.identity, resumed)
    config = configured(tmp_path, root, kind, **CONTINUE)
    now = make_sources(config, before=first.identity)
    check_same(first.identity, now)
    assert [note for note in now.notes if re.match(f"changed: {many}.*; trained on as now", note)]
    (root / b / f"{b}_0004.png").unlink()
    picture.write_bytes(other.read_bytes())
    both = make_sources(config, before=first.identity)
    assert {note.partition(":")[0] for note in both.notes} >= {"gone", "changed"}


@pytest.mark.parametrize(("format", "kind"), [("rec", "recordio"), ("shards", "shards")])
def test_an_image_of_a_pack_that_was_replaced_is_told_by_its_size(
    tmp_path: Path, root: Path, format: Literal["rec", "shards"], kind: str
) -> None:
    def packed() -> dict[str, str]:
        shutil.rmtree(tmp_path / "packed", ignore_errors=True)
        pack(FolderSource(root), tmp_path / "packed", format=format, workers=0)
        (file,) = (tmp_path / "packed").glob("*.rec" if format == "rec" else "*.tar")
        return {"source": kind, "path": str(file)}

    content = make_config(tmp_path / "run", root).model_dump(mode="json")
    config = check_config({**content, "data": packed()})
    first = make_sources(config)
    first.keep(config.run_dir)
    assert (
        make_sources(check_config({**content, "data": packed()}), before=first.identity).differs
        == ""
    )
    # In a .rec, sizes are those of the records.
    picture = root / "P01" / "P01_0002.png"
    PIL.Image.effect_noise((30, 30), 90).convert("RGB").save(picture)
    config = check_config({**content, "data": packed()})
    again = make_sources(config, before=first.identity)
    assert "changed: 1 image of 1 person" in again.differs


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda path: path.unlink(), "is missing"),
        (lambda path: path.write_bytes(path.read_bytes()[:-40]), "is damaged"),
        (lambda path: path.write_bytes(path.read_bytes().replace(b"PK", b"pk")), "is damaged"),
    ],
)
def test_the_list_of_images_is_needed_only_where_they_differ(
    tmp_path: Path,
    root: Path,
    capsys: pytest.CaptureFixture[str],
    spoil: Callable[[Path], object],
    said: str,
) -> None:
    config = interrupted(tmp_path / "run", root)
    path = config.run_dir / IMAGES
    whole = path.read_bytes()
    spoil(path)
    picture = root / in_run(config.run_dir)[0] / "0.png"
    shutil.copy(next(root.glob("*/*.png")), picture)
    for one in (config, continued(config)):
        with pytest.raises(ValueError, match=f"which ones is not known, .*{IMAGES}' {said}"):
            train(one, resume=True)
    picture.unlink()
    train(config, resume=True)
    assert f"{IMAGES}' {said}: written again" in " ".join(capsys.readouterr().err.split())
    assert (
        np.load(path)["places"].tobytes() == np.load(_written(tmp_path, whole))["places"].tobytes()
    )


def _written(tmp_path: Path, data: bytes) -> Path:
    (tmp_path / "whole.npz").write_bytes(data)
    return tmp_path / "whole.npz"


@pytest.mark.parametrize("spoil", [Path.unlink, lambda path: path.write_bytes(b"PK")])
def test_images_replaced_while_the_list_is_lost_are_not_taken_for_the_same(
    tmp_path: Path,
    root: Path,
    capsys: pytest.CaptureFixture[str],
    spoil: Callable[[Path], object],
) -> None:
    config = interrupted(tmp_path / "run", root)
    whole = (config.run_dir / IMAGES).read_bytes()
    a, b = in_run(config.run_dir)[:2]
    picture = root / a / f"{a}_0002.png"
    shutil.copy(root / b / f"{b}_0003.png", picture)
    spoil(config.run_dir / IMAGES)
    before = {p: p.read_bytes() for p in config.run_dir.rglob("*") if p.is_file()}
    said = (
        "^cannot resume: by their sizes, some of the 24 images were replaced since the last state; "
        f"which ones is not known, as '.*{IMAGES}' is (missing|damaged); restore them or the list, "
        "--data.on_change continue resumes with the images as they are, or start a new run"
    )
    with pytest.raises(ValueError, match=said):
        train(config, resume=True)
    assert {p: p.read_bytes() for p in config.run_dir.rglob("*") if p.is_file()} == before
    shutil.copytree(config.run_dir, tmp_path / "killed")
    train(continued(config), resume=True, callbacks=[Stop(5)])
    lines = " ".join(capsys.readouterr().err.split())
    assert "written again; by their sizes, images were replaced, which ones is not" in lines
    # A run that was killed between its list and its next state.
    shutil.copy(config.run_dir / IMAGES, tmp_path / "killed" / IMAGES)
    with pytest.raises(ValueError, match=f"as '.*{IMAGES}' is of another run; restore"):
        train(check_config({**config.model_dump(), "run_dir": tmp_path / "killed"}), resume=True)
    # What was accepted is what a later change is told from.
    train(config, resume=True, callbacks=[Stop(6)])
    (config.run_dir / IMAGES).write_bytes(whole)
    train(config, resume=True, callbacks=[Stop(7)])
    lines = " ".join(capsys.readouterr().err.split())
    assert "is of another run: written again, as the images are those of the run" in lines


def test_without_known_sizes_the_list_is_written_again_and_says_so(
    tmp_path: Path, root: Path
) -> None:
    config = configured(tmp_path, root, "folder")
    first = make_sources(config)
    assert first.identity_with_sizes.keys() - first.identity.keys() == {"sizes"}
    now = make_sources(config, before=first.identity)  # as states were before they had sizes
    check_same(first.identity, now)
    assert any("is not known, as there are no sizes to compare" in note for note in now.notes)
    same = make_sources(config, before=first.identity_with_sizes)
    check_same(first.identity_with_sizes, same)
    assert any("as the images are those of the run" in note for note in same.notes)


def test_the_list_of_another_run_is_not_taken(tmp_path: Path, root: Path, faces: Path) -> None:
    config = interrupted(tmp_path / "run", root)
    other = interrupted(tmp_path / "other", faces, seed=5)
    shutil.copy(other.run_dir / IMAGES, config.run_dir / IMAGES)
    (root / in_run(config.run_dir)[0] / f"{in_run(config.run_dir)[0]}_0001.png").unlink()
    with pytest.raises(ValueError, match=f"{IMAGES}' is of another run"):
        train(continued(config), resume=True)


def test_overwriting_deletes_the_list_and_copies_have_it(tmp_path: Path, root: Path) -> None:
    config = interrupted(tmp_path / "run", root)
    shutil.copytree(config.run_dir, tmp_path / "copy")
    person = in_run(config.run_dir)[0]
    (root / person / f"{person}_0001.png").unlink()
    train(config, overwrite=True)
    assert len(np.load(config.run_dir / IMAGES)["labels"]) == 23
    copied = load_config(
        tmp_path / "copy/config.yaml", ["--data.on_change", "continue"], resume=True
    )
    with pytest.warns(UserWarning, match="another image of the same identity takes its place"):
        train(copied, resume=True)


@pytest.mark.distributed
@pytest.mark.filterwarnings("ignore:.*cannot read")
def test_a_run_resumes_without_what_is_gone_on_two_processes(
    pool: Pool, tmp_path: Path, root: Path
) -> None:
    content = {**CHANGES, "schedule": {"epochs": 2, "max_steps": 1}}
    train(make_config(tmp_path / "one", root, **content))
    people = in_run(tmp_path / "one")
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    change(root, people)
    content |= {"schedule": {"epochs": 2}, "data": CONTINUE}
    train(make_config(tmp_path / "one", root, **content), resume=True)
    answers = pool.run(_train_on_rank, 2, tmp_path / "two", root, content, True)
    assert answers == ["done", "done"]
    _same_run(tmp_path / "one", tmp_path / "two")
