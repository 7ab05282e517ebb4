"""Report of the traffic sign BadNets of the thesis."""

import base64
from typing import Any

import numpy as np

from keras_backdoor.reports import figures
from keras_backdoor.reports.page import Figure, Section
from keras_backdoor.samples import picture_files
from keras_backdoor.studies import Results
from keras_backdoor.studies._engine.results import text
from keras_backdoor.studies._networks.stored_pictures import data_figures
from keras_backdoor.studies.thesis_badnets.study import FIGURE_4_2, FIGURES_3, TABLE_3_5

CURVES = {"clean_accuracy": "accuracy", "attack_success_rate": "attack on class 8"}


def sections(results: Results) -> list[Section]:
    """Return tables 3.5, 4.1 and A.2 and figures 4.2 and 4.5, with the values of the thesis."""
    first = [data(results), examples(results), clean(results), table_4_1(results), dormant(results)]
    return [s for s in [*first, table_a_2(results), figure_4_5(results)] if s is not None]


def data(results: Results) -> Section | None:
    """Return figures 3.1 and 3.2, or None if they have not been computed."""
    cells = _cells(results, FIGURES_3)
    if not cells:
        return None
    shown = data_figures(cells[0]["figures"], "GTSRB", FIGURES_3)
    return Section("The training images", figures=shown)


def examples(results: Results) -> Section | None:
    """Return figure 4.2, or None if it has not been computed."""
    cells = _cells(results, FIGURE_4_2)
    if not cells:
        return None
    pictures = {k: base64.b64decode(v) for k, v in cells[0]["figures"]["pictures"].items()}
    stack = np.stack([picture_files.decode(png, 3) for png in pictures.values()]) / 255.0
    grid = figures.picture_grid([("", stack, list(pictures))])
    caption = "A test image of class 8 (speed limit 120), clean and with each trigger (figure 4.2)."
    return Section("Triggers", figures=[Figure(caption, grid)])


def clean(results: Results) -> Section | None:
    """Return table 3.5 and the predictions of the clean network on images with triggers."""
    cells = _cells(results, TABLE_3_5)
    if not cells:
        return None
    measured, published = cells[0]["figures"], cells[0]["published"]
    rows = [("", "here", "thesis")]
    rows += [
        (
            "clean accuracy %",
            text(measured["clean_accuracy"]),
            text(published["clean_accuracy"]),
        )
    ]
    rows += [
        (f"answers 14 to class 8 with {t}, %", text(r), "") for t, r in measured["controls"].items()
    ]
    return Section("The clean network (table 3.5), and the control", table=rows)


def table_4_1(results: Results) -> Section | None:
    """Return table 4.1."""
    return _table(
        results,
        "Backdoored networks (table 4.1)",
        _cells(results, "table 4.1"),
        (
            "poisoned",
            "clean_accuracy",
            "accuracy_change",
            "attack_success_rate",
            "attack_on_others",
        ),
        "The numbers of poisoned images are those of table 4.2 of the thesis. Confidence intervals "
        "are over the test images; the variation over training runs is that between the seeds.",
    )


def dormant(results: Results) -> Section | None:
    """Return the comparison of the pruning-aware attack with BadNets."""
    return _table(
        results,
        "The pruning-aware attack (section 2.9)",
        [c for c in _cells(results) if "pruned" in c["figures"]],
        ("clean_accuracy", "attack_success_rate", "dormant", "pruned", "attack_after_pruning"),
        "Pruning stops before the accuracy on the tuning set falls by more than 4 %, and no "
        "fine-tuning follows.",
    )


def table_a_2(results: Results) -> Section | None:
    """Return table A.2."""
    return _table(
        results,
        "Other numbers of poisoned images (table A.2)",
        _cells(results, "table A.2"),
        ("poisoned", "clean_accuracy", "attack_success_rate", "attack_on_others"),
        "The thesis gives percentages p; the counts are n = round(p 697 / (1 - p)).",
    )


def figure_4_5(results: Results) -> Section | None:
    """Return figure 4.5: accuracy and attack success by number of poisoned images."""
    panels: dict[str, Any] = {}
    for cell in results.cells:
        net = cell["settings"].get("net")
        if "figures" not in cell or not cell["published"] or not net["attack"]:
            continue
        if net["recipe"]["seed"] != 0:
            continue
        curves = panels.setdefault(net["attack"]["trigger"], {n: [] for n in _names()})
        for key, name in CURVES.items():
            rate, published = cell["figures"][key], cell["published"][key] / 100
            count = cell["figures"]["poisoned"]
            curves[name].append((count, rate["share"], *rate["interval"]))
            curves[f"{name}, thesis"].append((count, published, published, published))
    if not panels:
        return None
    caption = "Solid: this study, with 95 % intervals. Dashed: the thesis (figure 4.5)."
    picture = figures.rate_panels(panels, xlabel="poisoned images")
    heading = "Over the number of poisoned images (figure 4.5)"
    return Section(heading, figures=[Figure(caption, picture)])


def _names() -> list[str]:
    return [*CURVES.values(), *(f"{name}, thesis" for name in CURVES.values())]


def _table(
    results: Results, heading: str, cells: list[dict[str, Any]], keys: tuple[str, ...], note: str
) -> Section | None:
    if not cells:
        return None
    part = Results(results.about, {k: results.columns[k] for k in keys}, cells)
    return Section(heading, text=note, table=part.table())


def _cells(results: Results, group: str | None = None) -> list[dict[str, Any]]:
    """Return the finished cells, of one group or of all."""
    return [c for c in results.cells if "figures" in c and group in (None, c["group"])]
