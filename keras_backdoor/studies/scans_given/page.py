"""Report of the staged scan on given networks, with one table row per network."""

from typing import Any

from keras_backdoor.reports.page import Section
from keras_backdoor.studies import Results
from keras_backdoor.studies._engine.results import text
from keras_backdoor.studies.scans_given.study import LOOKS, NO_DATA, WITH_DATA

NOTES = {
    NO_DATA: "The weights of the last layer alone.",
    WITH_DATA: (
        "Each look with its verdict, and in brackets the class with its largest score (above 1 is "
        "an outlier). A look that was not made is empty: a class with a known trigger was flagged."
    ),
}


def sections(results: Results) -> list[Section]:
    """Return one table for scans without and one for scans with clean images."""
    tables = {group: scans(results, group) for group in NOTES}
    return [
        Section(f"Scans {group}", text=NOTES[group], table=table)
        for group, table in tables.items()
        if table[1:]
    ]


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
