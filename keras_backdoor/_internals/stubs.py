"""Write the `.pyi` files of the packages whose members are discovered by file name.

Run `python -m keras_backdoor._internals.stubs` to write them. A test checks that they are up to
date.
"""

from pathlib import Path

from keras_backdoor._internals import discovery, public
from keras_backdoor._internals.public import HOMES

EXTRA = {
    "answers": "from keras_backdoor.answers._plots import Plot as Plot\n"
    "from keras_backdoor.answers.base import Answer as Answer\n"
    "from keras_backdoor.answers.base import load_answer as load_answer\n",
    "triggers": "from keras_backdoor.triggers._parse import PRESETS as PRESETS\n"
    "from keras_backdoor.triggers._parse import parse as parse\n",
    "studies": "from keras_backdoor.studies._engine.results import Results as Results\n"
    "from keras_backdoor.studies._engine.results import load_results as load_results\n"
    "from keras_backdoor.studies._engine.runner import run as run\n",
}
FOLDERS = (
    "answers", "architectures", "attacks", "defenses", "explanations", "studies", "triggers",
)  # fmt: skip
HEAD = "# Written by `python -m keras_backdoor._internals.stubs`; do not edit.\n"


def stub(folder: str) -> str:
    """The content of the stub of one package."""
    home = f"keras_backdoor.{folder}"
    lines = [HEAD]
    for key in discovery.keys(folder):
        name = discovery.load(folder, key).__name__
        lines.append(f"from {home}.{key} import {name} as {name}\n")
    return "".join([*lines, EXTRA.get(folder, "")])


def top() -> str:
    """The content of the stub of `keras_backdoor`."""
    lines = [HEAD, "from keras_backdoor import (\n"]
    modules = [name for name, home in HOMES.items() if not home]
    lines += [f"    {name} as {name},\n" for name in sorted(modules)] + [")\n"]
    for name, home in HOMES.items():
        if home:
            lines.append(f"from keras_backdoor.{home} import {name} as {name}\n")
    for folder in public.FOLDERS:
        for key in discovery.keys(folder):
            name = discovery.load(folder, key).__name__
            lines.append(f"from keras_backdoor.{folder}.{key} import {name} as {name}\n")
    return "".join(lines) + "\n__version__: str\n"


def files() -> dict[Path, str]:
    """The path and content of every stub."""
    root = Path(__file__).resolve().parents[1]
    packages = {root / folder / "__init__.pyi": stub(folder) for folder in FOLDERS}
    return {**packages, root / "__init__.pyi": top()}


if __name__ == "__main__":
    for path, content in files().items():
        path.write_text(content)
