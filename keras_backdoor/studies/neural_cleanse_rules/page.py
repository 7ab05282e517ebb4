"""What a reader wants to see of the rule: how often each is right, and by how much."""

from typing import Any

from keras_backdoor.reports.page import Section
from keras_backdoor.studies import Results
from keras_backdoor.studies.neural_cleanse_given.page import spread

NOTE = (
    "Right: exactly the target is flagged, or a clean network is acquitted. The ratio is that of "
    "the smallest norm to the median."
)


def sections(results: Results) -> list[Section]:
    """The rules beside each other, then every scan."""
    table = rules(results)
    whole = Section("Every scan", table=results.table())
    return [Section("Rules", text=NOTE, table=table), whole] if table[1:] else []


def rules(results: Results) -> list[tuple[str, ...]]:
    """Header and a row for each kind of network and search."""
    rows: list[tuple[str, ...]] = [
        ("networks", "scans", "ratio", "right, this rule", "right, the paper's", "target smallest")
    ]
    for kind, cells in groups(results).items():
        right = {
            rule: sum(right_of(c["figures"], rule) for c in cells) for rule in ("ours", "paper")
        }
        backdoored = [c["figures"] for c in cells if "target" in c["figures"]]
        first = sum(smallest_class(f["smallest"]) == f["target"] for f in backdoored)
        of = len(cells)
        rows.append(
            (
                kind,
                str(of),
                spread([round(c["figures"]["ratio"], 2) for c in cells]),
                f"{right['ours']} of {of}",
                f"{right['paper']} of {of}",
                f"{first} of {of}" if backdoored else "",
            )
        )
    return rows


def right_of(figures: dict[str, Any], rule: str) -> bool:
    """Whether exactly the target is flagged; on a clean network, whether it is acquitted."""
    right: bool = figures[rule] == str(figures.get("target", "none"))
    return right and not (rule == "ours" and figures["verdict"] == "inconclusive")


def smallest_class(text: str) -> int:
    """The first class of a list of norms.

    >>> smallest_class("3.1 (21), 5.0 (4)")
    21
    """
    return int(text.partition("(")[2].partition(")")[0])


def groups(results: Results) -> dict[str, list[dict[str, Any]]]:
    """Kind of network and search -> its finished cells."""
    found: dict[str, list[dict[str, Any]]] = {}
    for cell in results.cells:
        if "figures" not in cell:
            continue
        what = cell["name"].partition(",")[0]
        source = cell["figures"].get("source")
        if source is None:
            kind = "clean"
        else:
            kind = "all classes to one" if source == "all" else "one class to one"
        if ", strong" in cell["name"]:
            kind += ", trained longer"
        pairs = ", searched by pairs" if cell["name"].endswith("pairs") else ""
        found.setdefault(f"{what}, {kind}{pairs}", []).append(cell)
    return found
