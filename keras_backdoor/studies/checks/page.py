"""Report of `check` on given networks: the decisions, and their reasons."""

from keras_backdoor.reports.page import Section
from keras_backdoor.studies import Results
from keras_backdoor.studies._engine.results import percent

NOTE = (
    "One run each. The attack is that of the planted trigger, on the images of the source class if "
    "it has one, in %. What is not exported has no figures after."
)


def sections(results: Results) -> list[Section]:
    """Return the table of the decisions and that of their reasons."""
    tables = (("Decisions", NOTE, decisions(results)), ("Reasons", "", reasons(results)))
    return [Section(name, text=note, table=table) for name, note, table in tables if table[1:]]


def decisions(results: Results) -> list[tuple[str, ...]]:
    """Return the header and one row per network."""
    keys = ("attack_before", "attack_after", "accuracy_before", "accuracy_after")
    rows: list[tuple[str, ...]] = [
        ("network", "decision", "attack before", "after", "accuracy before", "after", "seconds")
    ]
    for name, found in results.figures().items():
        rates = (percent(found[k]) if k in found else "" for k in keys)
        rows.append((name, found["action"], *rates, f"{found['seconds']:.0f}"))
    return rows


def reasons(results: Results) -> list[tuple[str, ...]]:
    """Return the header and one row per reason."""
    rows: list[tuple[str, ...]] = [("network", "reason")]
    for name, found in results.figures().items():
        rows += [(name, reason) for reason in found["reasons"]]
    return rows
