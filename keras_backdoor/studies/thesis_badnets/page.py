"""What a reader wants to see of the thesis's traffic-sign BadNets."""

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
    """Table 3.5, 4.1, A.2 and figures 4.2 and 4.5, the thesis's figures beside ours."""
    made = [examples(results), clean(results), table_4_1(results), dormant(results)]
    return [s for s in [*made, table_a_2(results), figure_4_5(results)] if s is not None]


def examples(results: Results) -> Section | None:
    """Figure 4.2."""
    found = results.figures().get("figure 4.2")
    if found is None:
        return None
    pictures = {k: base64.b64decode(v) for k, v in found["pictures"].items()}
    stack = np.stack([picture_files.decode(png, 3) for png in pictures.values()]) / 255.0
    grid = figures.picture_grid([("", stack, list(pictures))])
    caption = (
        "A test image of class 8 (speed limit 120), clean and under each trigger (figure 4.2)."
    )
    return Section("Triggers", figures=[Figure(caption, grid)])


def clean(results: Results) -> Section | None:
    """Table 3.5, and the clean network under the triggers."""
    found = _cells(results).get("clean")
    if found is None or "figures" not in found:
        return None
    own = found["figures"]
    rows = [("", "here", "thesis")]
    rows += [
        (
            "clean accuracy %",
            text(own["clean_accuracy"]),
            text(found["published"]["clean_accuracy"]),
        )
    ]
    rows += [
        (f"answers 14 to class 8 with {t}, %", text(r), "") for t, r in own["controls"].items()
    ]
    return Section("The clean network (table 3.5), and the control", table=rows)


def table_4_1(results: Results) -> Section | None:
    """Table 4.1."""
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
        "Trained on the counts of the thesis's table 4.2. Intervals are those of the test images; "
        "the spread over training runs shows between the seeds.",
    )


def dormant(results: Results) -> Section | None:
    """The pruning-aware attack beside the plain one."""
    return _table(
        results,
        "The pruning-aware attack (section 2.9)",
        [f"{FIRST}, seed 0", f"{FIRST}, pruning-aware"],
        ("clean_accuracy", "attack_success_rate", "dormant", "pruned", "attack_after_pruning"),
        "Pruning stops where the accuracy on the tuning set falls by more than 4 %; there is no "
        "fine-tuning.",
    )


def table_a_2(results: Results) -> Section | None:
    """Table A.2."""
    return _table(
        results,
        "Other numbers of poisoned images (table A.2)",
        [n for n in _cells(results) if n.startswith("A.2")],
        ("poisoned", "clean_accuracy", "attack_success_rate", "attack_on_others"),
        "The thesis gives percentages; the counts follow from n = round(p 697 / (1 - p)).",
    )


def figure_4_5(results: Results) -> Section | None:
    """Figure 4.5: accuracy and attack over the number of poisoned images."""
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
    caption = "Solid: here, with 95 % intervals. Dashed: the thesis (figure 4.5)."
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
