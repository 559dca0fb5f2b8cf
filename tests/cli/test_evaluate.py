"""``centerarc evaluate`` as a user meets it: every protocol, and every wrong input in one line."""

import io
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from centerarc.cli import main
from tests.evaluation.protocols.faces import (
    FLAGS,
    bin_set,
    cosine,
    embeddings,
    folder,
    lfw_pairs,
    model,
    picture,
)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    root = tmp_path_factory.mktemp("evaluate")
    folder(root / "faces")
    lfw_pairs(root / "pairs.txt")
    model(root / "m.onnx")
    return root


@pytest.fixture(autouse=True)
def _there(files, monkeypatch):
    monkeypatch.chdir(files)
    monkeypatch.setenv("COLUMNS", "200")


def run(*words):
    with pytest.raises(SystemExit) as stop:
        main([str(word) for word in words])
    assert isinstance(stop.value.code, int)
    return stop.value.code


def loaded(path):
    return json.loads(Path(path).read_text(encoding="utf-8"))


def evaluated(out, *words):
    """What an evaluation writes."""
    assert run("evaluate", *words, "--json", out) == 0
    return loaded(out)


def plain(shown):
    """What was printed, without the lines of tables."""
    return " ".join(shown.replace("│", " ").split())


def closed_stdout(monkeypatch):
    """Nobody reads what is printed, as after `| head -2`."""

    class Closed(io.StringIO):
        def write(self, text):
            raise BrokenPipeError

        def flush(self):
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stdout", Closed())


ONNX = ["m.onnx", *FLAGS, "--workers", 0]
PAIRS = ["--pairs", "pairs.txt", "--images", "faces"]


def test_pairs_give_a_table_and_json_with_the_scores_beside(tmp_path, capsys):
    found = evaluated(tmp_path / "out.json", *ONNX, *PAIRS)
    numbers = found["verification"]
    said = plain(capsys.readouterr().out)
    for words in ("2 folds", "EER", "compactness", "those that the pairs file names"):
        assert words in said
    assert f"threshold {numbers['threshold']:.4f}" in said
    assert "always giving the more frequent answer: 50.00%" in said
    assert f"± {100 * numbers['fold_std']:.2f} points" in said
    assert "TAR at FAR 10% - FAR 10% needs at least 10 impostor pairs, there are 6" in said
    assert "There are no own thresholds: " in said
    assert "own threshold, FAR" not in said  # a row that would hold nothing
    assert (numbers["num_genuine"], numbers["num_impostor"], numbers["num_people"]) == (6, 6, 6)
    assert f"{100 * numbers['kfold_accuracy']['value']:.2f}%" in said
    assert numbers["tar_at_far"]["0.1"]["value"] is None
    assert found["data"]["distinct_images"] == 12
    assert found["model"]["preprocessing"]["image_size"] == 4
    with np.load(tmp_path / found["scores"], allow_pickle=False) as stored:
        expected = [cosine((name, 1), (name, 2)) for name in ("Ann", "Bob", "Cyd")]
        np.testing.assert_allclose(stored["scores"][:3], expected, rtol=1e-6)
        assert stored["scores"][3] == pytest.approx(cosine(("Ann", 1), ("Cyd", 2)), rel=1e-6)


def test_the_recorded_command_repeats_the_evaluation(tmp_path):
    words = [*ONNX, *PAIRS, "--folds", "2", "--mirror", "--far", "0.5", "0.25"]
    first = evaluated(tmp_path / "a.json", *words)
    command = shlex.split(first["command"])
    assert command[0] == "centerarc"
    (tmp_path / "a.json").unlink()
    assert run(*command[1:], "--overwrite") == 0
    assert loaded(tmp_path / "a.json") == first
    assert first["data"]["folds"] == [2]
    assert "best_accuracy" in first["verification"]
    assert "0.25" in first["verification"]["tar_at_far"]


def test_embeddings_score_like_the_model_that_made_them(tmp_path):
    file = tmp_path / "e.npz"
    assert run("embed", "faces", "--model", "m.onnx", *FLAGS, "-o", file, "--workers", 0) == 0
    a = evaluated(tmp_path / "a.json", *ONNX, *PAIRS)
    b = evaluated(tmp_path / "b.json", file, "--pairs", "pairs.txt")
    for part in ("verification", "pairs_sha256", "separability"):
        assert a[part] == b[part]


