"""Plots of the arrays in the history of an answer."""

from dataclasses import asdict, dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Plot:
    """One plot of arrays in the history of an answer.

    Args:
        title: the heading of the section in the report.
        caption: the sentence below the plot.
        series: legend entry -> name of the (n,) array in the history.
        x_label: the label of the horizontal axis.
        y_label: the label of the vertical axis.
        kind: "shares" draws values in 0..1 as curves in percent, "curves" draws the values
            unchanged, and "bars" draws one bar for each value.
        order: the name of the array that sorts the bars, or None.
        marked: the position on the horizontal axis that is marked, or None. In a bar plot, the
            bars before this position are shaded.
        marked_label: the legend entry of the mark.
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

    def arrays(self) -> set[str]:
        """The names of the arrays that the plot needs."""
        return {*self.series.values(), *filter(None, [self.order])}

    def as_dict(self) -> dict[str, Any]:
        """The plot as a dictionary that can be written as JSON."""
        return asdict(self)
