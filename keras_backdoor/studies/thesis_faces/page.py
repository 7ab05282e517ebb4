"""Report of the face networks of the thesis, in both settings."""

from typing import Any

from keras_backdoor.reports import figures
from keras_backdoor.reports.page import Figure, Section
from keras_backdoor.studies import Results
from keras_backdoor.studies._engine.results import percent
from keras_backdoor.studies._networks.stored_pictures import (
    cluster_figure,
    data_figures,
    pictures,
)
from keras_backdoor.studies.thesis_audits.page import AGAIN, SMALLER, rates, removed
from keras_backdoor.studies.thesis_audits.study import (
    FIRST_CLUSTERING,
    FIRST_PRUNING,
    PROVENANCE,
    SPECTRAL,
)
from keras_backdoor.studies.thesis_faces.study import (
    ACTIVITY,
    AUDITED,
    CLUSTERS,
    DATA,
    EXAMPLES,
    REPAIRED,
)
from keras_backdoor.studies.thesis_fine_pruning import page as fine_pruning_page

Row = tuple[str, ...]
NETWORKS = {
    "table 3.5": "Clean networks (table 3.5)",
    "table 4.1": "Backdoored networks (table 4.1)",
    "table A.1": "Other numbers of poisoned images (table A.1)",
}


def sections(results: Results) -> list[Section]:
    """Return the tables and figures, with the values of the thesis."""
    first, second = FIRST_CLUSTERING, FIRST_PRUNING
    tables = [
        *((title, "", networks(results, group)) for group, title in NETWORKS.items()),
        ("Activation clustering (table 4.2)", SMALLER, removed(results, first)),
        ("Trained again (table 4.3)", AGAIN, rates(results, first, "retrained")),
        ("Spectral signatures (table 4.4)", "", flagged(results)),
        ("Provenance (section 4.2.3)", "Camera 3 took all poison.", origins(results)),
        (
            "Second to last convolution (table 4.5)",
            fine_pruning_page.NOTE,
            pruned(results, "table 4.5"),
        ),
        ("Last convolution (table 4.6)", "", pruned(results, "table 4.6")),
        ("Then fine-pruning (table 4.7)", "", rates(results, first, "pruned")),
        ("Fine-pruning, then activation clustering (table 4.8)", SMALLER, removed(results, second)),
        ("Trained again (table 4.9)", AGAIN, rates(results, second, "retrained")),
        ("And today: audited and trained again", "", audited(results)),
        ("And today: repaired", "", repaired(results)),
    ]
    parts = [Section(name, text=note, table=table) for name, note, table in tables if table[1:]]
    drawn = (data, glasses, numbers, shown_clusters, activations, drops)
    return [*parts, *(section for draw in drawn for section in draw(results))]


def networks(results: Results, group: str) -> list[Row]:
    """Return the header and one row per network."""
    rows: list[Row] = [
        ("network", "poison", "accuracy", "where sure", "published", "attack", "published",
         "on the clean network")
    ]  # fmt: skip
    for name, found, published in results.finished(group):
        rows.append(
            (
                name,
                str(found["poisoned"] or ""),
                percent(found["clean_accuracy"]),
                _optional(found, "clean_accuracy_where_sure"),
                f"{published['clean_accuracy']:.2f}",
                _optional(found, "attack_success_rate"),
                _published(published, "attack_success_rate"),
                _optional(found, "control"),
            )
        )
    return rows


def flagged(results: Results) -> list[Row]:
    """Return the header and one row per network and method."""
    rows: list[Row] = [("network", "method", "poison flagged, %", "clean images flagged, %")]
    for name, found, _ in results.finished(SPECTRAL):
        network, _, method = name.partition(", ")
        shares = (percent(found[key]) for key in ("removed_poison", "removed_clean"))
        kind = "whitened" if method.endswith("whitened") else "one score a class, as in ART 1.5"
        rows.append((network, kind, *shares))
    return rows


def origins(results: Results) -> list[Row]:
    """Return the header and one row per network and criterion."""
    rows: list[Row] = [("network", "criterion", "flagged cameras", "published", "images")]
    for name, found, published in results.finished(PROVENANCE):
        network, _, kind = name.split(", ")
        criterion = "of this package" if kind == "ours" else f"of the paper, {kind}"
        shown = ", ".join(found["cameras"]) or "none"
        rows.append(
            (network, criterion, shown, str(published.get("flagged", "")), str(found["images"]))
        )
    return rows


def pruned(results: Results, group: str) -> list[Row]:
    """Return the header and one row per network."""
    rows: list[Row] = [
        ("network", "removed", "published", "accuracy before", "after", "published",
         "attack before", "after", "published")
    ]  # fmt: skip
    for name, found, published in results.finished(group):
        rows.append(
            (
                name.split(", ")[0],
                f"{found['removed']} of {found['of']}",
                f"{published['removed']} of {published['of']}",
                percent(found["accuracy_before"]),
                percent(found["clean_accuracy"]),
                f"{published['clean_accuracy']:.2f}",
                percent(found["attack_before"]),
                percent(found["attack_success_rate"]),
                f"{published['attack_success_rate']:.2f}",
            )
        )
    return rows


