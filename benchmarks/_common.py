"""Shared parts of the benchmarks: the folder of the results and the description of the machine."""

import os
import platform
import sys
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
