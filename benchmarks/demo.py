"""The figures of the demo, as the README shows them."""

import json
import tempfile
from pathlib import Path

from _common import RESULTS

from keras_backdoor import demo
from keras_backdoor._files import write_json


def main() -> None:
    """Run the demo and keep its figures."""
    with tempfile.TemporaryDirectory() as folder:
        demo.main(Path(folder) / "demo")
        figures = json.loads((Path(folder) / "demo" / "figures.json").read_text())
    write_json(RESULTS / "demo.json", {"command": "python benchmarks/demo.py", **figures})


if __name__ == "__main__":
    main()
