"""What flags take that several commands have."""

import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cyclopts import Group, Parameter, Token

MODEL = Group("Model", sort_key=2)
OUTPUT = Group("Output", sort_key=4)
_PAGES = (".html", ".htm")


def flag(group: Group | None = None) -> Parameter:
    """A flag that is either there or not."""
    return Parameter(group=group, negative="", show_default=False)


def numbers(kind: Callable[[str], Any], example: str, group: Group) -> Parameter:
    """Several numbers, with commas or blanks between.

    Args:
        kind: Makes a number of a text.
        example: Some, for the message about what is no number.
        group: Heading of the help under which the flag stands.
    """

    def converted(_: Any, tokens: Sequence[Token]) -> tuple[Any, ...]:
        texts = [part for token in tokens for part in re.split(r"[,\s]+", token.value.strip())]
        try:
            return tuple(kind(text) for text in texts)
        except ValueError:
            words = "whole numbers" if kind is int else "numbers"
            raise ValueError(
                f"give {words} with commas or blanks between, e.g. {example}; got {texts!r}"
            ) from None

    return Parameter(
        group=group, converter=converted, consume_multiple=True, negative="", show_default=False
    )


def check_outputs(json: Path | None, report: Path | None, inputs: Sequence[Path | None]) -> None:
    """Checks what a result is to be written to, before the work.

    Args:
        json: The file of all numbers; scores are written beside it.
        report: The page.
        inputs: What is read; none of it may be written over.

    Raises:
        ImportError: A page is wanted and the extra report is not installed.
        ValueError: A folder is missing, or the page's name does not end as one.
    """
    from centerarc.evaluation.protocols import check_place
    from centerarc.evaluation.protocols.result_files import scores_path
    from centerarc.evaluation.report import require_report_extra

    if report is not None:
        require_report_extra()
    for path in (json, report):
        if path is not None:
            check_place(path)
    outputs = [] if json is None else [json, scores_path(json)]
    outputs += [] if report is None else [report]
    taken = {os.path.realpath(path): path for path in inputs if path is not None}
    for path in outputs:
        place = os.path.realpath(path)
        if place in taken:
            raise ValueError(f"{str(path)!r} would be written over {str(taken[place])!r}")
        taken[place] = path
    if report is not None and report.suffix.lower() not in _PAGES:
        raise ValueError(
            f"report must end in {' or '.join(_PAGES)}, since it is a page; got {str(report)!r}"
        )
