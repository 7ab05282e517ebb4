"""What a reader wants to see of the rule: how often each is right, and by how much."""

from typing import Any

from keras_backdoor.reports.page import Section
from keras_backdoor.studies import Results
from keras_backdoor.studies.neural_cleanse_given.page import spread

NOTE = (
    "Right: exactly the target is flagged, or nothing is found in a clean network. The ratio is "
    "that of the smallest norm to the median."
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
    """Whether exactly the target is flagged, or on a clean network nothing is found.

    >>> is_right({"ours": [3], "target": 3, "verdict": "found"}, "ours")
    True
    >>> is_right({"ours": [], "verdict": "inconclusive"}, "ours")
    False
    """
    right: bool = figures[rule] == ([figures["target"]] if "target" in figures else [])
    return right and not (rule == "ours" and figures["verdict"] == "inconclusive")
