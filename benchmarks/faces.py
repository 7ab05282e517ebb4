"""Measure an epoch of DeepID over data as large as YouTube Faces, and the cost of provenance there.

The thesis trains DeepID on 529,172 images for ten epochs, and gave up the provenance defense after
six hours. A process trains one epoch over a generated HDF5 file of that size and reports images per
second and its peak memory. Provenance is run on parts of the data; the cost at full size follows
from the line through the measured times. The benchmark temporarily needs about 6 GB of disk.
"""

import json
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from _common import record
from streaming import generate

IMAGES, EPOCHS = 529_172, 10
PARTS = (13_000, 26_000)
"""Numbers of images that provenance is measured on."""
CAMERAS = 4


def epoch(path: Path) -> dict[str, float]:
    """Train one epoch; images per second and peak memory in bytes."""
    from keras_backdoor import datasets
    from keras_backdoor.architectures import DeepID
    from keras_backdoor.training import PRESETS, fit

    datasets.base.MEMORY_LIMIT = 0  # the file stays on disk
    samples = datasets.open(path)
    recipe = replace(PRESETS["thesis-deepid"], epochs=1)
    start = time.perf_counter()
    fit(DeepID, samples, recipe)
    seconds = time.perf_counter() - start
    return {
        "images": len(samples),
        "seconds": seconds,
        "images_per_second": len(samples) / seconds,
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def provenance(path: Path) -> dict[str, dict[str, float]]:
    """Seconds of provenance with both criteria, by number of images."""
    from keras_backdoor import datasets
    from keras_backdoor.architectures import DeepID
    from keras_backdoor.defenses import Provenance
    from keras_backdoor.network.classifier import Classifier
    from keras_backdoor.training import PRESETS

    short = replace(PRESETS["thesis-deepid"], epochs=1)
    methods = {"ours": Provenance(), "paper": Provenance.preset("paper", recipe=short)}
    model = Classifier(DeepID(), preprocess=(0, 1))
    seconds: dict[str, dict[str, float]] = {name: {} for name in methods}
    for number in PARTS:
        samples = datasets.open(path).subset(np.arange(number))
        # Ten images a class or more are needed, so fewer people than in the whole file.
        people = number // 100
        origin = np.random.default_rng(0).integers(0, CAMERAS, number)
        part = replace(samples, labels=samples.known_labels % people, origin=origin)
        for name, method in methods.items():
            start = time.perf_counter()
            method(model, train=part)
            seconds[name][str(number)] = time.perf_counter() - start
    return seconds


def at_full_size(seconds: dict[str, float]) -> float:
    """The seconds at the size of YouTube Faces, on the line through the measured times."""
    numbers = np.array([float(n) for n in seconds])
    slope, base = np.polyfit(numbers, list(seconds.values()), 1)
    return float(base + slope * IMAGES)


def main() -> None:
    """Generate the data, measure both in processes of their own, and record the results."""
    figures = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "faces.h5"
        generate(path, IMAGES)
        for what in ("epoch", "provenance"):
            done = subprocess.run(
                [sys.executable, __file__, what, str(path)],
                check=True,
                capture_output=True,
                text=True,
            )
            figures[what] = json.loads(done.stdout.splitlines()[-1])
    measured = figures["epoch"]
    hours = {name: at_full_size(s) / 3600 for name, s in figures["provenance"].items()}
    figures["hours_at_full_size"] = {
        "recipe of the thesis": EPOCHS * measured["seconds"] / 3600,
        **hours,
    }
    table = {
        "an epoch of DeepID over 529,172 images of 55x47x3 from HDF5": (
            f"{measured['images_per_second']:,.0f} images/s, "
            f"{measured['peak_bytes'] / 1e9:.2f} GB at most; the ten epochs of the thesis "
            f"{EPOCHS * measured['seconds'] / 3600:.1f} h"
        ),
        "provenance at that size, from 13,000 and 26,000 images": (
            f"{hours['ours']:.1f} h; with the criterion of the paper and one epoch a training "
            f"{hours['paper']:.1f} h"
        ),
    }
    record("faces_speed", "python benchmarks/faces.py", figures, table)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(
            json.dumps({"epoch": epoch, "provenance": provenance}[sys.argv[1]](Path(sys.argv[2])))
        )
    else:
        main()
