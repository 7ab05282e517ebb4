"""Report of the fine-pruning of the thesis's BadNets."""

from typing import Any

import numpy as np

from keras_backdoor.network.channel_activity import marked_channels
from keras_backdoor.reports import figures
from keras_backdoor.reports.page import Figure, Section
from keras_backdoor.studies import Results

KEYS = (
    "removed",
    "clean_accuracy",
    "attack_before",
    "attack_pruned",
    "attack_success_rate",
    "parameters",
    "operations",
    "latency",
)
NOTE = (
    "Channels are removed until the accuracy on the tuning set has fallen by 4 %, relative; then "
    "the network is fine-tuned. The last columns are shares of what the network had before."
)


def sections(results: Results) -> list[Section]:
    """Return tables 4.5 and 4.6 and figures 4.14, 4.15 and 4.19, with the values of the thesis."""
    parts = [
        table(results, "table 4.5", "Second to last convolution (table 4.5)"),
        table(results, "table 4.6", "Last convolution (table 4.6)"),
        activations(results),
        figure_4_19(results),
        table(results, "section 2.9", "The pruning-aware network"),
    ]
    return [part for part in parts if part is not None]


def table(results: Results, group: str, heading: str) -> Section | None:
    """Return a table with one row per network, or None if nothing is computed."""
    cells = [c for c in results.cells if "figures" in c and c["group"] == group]
    if not cells:
        return None
    part = Results(results.about, {k: results.columns[k] for k in KEYS}, cells)
    return Section(heading, text=NOTE, table=part.table(compact=True))


def activations(results: Results) -> Section | None:
    """Return figures 4.14 and 4.15, or None if they are not computed."""
    shown = [
        activation_figure(cell) for cell in results.cells if cell.get("figures", {}).get("activity")
    ]
    return Section("Activations (figures 4.14 and 4.15)", figures=shown) if shown else None


def activation_figure(cell: dict[str, Any], lead: str = "") -> Figure:
    """The mean activations of the channels of a layer on clean and triggered images.

    Args:
        cell: a finished cell with activations.
        lead: the beginning of the caption.
    """
    clean, triggered = (np.array(cell["figures"]["activity"][k]) for k in ("clean", "triggered"))
    marked = marked_channels(clean, triggered)
    images = cell["figures"]["attack_success_rate"]["of"]
    caption = (
        f"{lead}{cell['name']} convolution: mean activations on the {images} test images of the "
        f"source class. Outlined: {int(marked.sum())} channels that the trigger raises by half of "
        "the largest mean activation or more."
    )
    return Figure(caption, figures.channel_grids(clean, triggered, marked))


def figure_4_19(results: Results) -> Section | None:
    """Return figure 4.19: accuracy and attack over the accepted drop, or None."""
    panels: dict[str, Any] = {}
    names = {c["name"].split(", ")[0] for c in results.cells if c["group"] == "figure 4.19"}
    curves = {"clean_accuracy": "accuracy", "attack_success_rate": "attack on the source class"}
    for cell in results.cells:
        name, _, layer = cell["name"].partition(", ")
        if name in names and layer.startswith("last") and "figures" in cell:
            drop = 100 * cell["settings"]["method"]["max_drop"]
            panel = panels.setdefault(name, {title: [] for title in curves.values()})
            for key, title in curves.items():
                rate = cell["figures"][key]
                panel[title].append((drop, rate["share"], *rate["interval"]))
    if not panels:
        return None
    picture = figures.rate_panels(panels, xlabel="accepted drop of the accuracy, %", columns=2)
    caption = "After pruning the last convolution and fine-tuning, with 95 % intervals."
    return Section("Over the accepted drop (figure 4.19)", figures=[Figure(caption, picture)])
