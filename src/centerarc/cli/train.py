"""`centerarc train` and `centerarc demo`."""

import os
import sys
import typing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from centerarc.cli.flags import by_flags, flag
from centerarc.cli.launcher import is_restarted, tell_launcher
from centerarc.io.failures import memory_explained
from centerarc.io.memory import use_huge_pages

if TYPE_CHECKING:
    from centerarc.training.config import TrainConfig
    from centerarc.training.rundir import Resume


@by_flags
def train(
    config: Path,
    /,
    *settings: Annotated[str, Parameter(allow_leading_hyphen=True, show=False)],
    resume: Annotated[bool, flag()] = False,
    resume_auto: Annotated[bool, Parameter(negative="", show=False)] = False,
    overwrite: Annotated[bool, flag()] = False,
    dry_run: Annotated[bool, flag()] = False,
    list_settings: Annotated[bool, flag()] = False,
) -> int:
    """Train a model, or resume a run.

    Parameters
    ----------
    config
        YAML file of the run; a run writes its own as <run_dir>/config.yaml.
    resume
        Resume the run in run_dir from its saved state. --resume auto starts it where there is no
        state: one command for schedulers and restarts.
    resume_auto
        As --resume auto, which `centerarc.cli.commands.run` rewrites.
    overwrite
        Delete the run that run_dir holds and start again.
    dry_run
        Start as with the same flags, take a few steps, and say what time, memory and disk all of
        them take; write nothing.
    list_settings
        Print every field with its default and meaning, and the values of CONFIG.
    """
    from centerarc.training.settings import load_config

    use_huge_pages()
    loaded = load_config(config, settings, resume=resume or resume_auto)
    if list_settings:
        _print_settings(loaded)
        return 0
    from centerarc.training.loop import TrainingInterrupted
    from centerarc.training.loop import train as run
    from centerarc.training.step import memory_advice

    if overwrite and is_restarted():
        overwrite, resume_auto = False, True  # what there is by now is this run's
    try:
        with memory_explained(memory_advice(loaded)):
            wanted: Resume = "auto" if resume_auto else resume
            if dry_run:
                return _rehearse(loaded, wanted, overwrite)
            run(loaded, resume=wanted, overwrite=overwrite)
    except TrainingInterrupted as stopped:
        if os.environ.get("RANK", "0") == "0":
            print(stopped, file=sys.stderr)
        tell_launcher(str(stopped))
        return 130
    return 0


def _rehearse(config: "TrainConfig", resume: "Resume", overwrite: bool) -> int:
    from centerarc.training.rehearsal import dry_run

    def say(heading: str) -> None:
        print(f"{heading}\ntaking steps ...", flush=True)

    found = dry_run(config, resume=resume, overwrite=overwrite, say=say)
    if os.environ.get("RANK", "0") == "0":
        print(found.table)
        found.check_disk()
    return 0


def _print_settings(config: "TrainConfig") -> None:
    """Prints each field's flag with its value in `config`, its default and its meaning."""
    from pydantic_core import PydanticUndefined
    from rich.console import Console
    from rich.text import Text

    from centerarc.training.settings import field_names, source_kinds

    content = config.model_dump(mode="json")
    console = Console(highlight=False, markup=False)
    for name, field in field_names(content).items():
        value: Any = content
        for part in name.split("."):
            # A section that is none, such as validation, has no values.
            value = value.get(part) if isinstance(value, dict) else None
        default = field.get_default(call_default_factory=True)
        line = Text.assemble((f"--{name}", "bold"), f" {_plain(value)}")
        if field.is_required():
            line.append("  (required)", "dim")
        elif default is not PydanticUndefined and _plain(default) != _plain(value):
            line.append(f"  (default {_plain(default)})", "dim")
        meaning = field.description or ""
        if name == "data.source":
            meaning = f"kind of images: {', '.join(source_kinds(name))}"
        elif typing.get_origin(field.annotation) is typing.Literal:
            meaning += f" ({', '.join(map(str, typing.get_args(field.annotation)))})"
        # Not wrapped: a flag broken over two lines could not be copied.
        console.print(line, soft_wrap=True)
        for wrapped in Text(meaning).wrap(console, console.width - 4):
            wrapped.rstrip()  # of the blank at which it was broken
            console.print(Text("    ").append_text(wrapped))


def _plain(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return str(value).lower()
    return str(value) or repr("")


@by_flags
def demo(
    *,
    run_dir: str = "runs/demo",
    people: int = 400,
    epochs: int = 4,
    seed: int = 0,
    overwrite: Annotated[bool, flag()] = False,
) -> int:
    """Train on drawn faces and show the result.

    Takes a few minutes, and says before it starts how many; ends with a page; needs no data and no
    network. Resumes where the same command was stopped, and shows the result of a finished one.

    Parameters
    ----------
    run_dir
        Folder of the run; the page is report.html in it.
    people
        Drawn people to train on.
    epochs
        Passes over their images.
    seed
        Of the weights and the batches.
    overwrite
        Replace the run that run_dir holds, finished or not.
    """
    from centerarc.training.demo import demo_config, run_demo
    from centerarc.training.loop import TrainingInterrupted

    use_huge_pages()
    config = demo_config(run_dir, people=people, epochs=epochs, seed=seed)
    try:
        result = run_demo(config, overwrite=overwrite, say=partial(print, flush=True))
    except TrainingInterrupted:
        print("stopped; the same command resumes")
        return 130
    accuracy = result.verification.accuracy
    assert accuracy.value is not None
    assert accuracy.interval is not None
    print(
        f"accuracy on unseen people {100 * accuracy.value:.2f}% "
        f"(95% interval {100 * accuracy.interval.low:.2f} to {100 * accuracy.interval.high:.2f})"
    )
    print(f"page: {result.page.resolve()}")
    return 0
