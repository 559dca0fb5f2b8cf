"""``centerarc data pack`` and ``centerarc data split`` from words to files and what is shown."""

from pathlib import Path

import pytest

from centerarc.cli import main
from centerarc.data import EncodedSource, FolderSource, open_source, read_identities
from tests.curate.pictures import contents, faces, many, picture


def run(*words: object) -> None:
    with pytest.raises(SystemExit) as end:
        main(["data", *map(str, words)])
    assert end.value.code == 0


def refused(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    with pytest.raises(SystemExit) as end:
        main(["data", *map(str, words)])
    assert end.value.code == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    return lines[0]


def test_pack_shows_what_it_did_and_how_to_train(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = many(tmp_path / "[faces]", people=3)
    (root / "p1" / "1.jpg").write_bytes(picture(1)[:-200])
    (root / "p2" / "notes.txt").touch()
    run("pack", root, tmp_path / "out", "--workers", 0)
    shown = capsys.readouterr().out
    for words in ("images │     20", "left out: the JPEG is damaged", "left out: no image by"):
        assert " ".join(words.split()) in " ".join(shown.split())
    path = tmp_path / "out" / "train.rec"
    assert f"centerarc train CONFIG.yaml --data.source recordio --data.path {path}" in shown
    assert str(tmp_path / "out" / "left-out.csv") in shown
    assert "[faces]" in shown
    assert len(open_source(tmp_path / "out")) == 20


def test_what_one_pack_left_out_another_leaves_out_unread(tmp_path: Path) -> None:
    root = many(tmp_path / "faces", people=3)
    (root / "p1" / "1.jpg").write_bytes(picture(1)[:-200])
    (root / "p2" / "notes.txt").touch()
    run("pack", root, tmp_path / "a", "--format", "shards", "--workers", 0)
    listed = ("--leave-out", tmp_path / "a" / "left-out.csv")
    run("pack", root, tmp_path / "b", "--format", "shards", "--workers", 0, *listed)
    same = [
        {name: d for name, d in contents(tmp_path / o).items() if ".csv" not in name} for o in "ab"
    ]
    assert same[0] == same[1]


def test_a_split_is_packed_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = faces(
        tmp_path / "faces", {**{f"p{n}": ["1.jpg", "2.jpg"] for n in range(9)}, "one": ["1.jpg"]}
    )
    run("split", root, "--out", tmp_path / "lists", "--fraction", 0.3)
    shown = " ".join(capsys.readouterr().out.split())
    assert "train │ 7 │ 13" in shown
    assert "held-out │ 3 │ 6" in shown
    held_out = read_identities(tmp_path / "lists" / "held-out.txt")
    for name in ("train", "held-out"):
        people = ("--identities", tmp_path / "lists" / f"{name}.txt")
        run("pack", root, tmp_path / name, "--format", "rec", "--workers", 0, *people)
    assert open_source(tmp_path / "held-out").identities == held_out
    assert not set(open_source(tmp_path / "train").identities) & set(held_out)
    assert open_source(tmp_path / "lists" / "held-out.csv").identities == held_out
    people = ("--identities", tmp_path / "lists" / "train.txt")
    run("split", root, "--out", tmp_path / "again", "--count", 2, *people)
    again = read_identities(tmp_path / "again" / "held-out.txt")
    assert len(again) == 2
    assert not set(again) & set(held_out)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--format", "zip"], "zip"),
        (["--images-per-shard", "5"], "are for shards; format is 'rec'"),
        (
            ["--format", "shards", "--images-per-shard", "0"],
            "--images-per-shard must be at least 1, got 0",
        ),
        (["--format", "shards", "--shard-mb", "0"], "--shard-mb must be above 0, got 0"),
        (["--format", "shards", "--shard-mb", "1", "--images-per-shard", "1"], "both given"),
        (["--format", "rec", "--quality", "101"], "--quality must be in [1, 100] or None, got 101"),
        (["--format", "rec", "--min-images", "9"], "nothing is left of the 14 images"),
        (
            ["--format", "rec", "--shuffle", "-1"],
            "--shuffle must be a seed of at least 0 or None, got -1",
        ),
        (["--format", "rec", "--workers", "1000000"], "got 1000000"),
        (["--format", "rec", "--leave-out", "absent.csv"], "cannot read 'absent.csv'"),
    ],
)
def test_wrong_words_are_refused_in_one_line_and_nothing_is_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], words: str
) -> None:
    root = many(tmp_path / "faces", people=2)
    assert words in refused(capsys, "pack", root, tmp_path / "out", *options)
    assert not (tmp_path / "out").exists()


