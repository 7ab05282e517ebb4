"""Report of the recovery of a trigger by BayLIME."""

from typing import Any

import numpy as np

from keras_backdoor.reports import figures
from keras_backdoor.reports.page import Figure, Section
from keras_backdoor.studies import Results
from keras_backdoor.studies._engine.results import percent
from keras_backdoor.studies.baylime_mnist.study import (
    ATTACK,
    NETWORKS,
    OWN,
    PERTURBATIONS,
    PRIORS,
    PUBLISHED,
    SHARED,
    SIGN,
)

Row = tuple[str, ...]
OWN_NOTE = (
    "Share of 100 misclassified test images whose top segment contains the pixel, in %: mean over "
    "the networks and five seeds of the designs, with the smallest and the largest value. Each "
    "image has its own design. In brackets the value of the notebook."
)
SHARED_NOTE = (
    "The way of the notebook (preset `seed000`): one design for all images, seed 207, and its "
    "precisions."
)


def sections(results: Results) -> list[Section]:
    """Return the sections of the page."""
    tables = [
        ("The networks", "A third of the ones bears a white pixel and the label 0.",
         networks(results)),
        ("Recovered triggers", OWN_NOTE, recovered(results, OWN)),
        ("Recovered triggers with one shared design", SHARED_NOTE, recovered(results, SHARED)),
        ("A yellow square of four pixels on traffic signs", "100 images of the source class.",
         signs(results)),
    ]  # fmt: skip
    parts = [Section(name, text=note, table=table) for name, note, table in tables if table[1:]]
    return [*parts, *curves(results)]


def _finished(results: Results, group: str) -> dict[str, dict[str, Any]]:
    return {name: found for name, found, _ in results.finished(group)}


def networks(results: Results) -> list[Row]:
    """Return the header and one row per network."""
    rows: list[Row] = [("network", "accuracy, %", "1 -> 0, %", "accuracy with the trigger, %")]
    for name, found in _finished(results, ATTACK).items():
        keys = ("clean_accuracy", "attack", "with_trigger")
        rows.append((name, *(percent(found[key]) for key in keys)))
    return rows


def values(results: Results, group: str, prior: str, number: int) -> list[float]:
    """The shares in % of all finished cells with a prior and a number of perturbations."""
    end = f"prior {prior}, {number} perturbations"
    found = _finished(results, group)
    return [v for name, f in found.items() if name.endswith(f", {end}") for v in f["recovered"]]


def recovered(results: Results, group: str) -> list[Row]:
    """Return the header and one row per number of perturbations."""
    rows: list[Row] = [("perturbations", *(f"prior {p}" for p in PRIORS))]
    for index, number in enumerate(PERTURBATIONS):
        texts = []
        for prior in PRIORS:
            found = values(results, group, prior, number)
            span = f" ({min(found):.0f} to {max(found):.0f})" if len(found) > 1 else ""
            own = f"{np.mean(found):.1f}{span}" if found else ""
            texts.append(f"{own} [{PUBLISHED[prior][index]}]")
        if any(not text.startswith(" ") for text in texts):
            rows.append((str(number), *texts))
    return rows


def signs(results: Results) -> list[Row]:
    """Return the header and one row per prior."""
    rows: list[Row] = [
        ("prior", "a trigger pixel in the top segment, %", "half of the trigger in it, %", "IoU")
    ]
    for name, found in _finished(results, SIGN).items():
        if not found["images"]:
            continue
        rates = (percent(found["touched"]), percent(found["inside"]))
        rows.append((name.rpartition(" ")[2], *rates, f"{found['iou']:.2f}"))
    return rows


def curves(results: Results) -> list[Section]:
    """Return the recovery over the number of perturbations, of one shared design and of many."""
    panels: dict[str, dict[str, list[tuple[float, float, float, float]]]] = {}
    for group in (OWN, SHARED):
        panel: dict[str, list[tuple[float, float, float, float]]] = {}
        for prior in PRIORS:
            for number in PERTURBATIONS:
                if found := values(results, group, prior, number):
                    shares = np.array(found) / 100
                    point = (
                        float(number),
                        float(shares.mean()),
                        float(shares.min()),
                        float(shares.max()),
                    )
                    panel.setdefault(f"prior {prior}", []).append(point)
        if panel:
            panels[group] = panel
    if not panels:
        return []
    picture = figures.rate_panels(panels, xlabel="perturbations", columns=2)
    caption = (
        f"Mean, smallest and largest value over {len(NETWORKS)} networks and five designs, and the "
        "single shared design of the notebook."
    )
    return [Section("Over the number of perturbations", figures=[Figure(caption, picture)])]
