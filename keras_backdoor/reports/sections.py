"""Report pages of each kind of answer."""

import json
from functools import singledispatch
from pathlib import Path
from typing import Any

import numpy as np

from keras_backdoor.answers import Answer, FlaggedClasses, FlaggedSamples, Heatmaps, RepairedModel
from keras_backdoor.evaluation import AuditEvaluation, Evaluation
from keras_backdoor.loading.inspection import Inspection
from keras_backdoor.reports import figures
from keras_backdoor.reports.page import Figure, Page, Section

MOST_TRIGGERS, MOST_SUSPECTS, MOST_PANELS, MOST_MAPS = 8, 16, 4, 12


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
    if isinstance(answer, Inspection):
        return _page_of_inspection(answer)
    made_with = getattr(answer, "about", {})
    name = made_with.get("settings", {}).get("method", type(answer).__name__)
    lead = f"Verdict: {answer.verdict}." if isinstance(answer, Answer) else "Evaluation."
    if isinstance(answer, RepairedModel):
        lead += " Run evaluate on your own test data to measure the effect."
    rows = [("", ""), *answer.rows()]
    about = [("", ""), *[(k, short(v)) for k, v in made_with.items()]]
    return Page(
        title=title or name,
        lead=lead,
        sections=[
            Section("Answer", table=rows),
            *sections(answer),
            *([Section("How it was made", table=about)] if made_with else []),
        ],
    )


def _page_of_inspection(inspection: Inspection) -> Page:
    layers = [Inspection.HEADER, *inspection.layer_rows()]
    return Page(
        title=f"Contents of {Path(inspection.path).name}",
        lead=f"Verdict: {inspection.meaning}. No code in the file was executed.",
        sections=[
            Section("Findings", table=[("", ""), *inspection.rows()]),
            *([Section("Architecture", table=layers)] if inspection.layers else []),
        ],
    )


@singledispatch
def sections(answer: Any) -> list[Section]:
    """Return the sections of an answer; one implementation per kind of answer is registered."""
    raise TypeError(f"Objects of type {type(answer).__name__} have no report: pass an answer.")


@sections.register
def _(answer: RepairedModel) -> list[Section]:
    return [
        Section(plot.title, figures=[Figure(plot.caption, figures.draw_plot(plot, answer.history))])
        for plot in answer.plots
    ]


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
    bars = figures.class_bars(answer.scores, answer.flagged)
    parts = [Section("Suspicion of the classes", figures=[Figure("Score by class.", bars)])]
    norms = answer.measures.get("l1_norm")
    if norms is not None and np.isfinite(norms).any():
        picture = figures.norm_bars(
            norms,
            answer.flagged,
            further=answer.further,
            spread=answer.measures.get("norms"),
            median=answer.about.get("median_norm"),
            limits=answer.about.get("limits"),
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
    ranked = answer.ranked()
    if ranked:
        parts.append(_triggers(answer, ranked))
        if answer.examples is not None:
            same_source = [
                c for c in ranked if answer.source.get(c) == answer.source.get(ranked[0])
            ]
            parts.append(_triggered(answer.examples, answer, same_source[:3]))
    return parts


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
    return [*parts, Section("Attack by source class", table=table)] if answer.per_class else parts


@sections.register
def _(answer: AuditEvaluation) -> list[Section]:
    table: list[tuple[str, ...]] = [("class", "removed poison", "of", "removed clean", "of")]
    for number, rates in answer.per_class.items():
        counts = [(str(r.hits), str(r.of)) for r in rates.values()]
        table.append((str(number), *counts[0], *counts[1]))
    return [Section("Removed by class", table=table)] if answer.per_class else []


def short(value: Any) -> str:
    """Format a value as text for one cell of a table."""
    return value if isinstance(value, str) else json.dumps(value, default=str)
