"""The command line: one short function a command."""

import inspect as inspect_module
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from keras_backdoor import _cli, _discovery, _settings
from keras_backdoor._cli import (
    Architecture,
    Classes,
    DataOptions,
    Force,
    InputRange,
    Json,
    Model,
    Out,
    Report,
    Seed,
    Settings,
    Size,
    Split,
    Take,
    Unlabelled,
    ValueRange,
)

app = typer.Typer(
    name="keras-backdoor",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="Find, measure and repair backdoors in Keras image classifiers.\n\n"
    "Start with [bold]inspect MODEL[/bold] (nothing in the file runs), then "
    "[bold]repair MODEL --clean DATA[/bold]; [bold]demo[/bold] shows both. DATA is an .npz, an "
    "HDF5 file, a folder of class folders or a zip of one.",
    epilog="Exit codes: 0 nothing found, 1 something found, 2 an error, 3 inconclusive.",
)
Trigger = Annotated[
    str | None,
    typer.Option(help="name:key=value,… or a preset (see 'methods'), or a saved scan."),
]
Target = Annotated[int | None, typer.Option(help="The class that the backdoor serves.")]
Source = Annotated[int | None, typer.Option(help="The only class that is attacked.")]


@app.command()
def inspect(
    model: Model,
    architecture: Architecture = None,
    classes: Classes = None,
    json: Json = None,
    report: Report = None,
    force: Force = False,
) -> None:
    """Say what is in a model file, without running anything of it.

    Exit code 0 clean, 1 hostile, 2 unreadable.
    """
    from keras_backdoor import inspection
    from keras_backdoor._files import check_output, existing, write_json

    existing(model, "model file")
    for path in filter(None, (json, report)):
        check_output(path, force=force)
    found = inspection.inspect_model(model, architecture=architecture, classes=classes)
    if json:
        write_json(json, found.as_dict())
    _cli.print_rows(found.path, found.rows())
    if found.layers:
        _cli.print_columns("layers", found.HEADER, found.layer_rows())
    if report:
        _write_report(found, report, force)
    raise typer.Exit({"clean": 0, "hostile": 1, "unreadable": 2}[found.verdict])


@app.command()
def poison(
    data: Annotated[Path, typer.Argument(help="Clean training data.")],
    out: Annotated[Path, typer.Option(help="Poisoned data: .npz, .h5 or a folder.")],
    trigger: Annotated[str, typer.Option(help="name:key=value,… or a preset (see 'methods').")],
    target: Annotated[int, typer.Option(help="The class that the backdoor serves.")],
    source: Source = None,
    count: Annotated[int | None, typer.Option(help="Number of poisoned images; or")] = None,
    fraction: Annotated[float | None, typer.Option(help="share of the source images; or")] = None,
    target_fraction: Annotated[
        float | None, typer.Option(help="share p of the target class: n = p n_target / (1 - p).")
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Stamp the images themselves, not copies.")
    ] = False,
    truth: Annotated[
        Path | None, typer.Option(help="Where the truth is written \\[OUT.truth.npz].")
    ] = None,
    split: Split = None,
    take: Take = None,
    seed: Seed = 0,
    size: Size = None,
    value_range: ValueRange = None,
    force: Force = False,
) -> None:
    """Poison a data set; the truth is written apart from the data."""
    import numpy as np

    from keras_backdoor import datasets, poisoning
    from keras_backdoor._files import check_output, write_npz

    truth = truth or out.with_name(out.name + ".truth.npz")
    for path in (out, truth):
        check_output(path, force=force)
    options = DataOptions(split, take, seed, size, value_range=value_range)
    clean = options.open(data, None, "train")
    poisoned = poisoning.poison(
        clean,
        _cli.open_trigger(trigger),
        target=target,
        source=source,
        count=count,
        fraction=fraction,
        target_fraction=target_fraction,
        replace=replace,
        seed=seed,
    )
    datasets.save(out, poisoned.samples, split="train", force=force)
    # A folder is read back class by class: the truth is written in that order.
    labels = poisoned.samples.known_labels
    order = np.argsort(labels, kind="stable") if out.is_dir() else np.arange(len(labels))
    facts = {"is_poison": poisoned.is_poison[order], "labels": labels[order], "rows": poisoned.rows}
    write_npz(truth, facts, force=force)
    number = int(poisoned.is_poison.sum())
    _cli.print_rows(
        str(out),
        [("images", str(len(poisoned.samples))), ("poisoned", str(number)), ("truth", str(truth))],
    )


