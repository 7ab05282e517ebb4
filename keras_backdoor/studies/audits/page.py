"""Report of audits, with one table row per network and method."""

from collections.abc import Sequence
from typing import Any

from keras_backdoor.reports.page import Section
from keras_backdoor.studies import Results
from keras_backdoor.studies._engine.results import percent
from keras_backdoor.studies.audits.study import (
    CAMERAS,
    INCOMING,
    MAJORITY,
    METHODS,
    OURS,
    PUBLISHED,
    RECLASSIFIED,
    RETRAINED,
    ZOO,
)

Row = tuple[str, ...]


def sections(results: Results) -> list[Section]:
    """Return the sections of the page."""
    tables = [
        ("Audited training data", AUDITED, audited(results, OURS, ", audit")),
        ("Trained again without the flagged images", AGAIN, again(results)),
        ("Cameras", ORIGINS, audited(results, CAMERAS, f", {CAMERAS}")),
        ("Published methods", METHODS_NOTE, published(results)),
        ("Poison that is most of its class", MAJORITY_NOTE, published(results, MAJORITY)),
        ("The development zoo, audited", ZOO_NOTE, audited(results, ZOO, ", audit")),
        ("The development zoo, other methods", OTHERS_NOTE, published(results, ZOO, OTHERS)),
        ("Incoming images (STRIP)", STRIP_NOTE, incoming(results)),
    ]
    return [Section(name, text=note, table=table) for name, note, table in tables if table[1:]]


AUDITED = (
    "`audit` with its default method. In %: the removed share of the poison, of the clean images, "
    "and of the clean images of the class that loses most."
)
AGAIN = (
    "In %, on the whole test set. The networks are trained with their own recipe, one run each. "
    "Where exactly the clean images are left, they are trained on the same data, so that they are "
    "the same network."
)
ORIGINS = (
    "Four cameras have taken the recordings; all poison is from camera 3, which has also taken a "
    "quarter of the clean recordings. Camera 4 is honest: it has taken half of the recordings of "
    "six classes, half as bright. A network is trained on these images for four epochs."
)
METHODS_NOTE = (
    "The same figures for methods that train nothing, and for the reclassification of the paper, "
    "which trains twice. AUC is that of the scores in the poisoned class."
)
MAJORITY_NOTE = (
    "A network whose class 17 has 999 clean images and 1,800 poisoned ones of all other classes."
)
ZOO_NOTE = "The limits were chosen on these networks."
OTHERS = ("spectral signatures, whitened", "activation clustering, silhouette")
OTHERS_NOTE = "Methods that train nothing, on the same networks."
STRIP_NOTE = (
    "Triggered test images on which the attack works, among clean ones, at 1 % false rejection. "
    "In %."
)


def _cells(results: Results, group: str, end: str) -> list[tuple[str, dict[str, Any]]]:
    """(network, figures) of the finished cells of a group whose name has an end."""
    return [
        (c["name"].removesuffix(end), c["figures"])
        for c in results.cells
        if c.get("group") == group and "figures" in c and c["name"].endswith(end)
    ]


def audited(results: Results, group: str, end: str) -> list[Row]:
    """Return the header and one row per network."""
    what = "cameras" if group == CAMERAS else "classes"
    rows: list[Row] = [
        ("network", f"flagged {what}", "poison", "left", "clean images", "of a class", "repairs")
    ]
    for name, figures in _cells(results, group, end):
        poison = figures["removed_poison"]
        rows.append(
            (
                name,
                ", ".join(figures["groups"]) or "none",
                percent(poison),
                f"{figures['poison_left']} of {poison['of']}" if poison["of"] else "",
                percent(figures["removed_clean"]),
                percent(figures["worst_class"]),
                figures["repairs"],
            )
        )
    return rows


def again(results: Results) -> list[Row]:
    """Return the header and one row per network."""
    rows: list[Row] = [
        ("network", "poison left", "attack before", "after", "source class before", "after",
         "accuracy before", "after")
    ]  # fmt: skip
    keys = ("attack_before", "attack_after", "source_before", "source_after", "accuracy_before",
            "accuracy_after")  # fmt: skip
    for name, figures in _cells(results, RETRAINED, f", {RETRAINED}"):
        rows.append((name, str(figures["poison_left"]), *(percent(figures.get(k)) for k in keys)))
    return rows


def published(
    results: Results,
    group: str = PUBLISHED,
    words: Sequence[str] = ("audit", *METHODS, RECLASSIFIED),
) -> list[Row]:
    """Return the header and one row per method and network."""
    rows: list[Row] = [
        ("method", "network", "flagged classes", "poison", "clean images", "of a class", "AUC")
    ]
    for word in words:
        for name, figures in _cells(results, group, f", {word}"):
            groups = figures["groups"]
            rows.append(
                (
                    word,
                    name,
                    ", ".join(groups) if len(groups) < 8 else f"{len(groups)} classes",
                    percent(figures["removed_poison"]),
                    percent(figures["removed_clean"]),
                    percent(figures["worst_class"]),
                    f"{figures['area']:.3f}" if "area" in figures else "",
                )
            )
    return rows


def incoming(results: Results) -> list[Row]:
    """Return the header and two rows per network, one for each limit."""
    rows: list[Row] = [("network", "AUC", "limit", "bits", "triggered found", "clean flagged")]
    for name, figures in _cells(results, INCOMING, ", STRIP"):
        for limit, value in figures["limits"].items():
            rates = (percent(figures[f"{what}_{limit}"]) for what in ("found", "clean"))
            rows.append((name, f"{figures['area']:.3f}", limit, f"{value:.3f}", *rates))
    return rows
