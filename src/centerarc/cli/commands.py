"""All commands by their names, and what is said of a name that is none of them."""

import difflib
from collections.abc import Sequence
from typing import Any, get_args

from cyclopts import (
    App,
    CycloptsError,
    MissingArgumentError,
    Parameter,
    Token,
    UnknownOptionError,
    convert,
)

from centerarc import __version__
from centerarc.cli.data import app as data_app
from centerarc.cli.evaluate import compare, evaluate
from centerarc.cli.gallery import app as gallery_app
from centerarc.cli.models import embed, export
from centerarc.cli.push import push
from centerarc.cli.serve import serve
from centerarc.cli.study import study
from centerarc.cli.train import demo, train
from centerarc.cli.tune import tune


def _converted(kind: Any, tokens: Sequence[Token]) -> Any:
    """What cyclopts makes of a flag's words, but for whole numbers, which it would round."""
    if _kinds(kind) & {int, float} == {int}:
        for token in tokens:
            try:
                whole = float(token.value).is_integer()
            except ValueError:
                continue  # whatever it is, cyclopts says what is wrong
            if not whole:
                raise ValueError(f"it must be a whole number, got {token.value}")
    return convert(kind, tokens)


def _kinds(kind: Any) -> set[Any]:
    inner = get_args(kind)
    return set().union(*map(_kinds, inner)) if inner else {kind}


app = App(
    name="centerarc",
    version=__version__,
    help="Train face-recognition models with the joint Center + ArcFace loss.",
    help_epilogue="--debug with any command, or CENTERARC_DEBUG=1, shows where an error came from.",
    print_error=False,
    exit_on_error=False,
    # Training turns Ctrl-C into an orderly stop of its own.
    suppress_keyboard_interrupt=False,
    result_action="return_value",
    default_parameter=Parameter(converter=_converted),
)
# Commands that have commands.
_GROUPS = (data_app, gallery_app)
_EXAMPLES = """Any field of the configuration is also a flag, which overrides the file:

    centerarc train config.yaml --data.root faces --loss.m 0.4

--list-settings shows them all. On several GPUs or in several processes:

    torchrun --nproc-per-node 2 -m centerarc train config.yaml

The same command starts a run and, after whatever stopped it, resumes it:

    centerarc train config.yaml --resume auto"""
_SEARCH = """What is searched is the section tune of CONFIG:

    tune:
      search:
        loss.s: {low: 16, high: 64, log: true}
        loss.m: {low: 0.2, high: 0.5}
        loss.margin: [arcface, cosface]
      trials: 20

The number that the run's validation chooses its best weights by decides between trials."""
app.command(train, help_epilogue=_EXAMPLES, help_format="plaintext")
app.command(tune, help_epilogue=_SEARCH, help_format="plaintext")
for command in (evaluate, compare, embed, export, push, serve, study, demo):
    app.command(command, help_format="plaintext")
for group in _GROUPS:
    app.command(group)


def run(words: Sequence[str]) -> Any:
    """Runs a command, given its name and what follows, and returns what it returns.

    Raises:
        ValueError: There is no such command, or it does not take these words.
    """
    # Cyclopts would list no near name.
    _check_word(app, words[:1], "command")
    for group in _GROUPS:
        if words[:1] == [*group.name]:
            _check_word(group, words[1:2], f"{words[0]} command")
    try:
        return app(_with_value(words) if words[:1] == ["train"] else words)
    except MissingArgumentError as error:
        chain = error.command_chain or ()
        if chain in (("train",), ("tune",)):
            raise ValueError(f"give a configuration: centerarc {chain[0]} CONFIG.yaml") from error
        raise ValueError(
            f"{str(error).rstrip('.')} (see centerarc {' '.join(chain)} --help)"
        ) from error
    except UnknownOptionError as error:
        given = error.token.keyword or str(error.token.value)
        names = [name for flag in error.argument_collection for name in flag.names]
        near = difflib.get_close_matches(given, names, n=1, cutoff=0.75)
        hint = f"did you mean {near[0]}? " if near else ""
        chain = " ".join(error.command_chain or ())
        raise ValueError(f"unknown option {given}; {hint}see centerarc {chain} --help") from error
    except CycloptsError as error:
        raise ValueError(str(error)) from error


def _with_value(words: Sequence[str]) -> list[str]:
    """The words with --resume, whose value may be left out, as flags that take none."""
    found: list[str] = []
    for word in words:
        if found[-1:] == ["--resume"] or word.startswith("--resume="):
            value = word.removeprefix("--resume=")
            if value == "auto":
                found = [*found[: None if word != value else -1], "--resume-auto"]
                continue
            if difflib.get_close_matches(value.lower(), ["auto"], cutoff=0.7):
                raise ValueError(f"--resume is {value!r}; did you mean --resume auto?")
        found.append(word)
    return found


def _check_word(app: App, words: Sequence[str], kind: str) -> None:
    commands = [name for name in app if not name.startswith("-")]
    if words and not words[0].startswith("-") and words[0] not in commands:
        close = difflib.get_close_matches(words[0], commands, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise ValueError(
            f"unknown {kind} {words[0]!r}; {hint}{kind}s: {', '.join(sorted(commands))}"
        )