def test_names_that_the_source_lacks_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = many(tmp_path / "faces", people=2)
    (tmp_path / "names.txt").write_text("p1\nEve\n", encoding="utf-8")
    names = ("--identities", tmp_path / "names.txt")
    out = tmp_path / "out"
    assert "first 'Eve'" in refused(capsys, "pack", root, out, "--format", "rec", *names)
    assert "first 'Eve'" in refused(capsys, "split", root, "--out", out, "--count", 1, *names)
    assert not out.exists()


def test_a_list_with_other_columns_and_a_root_goes_through_every_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = many(tmp_path / "faces", people=4)
    source = FolderSource(root)
    rows = [f"{source.identities[n]};{p}" for p, n in zip(source.paths, source.labels, strict=True)]
    lines = [row.replace(f"{root}/", "") for row in rows]
    listed = tmp_path / "lists" / "all.csv"
    listed.parent.mkdir()
    listed.write_text("\n".join(["who;file", *lines]) + "\n", encoding="utf-8")
    flags = ("--root", root, "--path-column", "file", "--identity-column", "who")
    run("inspect", listed, "--workers", 0, *flags)
    run("check", listed, "--workers", 0, "--min-side", 8, *flags)
    run("pack", listed, tmp_path / "out", "--workers", 0, *flags)
    packed = open_source(tmp_path / "out")
    assert isinstance(packed, EncodedSource)
    assert packed.labels.tolist() == source.labels.tolist()
    assert all(packed.encoded(index) == source.encoded(index) for index in range(len(source)))
    run("split", listed, "--out", tmp_path / "split", "--count", 1, *flags)
    assert len(open_source(tmp_path / "split" / "train.csv").identities) == 3
    capsys.readouterr()
    assert "column" in refused(capsys, "check", listed, "--root", root)


@pytest.mark.parametrize("command", ["inspect", "check", "pack", "split"])
def test_flags_of_lists_are_refused_for_other_sources(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    root = many(tmp_path / "faces", people=2)
    words: dict[str, list[object]] = {
        "pack": [tmp_path / "out"],
        "split": ["--out", tmp_path / "out", "--count", 1],
    }
    said = refused(capsys, command, root, *words.get(command, []), "--path-column", "file")
    assert "path-column is 'file', which is for lists (.csv, .tsv, .parquet, .txt, .lst)" in said
    assert "'folder'" in said


def test_a_split_between_two_spellings_of_a_name_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = many(tmp_path / "faces", people=2)
    run("split", root, "--out", tmp_path / "one", "--count", 1)
    assert "spelling" not in capsys.readouterr().err
    (root / "p1").rename(root / "P0")
    run("split", root, "--out", tmp_path / "two", "--count", 1)
    assert "1 name held out" in capsys.readouterr().err


def test_another_split_is_not_overwritten_unless_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = many(tmp_path / "faces", people=8)
    words = ("split", root, "--out", tmp_path / "lists", "--count")
    run(*words, 2)
    first = read_identities(tmp_path / "lists" / "held-out.txt")
    run(*words, 2)
    capsys.readouterr()
    assert "--overwrite" in refused(capsys, *words, 3)
    assert read_identities(tmp_path / "lists" / "held-out.txt") == first
    run(*words, 3, "--overwrite")
    assert len(read_identities(tmp_path / "lists" / "held-out.txt")) == 3
