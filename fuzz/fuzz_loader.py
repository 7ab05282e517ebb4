"""Open mutated model files: each opens or is refused in one sentence, in bounded time and memory.

`python fuzz/fuzz_loader.py --count 100000` runs the loader in separate processes, so that a crash
of the HDF5 library is detected and reported. `--only NUMBER` reproduces a mutation by its number.
"""

import argparse
import gc
import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

os.environ.setdefault("KERAS_BACKDOOR_QUIET", "1")
sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(1, str(Path(__file__).resolve().parent.parent / "tests"))

from memory import peak_kilobytes
from mutations import mutant

SECONDS, GROWN, MEGABYTES = 20.0, 500, 3000
"""Limits: seconds and growth of the peak memory (MB) per mutation, and total MB per process."""
WARM = 700 * 1024
"""Kilobytes of resident memory of a process that has imported TensorFlow."""


def try_one(number: int, folder: Path) -> str:
    """Open one mutation and return "opened" or "refused".

    Raises:
        AssertionError: the mutation exceeds a limit, or its error message is empty or too long.
        Exception: any other error of the loader.
    """
    from keras_backdoor.errors import BadInput
    from keras_backdoor.loading import load_model
    from keras_backdoor.network.classifier import Classifier

    name, content = mutant(number)
    path = folder / name
    path.write_bytes(content)
    start, before = time.perf_counter(), max(peak_kilobytes(), WARM)
    try:
        outcome = "opened" if isinstance(load_model(path), Classifier) else "strange"
    except BadInput as error:
        if not str(error) or len(str(error)) > 2000:
            raise AssertionError(
                f"mutation {number}: the message is empty or too long: {error!r:.200}"
            ) from error
        outcome = "refused"
    seconds = time.perf_counter() - start
    grown = (peak_kilobytes() - before) / 1024
    assert grown < GROWN, f"mutation {number} took {grown:.0f} MB"
    assert seconds < SECONDS, f"mutation {number} took {seconds:.1f} seconds"
    return outcome


def work(start: int, stop: int) -> dict[str, int]:
    """Open the mutations of a range of numbers in this process and count the outcomes."""
    from keras_backdoor._internals.backend import keras

    counts = {"opened": 0, "refused": 0}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(start, stop):
            print(number, file=sys.stderr, flush=True)
            counts[try_one(number, Path(folder))] += 1
            if number % 100 == 99:
                keras.backend.clear_session()
                gc.collect()
    peak = peak_kilobytes() // 1024
    assert peak < MEGABYTES, f"the process used {peak} MB"
    return {**counts, "peak_mb": peak}


def stretch(begin: int, stop: int) -> dict[str, int]:
    """Open a range of mutations in a separate process; a new process continues after a failure."""
    totals = {"opened": 0, "refused": 0, "peak_mb": 0, "failed": 0}
    while begin < stop:
        limit = ["timeout", str(3 * (stop - begin) + 300)]
        done = subprocess.run(
            [*limit, sys.executable, __file__, "--work", str(begin), str(stop)],
            capture_output=True,
            text=True,
        )
        if done.returncode == 0:
            result = json.loads(done.stdout.splitlines()[-1])
            totals["opened"] += result["opened"]
            totals["refused"] += result["refused"]
            totals["peak_mb"] = max(totals["peak_mb"], result["peak_mb"])
            return totals
        lines = done.stderr.splitlines()
        number = next((int(n) for n in reversed(lines) if n.isdecimal()), begin)
        text = " ".join(lines[-3:])[:500]
        print(f"mutation {number} failed ({done.returncode}): {text}", flush=True)
        totals["failed"] += 1
        begin = number + 1
    return totals


def main() -> int:
    """Open all mutations; print and record the outcomes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--start", type=int, default=0)
    parser.add_argument("--stretch", type=int, default=2000)
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--out", type=Path, help="The JSON file that the totals are written to.")
    parser.add_argument("--only", type=int)
    parser.add_argument("--work", type=int, nargs=2)
    options = parser.parse_args()
    if options.only is not None:
        options.work = (options.only, options.only + 1)
    if options.work:
        print(json.dumps(work(*options.work)))
        return 0
    end = options.start + options.count
    begins = range(options.start, end, options.stretch)
    totals = {"opened": 0, "refused": 0, "failed": 0, "peak_mb": 0}
    with ThreadPoolExecutor(options.processes) as pool:
        parts = pool.map(lambda b: stretch(b, min(b + options.stretch, end)), begins)
        for done, part in enumerate(parts, start=1):
            for key in ("opened", "refused", "failed"):
                totals[key] += part[key]
            totals["peak_mb"] = max(totals["peak_mb"], part["peak_mb"])
            print(f"{done * options.stretch} of {options.count}: {totals}", flush=True)
    if options.out:
        from keras_backdoor._safe.files import write_json

        command = f"python fuzz/fuzz_loader.py --count {options.count} --start {options.start}"
        text = (
            f"{totals['opened']:,} opened, {totals['refused']:,} refused in a sentence, "
            f"{totals['failed']} crashed, hung or took memory"
        )
        write_json(
            options.out,
            {
                "command": command,
                "figures": totals,
                "table": {f"{options.count:,} mutated model files through the loader": text},
            },
        )
    return 1 if totals["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