@app.command()
def train(
    architecture: Annotated[str, typer.Argument(help="One of the architectures (see 'methods').")],
    data: Annotated[Path, typer.Argument(help="Training data.")],
    out: Annotated[Path, typer.Option(help="Model file to write: .h5 or .keras.")],
    recipe: Annotated[
        str | None, typer.Option(help="Preset: thesis-gtsrb, thesis-deepid, mnist-pixel, …")
    ] = None,
    settings: Settings = None,
    classes: Annotated[
        int | None, typer.Option(help="Number of classes \\[as the architecture was published].")
    ] = None,
    weights: Annotated[
        Path | None, typer.Option(help="Weights of the frozen trunk (vgg16-face).")
    ] = None,
    input_range: Annotated[str, typer.Option(metavar="A:B", help="Range of the pixels.")] = "0:1",
    validation: Annotated[
        float, typer.Option(help="Share kept apart and measured after every epoch.")
    ] = 0.0,
    by_track: Annotated[
        bool, typer.Option("--by-track", help="Keep whole recordings apart, not single frames.")
    ] = False,
    test: Annotated[Path | None, typer.Option(help="Labelled data to measure at the end.")] = None,
    trigger: Trigger = None,
    target: Target = None,
    pruning_aware: Annotated[
        bool,
        typer.Option(
            "--pruning-aware", help="Keep the backdoor out of dormant channels; needs --truth."
        ),
    ] = False,
    truth: Annotated[
        Path | None, typer.Option(help="Which images are poison, as 'poison' wrote it.")
    ] = None,
    about: Annotated[
        Path | None, typer.Option(help="JSON with facts that are added to the card.")
    ] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="Resume from here after a kill \\[OUT.checkpoint.npz].")
    ] = None,
    split: Split = None,
    take: Take = None,
    seed: Seed = 0,
    size: Size = None,
    value_range: ValueRange = None,
    force: Force = False,
) -> None:
    """Train a network and write it with its card (recipe, data hash, figures)."""
    from keras_backdoor import modelcard, training
    from keras_backdoor import pruning_aware as attack
    from keras_backdoor.evaluation import evaluate

    if pruning_aware != (truth is not None) or (pruning_aware and validation):
        raise _cli.BadInput("--pruning-aware needs --truth, and takes no --validation.")
    module = _discovery.module("architectures", architecture)
    chosen = training.recipe(recipe, _settings.parse_pairs(settings or []))
    modelcard.check(out, force=force)
    facts = modelcard.read_about(about)
    stamp = _cli.open_attack(trigger, target, classes or module.CLASSES, needs=test)
    build = training.builder(architecture, classes, weights)
    options = DataOptions(split, take, seed, size, value_range=value_range)
    samples = options.open(data, module.INPUT_SHAPE, "train")
    rest, held = (
        samples.split(validation, seed=seed, by_track=by_track) if validation else (samples, None)
    )
    checkpoint = checkpoint or out.with_name(out.name + ".checkpoint.npz")
    bounds = _cli.parse_range(input_range) or (0.0, 1.0)
    history: dict[str, Any]
    if truth is not None:
        clean = attack.clean_part(rest, truth)
        classifier, history = attack.fit_pruning_aware(
            build, clean, rest, chosen, input_range=bounds, checkpoint=checkpoint
        )
        facts = {"pruning_aware": {k: history.pop(k) for k in ("layer", "dormant")}, **facts}
    else:
        classifier, history = training.fit(
            build, rest, chosen, input_range=bounds, validation=held, checkpoint=checkpoint
        )
    figures: dict[str, Any] = {name: values[-1] for name, values in history.items()}
    if test is not None:
        measured = DataOptions(value_range=value_range).open(test, module.INPUT_SHAPE, "test")
        result = evaluate(classifier, measured, trigger=stamp, target=target)
        figures["test"] = result.as_dict()
        _cli.print_rows("test", result.rows())
    card = {"architecture": architecture, "recipe": _settings.as_dict(chosen), "figures": figures}
    card["data_sha256"] = rest.fingerprint()
    modelcard.write(out, classifier, {**card, **facts}, force=force)
    for left in (checkpoint, *attack.checkpoints(checkpoint)):
        left.unlink(missing_ok=True)
    _cli.print_rows(str(out), [(k, f"{v:.4f}") for k, v in figures.items() if k != "test"])


