"""Report of the traffic sign BadNets of the thesis."""

import base64
from typing import Any

import numpy as np

from keras_backdoor.reports import figures
from keras_backdoor.reports.page import Figure, Section
from keras_backdoor.samples import picture_files
from keras_backdoor.studies import Results
from keras_backdoor.studies._engine.results import text
from keras_backdoor.studies.thesis_badnets.study import FIRST

CURVES = {"clean_accuracy": "accuracy", "attack_success_rate": "attack on class 8"}


def sections(results: Results) -> list[Section]:
    """Return tables 3.5, 4.1 and A.2 and figures 4.2 and 4.5, with the values of the thesis."""
    first = [examples(results), clean(results), table_4_1(results), dormant(results)]
    return [s for s in [*first, table_a_2(results), figure_4_5(results)] if s is not None]


def examples(results: Results) -> Section | None:
    """Return figure 4.2, or None if it has not been computed."""
    example = results.figures().get("figure 4.2")
    if example is None:
        return None
    pictures = {k: base64.b64decode(v) for k, v in example["pictures"].items()}
    stack = np.stack([picture_files.decode(png, 3) for png in pictures.values()]) / 255.0
    grid = figures.picture_grid([("", stack, list(pictures))])
    caption = "A test image of class 8 (speed limit 120), clean and with each trigger (figure 4.2)."
    return Section("Triggers", figures=[Figure(caption, grid)])


def clean(results: Results) -> Section | None:
    """Return table 3.5 and the predictions of the clean network on images with triggers."""
    cell = _cells(results).get("clean")
    if cell is None or "figures" not in cell:
        return None
    measured = cell["figures"]
    rows = [("", "here", "thesis")]
    rows += [
        (
            "clean accuracy %",
            text(measured["clean_accuracy"]),
            text(cell["published"]["clean_accuracy"]),
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
        [n for n in _cells(results) if ", seed" in n],
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
        [f"{FIRST}, seed 0", f"{FIRST}, pruning-aware"],
        ("clean_accuracy", "attack_success_rate", "dormant", "pruned", "attack_after_pruning"),
        "Pruning stops before the accuracy on the tuning set falls by more than 4 %, and no "
        "fine-tuning follows.",
    )


def table_a_2(results: Results) -> Section | None:
    """Return table A.2."""
    return _table(
        results,
        "Other numbers of poisoned images (table A.2)",
        [n for n in _cells(results) if n.startswith("A.2")],
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
    results: Results, heading: str, names: list[str], keys: tuple[str, ...], note: str
) -> Section | None:
    cells = _cells(results)
    done = [cells[n] for n in names if "figures" in cells.get(n, {})]
    if not done:
        return None
    part = Results(results.about, {k: results.columns[k] for k in keys}, done)
    return Section(heading, text=note, table=part.table())


def _cells(results: Results) -> dict[str, dict[str, Any]]:
    return {c["name"]: c for c in results.cells}
