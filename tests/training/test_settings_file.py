"""What a file of settings says, field by field: the value, or an error with the line."""

from pathlib import Path
from typing import Any

import pytest

from centerarc.training import load_config
from centerarc.training.search import load_tuning
from centerarc.training.settings import value_of
from centerarc.training.study_config import load_study

BASE = "run_dir: a\ndata: {source: synthetic}\n"
FOLDER = "run_dir: a\ndata:\n  source: folder\n  root: faces\n"
PARTS = "run_dir: a\ndata:\n  source: mixed\n  parts:\n    - source: folder\n      "

# What follows `BASE`, a field and its value.
VALUES: list[tuple[str, str, Any]] = [
    ("schedule: {epochs: 010}", "schedule.epochs", 10),
    ("batch_size: 0x10", "batch_size", 16),
    ("optimizer: {lr: 1e-3}", "optimizer.lr", 1e-3),
    ("optimizer: {lr: 1}", "optimizer.lr", 1.0),
    ("optimizer: {weight_decay: 5E-4}", "optimizer.weight_decay", 5e-4),
    ("compile: true", "compile", True),
    ("compile: FALSE", "compile", False),
    ("validation: ~", "validation", None),
    ("loss: {class_weights: off}", "loss.class_weights", "off"),
    ("loss: {class_weights: on}", "loss.class_weights", "on"),  # a file, were it there
    ("loss: {center_weight: auto}", "loss.center_weight", "auto"),
    ("loss: {center_weight: 1e-1}", "loss.center_weight", 0.1),
    ("model: {options: {dropout: 1e-1}}", "model.options.dropout", 0.1),
    ("model: {options: {word: yes}}", "model.options.word", "yes"),
    ("model: {weights: 2024-01-01}", "model.weights", "2024-01-01"),
    ("model: {weights: 'hf://owner/name'}", "model.weights", "hf://owner/name"),
    ("validation: {identities: 0.25}", "validation.identities", 0.25),
    ("validation: {identities: 20, best_set: no}", "error", "best_set is 'no'; it must be one of"),
    ("loss: &l {m: 0.3}\nhead: {}\nlog: {every: 3}", "loss.m", 0.3),
    ("seed: 9223372036854775807", "seed", 2**63 - 1),
]

