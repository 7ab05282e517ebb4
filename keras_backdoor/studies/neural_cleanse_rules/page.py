"""Report of the decision rules: the number of correct verdicts of each rule."""

from typing import Any

from keras_backdoor.reports.page import Section
from keras_backdoor.studies import Results
from keras_backdoor.studies.neural_cleanse_given.page import spread

NOTE = (
    "A verdict is right if exactly the target class is flagged, or if nothing is found in a clean "
    "network. The ratio is the smallest norm divided by the median norm."
)


def sections(results: Results) -> list[Section]:
    """Return the comparison of the rules and the table of all scans."""
    table = rules(results)
    scans = Section("Every scan", table=results.table())
    return [Section("Rules", text=NOTE, table=table), scans] if table[1:] else []


def rules(results: Results) -> list[tuple[str, ...]]:
    """Return the header and one row per kind of network and search."""
    rows: list[tuple[str, ...]] = [
        ("networks", "scans", "ratio", "right, this rule", "right, the paper's", "target smallest")
    ]
    for kind, figures in results.groups("ours").items():
        right = {rule: sum(is_right(f, rule) for f in figures) for rule in ("ours", "paper")}
        backdoored = [f for f in figures if "target" in f]
        first = sum(f["smallest"][0]["class"] == f["target"] for f in backdoored)
        of = len(figures)
        rows.append(
            (
                kind,
                str(of),
                spread([round(f["ratio"], 2) for f in figures]),
                f"{right['ours']} of {of}",
                f"{right['paper']} of {of}",
                f"{first} of {of}" if backdoored else "",
            )
        )
    return rows


def is_right(figures: dict[str, Any], rule: str) -> bool:
    """Return whether exactly the target is flagged, or nothing is found on a clean network.

    >>> is_right({"ours": [3], "target": 3, "verdict": "found"}, "ours")
    True
    >>> is_right({"ours": [], "verdict": "inconclusive"}, "ours")
    False
    """
    right: bool = figures[rule] == ([figures["target"]] if "target" in figures else [])
    return right and not (rule == "ours" and figures["verdict"] == "inconclusive")
