"""Report pages of each kind of answer."""

import json
from functools import singledispatch
from typing import Any

import numpy as np

from keras_backdoor.answers import FlaggedClasses, FlaggedSamples, Heatmaps, RepairedModel
from keras_backdoor.evaluation import AuditEvaluation, Evaluation
from keras_backdoor.loading.inspection import Inspection
from keras_backdoor.reports import figures, sentences
from keras_backdoor.reports.page import Figure, Page, Section

MOST_TRIGGERS, MOST_SUSPECTS, MOST_PANELS, MOST_MAPS, MOST_PICTURED = 8, 16, 4, 12, 10


def page_of(answer: Any, title: str | None = None) -> Page:
    """Return the report page of an answer.

    Args:
        answer: an `Answer`, `Evaluation` or `Inspection`, or an object with a method `page()`, such
            as the results of a study.
        title: the title of the page; None uses the name of the method.
    """
    if hasattr(answer, "page"):
        page: Page = answer.page()
        return page
    made_with = getattr(answer, "about", {})
    kind = made_with.get("settings", {}).get("method", type(answer).__name__)
    tone, sentence = sentences.headline(answer)
    name = sentences.name_of(answer) if made_with or isinstance(answer, Inspection) else ""
    return Page(
        title=title or (f"{name}: {KINDS.get(kind, kind)}" if name else KINDS.get(kind, kind)),
        lead=sentence,
        tone=tone,
        sections=[*_opening(answer, made_with), *sections(answer), *_closing(made_with)],
    )


SIGNATURE = ("mean_weight", "relative_mean", "bias")
"""The measures of the scan of the weights."""
KINDS = {"Inspection": "the file", "Evaluation": "evaluation", "AuditEvaluation": "audit"}
"""Class of an answer without a method -> what its page calls it."""


def _opening(answer: Any, about: dict[str, Any]) -> list[Section]:
    """The sections before the figures: what to do next, what was measured, what was examined."""
    parts = []
    if step := about.get("next") or sentences.advice(answer):
        parts.append(Section("What to do next", text=step))
    parts.append(Section("Answer", table=[("", ""), *answer.rows()]))
    if about:
        parts.append(Section("What was examined", table=[("", ""), *sentences.facts(answer)]))
    return parts


def _closing(about: dict[str, Any]) -> list[Section]:
    """The sections after the figures: what the method does not see, classes and settings."""
    parts = []
    if caveats := about.get("caveats"):
        parts.append(Section("What this method does not see", text=" ".join(caveats)))
    if classes := sentences.class_table(about):
        parts.append(Section("Classes", table=[("class", "name"), *classes], folded=True))
    changed, usual = sentences.settings(about)
    if changed:
        parts.append(Section("Settings that differ from the defaults", table=[("", ""), *changed]))
    if usual:
        parts.append(Section("Default settings", table=[("", ""), *usual], folded=True))
    if about:
        rows = [("", ""), *[(k, short(v)) for k, v in about.items() if k not in SHOWN]]
        parts.append(Section("How it was made", table=rows, folded=True))
    return parts


SHOWN = (
    "settings", "class_names", "caveats", "next", "date", "model", "pixels", "images", "examined",
)  # fmt: skip
"""Entries of `about` that other sections show."""


@singledispatch
def sections(answer: Any) -> list[Section]:
    """Return the sections of an answer; one implementation per kind of answer is registered."""
    raise TypeError(f"Objects of type {type(answer).__name__} have no report: pass an answer.")


@sections.register
def _(answer: Inspection) -> list[Section]:
    if not answer.layers:
        return []
    picture = figures.layer_bars([(path, number) for path, _, _, number in answer.layers])
    layers = [Inspection.HEADER, *answer.layer_rows()]
    return [
        Section("Weights of the layers", figures=[Figure("Number of weights.", picture)]),
        Section("Architecture", table=layers),
    ]


