"""The command `check`."""

import shlex
import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from keras_backdoor.commands import console
from keras_backdoor.commands.judging import PREFERRED, SCHEMA
from keras_backdoor.commands.opening import open_model
from keras_backdoor.commands.options import (
    Architecture,
    Channels,
    Classes,
    ClassNames,
    DataOptions,
    Force,
    Json,
    Key,
    Model,
    Preprocess,
    Sarif,
    Seed,
    Size,
    Unlabelled,
    ValueRange,
    as_keys,
    split_of,
    take_of,
)
from keras_backdoor.errors import BadInput

SHARED = 0.5
"""The share of images in common, of the smaller of two kinds of data, that is refused."""


def check(
    model: Model,
    clean: Annotated[Path, typer.Option(help="Trusted images without triggers or poison.")],
    out: Annotated[
        Path, typer.Option(help="The folder of all results; the same check goes on there.")
    ],
    test: Annotated[
        Path | None, typer.Option(help="Labeled test images, on which accuracies are measured.")
    ] = None,
    train: Annotated[
        Path | None, typer.Option(help="The training data, which is audited for poison.")
    ] = None,
    quick: Annotated[
        bool,
        typer.Option(
            "--quick",
            help="Give a first answer, in about a minute for small images; repair nothing.",
        ),
    ] = False,
    repair: Annotated[
        bool, typer.Option("--repair", help="Repair the model even if nothing is found.")
    ] = False,
    architecture: Architecture = None,
    classes: Classes = None,
    preprocess: Preprocess = None,
    seed: Seed = 0,
    size: Size = None,
    channels: Channels = None,
    class_names: ClassNames = None,
    key: Key = None,
    unlabelled: Unlabelled = False,
    value_range: ValueRange = None,
    clean_split: split_of("clean") = None,  # type: ignore[valid-type]
    clean_take: take_of("clean") = None,  # type: ignore[valid-type]
    test_split: split_of("test") = None,  # type: ignore[valid-type]
    test_take: take_of("test") = None,  # type: ignore[valid-type]
    train_split: split_of("train") = None,  # type: ignore[valid-type]
    train_take: take_of("train") = None,  # type: ignore[valid-type]
    json: Json = None,
    sarif: Sarif = None,
    force: Force = False,
) -> None:
    """Check a model and decide: deploy it, deploy its repaired version, or neither.

    The file is inspected without running it, the training data is audited if it is given, and the
    model is scanned. If something is found, the model is repaired, the suspected triggers are
    measured before and after, and the repaired model is scanned again. What may be deployed is
    exported for TensorFlow Serving. DIR/page/index.html has the decision and its reasons, and
    DIR/check.json the same for programs. Every step is a command that the page lists.

    A check goes on in the folder of an earlier one of the same model and data: it computes what is
    missing. Data may be added there, and a quick check may become a whole one.

    The exit code is about the given model: 0 if nothing was found, 1 if something was found (also
    if it was repaired), 2 for an error and 3 if there is no decision (also if it was repaired).
    """
    from keras_backdoor._safe.files import check_output, existing
    from keras_backdoor.commands.check import decision as decisions
    from keras_backdoor.commands.check import folder, steps
    from keras_backdoor.commands.check import page as pages
    from keras_backdoor.loading.inspection import inspect_model

    existing(model, "model file")
    if quick and (train or repair):
        raise BadInput("--quick audits and repairs nothing: leave out --train and --repair.")
    if sarif:
        check_output(sarif, force=force, folder=False)
    console.prepare_json(json, force=force)
    inspection = inspect_model(model, architecture=architecture, classes=classes)
    common = DataOptions(
        None, None, seed, size, channels, unlabelled, value_range, class_names, as_keys(key)
    )
    sources = dict[str, tuple[Path, DataOptions]]()
    for kind, path, split, take in (
        ("clean", clean, clean_split, clean_take),
        ("test", test, test_split, test_take),
        ("train", train, train_split, train_take),
    ):
        if path is not None:
            options = replace(common, unlabelled=unlabelled and kind == "clean")
            sources[kind] = (path, options.for_kind(split, take, several=True))
        elif (split, take) != (None, None):
            raise BadInput(f"--{kind}-split and --{kind}-take need --{kind} DATA.")
    words = {"--architecture": architecture, "--classes": classes}
    structure = tuple(w for n, v in words.items() if v is not None for w in (n, str(v)))
    opening = structure if preprocess is None else (*structure, "--preprocess", preprocess)
    selected = {kind: f"{path.resolve()} {options}" for kind, (path, options) in sources.items()}
    asked = folder.Asked(inspection.sha256 or "", list(opening), selected, quick, repair)
    folder.check_folder(out, asked, force=force)
    if inspection.verdict == "hostile":
        refused = decisions.of_hostile(inspection)
        folder.start(out, asked)
        content = pages.facts_of_hostile(inspection, refused)
        page = pages.page_of_hostile(inspection, refused)
        rows = [("decision", refused.action), *(("", reason) for reason in refused.reasons)]
        _finish(model, refused, page, content, rows, out, json)
        _write_sarif(sarif, [inspection], {"model": model}, force)
        raise typer.Exit(console.FOUND)
    if inspection.verdict != "safe":
        raise BadInput(f"{model} is {inspection.meaning}: {inspection.findings[0][1]}")
    classifier, data = _open(open_model(model, architecture, classes, preprocess), sources)
    _refuse_shared(data)
    if preprocess is None:
        opening += ("--preprocess", str(classifier.preprocess.as_json()))
    given = steps.Given(
        path=model,
        model=classifier,
        clean=data["clean"],
        test=data.get("test"),
        train=data.get("train"),
        sources=sources,
        opening=opening,
        out=out,
        quick=quick,
        always=repair,
        structure=structure,
    )
    folder.start(out, asked)
    checked = steps.run(given, inspection)
    decision = decisions.decide(checked)
    made = {steps.FOLDERS[name] for name in checked.answers}
    folder.remove(out, set(folder.RESULTS) - made)
    exported = _export(checked, decision.action)
    rows = [("decision", decision.action), *(("", reason) for reason in decision.reasons)]
    rows += [(name, " → ".join(filter(None, rates)))
             for name, *rates in pages.measured(checked)[1:]]  # fmt: skip
    content = pages.facts(checked, decision, exported)
    _finish(model, decision, pages.page(checked, decision, exported), content, rows, out, json)
    files = {"model": model, **({"train": train} if train else {})}
    _write_sarif(sarif, _for_sarif(checked, inspection, decision), files, force)
    raise typer.Exit(console.EXIT[decision.verdict])