@app.command()
def evaluate(
    model: Model,
    test: Annotated[Path, typer.Option(help="Labelled test data.")],
    trigger: Trigger = None,
    target: Target = None,
    source: Source = None,
    architecture: Architecture = None,
    classes: Classes = None,
    input_range: InputRange = None,
    split: Split = None,
    take: Take = None,
    seed: Seed = 0,
    size: Size = None,
    value_range: ValueRange = None,
    json: Json = None,
    report: Report = None,
    force: Force = False,
) -> None:
    """Measure clean accuracy, and with a trigger the attack, with 95 % intervals."""
    from keras_backdoor import evaluation
    from keras_backdoor._files import check_output, write_json

    for path in filter(None, (report, json)):
        check_output(path, force=force)
    classifier = _cli.open_model(model, architecture, classes, input_range)
    stamp = _cli.open_attack(trigger, target, classifier.classes, source=source)
    options = DataOptions(split, take, seed, size, value_range=value_range)
    samples = options.open(test, classifier.image_shape, "test")
    measured = evaluation.evaluate(
        classifier.with_range(classifier.check(samples)),
        samples,
        trigger=stamp,
        target=target,
        source=source,
        seed=seed,
    )
    _cli.print_rows(model, measured.rows())
    if json:
        write_json(json, measured.as_dict())
    if report:
        _write_report(measured, report, force)


def _method_command(command: str, help_text: str) -> None:
    """Add one of the commands that run a method: what they take is the same for all."""

    def run(
        model: Model,
        image: Annotated[
            Path | None, typer.Argument(metavar="IMAGE", help="Picture (or data), as --incoming.")
        ] = None,
        train: Annotated[Path | None, typer.Option(help="Training data to examine.")] = None,
        clean: Annotated[Path | None, typer.Option(help="Data that is trusted.")] = None,
        incoming: Annotated[Path | None, typer.Option(help="Images to be judged.")] = None,
        found: Annotated[Path | None, typer.Option(help="A saved answer to build on.")] = None,
        reference: Annotated[Path | None, typer.Option(help="A model to compare with.")] = None,
        method: Annotated[str | None, typer.Option(help="See 'methods'.")] = None,
        settings: Settings = None,
        architecture: Architecture = None,
        classes: Classes = None,
        input_range: InputRange = None,
        split: Split = None,
        take: Take = None,
        seed: Seed = 0,
        size: Size = None,
        unlabelled: Unlabelled = False,
        value_range: ValueRange = None,
        out: Out = None,
        json: Json = None,
        report: Report = None,
        workdir: Annotated[
            Path | None, typer.Option(help="Keep finished parts here and resume from them.")
        ] = None,
        force: Force = False,
    ) -> None:
        if image is not None and incoming is not None:
            raise _cli.BadInput("Pass IMAGE or --incoming, not both.")
        options = DataOptions(split, take, seed, size, unlabelled, value_range)
        chosen = _cli.choose_method(command, method, settings)
        data = {"train": train, "clean": clean, "incoming": image or incoming}
        _answer(
            chosen,
            model,
            data,
            options,
            found,
            reference,
            workdir,
            (architecture, classes, input_range),
            (out, json, report, force),
        )

    run.__doc__ = help_text
    if command != "explain":
        signature = inspect_module.signature(run)
        rest = [p for name, p in signature.parameters.items() if name != "image"]
        run.__signature__ = signature.replace(parameters=rest)  # type: ignore[attr-defined]
    app.command(command)(run)


_method_command("scan", "Does the model carry a backdoor? Which class, what trigger?")
_method_command("audit", "Which training images are poisoned? Needs --train.")
_method_command("repair", "Make a repaired model from clean data. Write it with --out DIR.")
_method_command("guard", "Make a model that rejects triggered inputs as class N+1.")
_method_command("explain", "Where in this picture is the trigger?")


def _answer(
    method: Any,
    model: str,
    data: dict[str, Path | None],
    options: DataOptions,
    found: Path | None,
    reference: Path | None,
    workdir: Path | None,
    opening: tuple[str | None, int | None, str | None],
    results: tuple[Path | None, Path | None, Path | None, bool],
) -> None:
    """Run a method and write what is asked for; the exit code tells the verdict."""
    from keras_backdoor import answers
    from keras_backdoor._files import check_output, write_json

    out, json, report, force = results
    for path in filter(None, (out, report, json)):
        check_output(path, force=force)
    classifier = _cli.open_model(model, *opening)
    evidence = {
        name: options.open(path, classifier.image_shape, "train")
        for name, path in data.items()
        if path
    }
    answer = method(
        classifier,
        **evidence,
        found=None if found is None else answers.load_answer(found),
        reference=None if reference is None else _cli.open_model(str(reference), None, None, None),
        workdir=workdir,
    )
    _cli.print_rows(
        type(method).__name__, [*answer.rows(), ("seconds", str(answer.about["seconds"]))]
    )
    if out:
        answer.save(out, force=force)
    if json:
        write_json(json, {**answer.about, **answer.facts()})
    if report:
        _write_report(answer, report, force)
    if answer.verdict == "repaired":
        saved = out or "DIR (write it with --out DIR)"
        _cli.out.print(f"measure it: keras-backdoor evaluate {saved} --test DATA", soft_wrap=True)
    raise typer.Exit(_cli.EXIT[answer.verdict])


