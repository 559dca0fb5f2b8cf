"""One chart of a page, as plain plotly data.

Colours are names of the style sheet's custom properties ("--accent"); the page's script fills in
their values, so that a chart follows the reader's light or dark theme.
"""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Chart:
    """A figure for plotly.js.

    Attributes:
        key: unique in the page.
        title: its heading.
        caption: what it shows and how to read it, one or two sentences.
        data: plotly traces.
        layout: plotly layout.
        height: in CSS pixels.
    """

    key: str
    title: str
    caption: str
    data: list[dict[str, Any]]
    layout: dict[str, Any]
    height: int = 340

    def figure(self) -> dict[str, Any]:
        """What the page's script hands to plotly.js."""
        return {"data": self.data, "layout": self.layout}


def axis(title: str, **more: Any) -> dict[str, Any]:
    """A plotly axis with a title."""
    return {"title": {"text": title}, **more}