def _open(
    classifier: Any, sources: dict[str, tuple[Path, DataOptions]]
) -> tuple[Any, dict[str, Any]]:
    """The model with a known preprocessing, and the data by kind; all of it is checked."""
    if classifier.reject_class is not None:
        raise BadInput("The model is a guard: check the model that it was made from.")
    data = {}
    for kind, (path, options) in sources.items():
        data[kind] = classifier.check(
            options.open(path, {**PREFERRED, "test": "test"}[kind], classifier)
        )
        if kind != "clean" and data[kind].labels is None:
            raise BadInput(f"--{kind} needs labeled images.")
    labelled = [d for d in data.values() if d.labels is not None]
    return classifier.with_preprocess(labelled[0] if labelled else data["clean"]), data


def _refuse_shared(data: dict[str, Any]) -> None:
    """Raise if an image that is measured or trusted is also repaired with, or examined."""
    if len(data) < 2:
        return
    digests = {kind: list(samples.image_digests()) for kind, samples in data.items()}
    for first, second, why in (
        ("test", "clean", "a repair is measured on other images than it was made with"),
        ("test", "train", "a network is measured on other images than it was trained on"),
        ("train", "clean", "training images that are examined cannot be trusted ones"),
    ):
        if first not in digests or second not in digests:
            continue
        other = set(digests[second])
        number = sum(digest in other for digest in digests[first])
        smaller, larger = sorted((first, second), key=lambda kind: len(data[kind]))
        if number > SHARED * len(data[smaller]):
            raise BadInput(
                f"{number:,} of the {len(data[smaller]):,} images of --{smaller} are in "
                f"--{larger}, too: {why}."
            )


def _export(checked: Any, action: str) -> str | None:
    """Export what may be deployed, and note the command; returns the folder, or None."""
    from keras_backdoor import serving
    from keras_backdoor.commands.check.decision import DEPLOY, REPAIRED

    given = checked.given
    if action == DEPLOY:
        model, path, words = given.model, given.path, given.opening
    elif action == REPAIRED:
        model, path, words = checked.repair.classifier, str(given.out / "repaired"), ()
    else:
        return None
    out, start = given.out / "serving", time.perf_counter()
    serving.export(model, out)
    line = "keras-backdoor " + shlex.join(["export", path, *words, "--out", str(out)])
    checked.steps.append(("export", line, round(time.perf_counter() - start, 1)))
    return str(out)


def _finish(
    model: str,
    decision: Any,
    page: Any,
    content: dict[str, Any],
    rows: list[tuple[str, str]],
    out: Path,
    json: Path | None,
) -> None:
    """Write the page and the JSON, and print the decision."""
    from keras_backdoor import reports
    from keras_backdoor._safe.files import write_json

    written = reports.write(page, out / "page", force=True)
    write_json(out / "check.json", {"schema": SCHEMA, **content})
    console.print_rows(model, [*rows, ("page", str(written))])
    console.write_results(json, content, schema=SCHEMA)


def _for_sarif(checked: Any, inspection: Any, decision: Any) -> list[Any]:
    """The findings about the given model.

    A repair that is refused is an open finding; so is what the scan says if the check has no
    decision.
    """
    from keras_backdoor.commands.check.decision import REPAIRED

    repair, scan = checked.repair, checked.scan
    if repair is not None:
        accepted = decision.action == REPAIRED
        reasons = " ".join(decision.reasons).removesuffix(".")
        repair = replace(repair, inconclusive="" if accepted else reasons)
    if decision.verdict == "inconclusive" and scan is not None and scan.verdict == "nothing":
        scan = replace(scan, inconclusive=decision.reasons[-1].removesuffix("."))
    answers = (inspection, checked.audit, scan, repair)
    return [answer for answer in answers if answer is not None]


def _write_sarif(path: Path | None, answers: list[Any], files: dict[str, Any], force: bool) -> None:
    from keras_backdoor._safe.files import write_json
    from keras_backdoor.reports import sarif

    if path:
        write_json(path, sarif.document(answers, files), force=force)