@sections.register
def _(answer: RepairedModel) -> list[Section]:
    bars = _before_and_after(answer.figures)
    parts = []
    if bars:
        caption = "Measured on clean images, without and with the recovered triggers."
        parts.append(
            Section("Before and after", figures=[Figure(caption, figures.paired_bars(bars))])
        )
    return parts + [
        Section(plot.title, figures=[Figure(plot.caption, figures.draw_plot(plot, answer.history))])
        for plot in answer.plots
    ]


def _before_and_after(measured: dict[str, Any]) -> dict[str, tuple[float, float]]:
    """Name -> (share before, share after) of what was measured of a repair."""
    bars = {}
    if "accuracy_after" in measured:
        bars["clean accuracy"] = tuple(
            measured[f"accuracy_{when}"]["share"] for when in ("before", "after")
        )
    elif "agreement" in measured:
        bars["agreement with the examined model"] = (1.0, measured["agreement"]["share"])
    for number, rates in measured.get("recovered_triggers", {}).items():
        name = f"success of the trigger of class {number}"
        bars[name] = tuple(rates[when]["share"] for when in ("before", "after"))
    return bars


@sections.register
def _(answer: FlaggedSamples) -> list[Section]:
    picture = figures.score_histogram(answer.scores, answer.flagged)
    parts = [Section("Suspicion of the samples", figures=[Figure("Number of samples.", picture)])]
    if answer.groups:
        parts.append(Section("Groups", table=_groups(answer)))
    if answer.embedding is not None:
        caption = "The first two coordinates of the samples of each group. Flagged samples are red."
        parts.append(Section("Embedding", figures=[Figure(caption, _embedding(answer))]))
    for name, pictures in answer.thumbnails.items():
        sheets = [("flagged", pictures.flagged / 255.0), ("kept", pictures.kept / 255.0)]
        caption = (
            f"Group {name}: the most suspicious flagged samples and some samples that are kept."
        )
        parts.append(
            Section(f"Samples of {name}", figures=[Figure(caption, figures.sheet(sheets))])
        )
    return parts


def _groups(answer: FlaggedSamples) -> list[tuple[str, ...]]:
    names = list(dict.fromkeys(n for group in answer.groups.values() for n in group.figures))
    rows: list[tuple[str, ...]] = [("group", "suspicion", "flagged", "samples", *names)]
    for name, group in answer.groups.items():
        size = "" if answer.group_of is None else str(int((answer.group_of == name).sum()))
        known = [f"{group.figures[n]:.4g}" if n in group.figures else "" for n in names]
        rows.append((name, f"{group.score:.3g}", "yes" if group.flagged else "no", size, *known))
    return rows


def _embedding(answer: FlaggedSamples) -> bytes:
    """Draw one panel per flagged group, or one panel of all samples."""
    assert answer.embedding is not None
    panels = {"all samples": np.ones(len(answer.scores), bool)}
    if answer.group_of is not None:
        names = [name for name, group in answer.groups.items() if group.flagged]
        panels = {f"group {n}": answer.group_of == n for n in names[:MOST_PANELS]} or panels
    return figures.scatter_panels(
        {
            name: (answer.embedding[members, :2], answer.flagged[members])
            for name, members in panels.items()
        }
    )


