"""Report of Neural Cleanse on given networks, with one table row per network."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from keras_backdoor.reports.page import Section
from keras_backdoor.studies import Results
from keras_backdoor.studies._engine.results import text

SPREADS = {
    "index": "anomaly index",
    "l1": "L1",
    "inside": "share of the mask on the true square plus one pixel",
    "rank": "rank of the target",
    "seconds_of_scan": "seconds",
    "memory": "memory, MB",
}
MOST = 6
"""Maximum number of values that one cell of a table lists."""
RATES = {
    "before": "none",
    "unlearning": "unlearning",
    "pruning": "neuron pruning",
    "filter": "input filter",
}


def sections(results: Results) -> list[Section]:
    """Return the sections on scans, mitigations and rejections by the input filter."""
    tables = [
        ("Scans", SCANS, scans(results)),
        ("Mitigations", MITIGATED, mitigations(results)),
        ("What the input filter rejects", FILTERED, rejections(results)),
    ]
    return [Section(name, text=note, table=table) for name, note, table in tables if table[1:]]


SCANS = (
    "One row per network, with the range of the values over the runs. For a network with a "
    "backdoor, index, norm and rank are those of the target class; for other networks, those of "
    "the class with the smallest norm."
)
MITIGATED = (
    "In %, on the whole test set, with the range over the clean subsets. The last column is the "
    "success of the recovered trigger on held-out clean images after the mitigation. A scan that "
    "flags no class has no mitigation run."
)
FILTERED = "In %, on the whole test set. The threshold is chosen on held-out clean images."


def scans(results: Results) -> list[tuple[str, ...]]:
    """Return the header and one row per network."""
    rows: list[tuple[str, ...]] = [
        (
            "network",
            "searched",
            "runs",
            "verdict (runs)",
            "flagged (runs)",
            "further suspects (runs)",
            "ahead of the target (runs)",
            *SPREADS.values(),
        )
    ]
    for name, figures in results.groups("seconds_of_scan").items():
        spreads = [spread([f.get(k) for f in figures]) for k in SPREADS]
        verdicts = counted([f["verdict"] for f in figures])
        flagged = counted([text(f["flagged"]) for f in figures])
        further = counted([c for f in figures for c in _each(f["further"])])
        ahead = counted([c for f in figures for c in _each(f["ahead"])])
        modes = ", ".join(sorted({_mode(f) for f in figures}))
        rows.append((name, modes, str(len(figures)), verdicts, flagged, further, ahead, *spreads))
    return rows


def _mode(figures: dict[str, Any]) -> str:
    searched = "pairs" if figures["pairs"] else "classes"
    return f"{searched}, low-cost" if figures["low_cost"] else searched


def _each(classes: list[int] | None) -> list[str]:
    """Return the class numbers as strings; `none` or `not examined` if there are none."""
    if classes is None:
        return ["not examined"]
    return [str(c) for c in classes] or ["none"]


def mitigations(results: Results) -> list[tuple[str, ...]]:
    """Return the header and one row per network and mitigation."""
    rows: list[tuple[str, ...]] = [
        ("network", "mitigation", "runs", "attack", "clean accuracy", "recovered trigger")
    ]
    for name, figures in results.groups("attack_before").items():
        for key, title in RATES.items():
            runs = [f for f in figures if f"attack_{key}" in f]
            rates = [[_share(f[f"{what}_{key}"]) for f in runs] for what in ("attack", "accuracy")]
            left = [100 * f[f"recovered_{key}"][-1] for f in runs if f"recovered_{key}" in f]
            rows.append((name, title, str(len(runs)), *map(spread, rates), spread(left)))
        flagged = counted([text(f["flagged"]) for f in figures])
        rows.append((name, f"flagged: {flagged}", str(len(figures)), "", "", ""))
    return rows


def rejections(results: Results) -> list[tuple[str, ...]]:
    """Return the header and one row per network."""
    keys = ("rejected_stamped", "rejected_clean", "rejected_target")
    rows: list[tuple[str, ...]] = [("network", "runs", *(results.columns[k] for k in keys))]
    for name, figures in results.groups("attack_before").items():
        rates = [[_share(f[k]) for f in figures if k in f] for k in keys]
        rows.append((name, str(len(rates[0])), *map(spread, rates)))
    return rows


def spread(values: Sequence[float | None]) -> str:
    """Format the range of values, ignoring None.

    >>> spread([3.25, 1.0, None]), spread([2.0]), spread([None])
    ('1 to 3.25', '2', '')
    """
    known = [v for v in values if v is not None]
    if not known:
        return ""
    low, high = f"{min(known):.4g}", f"{max(known):.4g}"
    return low if low == high else f"{low} to {high}"


def counted(values: list[str]) -> str:
    """List the most frequent values with their counts.

    >>> counted(["33", "33", "12"])
    '33 (2), 12 (1)'
    """
    counts = Counter(values).most_common()
    shown = [f"{value} ({number})" for value, number in counts[:MOST]]
    return ", ".join([*shown, *([f"{len(counts) - MOST} more"] if len(counts) > MOST else [])])


def _share(rate: dict[str, Any]) -> float:
    return 100 * float(rate["share"])
