"""The command `check`."""

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


def check(
    model: Model,
    clean: Annotated[Path, typer.Option(help="Trusted images without triggers or poison.")],
    out: Annotated[
        Path, typer.Option(help="The folder of all results; an unfinished check goes on.")
    ],
    test: Annotated[
        Path | None, typer.Option(help="Labeled test images, on which accuracies are measured.")
    ] = None,
    train: Annotated[
        Path | None, typer.Option(help="The training data, which is audited for poison.")
    ] = None,
    quick: Annotated[
        bool,
        typer.Option("--quick", help="Give a first answer in about a minute; repair nothing."),
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

    The exit code is 0 if nothing was found, 1 if something was found (also if it was repaired), 2
    for an error and 3 if there is no decision.
    """
    from keras_backdoor._safe.files import check_output, existing, write_json
    from keras_backdoor.commands.check import decision as decisions
    from keras_backdoor.commands.check import page as pages
    from keras_backdoor.commands.check import steps
    from keras_backdoor.loading.inspection import inspect_model
    from keras_backdoor.reports import sarif as log

    existing(model, "model file")
    _check_folder(out, force=force)
    if sarif:
        check_output(sarif, force=force, folder=False)
    console.prepare_json(json, force=force)
    inspection = inspect_model(model, architecture=architecture, classes=classes)
    if inspection.verdict != "safe":
        raise BadInput(f"{model} is {inspection.meaning}: {inspection.findings[0][1]}")
    classifier = open_model(model, architecture, classes, preprocess)
    common = DataOptions(
        None, None, seed, size, channels, unlabelled, value_range, class_names, as_keys(key)
    )
    paths = {"clean": clean, "test": test, "train": train}
    own = {
        "clean": (clean_split, clean_take),
        "test": (test_split, test_take),
        "train": (train_split, train_take),
    }
    options, data = dict[str, tuple[str, ...]](), dict[str, Any]()
    for kind, path in paths.items():
        if path is None:
            if own[kind] != (None, None):
                raise BadInput(f"--{kind}-split and --{kind}-take need --{kind} DATA.")
            continue
        chosen = common.for_kind(*own[kind], several=True)
        data[kind] = chosen.open(path, {**PREFERRED, "test": "test"}[kind], classifier)
        options[kind] = (f"--{kind}", str(path), *chosen.words())
    words = {"--architecture": architecture, "--classes": classes, "--preprocess": preprocess}
    given = steps.Given(
        path=model,
        model=classifier,
        clean=data["clean"],
        test=data.get("test"),
        train=data.get("train"),
        options=options,
        opening=tuple(w for n, v in words.items() if v is not None for w in (n, str(v))),
        out=out,
        quick=quick,
        always=repair,
    )
    out.mkdir(parents=True, exist_ok=True)
    checked = steps.run(given, inspection)
    decision = decisions.decide(checked)
    exported = _export(checked, decision.action)
    content = pages.facts(checked, decision, exported)
    _write_page(pages.page(checked, decision, exported), out / "page")
    write_json(out / "check.json", {"schema": SCHEMA, **content})
    if sarif:
        examined = {"model": model, **({"train": str(train)} if train else {})}
        findings = [a for a in checked.answers if a is not checked.again]
        write_json(sarif, log.document(findings, examined), force=force)
    rows = [("decision", decision.action), *(("", reason) for reason in decision.reasons)]
    rows += [(name, f"{first} → {second}" if second else first)
             for name, first, second in pages.measured(checked)[1:]]  # fmt: skip
    console.print_rows(model, [*rows, ("page", str(out / "page" / "index.html"))])
    console.write_results(json, content, schema=SCHEMA)
    raise typer.Exit(console.EXIT[decision.verdict])


def _check_folder(out: Path, *, force: bool) -> None:
    """Raise `BadInput` unless the folder is new, or that of an earlier check."""
    from keras_backdoor._safe.files import check_output

    if not (out / "work").is_dir():
        check_output(out, force=force, folder=True)


def _export(checked: Any, action: str) -> str | None:
    """Export what may be deployed, and note the command; returns the folder, or None."""
    from keras_backdoor import serving
    from keras_backdoor.commands.check.decision import DEPLOY, REPAIRED

    given = checked.given
    if action == DEPLOY and not given.quick:
        model, path, words = given.model, given.path, given.opening
    elif action == REPAIRED:
        model, path, words = checked.repair.classifier, str(given.out / "repaired"), ()
    else:
        return None
    folder = given.out / "serving"
    sample = given.measured if given.measured is not None else given.clean
    serving.export(model.with_preprocess(sample), folder, force=True)
    line = " ".join(("keras-backdoor export", path, *words, "--out", str(folder)))
    checked.steps.append(("export", line, 0.0))
    return str(folder)


def _write_page(page: Any, folder: Path) -> None:
    from keras_backdoor import reports

    reports.write(page, folder, force=True)
