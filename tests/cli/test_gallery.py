"""`centerarc gallery` as a user meets it."""

import csv
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from centerarc.cli import main
from centerarc.evaluation import read_embeddings
from centerarc.gallery import Enrolled, Gallery
from centerarc.models import create_model, save_weights
from tests.postgres import Server


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for person in range(3):
        (tmp_path / f"faces/p{person}").mkdir(parents=True)
        for number in range(4):
            pixels = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
            cv2.imwrite(str(tmp_path / f"faces/p{person}/{number}.png"), pixels)
    model = create_model("mobilefacenet_small", embedding_size=8, image_size=32)
    save_weights(tmp_path / "w.safetensors", model)
    return tmp_path


def run(*words: object) -> int:
    with pytest.raises(SystemExit) as stop:
        main(["gallery", *(str(word) for word in words)])
    assert isinstance(stop.value.code, int)
    return stop.value.code


def made(*words: object) -> None:
    words = ("create", "people.db", "--model", "w.safetensors", "--aligned", *words)
    assert run(*words, "--min-sharpness", 0) == 0


def test_people_are_enrolled_and_named(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made()
    assert "embeddings of 8 numbers by w.safetensors" in capsys.readouterr().out
    held_out = files / "faces/p2/3.png"
    held_out.rename(files / "who.png")
    assert run("add", "people.db", "faces") == 0
    shown = capsys.readouterr().out
    assert "enrolled photos" in shown
    assert "11" in shown
    assert run("add", "people.db", "faces/p1", "--person", "Somebody Else", "--log", "log.csv") == 0
    told = capsys.readouterr()
    assert "the same photo is there as p1's" in told.err
    with open("log.csv") as file:
        rows = list(csv.DictReader(file))
    assert {(row["person"], row["status"]) for row in rows} == {("Somebody Else", "known")}
    assert run("list", "people.db") == 0
    listed = capsys.readouterr()
    assert listed.out.splitlines() == ["id:1\t4\tp0", "id:2\t4\tp1", "id:3\t3\tp2"]
    assert "3 people, 11 photos" in listed.err
    assert "not calibrated" in listed.err

    assert run("identify", "people.db", "who.png", "faces/p0", "--accept", "-1", "-o", "r.csv") == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5
    assert lines[0].startswith("who.png, face 1 at 0 0 32 32: p")
    with open("r.csv") as file:
        rows = list(csv.DictReader(file))
    assert [row["rank"] for row in rows] == 5 * ["1", "2", "3"]
    assert {row["verdict"] for row in rows} == {"accepted"}
    assert rows[3]["person"] == "p0"
    assert float(rows[3]["score"]) == pytest.approx(1, abs=1e-5)
    assert run("identify", "people.db", "who.png") == 0
    assert ": no threshold, nearest p" in capsys.readouterr().out


def test_people_are_renamed_removed_exported_and_checked(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made()
    run("add", "people.db", "faces")
    assert run("rename", "people.db", "p1", "Ann Lee") == 0
    assert "p1 is Ann Lee now" in capsys.readouterr().out
    assert run("list", "people.db", "--person", "id:2") == 0
    photos = capsys.readouterr().out.splitlines()
    assert len(photos) == 4
    assert run("remove", "people.db", "--photo", photos[0].split("\t")[0]) == 0
    assert run("remove", "people.db", "p0", "Nobody") == 2
    assert "there is no person 'Nobody'" in capsys.readouterr().err
    assert run("remove", "people.db", "p0", "id:3") == 0
    assert "removed p0, p2: 8 photos" in capsys.readouterr().out
    assert run("export", "people.db", "-o", "out.npz") == 0
    assert read_embeddings(files / "out.npz").identities == 3 * ["Ann Lee"]
    assert run("check", "people.db") == 0
    assert "3 photos, no problems" in capsys.readouterr().err
    assert run("remove", "people.db", "--photo", *(line.split("\t")[0] for line in photos[1:])) == 0
    assert run("check", "people.db") == 1
    assert "Ann Lee (person 2) has no photo" in capsys.readouterr().out


def test_embeddings_are_enough(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = np.random.default_rng(0).standard_normal((4, 5)).astype(np.float32)
    names = np.array(["a", "a", "b", "c"])
    np.savez("e.npz", place=np.array(list("wxyz")), identity=names, embedding=rows)
    assert run("create", "plain.db", "--embedding-size", 5) == 0
    assert run("add", "plain.db", "e.npz") == 0
    assert run("identify", "plain.db", "e.npz", "--accept", 0.99, "--candidates", 1) == 0
    lines = capsys.readouterr().out.splitlines()[-4:]
    assert [line.partition(": ")[2][:3] for line in lines] == ["a 1", "a 1", "b 1", "c 1"]
    assert run("add", "plain.db", "faces") == 2
    assert "has no model and takes files of embeddings only" in capsys.readouterr().err


def test_another_model_s_embeddings_and_a_lost_model_are_named(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made()
    other = create_model("mobilefacenet_small", embedding_size=8, image_size=32)
    save_weights(files / "other.safetensors", other)
    main_words = ["embed", "faces", "--model", "other.safetensors", "-o", "e.npz", "--workers", "0"]
    with pytest.raises(SystemExit):
        main(main_words)
    assert run("add", "people.db", "e.npz") == 2
    assert "has embeddings of another model: weights_sha256 is" in capsys.readouterr().err
    assert run("add", "people.db", "faces", "--model", "other.safetensors") == 2
    assert "holds embeddings of another model: weights_sha256" in capsys.readouterr().err
    (files / "w.safetensors").rename(files / "moved.safetensors")
    assert run("add", "people.db", "faces") == 2
    assert "which is not there any more; say with --model where" in capsys.readouterr().err
    assert run("add", "people.db", "faces", "--model", "moved.safetensors") == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["create", "new.db"], "give --model MODEL, or --embedding-size"),
        (["create", "people.db", "--embedding-size", 3], "is there already"),
        (
            ["create", "new.db", "--embedding-size", 0],
            "--embedding-size must be between 1 and",
        ),
        (["add", "people.db", "faces/p0/0.png"], "say with --person whose they are"),
        (["add", "people.db", "none"], "from must be a folder of <person>/<photo>, got 'none'"),
        (["identify", "people.db", "none.png"], "there is no photo 'none.png'"),
        (
            ["identify", "people.db", "faces", "--reject", 0.3],
            "--reject must be given with --accept",
        ),
        (["identify", "people.db", "faces", "--accept", 3], "--accept must be between -1 and 1"),
        (["remove", "people.db"], "name people to remove, or photos with --photo"),
        (["remove", "people.db", "--photo", 99], "--photo must be numbers of photos"),
        (["list", "none.db"], "there is no gallery 'none.db'"),
        (["list", "w.safetensors"], "damaged or not a gallery"),
        (["export", "people.db", "-o", "x.txt"], "must end in .parquet or .npz"),
        (["identity", "people.db"], "did you mean 'identify'"),
    ],
)
def test_wrong_words_are_one_line(
    files: Path, capsys: pytest.CaptureFixture[str], words: list[object], said: str
) -> None:
    made()
    capsys.readouterr()
    assert run(*words) == 2
    told = capsys.readouterr().err
    assert said in told
    assert len(told.strip().splitlines()) == 1


def test_a_threshold_is_chosen_shown_and_used(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(0)
    owner = np.repeat(np.arange(30), 3)
    rows = rng.standard_normal((30, 16))[owner] + 0.2 * rng.standard_normal((90, 16))
    np.savez(
        "e.npz",
        place=np.array([f"{number}.jpg" for number in range(90)]),
        identity=np.array([f"P{one}" for one in owner]),
        embedding=rows.astype(np.float32),
    )
    run("create", "plain.db", "--embedding-size", 16)
    run("add", "plain.db", "e.npz")
    capsys.readouterr()
    words = ["calibrate", "plain.db", "--fpir", 0.2, "--report", "p.html", "--json", "c.json"]
    assert run(*words) == 0
    shown = capsys.readouterr().out
    kept = json.loads((files / "c.json").read_text())
    assert f"{kept['thresholds']['accept']:.3f}" in shown
    assert kept["accept"]["fpir"]["value"] <= 0.2
    assert (files / "p.html").stat().st_size > 10_000
    assert run(*words) == 2
    assert "p.html" in capsys.readouterr().err
    assert run("list", "plain.db") == 0
    assert f"names from a score of {kept['thresholds']['accept']:.3f}" in capsys.readouterr().err
    assert run("identify", "plain.db", "e.npz", "--candidates", 1) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[4].startswith(
        "4.jpg, face 1: P1 1.000 (none of the strangers measured score as high)"
    )
    assert run("calibrate", "plain.db", "--fpir", 0.001) == 0
    told = capsys.readouterr().err
    assert "the threshold is kept, but FPIR 0.001 needs more people: 30 vouch for" in told
    assert "is the least that they vouch for" in told
    assert run("calibrate", "plain.db", "--fpir", 2) == 2
    assert "--fpir must be in (0, 1), got 2" in capsys.readouterr().err


def test_a_gallery_in_a_database(
    files: Path, postgres: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    url = postgres.new().replace("postgres@", "postgres:hush@")
    assert run("create", url, "--model", "w.safetensors", "--aligned", "--min-sharpness", 0) == 0
    assert run("add", url, "faces") == 0
    assert run("index", url, "--hnsw") == 0
    assert "of 12 photos of 12 it found the nearest person for 100.0%" in capsys.readouterr().out
    assert run("rename", url, "p1", "Ann") == 0
    assert run("calibrate", url, "--fpir", 0.5, "--json", "c.json") in (0, 1)
    assert run("identify", url, "faces/p0/0.png", "--accept", 0.9) == 0
    assert run("export", url, "--out", "rows.npz") == 0
    assert run("add", url, "rows.npz") == 0
    assert run("check", url) == 0
    assert run("remove", url, "p2") == 0
    assert run("list", url) == 0
    told = capsys.readouterr()
    assert "id:2\t8\tAnn" in told.out
    assert "searched by HNSW, looking at 40 photos" in told.err
    assert run("index", url, "--exact") == 0
    assert run("list", url) == 0
    assert "HNSW" not in capsys.readouterr().err
    assert run("create", url, "--embedding-size", 3) == 2
    assert run("list", url.replace("gallery=", "gallery=other_")) == 2
    assert run("list", "postgresql://u:hush@/x?host=/nowhere") == 2
    failed = capsys.readouterr()
    assert len(failed.err.splitlines()) == 3
    assert all("hush" not in said for said in (*told, *failed))
    assert all(b"hush" not in path.read_bytes() for path in files.rglob("*") if path.is_file())


def test_an_index_needs_a_database(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made()
    assert run("index", "people.db", "--hnsw") == 2
    assert run("index", "people.db") == 2
    said = capsys.readouterr().err
    assert "needs a gallery at postgresql://" in said
    assert "give --hnsw to make an index" in said


def test_flags_may_come_before_photos_and_people(files: Path) -> None:
    made()
    one, two, three = (f"faces/p0/{number}.png" for number in range(3))
    assert run("add", "people.db", "--person", "Ann", one, two) == 0
    assert run("add", "people.db", three, "--person", "Bob") == 0
    assert run("identify", "people.db", "--accept", 0.5, "--out", "found.csv", one, two) == 0
    with open("found.csv") as file:
        assert {row["place"] for row in csv.DictReader(file)} == {one, two}
    assert run("remove", "people.db", "Ann", "Bob", "--photo", 1, 2, 3) == 0


def test_what_is_missing_is_asked_for(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made()
    for command in ("add", "identify", "remove"):
        assert run(command, "people.db") == 2
        assert "error: name " in capsys.readouterr().err


def test_a_number_stands_for_a_person_wherever_a_name_is_asked_for(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made()
    assert run("add", "people.db", "faces/p0", "--person", "Ann") == 0
    assert run("add", "people.db", "faces/p1", "--person", "id:1") == 0
    assert run("add", "people.db", "faces/p2", "--person", "id:2") == 2
    assert run("rename", "people.db", "id:1", "id:7") == 2
    assert "name must not be as 'id:7', which stands for a person's number" in (
        capsys.readouterr().err
    )
    assert run("add", "people.db", "faces/p2", "--person", "a\nb") == 2
    assert "name must be printable text" in capsys.readouterr().err
    assert run("list", "people.db") == 0
    assert capsys.readouterr().out == "id:1\t8\tAnn\n"


def test_nothing_is_removed_if_a_photo_is_not_there(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made()
    assert run("add", "people.db", "faces") == 0
    assert run("remove", "people.db", "p0", "--photo", 5, 5000, 10**30) == 2
    assert f"--photo must be numbers of photos of 'people.db', got 5000, {10**30}" in (
        capsys.readouterr().err
    )
    assert run("remove", "people.db", "--photo", 5, 5) == 0
    assert "removed photos: 1 photo" in capsys.readouterr().out
    assert run("remove", "people.db", f"id:{10**30}") == 2
    assert "there is no person" in capsys.readouterr().err


def test_a_path_need_not_be_text(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made()
    strange = os.fsdecode(b"caf\xe9.png")
    Path("faces/p0/0.png").rename(strange)
    assert run("add", "people.db", strange, "--person", "Ann") == 0
    capsys.readouterr()
    assert run("list", "people.db", "--person", "Ann") == 0
    assert capsys.readouterr().out.endswith("\tcaf\\udce9.png\n")


def test_files_of_embeddings_must_be_made_as_the_gallery_s_are(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made()
    for out, more in (("plain.npz", []), ("mirrored.npz", ["--mirror"])):
        with pytest.raises(SystemExit) as stop:
            main(["embed", "faces", "--model", "w.safetensors", "--out", out, *more])
        assert not stop.value.code
    assert run("add", "people.db", "plain.npz") == 0
    capsys.readouterr()
    assert run("identify", "people.db", "mirrored.npz") == 2
    said = "has embeddings of another model: mirror is 'true', and 'false' in the gallery"
    assert said in capsys.readouterr().err
    assert run("add", "people.db", "mirrored.npz") == 2
    assert run("export", "people.db", "-o", "again.npz") == 0
    assert run("identify", "people.db", "again.npz") == 0


def test_the_log_of_an_interrupted_command_has_what_was_done(
    files: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made()
    whole = Gallery.add_folder

    def interrupted(*words: Any, **more: Any) -> Iterator[Enrolled]:
        yield next(whole(*words, **more))
        raise KeyboardInterrupt

    monkeypatch.setattr(Gallery, "add_folder", interrupted)
    assert run("add", "people.db", "faces", "--log", "log.csv") == 130
    assert "the same command resumes" in capsys.readouterr().err
    with open("log.csv") as file:
        assert [row["status"] for row in csv.DictReader(file)] == ["added"]
