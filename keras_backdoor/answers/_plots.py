"""How the arrays of an answer are drawn."""

from dataclasses import asdict, dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Plot:
    """One drawing of arrays that an answer keeps in its history.

    Args:
        title: heading of the section of the page.
        caption: the sentence below the drawing.
        series: text of the legend -> name of the array in the history, (n,).
        x_label: name of the horizontal axis.
        y_label: name of the vertical axis.
        kind: "shares" draws curves of values in 0..1 as per cent, "curves" draws the values as
            they are, "bars" draws a bar for each value.
        order: name of the array that orders the bars, or None.
        marked: position on the horizontal axis that is marked, or None. Of bars, those before it
            are shaded.
        marked_label: what the mark means.
    """

    title: str
    caption: str
    series: dict[str, str]
    x_label: str
    y_label: str = "%"
    kind: Literal["shares", "curves", "bars"] = "shares"
    order: str | None = None
    marked: int | None = None
    marked_label: str = ""

    def as_dict(self) -> dict[str, Any]:
        """The plot for JSON."""
        return asdict(self)