@sections.register
def _(answer: FlaggedClasses) -> list[Section]:
    parts = []
    if not np.isnan(answer.scores).all():
        bars = figures.class_bars(answer.scores, answer.flagged, answer.suspects)
        caption = (
            "How suspicious each class is. A class above the line is an outlier by the rule that "
            "decides; flagged classes are red, further suspects orange."
        )
        parts.append(Section("Suspicion of the classes", figures=[Figure(caption, bars)]))
    if statistics := {n: answer.measures[n] for n in SIGNATURE if n in answer.measures}:
        names = {name.replace("_", " "): values for name, values in statistics.items()}
        picture = figures.ranked(names, answer.flagged, answer.figures["limit"])
        caption = (
            "The statistics of the weights in decreasing order: robust z scores or, for fewer than "
            "20 classes, distances to the largest of the others. Flagged classes have a number."
        )
        parts.append(Section("Weights of the last layer", figures=[Figure(caption, picture)]))
    norms = answer.measures.get("l1_norm")
    if norms is not None and np.isfinite(norms).any():
        picture = figures.norm_bars(
            norms,
            answer.flagged,
            further=answer.further,
            spread=answer.measures.get("norms"),
            median=answer.about.get("median_norm"),
            limits=dict(list(answer.about.get("limits", {}).items())[:1]),
        )
        caption = (
            "Median over the runs; the black lines show the range over the runs. Flagged classes "
        )
        caption += "are red, further suspects orange."
        shown = [Figure(caption, picture)]
        if "pair_norms" in answer.measures:
            caption = (
                "Norm of the trigger of each class pair; pairs without a full search are empty."
            )
            shown.append(Figure(caption, figures.pair_map(answer.measures["pair_norms"])))
        parts.append(Section("Norms of the triggers", figures=shown))
    if answer.maps:
        parts.append(_bias_maps(answer))
    ranked = answer.ranked()
    if ranked:
        parts.append(_triggers(answer, ranked))
        if answer.examples is not None:
            same_source = [
                c for c in ranked if answer.source.get(c) == answer.source.get(ranked[0])
            ]
            parts.append(_triggered(answer.examples, answer, same_source[:3]))
    return parts


def _bias_maps(answer: FlaggedClasses) -> Section:
    """One row of maps for each network; of pairs of classes, one row for each source."""
    first = next(iter(answer.maps.values()))
    order = np.argsort(-np.nan_to_num(answer.scores, nan=-np.inf), kind="stable")
    chosen = np.sort(order[:MOST_PICTURED])
    ratio = answer.measures.get("ratio")
    if first.ndim == 4:
        titles = [f"class {c}" + ("" if ratio is None else f": {ratio[c]:.2f}") for c in chosen]
        rows = [(name, maps[chosen], titles) for name, maps in answer.maps.items()]
        caption = (
            "The mean of the adversarial images that end in each class, and the share of the "
            "images that reach it; black if there is none."
        )
        return Section("Bias maps", figures=[Figure(caption, figures.picture_grid(rows))])
    shown = []
    for name, maps in answer.maps.items():
        caption = f"{name}: the mean of the adversarial images that leave a class for another one."
        part = maps[np.ix_(chosen, chosen)]
        shown.append(Figure(caption, figures.pair_pictures(part, [str(c) for c in chosen])))
    if "distance" in answer.measures:
        caption = "Distance between the maps of both networks, by source (row) and target (column)."
        shown.append(Figure(caption, figures.pair_map(answer.measures["distance"], "distance")))
    return Section("Bias maps", figures=shown)


def _triggers(answer: FlaggedClasses, ranked: list[int]) -> Section:
    suspects = [c for c in ranked if answer.standing(c)]
    chosen = [*suspects[:MOST_SUSPECTS], *(c for c in ranked if c not in suspects)]
    chosen = chosen[: max(MOST_TRIGGERS, min(len(suspects), MOST_SUSPECTS))]
    stamps = [answer.triggers[c] for c in chosen]
    captions = [
        f"class {c}, L1 {s.l1:.1f}\n{answer.standing(c)}"
        for c, s in zip(chosen, stamps, strict=True)
    ]
    blank = [""] * len(chosen)
    rows = [
        ("mask", np.stack([s.mask for s in stamps]), captions),
        ("pattern", np.stack([s.pattern for s in stamps]), blank),
        ("fusion", np.stack([s.mask * s.pattern for s in stamps]), blank),
    ]
    caption = "Flagged and suspect classes first, then those with the smallest norms."
    return Section("Triggers", figures=[Figure(caption, figures.picture_grid(rows))])


