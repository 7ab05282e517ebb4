"""Commands that poison data, train models and evaluate them."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from keras_backdoor._internals import discovery, typed_settings
from keras_backdoor.commands import console
from keras_backdoor.commands.judging import SCHEMA
from keras_backdoor.commands.opening import (
    open_attacker,
    open_attacks,
    open_model,
    open_trigger,
    write_report,
)
from keras_backdoor.commands.options import (
    Architecture,
    Channels,
    Classes,
    ClassNames,
    DataOptions,
    Force,
    Json,
    Key,
    Preprocess,
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
    as_keys,
)
from keras_backdoor.errors import BadInput


def poison(
    data: Annotated[Path, typer.Argument(help="The clean training data.")],
    out: Annotated[Path, typer.Option(help="The poisoned data to write: .npz, .h5 or a folder.")],
    trigger: Annotated[
        str | None, typer.Option(help="A trigger name:key=value,… or a preset (see 'methods').")
    ] = None,
    target: Target = None,
    source: Source = None,
    count: Annotated[int | None, typer.Option(help="The number of images to poison.")] = None,
    fraction: Annotated[
        float | None,
        typer.Option(help="The fraction of the source images to poison, instead of --count."),
    ] = None,
    target_fraction: Annotated[
        float | None,
        typer.Option(
            help="The poisoned fraction p of the target class, instead of --count: "
            "n = p n_target / (1 - p)."
        ),
    ] = None,
    replace: Annotated[
        bool,
        typer.Option(
            "--replace", help="Stamp the images themselves instead of appending stamped copies."
        ),
    ] = False,
    attack: Annotated[
        str, typer.Option(help="An attack that poisons data (see 'methods').")
    ] = "badnets",
    settings: Settings = None,
    truth: Annotated[
        Path | None, typer.Option(help="The ground truth file to write \\[OUT.truth.npz].")
    ] = None,
    split: Split = None,
    take: Take = None,
    seed: Seed = 0,
    size: Size = None,
    channels: Channels = None,
    class_names: ClassNames = None,
    key: Key = None,
    value_range: ValueRange = None,
    force: Force = False,
) -> None:
    """Poison a data set and write the ground truth to a separate file."""

    from keras_backdoor import datasets
    from keras_backdoor._safe.files import check_output, write_npz
    from keras_backdoor.attacks.base import DataAttack

    truth = truth or out.with_name(out.name + ".truth.npz")
    for path in (out, truth):
        check_output(path, force=force)
    named = {
        "trigger": trigger and open_trigger(trigger, target),
        "target": target,
        "source": source,
        "count": count,
        "fraction": fraction,
        "target_fraction": target_fraction,
        "replace": replace or None,
    }
    chosen = open_attacker(DataAttack, attack, settings, named)
    options = DataOptions(
        split, take, seed, size, channels, False, value_range, class_names, as_keys(key)
    )
    clean = options.open(data, "train")
    poisoned = chosen.poison(clean, seed=seed)
    order = datasets.order_when_read(out, poisoned.samples)
    datasets.save(out, poisoned.samples.subset(order), split="train", force=force)
    labels = poisoned.samples.known_labels
    facts = {"is_poison": poisoned.is_poison[order], "labels": labels[order], "rows": poisoned.rows}
    write_npz(truth, facts, force=force)
    number = int(poisoned.is_poison.sum())
    console.print_rows(
        str(out),
        [("images", str(len(poisoned.samples))), ("poisoned", str(number)), ("truth", str(truth))],
    )


def train(
    architecture: Annotated[str, typer.Argument(help="The architecture to train (see 'methods').")],
    data: Annotated[Path, typer.Argument(help="The training data.")],
    out: Annotated[Path, typer.Option(help="The model file to write: .h5 or .keras.")],
    recipe: Annotated[
        str | None,
        typer.Option(help="A recipe preset: thesis-gtsrb, thesis-deepid, mnist-pixel, …"),
    ] = None,
    settings: Settings = None,
    classes: Annotated[
        int | None,
        typer.Option(help="The number of classes \\[that of the published architecture]."),
    ] = None,
    weights: Annotated[
        Path | None, typer.Option(help="The weights file of the frozen base network (vgg16-face).")
    ] = None,
    preprocess: Annotated[
        str,
        typer.Option(
            "--preprocess",
            "--input-range",
            metavar="TEXT",
            help="How pixels become the model's input, for example 0:1 or caffe.",
        ),
    ] = "0:1",
    validation: Annotated[
        float,
        typer.Option(help="The fraction of the data held out to validate after every epoch."),
    ] = 0.0,
    by_track: Annotated[
        bool,
        typer.Option("--by-track", help="Hold out whole recordings instead of single frames."),
    ] = False,
    test: Annotated[
        Path | None, typer.Option(help="Labeled test data to evaluate the trained model on.")
    ] = None,
    trigger: Trigger = None,
    target: Target = None,
    attack: Annotated[
        str | None,
        typer.Option(help="An attack on the training (see 'methods'), for example pruning-aware."),
    ] = None,
    truth: Annotated[
        Path | None, typer.Option(help="The ground truth file that 'poison' wrote, for --attack.")
    ] = None,
    about: Annotated[
        Path | None, typer.Option(help="A JSON file with entries to add to the model card.")
    ] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="The checkpoint to resume from \\[OUT.checkpoint.npz].")
    ] = None,
    split: Split = None,
    take: Take = None,
    seed: Seed = 0,
    size: Size = None,
    channels: Channels = None,
    class_names: ClassNames = None,
    key: Key = None,
    value_range: ValueRange = None,
    force: Force = False,
) -> None:
    """Train a network and save it with a model card (recipe, data hash, metrics)."""
    from keras_backdoor import training
    from keras_backdoor.evaluation import evaluate
    from keras_backdoor.loading import cards

    module = discovery.module("architectures", architecture)
    chosen, attacker = _recipe_and_attack(recipe, attack, settings)
    if truth is not None and attacker is None:
        raise BadInput("--truth is used by attacks on the training: pass --attack too.")
    if attacker is not None and validation:
        raise BadInput("--attack does not support --validation: leave one of them out.")
    cards.check(out, force=force)
    facts = cards.read_about(about)
    attacks = open_attacks(trigger, target, classes or module.CLASSES, needs=test)
    if len(attacks) > 1:
        raise BadInput("Choose one class of the scan with --target CLASS.")
    build = training.builder(architecture, classes, weights)
    options = DataOptions(
        split, take, seed, size, channels, False, value_range, class_names, as_keys(key)
    )
    samples = options.open(data, "train", shape=module.INPUT_SHAPE)
    fitted, held_out = (
        samples.split(validation, seed=seed, by_track=by_track) if validation else (samples, None)
    )
    checkpoint = checkpoint or out.with_name(out.name + ".checkpoint.npz")
    history: dict[str, Any]
    if attacker is None:
        classifier, history = training.fit(
            build, fitted, chosen, preprocess=preprocess, validation=held_out, checkpoint=checkpoint
        )
    else:
        classifier, history = _train_attacked(
            attacker, build, fitted, chosen, truth, preprocess, checkpoint
        )
        facts = {"attack_of_training": typed_settings.named_dict(attacker), **facts}
    figures: dict[str, Any] = {
        name: values[-1] for name, values in history.items() if isinstance(values, list)
    }
    facts = {**{k: v for k, v in history.items() if k not in figures}, **facts}
    if test is not None:
        own = replace(options, split=None, take=None)
        measured = own.open(test, "test", shape=module.INPUT_SHAPE)
        attack_of = attacks[0] if attacks else None
        result = evaluate(
            classifier,
            measured,
            trigger=None if attack_of is None else attack_of.trigger,
            target=None if attack_of is None else attack_of.target,
        )
        figures["test"] = result.as_dict()
        console.print_rows("test", result.rows())
    card = {"architecture": architecture, "recipe": typed_settings.as_dict(chosen)}
    card |= {"figures": figures, "data_sha256": fitted.fingerprint()}
    cards.write(out, classifier, {**card, **facts}, force=force)
    for file in checkpoint.parent.glob(f"{checkpoint.name}*"):
        file.unlink()
    console.print_rows(str(out), [(k, f"{v:.4f}") for k, v in figures.items() if k != "test"])


def _recipe_and_attack(
    recipe: str | None, attack: str | None, settings: list[str] | None
) -> tuple[Any, Any]:
    """Build the recipe and the attack; settings that are not in the recipe go to the attack."""
    from keras_backdoor import training
    from keras_backdoor.attacks.base import TrainingAttack

    pairs = typed_settings.parse_pairs(settings or [])
    if attack is None:
        return training.recipe(recipe, pairs), None
    known = typed_settings.fields(training.Recipe)
    of_attack = {k: v for k, v in pairs.items() if k.replace("-", "_") not in known}
    chosen = training.recipe(recipe, {k: v for k, v in pairs.items() if k not in of_attack})
    return chosen, open_attacker(TrainingAttack, attack, None, of_attack)


def _train_attacked(
    attacker: Any,
    build: Any,
    samples: Any,
    recipe: Any,
    truth: Path | None,
    preprocess: str,
    checkpoint: Path,
) -> tuple[Any, dict[str, Any]]:
    """Train a network with an attack; return the classifier and the training history."""
    from keras_backdoor.attacks.base import Training, read_truth

    if attacker.needs_truth and truth is None:
        raise BadInput(
            f"{type(attacker).__name__} needs to know which images are poison: pass --truth."
        )
    is_poison = None if truth is None else read_truth(truth, samples)
    training = Training(build, samples, recipe, is_poison, preprocess, checkpoint)
    trained: tuple[Any, dict[str, Any]] = attacker.train(training)
    return trained


def evaluate(
    model: Annotated[
        str,
        typer.Argument(metavar="MODEL", help="A model file (.h5 or .keras) or a saved answer."),
    ],
    test: Annotated[
        Path | None, typer.Option(help="Labeled test data, to evaluate a model.")
    ] = None,
    truth: Annotated[
        Path | None,
        typer.Option(help="The ground truth file that 'poison' wrote, to evaluate an audit."),
    ] = None,
    trigger: Trigger = None,
    target: Target = None,
    source: Source = None,
    architecture: Architecture = None,
    classes: Classes = None,
    preprocess: Preprocess = None,
    split: Split = None,
    take: Take = None,
    seed: Seed = 0,
    size: Size = None,
    channels: Channels = None,
    class_names: ClassNames = None,
    key: Key = None,
    value_range: ValueRange = None,
    json: Json = None,
    report: Report = None,
    force: Force = False,
) -> None:
    """Evaluate a model on test data, or the flagged images of an audit against the ground truth.

    For a model: the clean accuracy and, with --trigger, the attack success rate, with 95 %
    intervals. For an audit: the fractions of poisoned and clean images that it removes, overall and
    for each class.
    """
    from keras_backdoor._safe.files import check_output
    from keras_backdoor.network.channel_activity import layers_with_channels

    if report:
        check_output(report, force=force)
    console.prepare_json(json, force=force)
    if truth is not None:
        if test is not None:
            raise BadInput(
                "Pass --test to evaluate a model or --truth to evaluate an audit, not both."
            )
        selection = (split, take, size, channels, class_names, key, value_range)
        others = (*selection, trigger, target, source, architecture, classes, preprocess)
        if any(option is not None for option in others):
            raise BadInput("--truth evaluates a saved audit as it is: omit the other options.")
        measured: Any = _evaluate_audit(model, truth)
        console.print_rows(model, measured.rows())
    else:
        if test is None:
            raise BadInput(
                "Pass --test DATA to evaluate a model, or --truth FILE to evaluate an audit."
            )
        classifier = open_model(model, architecture, classes, preprocess)
        attacks = open_attacks(trigger, target, classifier.classes, source=source)
        options = DataOptions(
            split, take, seed, size, channels, False, value_range, class_names, as_keys(key)
        )
        samples = options.open(test, "test", classifier)
        classifier = classifier.with_preprocess(classifier.check(samples))
        shown = layers_with_channels(classifier) if report else ()
        measured = _evaluate_model(classifier, samples, attacks, seed, shown)
        rows = [*measured.rows(), ("pixels", classifier.pixels), ("test", samples.description())]
        console.print_rows(model, rows)
    content = {"kind": type(measured).__name__, **measured.as_dict()}
    console.write_results(json, content, schema=SCHEMA)
    if report:
        write_report(measured, report, force)


def _evaluate_model(
    classifier: Any, samples: Any, attacks: list[Any], seed: int, layers: tuple[str, ...]
) -> Any:
    """Evaluate a model without and with each attack, and the channels of layers with it."""
    from keras_backdoor import evaluation

    def measured(attack: Any) -> Any:
        return evaluation.evaluate(
            classifier,
            samples,
            trigger=attack and attack.trigger,
            target=attack and attack.target,
            source=attack and attack.source,
            seed=seed,
            layers=layers,
        )

    first = measured(attacks[0] if attacks else None)
    if len(attacks) < 2 and not (attacks and attacks[0].name):
        return first
    others = [first, *(measured(a) for a in attacks[1:])]
    return replace(first, attacks={a.name: m for a, m in zip(attacks, others, strict=True)})


def _evaluate_audit(folder: str, truth: Path) -> Any:
    """Evaluate the flagged samples of a saved audit against the ground truth of 'poison'."""
    import numpy as np

    from keras_backdoor import evaluation
    from keras_backdoor.answers import FlaggedSamples, load_answer
    from keras_backdoor.attacks.base import truth_arrays

    answer = load_answer(folder)
    if not isinstance(answer, FlaggedSamples) or answer.row_numbers is None:
        raise BadInput(f"{folder} is not a saved audit: --truth evaluates the answer of an audit.")
    is_poison, labels = truth_arrays(truth)
    if answer.row_numbers.max() >= len(is_poison):
        raise BadInput(
            f"{truth} is about other data: it has {len(is_poison)} images, and the audit examined "
            f"images up to number {answer.row_numbers.max()}."
        )
    rows = answer.row_numbers
    given = answer.labels
    if labels is not None and given is not None and not np.array_equal(given, labels[rows]):
        raise BadInput(f"{truth} is about other data: its labels are not those of the audit.")
    return evaluation.evaluate_audit(
        answer.flagged, is_poison[rows], None if labels is None else labels[rows]
    )