def test_a_run_and_a_public_checkpoint_are_models_too(tmp_path, capsys):
    import torch

    from centerarc.models import create_model, save_weights

    network = create_model("mobilefacenet_small", image_size=32, embedding_size=8)
    save_weights(tmp_path / "best.safetensors", network)
    assert run("evaluate", tmp_path, *PAIRS, "--device", "cpu", "--workers", 0) == 0
    assert "best.safetensors: 12 pairs" in capsys.readouterr().out.replace("\n", "")
    torch.save(create_model("mobilefacenet").state_dict(), tmp_path / "public.pt")
    words = ["evaluate", tmp_path / "public.pt", *PAIRS, "--workers", 0]
    assert run(*words, "--architecture", "mobilefacenet") == 0


def test_a_list_is_broken_down_by_its_columns(tmp_path, capsys):
    rows = ["image_a,image_b,same,light,age_a,age_b"]
    people = ["Ann", "Bob", "Cyd", "Dan"]
    for i, name in enumerate(people):
        other = people[i - 1]
        light = "dark" if i % 2 else "bright"
        for a, b, same in ((name, name, 1), (name, other, 0)):
            rows.append(f"{a}/{a}_0001.png,{b}/{b}_0002.png,{same},{light},old,young")
    (tmp_path / "list.csv").write_text("\n".join(rows), encoding="utf-8")
    words = ["--pairs", tmp_path / "list.csv", "--images", "faces", "--by", "light", "age"]
    groups = evaluated(tmp_path / "o.json", *ONNX, *words)["verification"]["breakdowns"]
    assert "By light" in capsys.readouterr().out
    assert [group["name"] for group in groups["light"]["groups"]] == ["bright", "dark"]
    assert [group["name"] for group in groups["age"]["groups"]] == ["old | young"]
    assert groups["light"]["groups"][0]["num_genuine"] == 2


def ages(path: Path, count: int) -> Path:
    """A list of genuine pairs and of as many impostor pairs, of the ages 0, 1, 2, ..."""
    rows = ["image_a,image_b,same,age,light"]
    for i in range(count):
        rows.append(f"a{i % 5}/{i}.png,a{i % 5}/b{i}.png,1,{i},dark")
        rows.append(f"a{i % 5}/{i}.png,a{(i + 1) % 5}/b{i + 1}.png,0,{i},dark")
    path.write_text("\n".join(rows), encoding="utf-8")
    names = {part for row in rows[1:] for part in row.split(",")[:2]}
    rng = np.random.default_rng(0)
    embeddings(
        path.with_suffix(".npz"),
        [(name, name.split("/")[0], rng.normal(size=4).tolist()) for name in sorted(names)],
    )
    return path


def test_numbers_are_cut_into_groups_and_groups_too_small_say_why(tmp_path, capsys):
    words = [tmp_path / "l.npz", "--pairs", ages(tmp_path / "l.csv", 80), "--resamples", 0]
    assert run("evaluate", *words, "--by", "light,age") == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "By age: no group can be judged. '0' needs at least 30 pairs of each kind" in said
    assert "likewise 79 more" in said
    assert "--by age=20,40,60" in said
    assert "worst" not in said  # one group, and none, have no worst one
    found = evaluated(tmp_path / "o.json", *words, "--by", "age=35,70,light")
    shown = capsys.readouterr().out
    groups = found["verification"]["breakdowns"]["age"]["groups"]
    assert [group["name"] for group in groups] == ["under 35", "35 to 70", "70 and over"]
    assert [group["num_genuine"] for group in groups] == [35, 35, 10]
    assert "'70 and over' needs at least 30 pairs of each kind, there are 10" in shown
    assert "gap," in shown


def test_a_value_that_cannot_be_cut_is_one_line(tmp_path, capsys):
    words = [tmp_path / "l.npz", "--pairs", ages(tmp_path / "l.csv", 40)]
    assert run("evaluate", *words, "--by", "light=20") == 2
    assert "l.csv, line 2: light must be a number to be cut, got 'dark'" in capsys.readouterr().err


