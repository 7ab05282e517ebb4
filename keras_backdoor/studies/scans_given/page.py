"""Report of the staged scan on given networks, with one table row per network."""

from typing import Any

from keras_backdoor.reports.page import Section
from keras_backdoor.studies import Results
from keras_backdoor.studies._engine.results import percent, text
from keras_backdoor.studies.detection_zoo.study import LOOKS
from keras_backdoor.studies.neural_cleanse_given.page import counted
from keras_backdoor.studies.scans_given.study import NO_DATA, WITH_DATA

NOTES = {
    NO_DATA: "The weights of the last layer alone.",
    WITH_DATA: (
        "Each look with its verdict, and in brackets the class with its largest score (above 1 is "
        "an outlier). A look that was not made is empty: a class with a known trigger was flagged."
    ),
}

TRANSFER = (
    "The trigger of the most suspicious class that has one, on up to 1,000 clean images: the share "
    "of the images of other classes that it moves to this class, in %, in the scanned network and "
    "in a clean one for the same classes that was trained anew. What works in both is a feature of "
    "the data, and was not planted."
)


def sections(results: Results) -> list[Section]:
    """Return one table for scans without and one for scans with clean images."""
    tables = {group: scans(results, group) for group in NOTES}
    parts = [
        Section(f"Scans {group}", text=NOTES[group], table=table)
        for group, table in tables.items()
        if table[1:]
    ]
    rows = transfer(results)
    if rows[1:]:
        parts.append(Section("Where the trigger works", text=TRANSFER, table=rows))
    return parts


def transfer(results: Results) -> list[tuple[str, ...]]:
    """Return the header and one row per network with a recovered trigger."""
    rows: list[tuple[str, ...]] = [
        ("network", "class", "moved", "smallest by source class", "moved in another network",
         "smallest by source class")
    ]  # fmt: skip
    for name, found, _ in results.finished(WITH_DATA):
        trigger = found.get("trigger")
        if trigger is not None:
            rates = [text for where in ("here", "elsewhere") for text in _rates(trigger.get(where))]
            rows.append((name.removesuffix(f", {WITH_DATA}"), str(trigger["class"]), *rates))
    return rows


def beside(results: Results, earlier: Results) -> list[tuple[str, ...]]:
    """Neural Cleanse alone and the whole scan, on the networks that both studies scanned.

    Args:
        results: the results of this study.
        earlier: those of `neural-cleanse-given`, with several scans of each model file.

    Returns:
        The header and one row per network.
    """
    alone: dict[str, list[dict[str, Any]]] = {}
    for figures in earlier.groups("seconds_of_scan").values():
        for found in figures:
            if not found["pairs"]:
                alone.setdefault(found["model_sha256"], []).append(found)
    rows: list[tuple[str, ...]] = [
        ("network", "target", "Neural Cleanse alone (runs)", "flagged (runs)",
         "the whole scan", "flagged", "suspects")
    ]  # fmt: skip
    for name, found, _ in results.finished(WITH_DATA):
        runs = alone.get(found["model_sha256"])
        if runs is not None:
            rows.append(
                (
                    name.removesuffix(f", {WITH_DATA}"),
                    "" if found["target"] is None else str(found["target"]),
                    counted([run["verdict"] for run in runs]),
                    counted([text(run["flagged"]) for run in runs]),
                    found["verdict"],
                    text(found["flagged"]),
                    text(found["suspects"]),
                )
            )
    return rows


def _rates(found: dict[str, Any] | None) -> tuple[str, str]:
    if found is None:
        return "", ""
    smallest = found["smallest_by_source"]
    return percent(found["moved"]), "" if smallest is None else f"{100 * smallest:.0f}"


def scans(results: Results, group: str) -> list[tuple[str, ...]]:
    """Return the header and one row per network."""
    rows: list[tuple[str, ...]] = [
        ("network", "target", "verdict", "flagged", "suspects", *LOOKS, "seconds")
    ]
    for name, found, _ in results.finished(group):
        rows.append(
            (
                name.removesuffix(f", {group}"),
                "" if found["target"] is None else str(found["target"]),
                found["verdict"],
                text(found["flagged"]),
                text(found["suspects"]),
                *(_look(found.get(look)) for look in LOOKS),
                f"{found['seconds']:.1f}",
            )
        )
    return rows


def _look(found: dict[str, Any] | None) -> str:
    if found is None or found.get("first") is None:
        return "" if found is None else found["verdict"]
    return f"{found['verdict']} ({found['first']}: {found['largest']:.2f})"
