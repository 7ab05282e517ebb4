"""What a page shows of each kind of answer."""

import json
from functools import singledispatch
from pathlib import Path
from typing import Any

import numpy as np

from keras_backdoor.answers import Answer, FlaggedClasses, FlaggedSamples, Heatmaps, RepairedModel
from keras_backdoor.evaluation import Evaluation
from keras_backdoor.loading.inspection import Inspection
from keras_backdoor.reports import figures
from keras_backdoor.reports.page import Figure, Page, Section

MOST_TRIGGERS, MOST_SUSPECTS = 8, 16


def page_of(answer: Any, title: str | None = None) -> Page:
    """A page of one answer: its verdict, its pictures, and how it was made.

    Args:
        answer: an `Answer`, `Evaluation` or `Inspection`, or an object with a method `page()`, as
            the results of a study have.
        title: of the page; None takes the name of the method.
    """
    if hasattr(answer, "page"):
        page: Page = answer.page()
        return page
    if isinstance(answer, Inspection):
        return _page_of_inspection(answer)
    name = getattr(answer, "about", {}).get("settings", {}).get("method", type(answer).__name__)
    lead = f"Verdict: {answer.verdict}." if isinstance(answer, Answer) else "Measured."
    if isinstance(answer, RepairedModel):
        lead += " How well is for evaluate to measure, on data of your own."
    rows = [("", ""), *answer.rows()]
    about = [("", ""), *[(k, short(v)) for k, v in answer.about.items() if k != "summary"]]
    return Page(
        title=title or name,
        lead=lead,
        sections=[
            Section("Answer", table=rows),
            *sections(answer),
            Section("How it was made", table=about),
        ],
    )


def _page_of_inspection(found: Inspection) -> Page:
    layers = [Inspection.HEADER, *found.layer_rows()]
    return Page(
        title=f"What is in {Path(found.path).name}",
        lead=f"Verdict: {found.meaning}. Nothing of the file was run.",
        sections=[
            Section("Findings", table=[("", ""), *found.rows()]),
            *([Section("Architecture", table=layers)] if found.layers else []),
        ],
    )


@singledispatch
def sections(answer: Any) -> list[Section]:
    """The sections with pictures of one kind of answer."""
    raise TypeError(f"No page is known for {type(answer).__name__}")


@sections.register
def _(answer: RepairedModel) -> list[Section]:
    history = answer.history
    if {"held_accuracy", "recovered_success", "worst_success"} <= set(history):
        return [_unlearning(history)]
    if {"order", "accuracy", "pruned", "layer"} <= set(history):
        return _pruning(history)
    return []


def _unlearning(history: dict[str, np.ndarray]) -> Section:
    curves = {
        "accuracy": history["held_accuracy"],
        "success of the scan's trigger": history["recovered_success"],
        "success of the worst of all": history["worst_success"],
    }
    caption = "On clean images that were held out; epoch 0 is the model as it came, the last point "
    caption += "the one that went out. All: the triggers of the scan and those that were searched "
    caption += "anew so far."
    picture = figures.share_curves(curves, "epoch")
    return Section("Unlearning", figures=[Figure(caption, picture)])


def _pruning(history: dict[str, np.ndarray]) -> list[Section]:
    """What was silenced: by mean activation, or by the gap that a recovered trigger makes."""
    pruned, layer = int(history["pruned"]), str(history["layer"])
    curves = {"accuracy on clean images": history["accuracy"]}
    if "gap" in history:
        caption = f"How much more the recovered trigger activates the neurons of {layer}."
        series = {"with the recovered trigger less clean": history["gap"]}
        words = {"sorting": "largest gap first", "ylabel": "gap in mean activation"}
        bars = figures.channel_bars(history["order"], series, pruned, layer, **words)
        curves["success of the recovered trigger"] = history["recovered_success"]
    else:
        caption = f"Mean activation of the channels of {layer}."
        series = {"clean images": history["activation"]}
        bars = figures.channel_bars(history["order"], series, pruned, layer)
    curve = figures.share_curves(curves, "silenced channels", chosen=pruned)
    shown = "What is left over the number of silenced channels."
    return [
        Section("Channels", figures=[Figure(caption, bars)]),
        Section("Pruning", figures=[Figure(shown, curve)]),
    ]


@sections.register
def _(answer: FlaggedSamples) -> list[Section]:
    groups = [("group", "suspicion", "flagged")]
    groups += [(k, f"{s:.3g}", "yes" if f else "no") for k, (s, f) in answer.groups.items()]
    picture = figures.score_histogram(answer.scores, answer.flagged)
    shown = Section("Suspicion of the samples", figures=[Figure("Number of samples.", picture)])
    return [shown, Section("Groups", table=groups)] if answer.groups else [shown]


@sections.register
def _(answer: FlaggedClasses) -> list[Section]:
    bars = figures.class_bars(answer.scores, answer.flagged)
    found = [Section("Suspicion of the classes", figures=[Figure("Score by class.", bars)])]
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
        caption = "Median over the runs; the lines span the runs. Red: flagged; orange: further "
        caption += "suspects."
        shown = [Figure(caption, picture)]
        if "pair_norms" in answer.measures:
            caption = "Norm of the trigger of every pair; empty where it was not searched in full."
            shown.append(Figure(caption, figures.pair_map(answer.measures["pair_norms"])))
        found.append(Section("Norms of the triggers", figures=shown))
    ranked = answer.ranked()
    if ranked:
        found.append(_triggers(answer, ranked))
        if answer.examples is not None:
            alike = [c for c in ranked if answer.source.get(c) == answer.source.get(ranked[0])]
            found.append(_triggered(answer.examples, answer, alike[:3]))
    return found


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
    caption = "Suspects first, then the smallest others."
    return Section("Triggers", figures=[Figure(caption, figures.picture_grid(rows))])


def _triggered(examples: np.ndarray, answer: FlaggedClasses, classes: list[int]) -> Section:
    shown = [("clean", examples / 255.0)]
    shown += [(f"class {c}", answer.triggers[c].apply(examples) / 255.0) for c in classes]
    blank = [""] * len(examples)
    grid = figures.picture_grid([(name, pictures, blank) for name, pictures in shown])
    caption = "Clean images, and the same with the most suspicious triggers."
    return Section("Triggered examples", figures=[Figure(caption, grid)])


@sections.register
def _(answer: Heatmaps) -> list[Section]:
    maps = answer.maps[:MOST_TRIGGERS]
    spread = maps.max() - maps.min() or 1.0
    captions = [f"class {label}" for label in answer.labels[: len(maps)]]
    grid = figures.picture_grid([("importance", (maps - maps.min()) / spread, captions)])
    return [Section("Maps", figures=[Figure("Importance of the pixels.", grid)])]


@sections.register
def _(answer: Evaluation) -> list[Section]:
    matrices = {"clean images": answer.confusion}
    if answer.confusion_stamped is not None:
        matrices["stamped images"] = answer.confusion_stamped
    picture = figures.confusion_pair(matrices)
    table = [("source class", "attack success", "images")]
    table += [(str(c), f"{r:.2%}", str(r.of)) for c, r in answer.per_class.items()]
    caption = "Share of each label's images, in %, by answer."
    found = [Section("Confusion matrices", figures=[Figure(caption, picture)])]
    return [*found, Section("Attack by source class", table=table)] if answer.per_class else found


def short(value: Any) -> str:
    """A value as text in one cell of a table."""
    return value if isinstance(value, str) else json.dumps(value, default=str)