def test_several_numbers_may_have_commas_or_blanks_between(tmp_path):
    found = [
        evaluated(tmp_path / name / "o.json", *ONNX, *PAIRS, "--far", *far, "--folds", *folds)
        for name, far, folds in (
            ("blanks", ["0.5", "0.25"], ["1", "2"]),
            ("commas", ["0.5,0.25"], ["1,2"]),
        )
    ]
    assert found[0].pop("command") != found[1].pop("command")
    assert found[0] == found[1]
    assert found[0]["data"]["folds"] == [1, 2]
    assert found[0]["verification"]["settings"]["far"] == [0.5, 0.25]


def test_files_are_written_though_no_one_reads_what_is_printed(tmp_path, monkeypatch):
    pytest.importorskip("plotly")
    closed_stdout(monkeypatch)
    words = ["--json", tmp_path / "o.json", "--report", tmp_path / "o.html"]
    assert run("evaluate", *ONNX, *PAIRS, *words) != 0
    for name in ("o.json", "o.scores.npz", "o.html"):
        assert (tmp_path / name).exists()


def test_what_was_found_is_shown_though_a_file_cannot_be_written(tmp_path, capsys, monkeypatch):
    def full(*_):
        raise OSError("no space left")

    monkeypatch.setattr("centerarc.evaluation.protocols.result_files.write_evaluation", full)
    assert run("evaluate", *ONNX, *PAIRS, "--json", tmp_path / "o.json") == 2
    out, err = capsys.readouterr()
    assert "EER" in out
    assert "no space left" in err


def test_a_page_without_pictures_has_no_faces_and_no_names(tmp_path):
    pytest.importorskip("plotly")
    pages = []
    for flag in ([], ["--no-pictures"]):
        words = [*ONNX, *PAIRS, *flag, "--overwrite", "--report", tmp_path / "r.html"]
        command = evaluated(tmp_path / "o.json", *words)["command"]
        pages.append((tmp_path / "r.html").read_text(encoding="utf-8"))
    with_pictures, without = (
        ["data:image/jpeg" in page, bool(re.search(r"\b(Cyd|Fay)(\b|_0)", page))] for page in pages
    )
    assert with_pictures == [True, True]
    assert without == [False, False]
    assert command.endswith(" --no-pictures")


def test_a_bin_set_says_that_people_are_unknown(tmp_path, capsys):
    path = bin_set(tmp_path / "lfw.bin", Path("faces"))
    assert run("evaluate", *ONNX, "--pairs", path, "--convention", "grid") == 0
    shown = plain(capsys.readouterr().out)
    assert "10 folds" in shown
    assert "convention grid" in shown
    assert "No intervals: it is not known whom the pairs show." in shown
    assert "compactness" not in shown


@pytest.mark.parametrize("pictures", [True, False])
def test_probes_that_found_someone_else_are_shown_with_both_people(tmp_path, pictures):
    picture(tmp_path / "gallery" / "Ann" / "1.png", "Ann", 1)
    picture(tmp_path / "gallery" / "Bob" / "1.png", "Bob", 1)
    picture(tmp_path / "more" / "Zoe" / "1.png", "Cyd", 1)
    # Pictures of Bob and Cyd in Ann's folder: one finds Bob, the other a distractor.
    picture(tmp_path / "probes" / "Ann" / "2.png", "Bob", 2)
    picture(tmp_path / "probes" / "Ann" / "3.png", "Cyd", 2)
    picture(tmp_path / "probes" / "Bob" / "4.png", "Bob", 3)
    words = ["--gallery", tmp_path / "gallery", "--probes", tmp_path / "probes"]
    words += ["--distractors", tmp_path / "more", "--report", tmp_path / "r.html"]
    assert run("evaluate", *ONNX, *words, *([] if pictures else ["--no-pictures"])) == 0
    text = (tmp_path / "r.html").read_text(encoding="utf-8")
    card = text.split("The wrong person first")[1].split("</section>")[0]
    assert '<span class="count">2</span>' in card
    assert ("Ann was taken for Bob" in card) == pictures
    assert ("Ann was taken for a distractor" in card) == pictures
    assert card.count("data:image/jpeg") == (5 if pictures else 0)


