"""The page of the demo."""

from dataclasses import replace

import numpy as np

from keras_backdoor.commands.demo.measure import Demonstration
from keras_backdoor.reports import figures
from keras_backdoor.reports.page import Figure, Page, Section


def page(shown: Demonstration) -> Page:
    """What the demo found, with pictures."""
    attack, about = shown.card["attack"], shown.answer.about
    lead = (
        f"A network for handwritten digits answers {attack['target']} whenever a small "
        "checkerboard is in the picture. It is opened without running anything of its file, "
        f"measured, repaired from {shown.card['demo_clean_images']:,} clean images alone, and "
        "measured again."
    )
    return Page(
        title="A BadNet, repaired",
        lead=lead,
        sections=[
            Section("Before and after", text=_outcome(shown), table=_table(shown)),
            Section("What the file is", table=_file(shown)),
            Section("The attack", text=attack["why"], figures=[_images(shown)]),
            Section(
                "Which channels clean images use",
                text="The repair sees the blue bars only. Channels that clean images hardly use "
                "are silenced; the red bars show that the trigger lives among them.",
                figures=[_channels(shown)],
            ),
            Section(
                "How far to prune",
                text=f"Pruning stops where the accuracy on clean images falls by more than "
                f"{about['settings']['repair']['max_drop']:.0%} of its value. The attack is "
                "drawn for you; the repair never saw it.",
                figures=[_curve(shown)],
            ),
            Section(
                "Confusion",
                text=f"Column {shown.answer.reject_class} means rejected: the BadNet and its "
                "pruned twin disagree.",
                figures=[_confusion(shown, "clean"), _confusion(shown, "stamped")],
            ),
            Section("What this does not show", text=shown.card["limits"]),
        ],
    )


def _outcome(shown: Demonstration) -> str:
    before, after = shown.before, shown.after
    return (
        f"Attack success falls from {before.attack_success_rate:.1%} to "
        f"{after.attack_success_rate:.1%}; clean accuracy from {before.clean_accuracy:.1%} to "
        f"{after.clean_accuracy:.1%}. It took {shown.seconds:.0f} seconds."
    )


def _table(shown: Demonstration) -> list[tuple[str, ...]]:
    after = dict(shown.after.rows())
    header: list[tuple[str, ...]] = [("", "BadNet", "repaired")]
    return header + [(name, text, after[name]) for name, text in shown.before.rows()]


def _file(shown: Demonstration) -> list[tuple[str, ...]]:
    found, rows = shown.inspection, [("", "")]
    rows += [("verdict of inspect", found.verdict), ("SHA-256", str(found.sha256))]
    rows += [("format", f"{found.format}, Keras {found.keras_version}")]
    rows += [(p, f"{kind} {shape}, {n:,} weights") for p, kind, shape, n in found.layers]
    return rows  # type: ignore[return-value]


def _images(shown: Demonstration) -> Figure:
    pictures, reject = shown.pictures, shown.answer.reject_class

    def words(name: str) -> list[str]:
        pairs = zip(pictures[f"before_{name}"], pictures[f"after_{name}"], strict=True)
        return [f"{b} | {'rejected' if a == reject else a}" for b, a in pairs]

    grid = figures.picture_grid(
        [
            ("clean", pictures["clean"], words("clean")),
            ("with trigger", pictures["stamped"], words("stamped")),
        ]
    )
    return Figure("Above each image: answer of the BadNet | answer after the repair.", grid)


def _channels(shown: Demonstration) -> Figure:
    """The channels as the repair sees them, and how the trigger activates them."""
    channels = shown.answer.plots[0]
    both = {"clean": "activation", "with trigger": "with_trigger"}
    history = {**shown.answer.history, "with_trigger": shown.activation_stamped}
    return Figure(channels.caption, figures.draw_plot(replace(channels, series=both), history))


def _curve(shown: Demonstration) -> Figure:
    """Accuracy and attack over the number of silenced channels."""
    pruning = shown.answer.plots[1]
    both = {**pruning.series, "attack success of the pruned net": "attack"}
    history = {**shown.answer.history, "attack": shown.attack_by_silenced}
    picture = figures.draw_plot(replace(pruning, series=both), history)
    return Figure("Accuracy and attack over the number of silenced channels.", picture)


def _confusion(shown: Demonstration, name: str) -> Figure:
    key = "confusion" if name == "clean" else "confusion_stamped"
    matrices = {
        f"BadNet, {name} images": np.asarray(getattr(shown.before, key)),
        f"repaired, {name} images": np.asarray(getattr(shown.after, key)),
    }
    return Figure("Share of each label's images, in %.", figures.confusion_pair(matrices))
