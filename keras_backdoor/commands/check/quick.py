"""The scan of a quick check: the looks that take about a minute each on this machine."""

import time
from dataclasses import replace
from typing import Any

from keras_backdoor.defenses.neural_cleanse import NeuralCleanse, Schedule
from keras_backdoor.defenses.simple_triggers import SimpleTriggers, drawn_number, trigger_number
from keras_backdoor.defenses.staged_scan import StagedScan
from keras_backdoor.network.classifier import Classifier
from keras_backdoor.progress import duration, tell
from keras_backdoor.samples import Samples

QUICK_SECONDS = 60.0
"""The time that a look may take; simple triggers on ten images take up to twice that."""
QUICK = NeuralCleanse.quick
PASSES = 80 * 1.5 * 32 * 3
"""The forward passes that the search of a class costs.

80 steps, one start and a half on average, 32 images, and three times a forward pass for a step."""


def quick_scan(model: Classifier, clean: Samples) -> tuple[StagedScan, tuple[str, ...]]:
    """The looks that take about a minute each, and the options that choose them."""
    usual = SimpleTriggers()
    images = clean.take(min(usual.images, len(clean)), seed=0)
    model.predict(images)  # builds the graph
    start = time.perf_counter()
    model.predict(images)
    seconds = (time.perf_counter() - start) / len(images)
    tried = trigger_number(images)
    settings: dict[str, Any] = {"triggers": "none", "search": "none"}
    triggers, number = None, affordable_images(seconds, tried, model.classes)
    if number is None:
        tell("simple triggers: left out, they would take more than two minutes")
    else:
        drawn = min(drawn_number(number, model.classes), len(clean))
        tell(f"simple triggers: about {_about(seconds * drawn * tried)} with {drawn} images")
        triggers = replace(usual, images=number)
        settings = {"triggers.images": number, "search": "none"}
    search, long = None, seconds * PASSES * model.classes
    if long > QUICK_SECONDS:
        tell(f"search for triggers: left out, it would take about {_about(long)}")
    else:
        tell(f"search for triggers: about {_about(long)}")
        plan: Schedule = QUICK["schedule"]
        search = NeuralCleanse(runs=1, images=QUICK["images"], schedule=plan)
        del settings["search"]
        settings |= {"search.runs": 1, "search.images": search.images,
                     "search.schedule.steps": plan.steps,
                     "search.schedule.starts": plan.starts}  # fmt: skip
    words = tuple(w for name, value in settings.items() for w in ("--set", f"{name}={value}"))
    return StagedScan(search=search, triggers=triggers), words


def _about(seconds: float) -> str:
    return duration(max(1.0, seconds))


def affordable_images(seconds: float, triggers: int, classes: int) -> int | None:
    """The number of images on which triggers are tried in a quick check, or None for none.

    Args:
        seconds: the time that the network takes for an image.
        triggers: the number of triggers.
        classes: the number of classes; with many, up to twice as many images are drawn.

    >>> [affordable_images(s, 3000, 10) for s in (1e-4, 1e-3, 3e-3, 1e-2)]
    [48, 20, 10, None]
    >>> [affordable_images(s, 3000, 43) for s in (1e-4, 1e-3, 3e-3)]
    [48, 10, None]
    """
    usual, fewest = SimpleTriggers().images, 10
    possible = int(QUICK_SECONDS / (seconds * triggers))
    if 2 * possible < drawn_number(fewest, classes):
        return None
    affordable = (n for n in (20, usual) if drawn_number(n, classes) <= possible)
    return max(affordable, default=fewest)