def test_a_gallery_of_one_person_finds_everyone_and_says_so(tmp_path, capsys):
    picture(tmp_path / "gallery" / "Ann" / "1.png", "Ann", 1)
    picture(tmp_path / "probes" / "Ann" / "2.png", "Ann", 2)
    words = ["--gallery", tmp_path / "gallery", "--probes", tmp_path / "probes"]
    assert run("evaluate", *ONNX, *words, "--resamples", 0) == 0
    shown = plain(capsys.readouterr().out)
    assert "1 probe among 1 person; always 100%: the gallery has 1 person" in shown
    assert "No intervals were asked for." in shown


def test_probes_are_looked_up_in_a_gallery(tmp_path, capsys):
    for person in ("Ann", "Bob", "Cyd"):
        picture(tmp_path / "gallery" / person / "1.png", person, 1)
    for person in ("Ann", "Bob", "Eve"):
        for number in (2, 3):
            picture(tmp_path / "probes" / person / f"{number}.png", person, number)
    # A distractor who is called like a probe's person is somebody else.
    picture(tmp_path / "more" / "Ann" / "9.png", "Fay", 1)
    words = ["--gallery", tmp_path / "gallery", "--probes", tmp_path / "probes"]
    words += ["--distractors", tmp_path / "more", "--ranks", 1, 2, "--fpir", 0.5, 0.1]
    found = evaluated(tmp_path / "o.json", *ONNX, *words)["identification"]
    said = plain(capsys.readouterr().out)
    assert "2 of them distractors" in said
    assert f"threshold {found['tpir_at_fpir']['0.5']['thresholds'][0]:.4f}; 2 probes" in said
    assert "FPIR 10% needs at least 10 probes" in said
    assert found["gallery_people"] == [4]
    assert found["distractors"] == [2]  # Cyd, without probes, and the one of that folder
    assert (found["mated_probes"], found["nonmated_probes"]) == ([4], [2])
    # By hand: each probe against the four people of the gallery.
    gallery = {"Ann": ("Ann", 1), "Bob": ("Bob", 1), "Cyd": ("Cyd", 1), "more": ("Fay", 1)}
    ranks = []
    for probe in [(p, n) for p in ("Ann", "Bob") for n in (2, 3)]:
        scores = {name: cosine(probe, face) for name, face in gallery.items()}
        ranks.append(sum(s >= scores[probe[0]] for s in scores.values()))
    for rank in (1, 2):
        within = np.mean([found_at <= rank for found_at in ranks])
        assert found["cmc"][str(rank)]["value"] == pytest.approx(within)
    assert found["tpir_at_fpir"]["0.1"]["value"] is None


def test_files_of_embeddings_need_no_model(tmp_path):
    gallery = embeddings(tmp_path / "g.npz", [("a", "Ann", [1, 0]), ("b", "Bob", [0, 1])])
    probes = embeddings(tmp_path / "p.npz", [("c", "Ann", [3, 1]), ("d", "Bob", [2, 1])])
    words = ["--gallery", gallery, "--probes", probes, "--ranks", "1", "2"]
    found = evaluated(tmp_path / "o.json", *words)["identification"]
    assert [found["cmc"][rank]["value"] for rank in "12"] == [0.5, 1.0]


def test_templates_are_judged_in_both_ways(tmp_path):
    rows = ["template,image,identity,role"]
    for person in ("Ann", "Bob", "Cyd"):
        rows.append(f"{person}-known,{person}/{person}_0001.png,{person},gallery")
        rows.append(f"{person}-asked,{person}/{person}_0002.png,{person},probe")
    (tmp_path / "t.csv").write_text("\n".join(rows), encoding="utf-8")
    pairs = ["template_a,template_b,same", "Ann-known,Ann-asked,1", "Ann-known,Bob-asked,0"]
    (tmp_path / "p.csv").write_text("\n".join(pairs), encoding="utf-8")
    words = ["--templates", tmp_path / "t.csv", "--pairs", tmp_path / "p.csv", "--images", "faces"]
    found = evaluated(tmp_path / "o.json", *ONNX, *words, "--weighting", "norm")
    assert found["templates"]["weighting"] == "norm"
    assert found["identification"]["cmc"]["1"]["value"] == 1.0
    with np.load(tmp_path / "o.scores.npz") as stored:
        expected = [cosine(("Ann", 1), ("Ann", 2)), cosine(("Ann", 1), ("Bob", 2))]
        np.testing.assert_allclose(stored["scores"], expected, rtol=1e-5)