# What follows `BASE`, the line of the error and what it says.
ERRORS: list[tuple[str, int, str]] = [
    # truth values, text and fractions are not counts, nor is a number a truth value
    ("schedule: {epochs: true}", 3, "schedule.epochs is true; it must be a valid integer"),
    ("schedule: {epochs: '3'}", 3, "schedule.epochs is '3'; it must be a valid integer"),
    ("schedule: {epochs: 3.5}", 3, "schedule.epochs is 3.5; it must be a valid integer"),
    ("schedule: {epochs: ~}", 3, "schedule.epochs is null; it must be a valid integer"),
    ("schedule: {epochs: 1:30}", 3, "schedule.epochs is '1:30'; it must be a valid integer"),
    ("schedule: {epochs: 1_0}", 3, "schedule.epochs is '1_0'; it must be a valid integer"),
    ("schedule:\n  epochs: no", 4, "schedule.epochs is 'no'; it must be a valid integer"),
    ("seed: false", 3, "seed is false; it must be a valid integer"),
    ("optimizer: {lr: true}", 3, "optimizer.lr is true; it must be a valid number"),
    ("optimizer: {lr: '0.1'}", 3, "optimizer.lr is '0.1'; it must be a valid number"),
    ("optimizer: {lr: on}", 3, "optimizer.lr is 'on'; it must be a valid number"),
    ("optimizer: {lr: .nan}", 3, "optimizer.lr is nan; it must be a finite number"),
    ("schedule: {power: .inf}", 3, "schedule.power is inf; it must be a finite number"),
    ("loss: {center_weight: true}", 3, "loss.center_weight: must be a number from 0 to"),
    ("loss: {center_weight: '1'}", 3, "must be a number from 0 to 1000000000, or auto, got '1'"),
    ("loss: {margin_options: {m: yes}}", 3, "loss.margin_options.m is 'yes'; it must be"),
    ("validation: {identities: true}", 3, "validation.identities is true; it must be"),
    ("validation: {identities: 9, folds: [true]}", 3, "validation.folds.0 is true; it must be"),
    ("compile: yes", 3, "compile is 'yes'; it must be true or false"),
    ("compile: on", 3, "compile is 'on'; it must be true or false"),
    ("compile: 1", 3, "compile is 1; it must be true or false"),
    ("optimizer: {nesterov: 'true'}", 3, "optimizer.nesterov is 'true'; it must be true or false"),
    ("plugins: 7", 3, "plugins is 7; it must be a valid list"),
    ("model: {name: 7}", 3, "model.name is 7; it must be a valid string"),
    ("model: {weights: 7}", 3, "model.weights is 7; it must be a valid string"),
    ("model:\n  name: no\n  weights: true", 5, "model.weights is true; it must be a valid string"),
    ("loss: {class_weights: false}", 3, "loss.class_weights is false; it must be 'off' or"),
    ("model: {name: '" + "x" * 500 + "', image_size: x}", 3, "model.image_size is 'x'; it must"),
    ("batch_size: '" + "x" * 500 + "'", 3, "...; it must be a valid integer"),
    # paths
    ("model: {weights: ''}", 3, "model.weights: the path is empty; write . for the current"),
    ("model: {weights: $NO_SUCH/w.pt}", 3, "but the variable 'NO_SUCH' is not set"),
    ("model: {weights: '${NO_SUCH}/w'}", 3, "but the variable 'NO_SUCH' is not set"),
    ("model: {weights: '${}/w'}", 3, "but the variable '' is not set"),
    (
        "validation: {pairs: $NO_SUCH, images: x}",
        3,
        "validation.pairs: the path is '$NO_SUCH'",
    ),
    ("validation: {sets: [$NO_SUCH]}", 3, "validation.sets.0.pairs: the path is '$NO_SUCH', but"),
    ("loss: {class_weights: $NO_SUCH}", 3, "the path is '$NO_SUCH', but the variable"),
    ("plugins: [$NO_SUCH/a.py]", 3, "the path is '$NO_SUCH/a.py', but the variable"),
    ("model: {weights: ~no-such-user/w.pt}", 3, "but there is no such home"),
    # sections, and fields that do not fit each other
    ("loss: [1]", 3, "loss is [1]; it must be a section: `name: value` lines"),
    ("loss: 3", 3, "loss is 3; it must be a section"),
    ("seed: 1\nloss:\n  m: 0.3\n  s: -1", 6, "loss.s is -1; it must be greater than 0"),
    ("loss: {<<: {s: -1}}", 3, "loss.s is -1; it must be greater than 0"),
    ("schedule:\n  epochs: 2\n  warmup_epochs: 5", 5, "warmup_epochs is 5; it must be below"),
    ("batch_size: 2\naccumulate: 3", 4, "accumulate is 3; it cannot exceed batch_size"),
    ("validation:\n  far: 0.1", 3, "validation: give pairs (and images), identities or sets"),
    ("callbacks:\n  - name: a\n  - {}", 5, "callbacks.1.name is missing; it is required"),
    # hints
    ("epochs: 3", 3, "unknown field epochs; did you mean schedule.epochs?"),
    ("lr: 3", 3, "unknown field lr; did you mean optimizer.lr?"),
    ("loss:\n  lr: 3", 4, "unknown field loss.lr; did you mean optimizer.lr?"),
    ("schedule: {lr: 3}", 3, "unknown field schedule.lr; did you mean optimizer.lr?"),
    ("schedule: {epoch: 3}", 3, "unknown field schedule.epoch; did you mean schedule.epochs?"),
    ("optimizer: {epochs: 3}", 3, "did you mean schedule.epochs?"),
    ("optimizer: {batch_size: 3}", 3, "did you mean batch_size?"),
    ("optimizer: {s: 3}", 3, "unknown field optimizer.s; did you mean loss.s?"),
    ("optimizr: {lr: 3}", 3, "unknown field optimizr; did you mean optimizer?"),
    ("loss: {scale: 3}", 3, "unknown field loss.scale; did you mean"),
    ("head: {sharde: true}", 3, "unknown field head.sharde; did you mean head.sharded?"),
    ("model: {dropout: 0.1}", 3, "did you mean model.options.dropout?"),
    ("model: {epochs: 3}", 3, "unknown field model.epochs; did you mean schedule.epochs?"),
    ("name: x", 3, "did you mean model.name or validation.name or optimizer.name?"),
    ("validation: {sets: [{pairs: a.bin, nme: x}]}", 3, "did you mean validation.sets.0.name?"),
    ("validation: {sets: [{pair: a.bin}]}", 3, "did you mean validation.sets.0.pairs?"),
    ("callbacks: [{name: a, option: {}}]", 3, "did you mean callbacks.0.options?"),
    ("1: 2", 3, "the name of a field must be text, got 1; quote it"),
    (
        "model: {options: {true: 2}}",
        3,
        "the name of a field in model.options must be text, got",
    ),
    ("on: 2", 3, "unknown field on; "),
]


def _id(value: object) -> str | None:
    return value[:40] if isinstance(value, str) else None


