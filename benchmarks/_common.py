"""Shared parts of the benchmarks: the folder of the results and the description of the machine."""

import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from keras_backdoor._safe.files import write_json

RESULTS = Path(__file__).resolve().parent.parent / "results"


def record(name: str, command: str, figures: dict[str, Any], table: dict[str, str]) -> None:
    """Write `results/<name>.json` and print its table."""
    machine = {
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "python": platform.python_version(),
    }
    content = {"command": command, "machine": machine, "figures": figures, "table": table}
    write_json(RESULTS / f"{name}.json", content)
    for key, text in table.items():
        print(f"{key}: {text}", file=sys.stdout)


def in_turn(functions: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """The median time of each function; they are called in turn, once without timing."""
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for number in range(rounds + 1):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            if number:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}
