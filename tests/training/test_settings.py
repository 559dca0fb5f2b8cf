"""What a user reads who has mistyped a setting."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from centerarc.training import check_config, dump_config, load_config

BASE = "run_dir: runs/a\ndata:\n  source: synthetic\n"


def _write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    return path


def test_flags_override_the_file(tmp_path: Path) -> None:
    path = _write(tmp_path, BASE + "loss: {m: 0.3, s: 64}\n")
    flags = ["--loss.m", "0.4", "--schedule.epochs=3", "--run-dir", "runs/007", "--batch-size", "8"]
    config = load_config(path, flags)
    assert (config.loss.m, config.loss.s, config.schedule.epochs) == (0.4, 64, 3)
    assert str(config.run_dir) == "runs/007"
    assert config.batch_size == 8


def test_flags_of_every_kind(tmp_path: Path) -> None:
    text = "run_dir: a\ndata: {source: folder, root: x}\nvalidation: {identities: 0.1}\n"
    flags = [
        *("--data.exclude_pairs", "p.txt", "--data.exclude_folds", "[6, 7]"),
        *("--validation.identities", "none", "--validation.pairs", "p.txt"),
        *("--validation.images", "x", "--validation.folds", "[6]"),
        *("--model.options", "{dropout: 0.4}", "--optimizer.nesterov", "true"),
        *("--optimizer.lr", "1e-2", "--loss.margin", "cosface"),
        *("--loss.center_weight", "3e-1"),
    ]
    config = load_config(_write(tmp_path, text), flags)
    assert config.data.source == "folder"
    assert config.data.exclude_folds == [6, 7]
    assert config.validation is not None
    assert config.validation.identities is None
    assert config.validation.folds == [6]
    assert config.model.options == {"dropout": 0.4}
    assert config.optimizer.nesterov
    assert config.loss.center_weight == 0.3
    automatic = load_config(_write(tmp_path, text), ["--loss.center_weight", "auto"])
    assert automatic.loss.center_weight == "auto"
    assert check_config(yaml.safe_load(dump_config(automatic))) == automatic
    assert config.optimizer.lr == 0.01
    assert load_config(_write(tmp_path, text), ["--validation", "none"]).validation is None


def test_the_resolved_configuration_reads_back(tmp_path: Path) -> None:
    text = "run_dir: a\ndata: {source: folder, root: x}\nvalidation: {identities: 20}\n"
    config = load_config(_write(tmp_path, text))
    dumped = dump_config(config)
    assert "warmup_epochs" in yaml.safe_load(dumped)["schedule"]
    assert load_config(_write(tmp_path, dumped)) == config


@pytest.mark.parametrize(
    ("extra", "flags", "message"),
    [
        ("lose: {m: 1}\n", [], "unknown field lose; did you mean loss?"),
        ("", ["--freeze", "1"], "did you mean --schedule.freeze_epochs?"),
        ("", ["--height", "1"], "--height; centerarc train CONFIG.yaml --list-settings shows all"),
        ("", ["--classes", "1"], "--list-settings shows all"),
        ("loss: {margn: arcface}\n", [], "unknown field loss.margn; did you mean loss.margin?"),
        ("learning_rate: 3\n", [], "unknown field learning_rate; did you mean optimizer.lr?"),
        ("optimizer: {learning_rate: 3}\n", [], "did you mean optimizer.lr?"),
        ("", ["--learning-rate", "3"], "did you mean --optimizer.lr?"),
        ("epochs: 3\n", [], "unknown field epochs; did you mean schedule.epochs?"),
        ("", ["--los.m", "1"], "unknown field --los.m; did you mean --loss.m?"),
        ("", ["--loss.m"], "--loss.m needs a value"),
        *(
            (
                "",
                ["--callbacks.0.nme", *value],
                "--callbacks.0.nme cannot be set alone, as callbacks is a list; change it in the "
                "file, or give all of --callbacks",
            )
            for value in (["a"], [])
        ),
        ("", ["--validation.sets.2", "a"], "as validation.sets is a list"),
        ("", ["--none.0.name", "a"], "unknown field --none.0.name; "),
        ("", ["--dryrun", "--seed", "3"], "unknown field --dryrun; did you mean --dry-run?"),
        ("", ["--seed", "1e400"], "--seed is '1e400', which cannot be read: it must be a number b"),
        ("", ["--data.root", "x"], "--data.root is not a setting of the source synthetic"),
        ("", ["--data.rot", "x"], "unknown field --data.rot"),
        (
            "validation: {identities: 4}\n",
            ["--validation.sets", "[a.bin,", "b.bin]", "--loss.m", "0.4"],
            "quote its value: --validation.sets '[a.bin, b.bin]'",
        ),
        ("", ["--data.source", "mine"], "set plugins to the module or .py file that registers it"),
        ("", ["loss.m=1"], "got 'loss.m=1'; expected a flag"),
        ("loss: {m: -1}\n", [], "loss.m is -1; it must be greater than or equal to 0"),
        (
            "loss: {center_weight: car}\n",
            [],
            "loss.center_weight: must be a number from 0 to 1000000000, or auto, got 'car'",
        ),
        (
            "",
            ["--loss.center_weight", "-1"],
            "must be a number from 0 to 1000000000",
        ),
        ("loss: {s: big}\n", [], "loss.s is 'big'; it must be a valid number"),
        ("", ["--loss.s", ".nan"], "loss.s is nan; it must be"),
        ("optimizer: {name: sdg}\n", [], "did you mean 'sgd'?"),
        ("optimizer: 3\n", [], "optimizer is 3; it must be a section"),
        ("schedule: {epochs: 2, warmup_epochs: 5}\n", [], "warmup_epochs is 5; it must be below"),
        ("validation: {num_pairs: 8}\n", [], "validation: give pairs (and images), identities or"),
        ("validation: {identities: 1.5}\n", [], "identities is 1.5; it must be a fraction"),
        (
            "",
            ["--data.source", "foldr"],
            "'foldr'; it must be one of folder, list, parquet, recordio,",
        ),
        ("accumulate: 0\n", [], "accumulate is 0; it must be greater than or equal to 1"),
        ("1: 2\n", [], "the name of a field must be text, got 1; quote it"),
        ("model: {options: {1: 2}}\n", [], "a field in model.options must be text, got 1"),
        ("", ["--seed", "9" * 23], "seed is 99999999999999999999999; it must be less than"),
        ("", ["--run_dir", ""], "run_dir: the path is empty"),
        ("", ["--model.embedding_size", "1e11"], "model.embedding_size is 100000000000.0; it must"),
    ],
)
def test_errors_are_one_line_that_names_field_value_and_what_is_allowed(
    tmp_path: Path, extra: str, flags: list[str], message: str
) -> None:
    with pytest.raises(ValueError) as error:
        load_config(_write(tmp_path, BASE + extra), flags)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("extra", "flags", "start"),
    [
        ("", ["--loss.m", "-1"], "--loss.m is -1; it must"),
        ("loss: {m: -1}\n", ["--loss.s", "3"], "FILE:4: loss.m is -1; it must"),
        ("loss: {m: -1}\n", ["--loss.m=-2"], "--loss.m is -2; it must"),
        ("", ["--run-dir", ""], "--run_dir: the path is empty"),
        ("", ["--data.source", "foldr"], "--data.source is 'foldr'; it must be one of"),
        ("", ["--data.source", "folder"], "FILE with --data.source: data.root is missing"),
        ("", ["--validation", "{pears: 1}"], "--validation: unknown field validation.pears"),
        ("", ["--validation.num_pairs", "3"], "FILE:1: validation: give pairs"),
        (
            "",
            ["--model.options", "{1: 2}"],
            "--model.options is '{1: 2}', which cannot be read",
        ),
        (
            "schedule: {epochs: 9, warmup_epochs: 5}\n",
            ["--schedule.epochs", "4", "--schedule.power", "3"],
            "FILE:4 with --schedule.epochs: schedule: warmup_epochs is 5; it must be below",
        ),
        (
            "",
            ["--batch-size", "2", "--accumulate", "3", "--loss.m", "0"],
            "FILE with --batch_size, --accumulate: accumulate is 3; it cannot exceed batch_size",
        ),
    ],
)
def test_an_error_says_whether_the_file_or_a_flag_is_wrong(
    tmp_path: Path, extra: str, flags: list[str], start: str
) -> None:
    path = _write(tmp_path, BASE + extra)
    with pytest.raises(ValueError) as error:
        load_config(path, flags)
    assert str(error.value).startswith(start.replace("FILE", str(path)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("run_dir: a\nloss: {m: 1\nseed: 2\n", ":3: not valid YAML"),
        ("run_dir: a\nseed: 1\nseed: 2\n", ":3: seed is given twice, first in line 2"),
        ("loss: &x {m: *x}\n", ":1: loss.m holds itself, by an alias such as *name"),
        ("plugins: &x [a, *x]\n", ":1: plugins.1 holds itself, by an alias such as *name"),
        ("- 1\n", ":1: expected `name: value` lines, got list"),
        ("run_dir: a\n", "data is missing; it is required"),
        ("run_dir: a\ndata: {}\n", "data.source is missing; it must be one of folder,"),
        ("run_dir: a\ndata: {source: folder}\n", "data.root is missing; it is required"),
        ("run_dir: a\ndata: {source: folder, rot: x}\n", "data.ro"),
    ],
)
def test_errors_of_the_file_name_file_and_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError) as error:
        load_config(_write(tmp_path, text))
    assert str(error.value).startswith(str(tmp_path / "config.yaml"))
    assert message in str(error.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there is no configuration file"):
        load_config(tmp_path / "nothing.yaml")


def test_powers_of_ten_are_numbers_and_text_like_them_stays_text(tmp_path: Path) -> None:
    path = _write(tmp_path, "run_dir: '1e5'\ndata: {source: synthetic}\noptimizer: {lr: 1e-2}\n")
    config = load_config(path, ["--model.options.dropout", "1e-1"])
    assert config.model.options == {"dropout": 0.1}
    assert config.optimizer.lr == 0.01
    assert load_config(_write(tmp_path, dump_config(config))) == config


def test_merge_keys_work_and_may_be_overridden(tmp_path: Path) -> None:
    text = "run_dir: a\ndata: {source: synthetic}\nloss: {<<: {m: 0.3, s: 10}, s: 20}\n"
    loss = load_config(_write(tmp_path, text)).loss
    assert (loss.m, loss.s) == (0.3, 20)


def test_another_source_by_flag_drops_the_fields_of_the_one_in_the_file(tmp_path: Path) -> None:
    path = _write(tmp_path, "run_dir: a\ndata: {source: folder, root: faces, min_images: 3}\n")
    config = load_config(path, ["--data.path", "x.rec", "--data.source", "recordio"])
    assert config.data.model_dump(exclude_unset=True, mode="json") == {
        "source": "recordio",
        "path": "x.rec",
        "min_images": 3,
    }
    with pytest.raises(ValueError, match=r"data\.path is missing"):
        load_config(path, ["--data.source", "recordio"])
    with pytest.raises(ValueError, match=r"data\.source is 'rec'; it must be one of"):
        load_config(path, ["--data.source", "rec"])


@pytest.mark.parametrize(
    "words",
    [["6,7,8"], ["6, 7,8"], ["[6, 7, 8]"], ["6", "7", "8"], ["6,7", "8"]],
    ids=lambda words: " ".join(words),
)
def test_lists_take_commas_and_blanks_as_those_of_other_commands_do(
    tmp_path: Path, words: list[str]
) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("run_dir: runs/a\ndata: {source: synthetic}\n")
    flags = ["--data.exclude_pairs", "p.txt", "--data.exclude_folds", *words, "--seed", "3"]
    config = load_config(path, flags)
    assert config.data.exclude_folds == [6, 7, 8]
    assert config.seed == 3
    config = load_config(path, ["--validation.sets", "a.bin,b.bin", "--validation.best_set", "b"])
    assert config.validation is not None
    assert [str(one.pairs) for one in config.validation.sets] == ["a.bin", "b.bin"]
    assert load_config(path, [*flags[:2], "--data.exclude_folds", "7"]).data.exclude_folds == [7]
    with pytest.raises(ValueError, match=r"exclude_folds\.1 is 'x'; it must be a valid integer"):
        load_config(path, [*flags[:2], "--data.exclude_folds", "7,x"])


@pytest.mark.parametrize(
    ("section", "said"),
    [
        (
            {"schedule": {"shape": "cosine", "power": 3}},
            "power is 3.0, but it goes with shape",
        ),
        ({"loss": {"alpha": 0.1}}, "alpha is 0.1, but it goes with centers: separate, center_upd"),
        (
            {"loss": {"centers": "separate", "center_update": "gradient", "alpha": 0.1}},
            "alpha is 0.1, but",
        ),
        (
            {"loss": {"auto_ratio": 0.1}},
            "auto_ratio is 0.1, but it goes with a center_weight or threshold_weight of auto",
        ),
        (
            {"loss": {"center_weight": 0, "ramp_steps": 9}},
            "ramp_steps is 9, but it goes with a center_weight or threshold_weight above 0",
        ),
        (
            {"loss": {"center_weight": 0, "start_cosine": 0.2}},
            "start_cosine is 0.2, but it goes with a center_weight or threshold_weight above 0",
        ),
        (
            {"loss": {"centers": "mean", "center_space": "raw"}},
            "center_space is raw, but it goes with centers: shared or separate",
        ),
        ({"loss": {"center_negatives": False}}, "center_negatives is False, but it goes with"),
        ({"loss": {"center_momentum": 0.5}}, "center_momentum is 0.5, but it goes with centers: m"),
        (
            {"loss": {"centers": "mean", "center_negatives": False, "center_temperature": 8}},
            "center_temperature is 8.0, but it goes with centers: mean and center_negatives: true",
        ),
        ({"loss": {"threshold_over": "both"}}, "threshold_over is both, but it goes with a thresh"),
        (
            {"loss": {"threshold_scale": 8}},
            "threshold_scale is 8.0, but it goes with a threshold_w",
        ),
        (
            {"loss": {"threshold_weight": 1, "threshold_over": "centers", "threshold_memory": 9}},
            "threshold_memory is 9, but it goes with a threshold_weight above 0 and thres",
        ),
        ({"loss": {"center_update": "gradient"}}, "center_update is gradient, but it goes with"),
        ({"loss": {"m": 0.3, "margin_options": {"m": 0.4}}}, "m is 0.3, but it goes into margin_o"),
    ],
)
def test_a_setting_that_would_do_nothing_is_refused(section: dict[str, Any], said: str) -> None:
    content = {"run_dir": "runs/a", "data": {"source": "synthetic"}}
    with pytest.raises(ValueError, match=f"{re.escape(said)}.*; leave it out .its default is "):
        check_config({**content, **section})
    assert check_config(content)  # the defaults, which every written file has