def test_the_page_is_written_with_the_result(tmp_path):
    pytest.importorskip("plotly")
    out = tmp_path / "r.html"
    assert run("evaluate", *ONNX, *PAIRS, "--report", out, "--title", "Tiny & <small>") == 0
    page = out.read_text(encoding="utf-8")
    assert "<title>Tiny &amp; &lt;small&gt;</title>" in page
    assert "centerarc evaluate m.onnx" in page


NAN = [("Ann/Ann_0001.png", "Ann", [1, 0]), ("Ann/Ann_0002.png", "Ann", [float("nan"), 0])]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            [],
            "give one of --pairs, --all-pairs, --gallery with --probes, --templates or --ijb; "
            "got none (see ",
        ),
        (PAIRS, "--pairs needs a model, or a file of embeddings in its place"),
        ([*ONNX, *PAIRS, "--ijb", "faces"], "got --pairs and --ijb"),
        ([*ONNX, *PAIRS, "--probes", "faces"], "--probes is for --gallery, not for --pairs"),
        ([*ONNX, *PAIRS, "--weighting", "norm"], "--weighting is for --templates and --ijb"),
        (
            [*ONNX, *PAIRS, "--folds", "a,b"],
            "numbers with commas or blanks between, e.g. 7,8; got ['a', 'b']",
        ),
        ([*ONNX, *PAIRS, "--folds", "3"], "pairs.txt: --folds must name some of [1, 2], got [3]"),
        (
            [*ONNX, *PAIRS, "--convention", "insightface"],
            "--convention 'insightface' is one of TAR at FAR without folds",
        ),
        (
            ["--gallery", "few.npz", "--probes", "few.npz", "--convention", "insightface"],
            "--convention is for --pairs and --templates and --ijb, not for --gallery",
        ),
        (
            [*ONNX, "--ijb", "faces", "--convention", "grid"],
            "--convention grid is for --pairs, not for --ijb",
        ),
        ([*ONNX, *PAIRS, "--far", "2"], "--far must be in (0, 1), got 2"),
        ([*ONNX, *PAIRS, "--resamples", "7"], "--resamples must be 0 or at least 100, got 7"),
        ([*ONNX, *PAIRS, "--json", "m.onnx/o.json"], "but 'm.onnx' is a file, not a folder"),
        (
            [*ONNX, *PAIRS, "--report", "faces"],
            "'faces', a folder; it must name a file",
        ),
        ([*ONNX, *PAIRS, "--by", "age"], "pairs.txt: a file of this format has no columns"),
        ([*ONNX, "--pairs", "pairs.txt"], "--images must name the folder"),
        ([*ONNX, "--pairs", "gone.txt", "--images", "faces"], "gone.txt"),
        ([*ONNX, "--pairs", "unknown.txt", "--images", "faces"], "'Zoe/Zoe_0001' (line 2)"),
        ([*ONNX, "--pairs", "gone.csv"], "gone.csv"),
        ([*ONNX, "--pairs", "column.csv"], "column.csv, line 1: there is no column 'same'"),
        ([*ONNX, "--pairs", "image.csv"], "'faces/Ann/3.png' (line 2)"),
        ([*ONNX, "--pairs", "one.csv"], "one.csv: all 1 pairs are genuine pairs"),
        ([*ONNX, "--pairs", "away.csv"], "; --images must name the folder"),
        ([*ONNX, *PAIRS, "--report", "r.pdf"], "--report must end in .html or .htm"),
        ([*ONNX, "--pairs", "cut.bin"], "cut.bin"),
        ([*ONNX, "--gallery", "faces"], "--gallery needs --probes"),
        ([*ONNX, "--gallery", "faces", "--probes", "other"], "no one of 'other' is in 'faces'"),
        (
            ["--gallery", "few.npz", "--probes", "few.npz", "--distractors", "faces"],
            "--distractors is",
        ),
        (["nan.npz", "--pairs", "pairs.txt"], "not finite, in row 1 ('Ann/Ann_0002.png')"),
        (["few.npz", "--pairs", "pairs.txt"], "'Bob/Bob_0001' (line 3)"),
        (["few.npz", "--pairs", "cut.bin"], "have no names to find embeddings by"),
        (["few.npz", *PAIRS, "--mirror"], "flags of a model are not for it"),
        (["zero.npz", "--pairs", "pairs.txt"], "row 1 ('Ann/Ann_0002.png'), counted from 0"),
        (["twice.npz", "--pairs", "pairs.txt"], "rows 0 and 1, counted from 0, are both of"),
        ([*ONNX, "--templates", "column.csv"], "line 1: there are no columns 'template'"),
        ([*ONNX, "--ijb", "faces", "--images", "faces"], "must have one file *_face_tid_mid.txt"),
    ],
)
def test_wrong_input_is_one_line_with_its_place(files, capsys, words, message):
    Path("unknown.txt").write_text("1\nZoe\t1\t2\nAnn\t1\tBob\t2\n", encoding="utf-8")
    Path("column.csv").write_text("image_a,image_b,sane\na,b,1\n", encoding="utf-8")
    first = "faces/Ann/Ann_0001.png"
    text = f"image_a,image_b,same\nfaces/Ann/3.png,{first},1\n{first},faces/Bob/Bob_0001.png,0\n"
    Path("one.csv").write_text("image_a,image_b,same\na/1,a/2,1\n", encoding="utf-8")
    Path("away.csv").write_text("image_a,image_b,same\na/1,a/2,1\na/1,b/2,0\n", encoding="utf-8")
    Path("image.csv").write_text(text, encoding="utf-8")
    Path("cut.bin").write_bytes(bin_set(files / "whole.bin", Path("faces")).read_bytes()[:-500])
    picture(Path("other") / "Zed" / "1.png", "Ann", 1)
    embeddings(Path("nan.npz"), NAN)
    embeddings(Path("few.npz"), [(f"Ann/Ann_000{n}.png", "Ann", [1, n]) for n in (1, 2)])
    embeddings(Path("zero.npz"), [NAN[0], (NAN[1][0], "Ann", [0, 0])])
    embeddings(Path("twice.npz"), [NAN[0], NAN[0]])
    assert run("evaluate", *words) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("error: ")
    assert error.count("\n") == 1


