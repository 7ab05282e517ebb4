"""The folder of a check: what an earlier check left there, and what may be replaced."""

import json
import shutil
from collections.abc import Collection
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from keras_backdoor._safe.files import check_output
from keras_backdoor.errors import BadInput

CLAIMS = ("page", "check.json")
"""What says the decision; it is removed before anything else changes."""
RESULTS = ("audit", "scan", "repaired", "scan-again", "serving", *CLAIMS)
"""What a check writes to its folder, beside the work folder."""
MARK = "work/of-a-check"
"""The file that marks the folder of a check, with what was asked."""


@dataclass(frozen=True)
class Asked:
    """What a check was asked.

    Attributes:
        model: the SHA-256 hash of the model file.
        opening: the words that say how the model is opened.
        data: kind of data -> its path and the options that select from it, as text.
        quick: whether only a first answer is wanted.
        repair: whether the model is repaired even if nothing is found.
    """

    model: str
    opening: list[str]
    data: dict[str, str]
    quick: bool
    repair: bool

    def beyond(self, earlier: Any) -> str:
        """Why a check does not go on where an earlier one was; empty if it does.

        It goes on if it asks at least what the earlier one asked. So data may be added, a quick
        check may become a whole one, and a repair may be asked for.

        Args:
            earlier: the JSON values of the earlier `Asked`.
        """
        try:
            before = Asked(**earlier)
        except TypeError:
            return "of another version of this package"
        if before.model != self.model or before.opening != self.opening:
            return "of another model, or of one that was opened otherwise"
        other = [f"--{kind}" for kind, path in before.data.items() if self.data.get(kind) != path]
        if other:
            return f"with other data ({', '.join(other)})"
        more = {"more than --quick": self.quick and not before.quick,
                "--repair": before.repair and not self.repair}  # fmt: skip
        return next((f"that did {name}" for name, dropped in more.items() if dropped), "")


def check_folder(out: Path, asked: Asked, *, force: bool) -> None:
    """Raise `BadInput` if a check must not write to a folder."""
    mark = out / MARK
    if not mark.is_file():
        check_output(out, force=force, folder=True)
    elif not force and (why := asked.beyond(_earlier(out))):
        raise BadInput(
            f"{out} exists already, with a check {why}: choose another folder, or pass --force to "
            "replace its results. What it has computed is kept for checks of the same."
        )


def start(out: Path, asked: Asked) -> None:
    """Mark the folder, and remove the results of an earlier check.

    If the same was asked, only its decision is removed: the others are replaced one by one.
    """
    same = (out / MARK).is_file() and _earlier(out) == asdict(asked)
    remove(out, CLAIMS if same else RESULTS)
    (out / MARK).parent.mkdir(parents=True, exist_ok=True)
    (out / MARK).write_text(json.dumps(asdict(asked)))


def remove(out: Path, names: Collection[str]) -> None:
    """Remove some results of an earlier check."""
    for name in names:
        path = out / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _earlier(out: Path) -> Any:
    """What an earlier check was asked, as JSON values; None if that cannot be read."""
    try:
        return json.loads((out / MARK).read_text())
    except ValueError:
        return None
