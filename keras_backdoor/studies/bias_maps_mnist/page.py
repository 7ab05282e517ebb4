"""Report of the bias maps, with one table row per network."""

from typing import Any

from keras_backdoor.reports.page import Section
from keras_backdoor.studies import Results
from keras_backdoor.studies._engine.results import percent
from keras_backdoor.studies.bias_maps_mnist.study import (
    BLENDED,
    CLEAN,
    DOUBLED,
    FIRST,
    INPUTS,
    SECOND,
)

Row = tuple[str, ...]
NOTE = (
    "The class with the largest distance to the map of the parent, with its multiple of the median "
    "distance. `+` marks the target or the source. A reference that was trained apart and the "
    "score without a reference stand beside it."
)
PAIRS_NOTE = (
    "Algorithm II: ranks of the true source among the rows and of the true target among the "
    "columns of the distances, 1,000 images for each pair of classes."
)


SUMMARY_NOTE = (
    "In how many networks the class with the largest distance to the map of the parent is the "
    "source or the target, and in how many it is flagged, with 1,000 images of data. A clean child "
    "has neither; what is flagged there is a false alarm. By chance, it would be the source or the "
    "target in a fifth of the networks."
)


def sections(results: Results) -> list[Section]:
    """Return the sections of the page."""
    tables = [("Summary", SUMMARY_NOTE, summary(results))]
    tables += [(name, NOTE, distances(results, name)) for name in (FIRST, SECOND, DOUBLED, BLENDED)]
    tables.append(
        (CLEAN, "Children that were fine-tuned without poison.", distances(results, CLEAN))
    )
    tables.append(("Pairs of classes", PAIRS_NOTE, pairs(results)))
    return [Section(name, text=note, table=table) for name, note, table in tables if table[1:]]


def summary(results: Results) -> list[Row]:
    """Return the header and one row per experiment."""
    rows: list[Row] = [
        ("experiment", "networks", "attack, %", *(f"source or target, {name}" for name in INPUTS),
         "without a reference", "flagged, data")
    ]  # fmt: skip
    for group in (FIRST, SECOND, DOUBLED, BLENDED, CLEAN):
        cells = [c for c in results.cells if c.get("group") == group and "figures" in c]
        if not cells:
            continue
        number = len(cells)
        attacks = [100 * c["figures"]["attack"]["share"] for c in cells if "attack" in c["figures"]]
        right = {
            name: sum(_at(c, c["figures"][name]["largest"]) for c in cells)
            for name in (*INPUTS, "alone")
        }
        counts = [f"{n} of {number}" if attacks else "" for n in right.values()]
        attack = f"{min(attacks):.1f} to {max(attacks):.1f}" if attacks else ""
        flagged = sum(bool(c["figures"]["data"]["flagged"]) for c in cells)
        rows.append((group, str(number), attack, *counts, f"{flagged} of {number}"))
    return rows


def _at(cell: dict[str, Any], number: int) -> bool:
    """Whether a class is the source or the target in the name of a cell."""
    return number in _classes(cell["name"])


def distances(results: Results, group: str) -> list[Row]:
    """Return the header and one row per network."""
    rows: list[Row] = [
        ("network", "accuracy, %", "attack, %", *INPUTS, "trained apart", "without a reference")
    ]
    for cell in results.cells:
        if cell.get("group") != group or "figures" not in cell:
            continue
        found = cell["figures"]
        own = _classes(cell["name"])
        compared = (found.get(name) for name in (*INPUTS, "independent"))
        columns = ["" if one is None else _largest(one, own) for one in compared]
        alone = found["alone"]
        columns.append(f"{alone['largest']}{_mark(alone['largest'], own)} ({alone['score']:.2f})")
        name = cell["name"].removeprefix(f"{group}, ")
        rows.append(
            (name, percent(found["clean_accuracy"]), percent(found.get("attack")), *columns)
        )
    return rows


def pairs(results: Results) -> list[Row]:
    """Return the header and one row per network."""
    rows: list[Row] = [("network", "rank of the source", "rank of the target", "flagged")]
    for cell in results.cells:
        if str(cell.get("group")).endswith(", pairs") and "figures" in cell:
            found = cell["figures"]
            flagged = ", ".join(map(str, found["flagged"])) or "none"
            ranks = (str(found.get(f"{what}_rank", "")) for what in ("row", "column"))
            rows.append((cell["name"].removesuffix(", pairs"), *ranks, flagged))
    return rows


def _classes(name: str) -> set[int]:
    """The source and the target in the name of a cell."""
    parts = [part for part in name.split(", ") if " -> " in part]
    return {int(c) for part in parts for c in part.split(" -> ")}


def _mark(number: int, own: set[int]) -> str:
    return " +" if number in own else ""


def _largest(found: dict[str, Any], own: set[int]) -> str:
    return f"{found['largest']}{_mark(found['largest'], own)} ({found['ratio']:.2f})"
