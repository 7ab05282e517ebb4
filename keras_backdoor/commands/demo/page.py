"""The report of the demo."""

from dataclasses import replace

import numpy as np

from keras_backdoor.commands.demo.measure import Demonstration
from keras_backdoor.reports import figures
from keras_backdoor.reports.page import Figure, Page, Section


def page(shown: Demonstration) -> Page:
    """Return the report of the demo."""
    attack, about = shown.card["attack"], shown.answer.about
    lead = (
        f"A network for handwritten digits predicts {attack['target']} whenever a small "
        "checkerboard is in the image. Its file is opened without executing any code in it. The "
        f"network is evaluated, repaired with {shown.card['demo_clean_images']:,} clean images, "
        "and evaluated again."
    )
    return Page(
        title="A BadNet, repaired",
        lead=lead,
        sections=[
            Section("Before and after", text=_outcome(shown), table=_table(shown)),
            Section("The model file", table=_file(shown)),
            Section("The attack", text=attack["why"], figures=[_images(shown)]),
            Section(
                "Which channels clean images use",
                text="The repair uses only the activations on clean images (blue). It prunes the "
                "channels with the smallest activations. Images with the trigger activate some of "
                "these channels strongly (red).",
                figures=[_channels(shown)],
            ),
            Section(
                "How far to prune",
                text=f"Pruning stops before the accuracy on clean images falls by more than "
                f"{about['settings']['repair']['max_drop']:.0%} of its value. The attack success "
                "is shown for comparison only; the repair does not use it.",
                figures=[_curve(shown)],
            ),
            Section(
                "Confusion",
                text=f"Column {shown.answer.reject_class} counts rejected images, for which the "
                "BadNet and the pruned network predict different classes.",
                figures=[_confusion(shown, "clean"), _confusion(shown, "stamped")],
            ),
            Section("Limitations", text=shown.card["limits"]),
        ],
    )


def _outcome(shown: Demonstration) -> str:
    before, after = shown.before, shown.after
    return (
        f"Attack success falls from {before.attack_success_rate:.1%} to "
        f"{after.attack_success_rate:.1%}; clean accuracy from {before.clean_accuracy:.1%} to "
        f"{after.clean_accuracy:.1%}. The demo took {shown.seconds:.0f} seconds."
    )


def _table(shown: Demonstration) -> list[tuple[str, ...]]:
    after = dict(shown.after.rows())
    header: list[tuple[str, ...]] = [("", "BadNet", "repaired")]
    return header + [(name, text, after[name]) for name, text in shown.before.rows()]


def _file(shown: Demonstration) -> list[tuple[str, ...]]:
    inspection, rows = shown.inspection, [("", "")]
    rows += [("verdict of inspect", inspection.verdict), ("SHA-256", str(inspection.sha256))]
    rows += [("format", f"{inspection.format}, Keras {inspection.keras_version}")]
    rows += [(p, f"{kind} {shape}, {n:,} weights") for p, kind, shape, n in inspection.layers]
    return rows  # type: ignore[return-value]


def _images(shown: Demonstration) -> Figure:
    pictures, reject = shown.pictures, shown.answer.reject_class

    def captions(name: str) -> list[str]:
        pairs = zip(pictures[f"before_{name}"], pictures[f"after_{name}"], strict=True)
        return [f"{b} | {'rejected' if a == reject else a}" for b, a in pairs]

    grid = figures.picture_grid(
        [
            ("clean", pictures["clean"], captions("clean")),
            ("with trigger", pictures["stamped"], captions("stamped")),
        ]
    )
    return Figure(
        "Above each image: prediction of the BadNet | prediction of the repaired model.", grid
    )


def _channels(shown: Demonstration) -> Figure:
    """Draw the mean activations on clean images and on images with the trigger."""
    channels = shown.answer.plots[0]
    both = {"clean": "activation", "with trigger": "with_trigger"}
    history = {**shown.answer.history, "with_trigger": shown.activation_stamped}
    return Figure(channels.caption, figures.draw_plot(replace(channels, series=both), history))


def _curve(shown: Demonstration) -> Figure:
    """Draw the accuracy and the attack success by number of silenced channels."""
    pruning = shown.answer.plots[1]
    both = {**pruning.series, "attack success of the pruned network": "attack"}
    history = {**shown.answer.history, "attack": shown.attack_by_silenced}
    picture = figures.draw_plot(replace(pruning, series=both), history)
    return Figure("Accuracy and attack success by number of silenced channels.", picture)


def _confusion(shown: Demonstration, name: str) -> Figure:
    key = "confusion" if name == "clean" else "confusion_stamped"
    matrices = {
        f"BadNet, {name} images": np.asarray(getattr(shown.before, key)),
        f"repaired, {name} images": np.asarray(getattr(shown.after, key)),
    }
    return Figure("Percentage of the images of each label.", figures.confusion_pair(matrices))