def _write(folder: Path, text: str) -> Path:
    path = folder / "config.yaml"
    path.write_text(text + "\n", encoding="utf-8")
    return path


def _said(folder: Path, text: str, load: Any = load_config) -> str:
    path = _write(folder, text)
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        load(path)
    assert "\n" not in str(error.value)
    return str(error.value).replace(str(path), "FILE")


@pytest.mark.parametrize(("extra", "field", "value"), VALUES, ids=_id)
def test_a_field_has_the_value_that_is_written(
    tmp_path: Path, extra: str, field: str, value: Any
) -> None:
    if field == "error":
        assert value in _said(tmp_path, BASE + extra)
        return
    found = value_of(load_config(_write(tmp_path, BASE + extra)).model_dump(mode="json"), field)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(("extra", "line", "said"), ERRORS, ids=_id)
def test_a_wrong_field_is_named_with_its_line(
    tmp_path: Path, extra: str, line: int, said: str
) -> None:
    text = _said(tmp_path, BASE + extra)
    assert text.startswith(f"FILE:{line}: ")
    assert said in text
    assert len(text) < 300


@pytest.mark.parametrize(
    ("text", "start"),
    [
        (FOLDER + "  rot: 1", "FILE:5: unknown field data.rot; did you mean data.root?"),
        (FOLDER + "  path: x", "FILE:5: data.path is not a setting of the source folder; "),
        (FOLDER + "  lr: 1", "FILE:5: unknown field data.lr; did you mean optimizer.lr?"),
        (FOLDER + "  min_images: on", "FILE:5: data.min_images is 'on'; it must be"),
        (FOLDER + "  sampler: {knd: x}", "FILE:5: unknown field data.sampler.knd; did you mean"),
        (FOLDER + "  augmentation: {flip: true}", "FILE:5: data.augmentation.flip is true; it"),
        (PARTS + "root: a\n      weigt: 2", "FILE:7: unknown field data.parts.0.weigt; did you"),
        (PARTS + "root: a\n      weight: yes", "FILE:7: data.parts.0.weight is 'yes'; it must be"),
        (PARTS + "weight: 2", "FILE:5: data.parts.0.root is missing; it is required"),
        ("run_dir: a", "FILE:1: data is missing; it is required"),
        ("run_dir: a\ndata: {}", "FILE:2: data.source is missing; it must be one of folder,"),
        ("run_dir: a\n\ndata: {source: on}", "FILE:3: data.source is 'on'; it must be one of"),
        ("run_dir: ~\ndata: {source: synthetic}", "FILE:1: run_dir is null; it must be a path"),
        ("run_dir: 7\ndata: {source: synthetic}", "FILE:1: run_dir is 7; it must be a path, in q"),
        ("run_dir: $NO_SUCH\ndata: {source: synthetic}", "FILE:1: run_dir: the path is '$NO_SU"),
    ],
    ids=_id,
)
def test_a_wrong_field_of_the_images_is_named_with_its_line(
    tmp_path: Path, text: str, start: str
) -> None:
    assert _said(tmp_path, text).startswith(start)


@pytest.mark.parametrize(
    ("written", "means"),
    [
        ("~/a/w.pt", "/home/ann/a/w.pt"),
        ("'~'", "/home/ann"),
        ("$FACES/w.pt", "/data/faces/w.pt"),
        ("'${FACES}_2/w.pt'", "/data/faces_2/w.pt"),
        ("a~/w.pt", "a~/w.pt"),
        ("./~/w.pt", "~/w.pt"),
        ("a$/w$1.pt", "a$/w$1.pt"),
    ],
)
def test_home_and_variables_stand_in_every_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: str, means: str
) -> None:
    monkeypatch.setenv("HOME", "/home/ann")
    monkeypatch.setenv("FACES", "/data/faces")
    text = f"""
run_dir: {written}
model: {{weights: {written}}}
data:
  source: mixed
  parts: [{{source: folder, root: {written}, leave_out: {written}}}]
  identities: {written}
  exclude_pairs: {written}
validation:
  name: b
  pairs: {written}
  images: {written}
  sets: [{{name: c, pairs: {written}, images: {written}}}]
loss: {{class_weights: {written}}}
"""
    found = load_config(_write(tmp_path, text)).model_dump(mode="json")
    part, validation = found["data"]["parts"][0], found["validation"]
    paths = [
        *(found["run_dir"], part["root"], part["leave_out"], found["loss"]["class_weights"]),
        *(found["data"]["identities"], found["data"]["exclude_pairs"], validation["images"]),
        *(validation["pairs"], validation["sets"][0]["pairs"], validation["sets"][0]["images"]),
    ]
    assert {str(Path(path)) for path in paths} == {means}
    assert Path(found["model"]["weights"]) == Path(means)


