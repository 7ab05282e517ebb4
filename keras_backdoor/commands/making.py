"""Commands that make backdoored models to study, and measure them."""

from pathlib import Path
from typing import Annotated, Any

import typer

from keras_backdoor._internals import discovery, typed_settings
from keras_backdoor.commands import console
from keras_backdoor.commands.opening import open_attack, open_model, open_trigger, write_report
from keras_backdoor.commands.options import (
    Architecture,
    Classes,
    DataOptions,
    Force,
    InputRange,
    Json,
    Model,
    Report,
    Seed,
    Settings,
    Size,
    Source,
    Split,
    Take,
    Target,
    Trigger,
    ValueRange,
    parse_range,
)
from keras_backdoor.errors import BadInput


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

    from keras_backdoor import datasets
    from keras_backdoor._safe.files import check_output, write_npz
    from keras_backdoor.attacks import poisoning

    truth = truth or out.with_name(out.name + ".truth.npz")
    for path in (out, truth):
        check_output(path, force=force)
    options = DataOptions(split, take, seed, size, value_range=value_range)
    clean = options.open(data, None, "train")
    poisoned = poisoning.poison(
        clean,
        open_trigger(trigger),
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
    console.print_rows(
        str(out),
        [("images", str(len(poisoned.samples))), ("poisoned", str(number)), ("truth", str(truth))],
    )


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
    from keras_backdoor import training
    from keras_backdoor.attacks import pruning_aware as attack
    from keras_backdoor.evaluation import evaluate
    from keras_backdoor.loading import cards

    if pruning_aware != (truth is not None) or (pruning_aware and validation):
        raise BadInput("--pruning-aware needs --truth, and takes no --validation.")
    module = discovery.module("architectures", architecture)
    chosen = training.recipe(recipe, typed_settings.parse_pairs(settings or []))
    cards.check(out, force=force)
    facts = cards.read_about(about)
    stamp = open_attack(trigger, target, classes or module.CLASSES, needs=test)
    build = training.builder(architecture, classes, weights)
    options = DataOptions(split, take, seed, size, value_range=value_range)
    samples = options.open(data, module.INPUT_SHAPE, "train")
    rest, held = (
        samples.split(validation, seed=seed, by_track=by_track) if validation else (samples, None)
    )
    checkpoint = checkpoint or out.with_name(out.name + ".checkpoint.npz")
    bounds = parse_range(input_range) or (0.0, 1.0)
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
        console.print_rows("test", result.rows())
    card = {
        "architecture": architecture,
        "recipe": typed_settings.as_dict(chosen),
        "figures": figures,
    }
    card["data_sha256"] = rest.fingerprint()
    cards.write(out, classifier, {**card, **facts}, force=force)
    for left in (checkpoint, *attack.checkpoints(checkpoint)):
        left.unlink(missing_ok=True)
    console.print_rows(str(out), [(k, f"{v:.4f}") for k, v in figures.items() if k != "test"])


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
    from keras_backdoor._safe.files import check_output, write_json

    for path in filter(None, (report, json)):
        check_output(path, force=force)
    classifier = open_model(model, architecture, classes, input_range)
    stamp = open_attack(trigger, target, classifier.classes, source=source)
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
    console.print_rows(model, measured.rows())
    if json:
        write_json(json, measured.as_dict())
    if report:
        write_report(measured, report, force)
