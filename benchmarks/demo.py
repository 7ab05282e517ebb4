"""Measure the figures of the demo that the README shows."""

import json
import tempfile
from pathlib import Path

from _common import RESULTS

from keras_backdoor._safe.files import write_json
from keras_backdoor.commands.demo import show


def main() -> None:
    """Run the demo and store its figures."""
    with tempfile.TemporaryDirectory() as folder:
        show.main(Path(folder) / "demo")
        figures = json.loads((Path(folder) / "demo" / "figures.json").read_text())
    write_json(RESULTS / "demo.json", {"command": "python benchmarks/demo.py", **figures})


if __name__ == "__main__":
    main()