@app.command()
def export(
    model: Model,
    out: Annotated[Path, typer.Option(help="The model's folder for TensorFlow Serving.")],
    version: Annotated[int, typer.Option(help="Version that is written.")] = 1,
    architecture: Architecture = None,
    classes: Classes = None,
    input_range: InputRange = None,
    force: Force = False,
) -> None:
    """Write a SavedModel with a named input (images) and outputs (scores, class)."""
    from keras_backdoor import serving

    classifier = _cli.open_model(model, architecture, classes, input_range)
    folder = serving.export(classifier, out, version=version, force=force)
    _cli.print_rows(str(folder), [("input", "images"), ("outputs", "scores, class")])


@app.command()
def methods(
    name: Annotated[str | None, typer.Argument(help="A method, trigger or architecture.")] = None,
) -> None:
    """List methods, triggers, architectures and layouts, or the settings of one."""
    from keras_backdoor import catalogue

    for title, rows in catalogue.describe(name):
        _cli.print_rows(title, rows)


@app.command()
def render(
    folder: Annotated[Path, typer.Argument(help="A saved answer.")],
    out: Annotated[Path, typer.Option(help="Where the page is written.")],
    force: Force = False,
) -> None:
    """Write the page (HTML, Markdown, figures) of a saved answer."""
    from keras_backdoor.answers import load_answer

    _write_report(load_answer(folder), out, force)


@app.command()
def study(
    name: Annotated[
        str | None, typer.Argument(help="A study, or a Python file with one; none lists them.")
    ] = None,
    scale: Annotated[str, typer.Option(help="full, or smoke: the same steps in seconds.")] = "full",
    data: Annotated[
        list[Path] | None,
        typer.Option(
            help="Folder with data files; repeatable \\[KERAS_BACKDOOR_DATA, data].",
            show_default=False,
        ),
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option(help="Only cells whose name contains this; repeatable.")
    ] = None,
    jobs: Annotated[
        int | None, typer.Option(help="Cells at a time \\[number of cores].", show_default=False)
    ] = None,
    executor: Annotated[str, typer.Option(help="local, or ray.")] = "local",
    address: Annotated[
        str | None, typer.Option(help="Ray cluster; without it Ray starts on this machine.")
    ] = None,
    cells: Annotated[
        bool, typer.Option("--cells", help="List the cells and which are finished; run none.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(help="Collected results \\[results/NAME.json].", show_default=False),
    ] = None,
    known: Annotated[
        Path | None, typer.Option(help="Take finished cells from these results of an earlier run.")
    ] = None,
    again: Annotated[
        bool,
        typer.Option("--again", help="Compute also what the collected results already have."),
    ] = False,
    models: Annotated[
        Path | None, typer.Option(help="Copy the study's networks there, with cards.")
    ] = None,
    report: Report = None,
    force: Force = False,
) -> None:
    """Make a published table again; finished cells are kept, and a killed run goes on.

    Cells and trained networks are kept in KERAS_BACKDOOR_CACHE (default: the user's cache). Cells
    that the collected results have already are not computed again; --again computes them.
    """
    from keras_backdoor import _study_command

    if name is None:
        for title, rows in _study_command.studies():
            _cli.print_rows(title, rows)
        return
    failed = _study_command.run(
        name,
        list_only=cells,
        settings={
            "scale": scale,
            "only": only or [],
            "jobs": jobs,
            "executor": executor,
            "address": address,
            "known": known,
            "again": again,
            "force": force,
        },
        data=data or (),
        out=out,
        models=models,
        report=report,
    )
    raise typer.Exit(_cli.ERROR if failed else _cli.NOTHING)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Where the page and the repaired model go.")] = Path(
        "demo"
    ),
    force: Force = False,
) -> None:
    """Inspect, measure and repair a real BadNet, and show it on a page."""
    from keras_backdoor import demo as demonstration

    demonstration.main(out, force=force)


def _write_report(answer: Any, folder: Path, force: bool) -> None:
    from keras_backdoor import reports

    page = reports.write(reports.page_of(answer), folder, force=force)
    _cli.out.print(f"page: {page}")


def main() -> None:
    """Entry point: one sentence and exit code 2 for any error of the input."""
    from keras_backdoor import progress

    os.environ.setdefault("KERAS_BACKDOOR_QUIET", "1")
    with _cli.one_sentence(), progress.show():
        code = app(prog_name="keras-backdoor", standalone_mode=False)
        if code == _cli.INTERRUPTED:
            raise KeyboardInterrupt
    sys.exit(code or 0)


if __name__ == "__main__":
    main()
