"""``centerarc train`` and ``centerarc demo``."""

import sys
import typing
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined
from rich.console import Console
from rich.table import Table

from centerarc.training.config import TrainConfig
from centerarc.training.settings import field_names

# The table of every setting.


def print_settings(config: TrainConfig) -> None:
    """Prints each field's flag, its value in `config`, its default and its meaning."""
    content = config.model_dump(mode="json")
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("flag", "value", "default", "meaning"):
        # A flag broken over two lines could not be copied.
        table.add_column(title, overflow="fold", no_wrap=title == "flag")
    for name, field in field_names(content).items():
        default = "required" if field.is_required() else _plain(_default(field))
        table.add_row(f"--{name}", _plain(_value(content, name)), default, _meaning(field))
    Console(highlight=False, markup=False).print(table)


def _value(content: Any, name: str) -> Any:
    for part in name.split("."):
        # A section that is none, such as validation, has no values.
        content = content.get(part) if isinstance(content, dict) else None
    return content


def _default(field: FieldInfo) -> Any:
    value = field.get_default(call_default_factory=True)
    return "" if value is PydanticUndefined else value


def _meaning(field: FieldInfo) -> str:
    text = field.description or ""
    if typing.get_origin(field.annotation) is typing.Literal:
        text += f" ({', '.join(map(str, typing.get_args(field.annotation)))})"
    return text


def _plain(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    return str(value)


# `centerarc train`.


def train(
    config: Path,
    /,
    *settings: Annotated[str, Parameter(allow_leading_hyphen=True, show=False)],
    resume: Annotated[bool, Parameter(negative="")] = False,
    overwrite: Annotated[bool, Parameter(negative="")] = False,
    list_settings: Annotated[bool, Parameter(negative="")] = False,
) -> int:
    """Train a model, or go on with a run.

    Any field of the configuration can be given as a flag, which overrides the file:
    `centerarc train config.yaml --data.root faces --loss.m 0.4 --schedule.epochs 3`.

    On several GPUs or processes: `torchrun --nproc-per-node 2 -m centerarc train config.yaml`.

    Args:
        config: YAML file of the run; a run writes its own as <run_dir>/config.yaml.
        resume: Go on with the run in run_dir from its saved state.
        overwrite: Delete the run that run_dir holds and start anew.
        list_settings: Print every field with its default and meaning, and the values of CONFIG.
    """
    from centerarc.training.settings import load_config

    loaded = load_config(config, settings)
    if list_settings:
        print_settings(loaded)
        return 0
    from centerarc.training.loop import TrainingInterrupted
    from centerarc.training.loop import train as run

    try:
        run(loaded, resume=resume, overwrite=overwrite)
    except TrainingInterrupted as stopped:
        print(stopped, file=sys.stderr)
        return 130
    return 0


# `centerarc demo`.


def demo(
    *,
    run_dir: str = "runs/demo",
    people: int = 240,
    epochs: int = 3,
    seed: int = 0,
) -> int:
    """Train on drawn faces for a few minutes and write a page about the result.

    Needs no data and no network. Goes on where the same command was stopped; replaces a finished
    or another demonstration in the folder.

    Args:
        run_dir: Folder of the run; the page is report.html in it.
        people: Drawn people to train on.
        epochs: Passes over their images.
        seed: Of the weights and the batches.
    """
    from centerarc.training.demo import demo_config, run_demo
    from centerarc.training.loop import TrainingInterrupted

    config = demo_config(run_dir, people=people, epochs=epochs, seed=seed)
    try:
        result = run_demo(config)
    except TrainingInterrupted:
        print("stopped; the same command goes on where it was")
        return 130
    accuracy = result.verification.accuracy
    assert accuracy.value is not None
    assert accuracy.interval is not None
    print(
        f"accuracy on unseen people {100 * accuracy.value:.2f} % "
        f"(95 % interval {100 * accuracy.interval.low:.2f} to {100 * accuracy.interval.high:.2f})"
    )
    print(f"page: {result.page.resolve()}")
    return 0