def _triggered(examples: np.ndarray, answer: FlaggedClasses, classes: list[int]) -> Section:
    shown = [("clean", examples / 255.0)]
    shown += [(f"class {c}", answer.triggers[c].apply(examples) / 255.0) for c in classes]
    blank = [""] * len(examples)
    grid = figures.picture_grid([(name, pictures, blank) for name, pictures in shown])
    caption = "Clean images, and the same images with the most suspicious triggers."
    return Section("Triggered examples", figures=[Figure(caption, grid)])


@sections.register
def _(answer: Heatmaps) -> list[Section]:
    number = min(len(answer.maps), MOST_MAPS)
    captions = []
    for map_number in range(number):
        caption = f"class {answer.labels[map_number]}"
        if answer.predicted is not None:
            caption += f", predicted {answer.predicted[map_number]}"
        captions.append(caption)
    pictures = None if answer.pictures is None else answer.pictures[:number] / 255.0
    assert answer.top is not None
    if answer.segments is not None and pictures is not None:
        given = {"prior mean": answer.prior, "posterior mean": answer.maps,
                 "posterior deviation": answer.spread}  # fmt: skip
        maps = {name: values[:number] for name, values in given.items() if values is not None}
        picture = figures.explained(
            pictures, answer.segments[:number], maps, answer.top[:number], captions
        )
        caption = (
            "Each map has its own scale. Red supports the class, blue opposes it. The outline "
            "marks the most important segment."
        )
        return [Section("Pictures", figures=[Figure(caption, picture)])]
    picture = figures.heatmaps(answer.maps[:number], captions, pictures, answer.top[:number])
    caption = (
        "Each map over its image, with its own scale. Red supports the class, blue opposes it. The "
        "outline marks the strongest part."
    )
    return [Section("Maps", figures=[Figure(caption, picture)])]


@sections.register
def _(answer: Evaluation) -> list[Section]:
    matrices = {"clean images": answer.confusion}
    if answer.confusion_stamped is not None:
        matrices["stamped images"] = answer.confusion_stamped
    picture = figures.confusion_pair(matrices)
    table = [("source class", "attack success", "images")]
    table += [(str(c), f"{r:.2%}", str(r.of)) for c, r in answer.per_class.items()]
    caption = "Percentage of the images of each label, by predicted class."
    parts = [Section("Confusion matrices", figures=[Figure(caption, picture)])]
    if answer.activity:
        shown = [
            Figure(
                f"{len(a.clean)} channels of {a.layer}. Outlined: {int(a.marked.sum())} channels "
                "that the trigger raises by half of the largest mean activation or more.",
                figures.channel_grids(a.clean, a.triggered, a.marked),
            )
            for a in answer.activity
        ]
        parts.append(Section("Channels with and without the trigger", figures=shown))
    return [*parts, Section("Attack by source class", table=table)] if answer.per_class else parts


@sections.register
def _(answer: AuditEvaluation) -> list[Section]:
    table: list[tuple[str, ...]] = [("class", "removed poison", "of", "removed clean", "of")]
    for number, rates in answer.per_class.items():
        counts = [(str(r.hits), str(r.of)) for r in rates.values()]
        table.append((str(number), *counts[0], *counts[1]))
    if not answer.per_class:
        return []
    bars = {f"class {n}": (float(r["removed_poison"]), float(r["removed_clean"]))
            for n, r in answer.per_class.items()}  # fmt: skip
    picture = figures.paired_bars(bars, ("poison", "clean images"))
    caption = "Share of the poison and of the clean images that the audit removes."
    return [Section("Removed by class", table=table, figures=[Figure(caption, picture)])]


def short(value: Any) -> str:
    """Format a value as text for one cell of a table."""
    return value if isinstance(value, str) else json.dumps(value, default=str)
