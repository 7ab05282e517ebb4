"""Commands that make backdoored models to study, and measure them."""

from pathlib import Path
from typing import Annotated, Any

import typer

from keras_backdoor._internals import discovery, typed_settings
from keras_backdoor.commands import console
from keras_backdoor.commands.opening import (
    open_attack,
    open_attacker,
    open_model,
    open_trigger,
    write_report,
)
from keras_backdoor.commands.options import (
    Architecture,
    Classes,
    DataOptions,
    Force,
    InputRange,
    Json,
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
    trigger: Annotated[
        str | None, typer.Option(help="name:key=value,… or a preset (see 'methods').")
    ] = None,
    target: Target = None,
    source: Source = None,
    count: Annotated[int | None, typer.Option(help="Number of poisoned images; or")] = None,
    fraction: Annotated[float | None, typer.Option(help="share of the source images; or")] = None,
    target_fraction: Annotated[
        float | None, typer.Option(help="share p of the target class: n = p n_target / (1 - p).")
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Stamp the images themselves, not copies.")
    ] = False,
    attack: Annotated[
        str, typer.Option(help="An attack that changes data (see 'methods').")
    ] = "badnets",
    settings: Settings = None,
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
    from keras_backdoor.attacks.base import DataAttack

    truth = truth or out.with_name(out.name + ".truth.npz")
    for path in (out, truth):
        check_output(path, force=force)
    named = {
        "trigger": trigger and open_trigger(trigger),
        "target": target,
        "source": source,
        "count": count,
        "fraction": fraction,
        "target_fraction": target_fraction,
        "replace": replace or None,
    }
    chosen = open_attacker(DataAttack, attack, settings, named)
    options = DataOptions(split, take, seed, size, value_range=value_range)
    clean = options.open(data, None, "train")
    poisoned = chosen.poison(clean, seed=seed)
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
    attack: Annotated[
        str | None,
        typer.Option(help="Train as this attack does (see 'methods'), for example pruning-aware."),
    ] = None,
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
    from keras_backdoor.evaluation import evaluate
    from keras_backdoor.loading import cards

    module = discovery.module("architectures", architecture)
    chosen, attacker = _recipe_and_attack(recipe, attack, settings)
    if truth is not None and attacker is None:
        raise BadInput("--truth is for an attack that needs it: pass --attack too.")
    if attacker is not None and validation:
        raise BadInput("--attack takes no --validation.")
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
    if attacker is None:
        classifier, history = training.fit(
            build, rest, chosen, input_range=bounds, validation=held, checkpoint=checkpoint
        )
    else:
        classifier, history = _attacked(attacker, build, rest, chosen, truth, bounds, checkpoint)
        facts = {"attack_of_training": typed_settings.named_dict(attacker), **facts}
    figures: dict[str, Any] = {
        name: values[-1] for name, values in history.items() if isinstance(values, list)
    }
    facts = {**{k: v for k, v in history.items() if k not in figures}, **facts}
    if test is not None:
        measured = DataOptions(value_range=value_range).open(test, module.INPUT_SHAPE, "test")
        result = evaluate(classifier, measured, trigger=stamp, target=target)
        figures["test"] = result.as_dict()
        console.print_rows("test", result.rows())
    card = {"architecture": architecture, "recipe": typed_settings.as_dict(chosen)}
    card |= {"figures": figures, "data_sha256": rest.fingerprint()}
    cards.write(out, classifier, {**card, **facts}, force=force)
    for left in checkpoint.parent.glob(f"{checkpoint.name}*"):
        left.unlink()
    console.print_rows(str(out), [(k, f"{v:.4f}") for k, v in figures.items() if k != "test"])


def _recipe_and_attack(
    recipe: str | None, attack: str | None, settings: list[str] | None
) -> tuple[Any, Any]:
    """The recipe and the attack; a setting that the recipe does not have is the attack's."""
    from keras_backdoor import training
    from keras_backdoor.attacks.base import TrainingAttack

    pairs = typed_settings.parse_pairs(settings or [])
    if attack is None:
        return training.recipe(recipe, pairs), None
    known = typed_settings.fields(training.Recipe)
    own = {k: v for k, v in pairs.items() if k.replace("-", "_") not in known}
    chosen = training.recipe(recipe, {k: v for k, v in pairs.items() if k not in own})
    return chosen, open_attacker(TrainingAttack, attack, None, own)


def _attacked(
    attacker: Any,
    build: Any,
    samples: Any,
    recipe: Any,
    truth: Path | None,
    input_range: tuple[float, float],
    checkpoint: Path,
) -> tuple[Any, dict[str, Any]]:
    """The network that an attack trains, and its history."""
    from keras_backdoor.attacks.base import Training, read_truth

    if attacker.needs_truth and truth is None:
        raise BadInput(f"{type(attacker).__name__} needs to know which images are poison: --truth.")
    is_poison = None if truth is None else read_truth(truth, samples)
    training = Training(build, samples, recipe, is_poison, input_range, checkpoint)
    out: tuple[Any, dict[str, Any]] = attacker.train(training)
    return out


def evaluate(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="Model file (.h5, .keras) or saved answer, an audit's too."
        ),
    ],
    test: Annotated[
        Path | None, typer.Option(help="Labelled test data, to measure a model.")
    ] = None,
    truth: Annotated[
        Path | None,
        typer.Option(help="Which images are poison, as 'poison' wrote it, to measure an audit."),
    ] = None,
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
    """Measure a model on test data, or the flagged samples of an audit against the truth.

    Of a model: clean accuracy, and with a trigger the attack, with 95 % intervals. Of an audit:
    the removed share of the poison and of the clean images, overall and for each class.
    """
    from keras_backdoor import evaluation
    from keras_backdoor._safe.files import check_output, write_json

    for path in filter(None, (report, json)):
        check_output(path, force=force)
    measured: evaluation.Evaluation | evaluation.AuditEvaluation
    if truth is not None:
        if test is not None:
            raise BadInput("Pass --test to measure a model, or --truth to measure an audit.")
        measured = _evaluate_audit(model, truth)
    else:
        if test is None:
            raise BadInput("Pass --test DATA to measure a model, or --truth FILE for an audit.")
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


def _evaluate_audit(folder: str, truth: Path) -> Any:
    """The flagged samples of a saved audit against the truth that 'poison' wrote."""
    from keras_backdoor import evaluation
    from keras_backdoor.answers import FlaggedSamples, load_answer
    from keras_backdoor.attacks.base import truth_arrays

    answer = load_answer(folder)
    if not isinstance(answer, FlaggedSamples) or answer.row_numbers is None:
        raise BadInput(f"{folder} is not the answer of an audit: --truth measures flagged samples.")
    is_poison, labels = truth_arrays(truth)
    if answer.row_numbers.max() >= len(is_poison):
        raise BadInput(
            f"{truth} is about other data: it has {len(is_poison)} images, and the audit flags "
            f"among rows up to {answer.row_numbers.max()}."
        )
    rows = answer.row_numbers
    return evaluation.evaluate_audit(
        answer.flagged, is_poison[rows], None if labels is None else labels[rows]
    )