def audited(results: Results) -> list[Row]:
    """Return the header and one row per network."""
    rows: list[Row] = [
        ("network", "poison removed", "of", "clean images, %", "accuracy", "where sure", "attack")
    ]
    for name, found, _ in results.finished(AUDITED):
        poison = found["removed_poison"]
        rows.append(
            (
                name.split(", ")[0],
                str(poison["hits"]),
                str(poison["of"]),
                percent(found["removed_clean"]),
                percent(found["retrained_accuracy"]),
                _optional(found, "retrained_accuracy_where_sure"),
                percent(found["retrained_attack"]),
            )
        )
    return rows


def repaired(results: Results) -> list[Row]:
    """Return the header and one row per network and kind of evidence."""
    rows: list[Row] = [
        ("network", "given", "accuracy before", "after", "where sure", "attack before", "after")
    ]
    for name, found, _ in results.finished(REPAIRED):
        network, _, given = name.split(", ")
        rows.append(
            (
                network,
                given,
                percent(found["before_accuracy"]),
                percent(found["repaired_accuracy"]),
                _optional(found, "repaired_accuracy_where_sure"),
                percent(found["before_attack"]),
                percent(found["repaired_attack"]),
            )
        )
    return rows


def data(results: Results) -> list[Section]:
    """Return figures 3.3 to 3.6: examples and numbers of images."""
    shown = [
        figure
        for name, found, _ in results.finished(DATA)
        for figure in data_figures(
            found,
            {"YT": "YouTube Faces", "LFW": "LFW"}[name.split(",")[0]],
            "figures 3.3 and 3.4" if name.startswith("YT") else "figures 3.5 and 3.6",
        )
    ]
    return [Section("The training images (figures 3.3 to 3.6)", figures=shown)] if shown else []


def glasses(results: Results) -> list[Section]:
    """Return figures 4.3 and 4.4: a face of the source class with the triggers."""
    shown = [
        Figure(
            f"{name.split(',')[0]}: a test image of the source class, and with both triggers.",
            figures.picture_grid(
                [("", pictures(found["pictures"]), ("clean", "green glasses", "black glasses"))]
            ),
        )
        for name, found, _ in results.finished(EXAMPLES)
    ]
    return [Section("Triggers (figures 4.3 and 4.4)", figures=shown)] if shown else []


def shown_clusters(results: Results) -> list[Section]:
    """Return figures 4.8 and 4.9: what activation clustering keeps and removes."""
    shown = [
        cluster_figure(found["clusters"], name.split(", ")[0], CLUSTERS[name.split(", ")[0]])
        for name, found, _ in results.finished(FIRST_CLUSTERING)
        if "clusters" in found
    ]
    return [Section("Clusters (figures 4.8 and 4.9)", figures=shown)] if shown else []


def numbers(results: Results) -> list[Section]:
    """Return figure 4.6: accuracy and attack over the number of poisoned images."""
    panels: dict[str, Any] = {}
    curves = {"clean_accuracy": "accuracy", "attack_success_rate": "attack"}
    cells = [*results.finished("table 4.1"), *results.finished("table A.1")]
    for name, found, published in sorted(cells, key=lambda cell: cell[1]["poisoned"]):
        network = name.split(", ")[0]
        if not network.endswith("greenGlasses"):
            continue
        titles = [*curves.values(), *(f"{title}, thesis" for title in curves.values())]
        panel = panels.setdefault(network, {title: [] for title in titles})
        for key, title in curves.items():
            rate, value = found[key], published[key] / 100
            panel[title].append((found["poisoned"], rate["share"], *rate["interval"]))
            panel[f"{title}, thesis"].append((found["poisoned"], value, value, value))
    if not panels:
        return []
    picture = figures.rate_panels(panels, xlabel="poisoned images", columns=2)
    caption = "Solid: this study, with 95 % intervals. Dashed: the thesis."
    return [
        Section(
            "Over the number of poisoned images (figure 4.6)", figures=[Figure(caption, picture)]
        )
    ]


def activations(results: Results) -> list[Section]:
    """Return figures 4.16 to 4.18."""
    named = {f"{network}, {layer}": number for (network, layer), number in ACTIVITY.items()}
    shown = [
        fine_pruning_page.activation_figure(cell, f"Figure {named[cell['name']]}. ")
        for cell in results.cells
        if cell.get("figures", {}).get("activity")
    ]
    return [Section("Activations (figures 4.16 to 4.18)", figures=shown)] if shown else []


def drops(results: Results) -> list[Section]:
    """Return figure 4.19."""
    section = fine_pruning_page.figure_4_19(results)
    return [] if section is None else [section]


def _optional(found: dict[str, Any], key: str) -> str:
    return percent(found[key]) if key in found else ""


def _published(published: dict[str, Any], key: str) -> str:
    return f"{published[key]:.2f}" if key in published else ""