def test_a_model_without_direction_is_told_by_the_image(tmp_path, capsys):
    from PIL import Image

    folder(tmp_path / "faces", "Ann Bob")
    Image.new("RGB", (8, 8)).save(tmp_path / "faces" / "Bob" / "Bob_0002.png")  # black: all 0
    (tmp_path / "p.txt").write_text("1\nAnn\t1\t2\nAnn\t1\tBob\t2\n", encoding="utf-8")
    words = ["--pairs", tmp_path / "p.txt", "--images", tmp_path / "faces"]
    assert run("evaluate", *ONNX, *words) == 2
    assert "m.onnx: the embedding of 'Bob/Bob_0002.png' has length 0" in capsys.readouterr().err


def test_the_command_loads_without_torch():
    code = "import sys, centerarc.cli.evaluate; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    "words",
    [
        ["--json", "few.npz"],
        ["--json", "pairs.csv"],
        ["--json", "x.html", "--report", "x.html"],
        ["--report", "./x.html", "--json", "x.html"],
    ],
)
def test_nothing_is_written_over_what_is_read_or_written(words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    embeddings(
        Path("few.npz"), [(f"{n}.png", n[0], [1, k]) for k, n in enumerate(("a1", "a2", "b1"))]
    )
    Path("pairs.csv").write_text("image_a,image_b,same\na1.png,a2.png,1\na1.png,b1.png,0\n")
    before = {path: path.read_bytes() for path in Path().iterdir()}
    assert run("evaluate", "few.npz", "--pairs", "pairs.csv", *words) == 2
    assert "would be written over" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in Path().iterdir()} == before
