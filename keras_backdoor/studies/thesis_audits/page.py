"""Report of the data defenses on the thesis's BadNets."""

from typing import Any

from keras_backdoor.reports import figures
from keras_backdoor.reports.page import Figure, Section
from keras_backdoor.studies import Results
from keras_backdoor.studies._engine.results import percent
from keras_backdoor.studies._networks.stored_pictures import cluster_figure
from keras_backdoor.studies.thesis_audits.study import (
    CURVE,
    CURVES,
    FIRST_CLUSTERING,
    FIRST_PRUNING,
    PROVENANCE,
    SPECTRAL,
)

Row = tuple[str, ...]
SMALLER = "Activation clustering removes the smaller of two clusters of every class. "
AGAIN = (
    "The network is trained again on what is left; accuracy, and attack on the source class, in %."
)


def sections(results: Results) -> list[Section]:
    """Return the tables and figures, with the values of the thesis."""
    first, second = FIRST_CLUSTERING, FIRST_PRUNING
    tables = [
        ("Activation clustering (table 4.2)", SMALLER, removed(results, first)),
        ("Trained again (table 4.3)", AGAIN, rates(results, first, "retrained")),
        ("Spectral signatures (table 4.4)", "One score for each class, as in ART 1.5 to 1.7.",
         flagged(results)),
        ("Provenance (section 4.2.3)", "Classes 8 and 14 only; camera 3 took all poison.",
         origins(results)),
        ("Then fine-pruning (table 4.7)", "", rates(results, first, "pruned")),
        ("Fine-pruning, then activation clustering (table 4.8)", SMALLER, removed(results, second)),
        ("Trained again (table 4.9)", AGAIN, rates(results, second, "retrained")),
    ]  # fmt: skip
    parts = [Section(name, text=note, table=table) for name, note, table in tables if table[1:]]
    return [*parts, *shown_clusters(results), *curves(results)]


def _finished(results: Results, group: str) -> list[tuple[str, dict[str, Any], dict[str, Any]]]:
    """(network, figures, published) of the finished cells of a group."""
    return [(n.split(",")[0], found, published) for n, found, published in results.finished(group)]


def removed(results: Results, group: str) -> list[Row]:
    """Return the header and one row per network."""
    rows: list[Row] = [
        ("network", "poison", "removed", "published", "removed in all", "published",
         "clean images, %")
    ]  # fmt: skip
    for name, found, published in _finished(results, group):
        poison = found["removed_poison"]
        rows.append(
            (
                name,
                str(poison["of"]),
                str(poison["hits"]),
                str(published["removed_poison"]),
                str(found["removed"]),
                str(published["removed"]),
                percent(found["removed_clean"]),
            )
        )
    return rows


def rates(results: Results, group: str, what: str) -> list[Row]:
    """Return the header and one row per network."""
    channels = what == "pruned"
    rows: list[Row] = [
        ("network", *(("channels", "published") if channels else ()), "accuracy", "published",
         "attack", "published")
    ]  # fmt: skip
    for name, found, published in _finished(results, group):
        keys = (f"{what}_accuracy", f"{what}_attack")
        values = [v for key in keys for v in (percent(found[key]), f"{published[key]:.2f}")]
        number = (str(found[what]), str(published[what])) if channels else ()
        rows.append((name, *number, *values))
    return rows


def flagged(results: Results) -> list[Row]:
    """Return the header and one row per network."""
    rows: list[Row] = [("network", "poison flagged, %", "clean images flagged, %")]
    for name, found, _ in _finished(results, SPECTRAL):
        rows.append((name, percent(found["removed_poison"]), percent(found["removed_clean"])))
    return rows


def origins(results: Results) -> list[Row]:
    """Return the header and one row per experiment."""
    rows: list[Row] = [
        ("poison in class 14", "validation", "flagged cameras", "published", "images", "attack, %")
    ]
    for cell in results.cells:
        if cell.get("group") == PROVENANCE and "figures" in cell:
            _, share, kind = cell["name"].split(", ")
            found = cell["figures"]
            rows.append(
                (share, kind, str(found["flagged"]), "0", str(found["images"]),
                 percent(found["attack"]))
            )  # fmt: skip
    return rows


def shown_clusters(results: Results) -> list[Section]:
    """Return figure 4.7: what activation clustering keeps and removes of the target class."""
    shown = [
        cluster_figure(found["clusters"], name, "4.7")
        for name, found, _ in _finished(results, FIRST_CLUSTERING)
        if "clusters" in found
    ]
    return [Section("Clusters (figure 4.7)", figures=shown)] if shown else []


def curves(results: Results) -> list[Section]:
    """Return figures 4.10 and 4.11: what is removed, and the attack, over the poisoned images."""
    panels: dict[str, Any] = {}
    lines = {
        "removed_poison": "poison removed, thesis",
        "removed_clean": "clean removed, thesis",
        "ours_removed_poison": "poison removed, ours",
        "ours_removed_clean": "clean removed, ours",
        "attack": "attack before",
        "retrained_attack": "attack, trained again (thesis)",
    }
    groups = (CURVE, FIRST_CLUSTERING)
    cells = {c["name"]: c for c in results.cells if c.get("group") in groups and "figures" in c}
    for trigger, names in CURVES.items():
        for name in names:
            if cell := cells.get(f"{name}, {FIRST_CLUSTERING}"):
                panel = panels.setdefault(trigger, {title: [] for title in lines.values()})
                for key, title in lines.items():
                    rate = cell["figures"][key]
                    number = cell["figures"]["removed_poison"]["of"]
                    panel[title].append((number, rate["share"], *rate["interval"]))
    if not panels:
        return []
    picture = figures.rate_panels(panels, xlabel="poisoned images", columns=2)
    caption = "Over the number of poisoned images, with 95 % intervals."
    heading = "Over the number of poisoned images (figures 4.10 and 4.11)"
    return [Section(heading, figures=[Figure(caption, picture)])]