STUDY = """
study_dir: s
train: {data: {source: synthetic}}
seeds: [0]
settings: {schedule: {epochs: 2}}
arms:
  a: {}
  b:
    loss.m: 0.3
evaluate: {all_pairs: {people: 9, first: 900}}
"""


@pytest.mark.parametrize(
    ("before", "after", "start"),
    [
        ("seeds: [0]", "seeds: [true]", "FILE:4: seeds.0 must be a valid integer, got true"),
        ("seeds: [0]", "seeds: 0o1", "FILE:4: seeds must be a list, such as [0, 1], got 1"),
        ("people: 9", "people: yes", "FILE:10: evaluate.sets.all_pairs.all_pairs.people must be"),
        ("study_dir: s", "study_dir: ~", "FILE:2: study_dir must be a path, in quotes if YAML"),
        ("study_dir: s", "study_dir: $NO_SUCH", "FILE:2: study_dir: the path is '$NO_SUCH', but"),
        ("seeds: [0]", "seeds: [0]\nseed: 1", "FILE:5: unknown field seed; did you mean seeds?"),
        ("seeds: [0]", "seeds: [0]\nepochs: 1", "FILE:5: unknown field epochs; did you mean setti"),
        ("seeds: [0]", "seeds: [0]\nresamples: 200", "FILE:5: unknown field resamples; did you m"),
        ("people: 9", "peeple: 9", "FILE:10: unknown field evaluate.sets.all_pairs.all_pairs.peep"),
        ("epochs: 2", "epochs: yes", "FILE:5: arm 'a': schedule.epochs is 'yes'; it must be"),
        ("loss.m: 0.3", "loss.m: -1", "FILE:9: arm 'b': loss.m is -1; it must be"),
        ("loss.m: 0.3", "loss.margn: 1", "FILE:9: arm 'b': unknown field loss.margn; did"),
        ("loss.m: 0.3", "loss: {s: on}", "FILE:9: arm 'b': loss.s is 'on'; it must be"),
        ("{source: synthetic}", "{source: x}", "FILE:3: arm 'a': data.source is 'x'; it must be"),
        ("arms:", "arms:\n  1: {}", "FILE:7: the name of a field in arms must be text, got 1;"),
        ("seeds: [0]", "seeds: [0]\nseeds: [1]", "FILE:5: seeds is given twice, first in line 4"),
        (
            "seeds: [0]",
            "seeds: [0]\ntune:\n  search: {loss.s: [1, on]}",
            "FILE:6: arm 'a': tune.search.loss.s cannot be",
        ),
        (
            "seeds: [0]",
            "seeds: [0]\ntune:\n  search: {loss.s: [1, 2]}\n  trails: 3",
            "FILE:7: unknown field tune.trails; did you mean tune.trials?",
        ),
        (
            "{data: {source: synthetic}}",
            "other.yaml",
            "other.yaml:3: arm 'a': optimizer.lr is true; it must be",
        ),
        ("{data: {source: synthetic}}", "none.yaml", "FILE:3: there is no configuration file"),
    ],
    ids=_id,
)
def test_a_wrong_field_of_a_study_is_named_with_its_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: str, after: str, start: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "other.yaml").write_text("data: {source: synthetic}\noptimizer:\n  lr: true\n")
    assert before in STUDY
    said = _said(tmp_path, STUDY.replace(before, after, 1), load_study)
    assert said.startswith(start)


@pytest.mark.parametrize(
    ("tune", "start"),
    [
        ("trials: true", "FILE:4: tune.trials must be a valid integer, got true"),
        ("trails: 3", "FILE:4: unknown field tune.trails; did you mean tune.trials?"),
        ("epochs: 3", "FILE:4: unknown field tune.epochs; did you mean schedule.epochs?"),
        ("search: {loss.m: [1, yes]}", 'FILE:4: tune.search.loss.m cannot be "yes": with this'),
        ("search:\n    loss.m: {low: 0, hi: 1}", "FILE:5: tune.search.loss.m: unknown field hi"),
        ("search:\n    loss.m: {low: no, high: 1}", "FILE:5: tune.search.loss.m: low must be a"),
        ("search:\n    los.m: [0, 1]", "FILE:5: tune.search: unknown field los.m; did you mean"),
        ("seed: 3", "FILE:3: tune.search must name at least one setting"),
    ],
    ids=_id,
)
def test_a_wrong_search_is_named_with_its_line(tmp_path: Path, tune: str, start: str) -> None:
    assert _said(tmp_path, f"{BASE}tune:\n  {tune}", load_tuning).startswith(start)
