"""Measure the peak memory of a pass over an HDF5 file as large as YouTube Faces, and a tenth of it.

For 600,000 and 60,000 generated images of 55x47x3 (gzip chunks), a separate process computes the
accuracy and writes the features to disk; the operating system reports its peak resident memory.
The benchmark temporarily needs about 6 GB of disk.
"""

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import h5py
import numpy as np
from _common import record

SIZES = (60_000, 600_000)
CHUNK = 256


def generate(path: Path, count: int) -> None:
    """Write smooth random images, which compress about as well as photographs."""
    rng = np.random.default_rng(0)
    tiles = rng.integers(0, 256, (CHUNK, 14, 12, 3), dtype=np.uint8)
    big = tiles.repeat(4, axis=1).repeat(4, axis=2)[:, :55, :47]
    with h5py.File(path, "w") as file:
        images = file.create_dataset(
            "X_test",
            (count, 55, 47, 3),
            np.uint8,
            chunks=(CHUNK, 55, 47, 3),
            compression="gzip",
            compression_opts=1,
        )
        for start in range(0, count, CHUNK):
            stop = min(start + CHUNK, count)
            noise = rng.integers(0, 8, (stop - start, 55, 47, 3), dtype=np.uint8)
            images[start:stop] = (big[: stop - start] & 0xF8) + noise
        file["Y_test"] = rng.integers(0, 1283, count)


def work(path: Path, out: Path) -> None:
    """Compute the accuracy, write the features to disk and print the peak memory."""
    from keras_backdoor import datasets
    from keras_backdoor.architectures import DeepID
    from keras_backdoor.metrics import clean_accuracy
    from keras_backdoor.network import activations
    from keras_backdoor.network.classifier import Classifier

    datasets.base.MEMORY_LIMIT = 0  # both sizes stay on disk, for a fair comparison
    samples = datasets.open(path)
    classifier = Classifier(DeepID(), preprocess=(0, 255))
    start = time.perf_counter()
    accuracy = clean_accuracy(classifier.predict(samples), samples.labels)
    features = activations.features(classifier, samples, "activation_1", out=out)
    print(
        json.dumps(
            {
                "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
                "seconds": time.perf_counter() - start,
                "accuracy": float(accuracy),
                "features": list(features.shape),
            }
        )
    )


def main() -> None:
    """Generate and measure both sizes, and record the results."""
    figures = {}
    with tempfile.TemporaryDirectory() as folder:
        for count in SIZES:
            path, out = Path(folder) / "faces.h5", Path(folder) / "features.npy"
            generate(path, count)
            done = subprocess.run(
                [sys.executable, __file__, str(path), str(out)],
                check=True,
                capture_output=True,
                text=True,
            )
            figures[str(count)] = json.loads(done.stdout.splitlines()[-1])
            figures[str(count)]["file_bytes"] = path.stat().st_size
            path.unlink()
            out.unlink()
    small, large = (figures[str(count)]["peak_bytes"] for count in SIZES)
    table = {
        "peak memory over 600,000 images 55x47x3 from HDF5, accuracy and features to disk": (
            f"{large / 1e9:.2f} GB, {large / small:.2f} times that over 60,000"
        )
    }
    record("streaming", "python benchmarks/streaming.py", figures, table)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        work(Path(sys.argv[1]), Path(sys.argv[2]))
    else:
        main()
