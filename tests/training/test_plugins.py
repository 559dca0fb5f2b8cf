"""Backbones, margins and sources from outside, by a configuration and from Python."""

import os
from pathlib import Path
from typing import Any

import pytest

from centerarc.data import list_sources, register_source
from centerarc.io.yaml_file import dump_yaml, parse_yaml
from centerarc.models import load_weights
from centerarc.training import TrainConfig, assembly, dump_config, load_config, train
from centerarc.training.head import make_margin
from tests.training.helpers import make_config

pytestmark = pytest.mark.usefixtures("plugins_undone")

# Everything that a run can be given from outside.
PLUGIN = """
from dataclasses import dataclass

import numpy as np
from torch import Tensor, nn

from centerarc.data import FaceSource, register_source
from centerarc.losses import Target, register_margin
from centerarc.models import Backbone, register_model


@register_model("plugin_net")
class Net(Backbone):
    def __init__(self, *, embedding_size: int, image_size: int, bias: bool = True) -> None:
        super().__init__(embedding_size, image_size)
        self.linear = nn.Linear(3 * image_size**2, embedding_size, bias=bias)

    def forward(self, images: Tensor) -> Tensor:
        return self.linear(images.flatten(1))


@register_margin("plugin_margin")
@dataclass(frozen=True)
class Margin:
    by: float = 0.1

    def __call__(self, target: Target) -> Tensor:
        return target.cos - self.by


@register_source("plugin_source")
class Source(FaceSource):
    def __init__(self, *, people: int, image_size: int, scale: float = 1.0) -> None:
        self.identities = [f"P{number}" for number in range(people)]
        self.labels = np.repeat(np.arange(people), 4)
        self.image_size = image_size
        self.scale = scale

    def image(self, index: int) -> np.ndarray:
        rng = np.random.default_rng(index)
        return rng.integers(0, 256, (self.image_size, self.image_size, 3), dtype=np.uint8)
"""
CONFIG = """
run_dir: run
plugins: [./plugin_own.py]
model: {name: plugin_net, embedding_size: 4, image_size: 16, options: {bias: false}}
data: {source: plugin_source, options: {people: 3}}
loss: {margin: plugin_margin}
schedule: {epochs: 1, warmup_epochs: 0}
batch_size: 4
workers: 0
device: cpu
"""


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A configuration beside its plugin, in another folder than the current one."""
    (tmp_path / "plugin_own.py").write_text(PLUGIN)
    (tmp_path / "config.yaml").write_text(CONFIG)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return tmp_path / "config.yaml"


def test_a_run_of_own_parts_trains_resumes_and_loads(config: Path, tmp_path: Path) -> None:
    loaded = load_config(config)
    assert loaded.plugins == [str(tmp_path / "plugin_own.py")]
    result = train(loaded)
    assert result.summary["steps"] == 3
    assert load_weights(result.run_dir).embedding_size == 4
    # The run's own configuration resumes it, from any folder.
    run = result.run_dir.resolve()
    os.chdir(tmp_path)
    flags = ["--run-dir", str(run), "--schedule.epochs", "2"]
    assert train(load_config(run / "config.yaml", flags), resume=True).summary["steps"] == 6


def test_a_plugin_that_moved_is_named_by_a_flag(config: Path, tmp_path: Path) -> None:
    result = train(load_config(config))
    (tmp_path / "plugin_own.py").rename(tmp_path / "elsewhere" / "plugin_moved.py")
    (tmp_path / "undone").mkdir()
    for name in ("plugin_net", "plugin_source", "plugin_margin"):  # as a new process has it
        for registry in (_builders(), _sources(), _margins()):
            registry.pop(name, None)
    saved = result.run_dir / "config.yaml"
    with pytest.raises(ValueError, match=r"config\.yaml:\d+: plugin '.*plugin_own\.py' must be"):
        load_config(saved)
    flags = ["--plugins", "plugin_moved.py", "--schedule.epochs", "2"]
    assert train(load_config(saved, flags), resume=True).summary["steps"] == 6


def _builders() -> Any:
    from centerarc.models import backbone

    return backbone._BUILDERS


def _sources() -> Any:
    from centerarc.data import source

    return source._OWN


def _margins() -> Any:
    from centerarc.losses import margins

    return margins.MARGINS


def test_a_configuration_made_in_python_imports_its_plugins(config: Path) -> None:
    content = parse_yaml(CONFIG)
    made = TrainConfig(**{**content, "plugins": "../plugin_own.py"})
    assert made.plugins == [str(config.parent / "plugin_own.py")]
    assert made == load_config(config)
    with pytest.raises(ValueError, match="there is no module 'plugin_none'"):
        TrainConfig(**{**content, "plugins": ["plugin_none"]})


def test_own_sources_read_back_and_take_part_in_mixtures(config: Path) -> None:
    flags = [
        *("--data.options.people", "5", "--data.options.scale", "0.5", "--data.min_images", "2"),
        *("--loss.margin_options.by", "0.2"),
    ]
    loaded = load_config(config, flags)
    assert loaded.data.source == "plugin_source"
    assert loaded.data.model_dump()["options"] == {"people": 5, "scale": 0.5}
    copy = config.parent / "copy.yaml"
    copy.write_text(dump_config(loaded))
    assert load_config(copy) == loaded
    part = {"source": "plugin_source", "options": {"people": 2}, "weight": 2.0}
    drawn = {"source": "synthetic", "num_identities": 3, "images_per_identity": 2}
    content = {**parse_yaml(CONFIG), "plugins": []}
    content["data"] = {"source": "mixed", "parts": [part, drawn], "merge": False}
    result = train(TrainConfig(**content))
    assert result.summary["train_identities"] == 5
    assert result.summary["train_images"] == 2 * 4 + 3 * 2


@pytest.mark.parametrize("workers", ["fork", "spawn"])
def test_processes_that_read_images_know_an_own_source(
    config: Path, monkeypatch: pytest.MonkeyPatch, workers: str
) -> None:
    import torch.multiprocessing

    before = torch.multiprocessing.get_start_method()
    torch.multiprocessing.set_start_method(workers, force=True)
    try:
        assert train(load_config(config, ["--workers", "1"])).summary["steps"] == 3
    finally:
        torch.multiprocessing.set_start_method(before, force=True)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--data.source", "plugin_sorce"], "did you mean 'plugin_source'?"),
        (["--data.people", "3"], "unknown field --data.people; did you mean --data.options.people"),
        (
            ["--data.options", "{}"],
            "data.options: source 'plugin_source' needs the option 'people'",
        ),
        (
            ["--data.options", "{people: 2, deep: 1}"],
            "source 'plugin_source' has no option 'deep'; its options: people, scale",
        ),
        (["--data.options.people", "2.5"], "option people of source 'plugin_source' is 2.5; it"),
        (["--plugins", "3"], "--plugins: plugins.0 is 3; it must be a valid string"),
        (["--plugins", "./none.py"], "--plugins: plugin '"),
    ],
)
def test_what_is_wrong_with_own_parts_is_named(
    config: Path, flags: list[str], message: str
) -> None:
    with pytest.raises(ValueError) as error:
        load_config(config, flags)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_plugin_that_fails_keeps_its_traceback(config: Path) -> None:
    broken = config.parent / "plugin_broken.py"
    broken.write_text("def look():\n    return {}['none']\nlook()\n")
    with pytest.raises(
        ValueError, match=r"config\.yaml:\d+: plugin .* KeyError: 'none' .*line 2"
    ) as e:
        load_config(_with(config, plugins=["plugin_broken.py"]))
    cause = e.value.__cause__
    assert cause is not None
    assert isinstance(cause.__cause__, KeyError)


def _with(config: Path, **changes: Any) -> Path:
    config.write_text(dump_yaml({**parse_yaml(CONFIG), **changes}))
    return config


def test_a_source_must_take_the_size_and_leave_the_names_of_ours() -> None:
    with pytest.raises(ValueError, match="source 'sizeless' must take image_size"):
        register_source("sizeless")(lambda: None)
    for name in ("folder", "mixed"):
        with pytest.raises(ValueError, match="is a kind of source that centerarc has"):
            register_source(name)(lambda image_size: None)
    assert "sizeless" not in list_sources()


def test_a_model_must_be_a_backbone(config: Path, tmp_path: Path, faces: Path) -> None:
    code = (
        "from torch import nn\nfrom centerarc.models import register_model\n"
        "@register_model('plugin_plain')\n"
        "def plain(*, embedding_size, image_size): return nn.Linear(1, embedding_size)\n"
    )
    (tmp_path / "plugin_plain.py").write_text(code)
    made = make_config(
        tmp_path / "run",
        faces,
        plugins=[str(tmp_path / "plugin_plain.py")],
        model={"name": "plugin_plain", "options": {}},
    )
    with pytest.raises(ValueError, match="model 'plugin_plain' must be a Backbone, got Linear"):
        train(made)


def test_margins_take_m_only_where_they_have_one(config: Path) -> None:
    assert make_margin(load_config(config).loss).by == 0.1  # type: ignore[attr-defined]
    flags = ["--loss.m", "0.4"]
    with pytest.raises(ValueError, match=r"loss: m is 0\.4, but margin 'plugin_margin' takes by; "):
        make_margin(load_config(config, flags).loss)
    flags = ["--loss.margin", "plugin_margn"]
    with pytest.raises(ValueError, match=r"got 'plugin_margn'; did you mean 'plugin_margin'\?"):
        make_margin(load_config(config, flags).loss)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": {"name": "tinny"}}, "unknown model 'tinny'; did you mean tiny?"),
        ({"loss": {"margin": "arcfase"}}, "got 'arcfase'; did you mean 'arcface'?"),
        ({"batch_size": 1}, "batch_size is 1 and accumulate is 1"),
        ({"run_dir": "OLD"}, "already holds a run"),
    ],
)
def test_what_needs_no_images_is_checked_before_they_are_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], message: str
) -> None:
    def opened(*_: Any, **__: Any) -> None:
        raise AssertionError("the images were looked for")

    monkeypatch.setattr(assembly, "make_sources", opened)
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "results.json").write_text("{}")
    if changes.get("run_dir"):
        changes = {"run_dir": tmp_path / "old"}
    run_dir = changes.pop("run_dir", tmp_path / "run")
    with pytest.raises(ValueError) as error:
        train(make_config(run_dir, tmp_path / "nowhere", **changes))
    assert message in str(error.value)
