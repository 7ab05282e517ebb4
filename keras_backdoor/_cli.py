"""What the commands share: option types, opening models and data, printing and exit codes."""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from keras_backdoor import _discovery, _settings
from keras_backdoor.errors import BadInput

if TYPE_CHECKING:
    from keras_backdoor.classifier import Classifier
    from keras_backdoor.samples import Samples

NOTHING, FOUND, ERROR, INCONCLUSIVE = 0, 1, 2, 3
INTERRUPTED = 130
"""What Typer makes of Ctrl-C."""
EXIT = {"nothing": NOTHING, "repaired": NOTHING, "found": FOUND, "inconclusive": INCONCLUSIVE}
out = Console(highlight=False)

DATA, MODEL, RESULT = "Data", "Model", "Result"
Model = Annotated[
    str, typer.Argument(metavar="MODEL", help="Model file (.h5, .keras) or saved answer.")
]
Architecture = Annotated[
    str | None,
    typer.Option(
        help="Architecture of a weights-only file (see 'methods').", rich_help_panel=MODEL
    ),
]
Classes = Annotated[
    int | None, typer.Option(help="Classes of a weights-only file.", rich_help_panel=MODEL)
]
InputRange = Annotated[
    str | None,
    typer.Option(
        metavar="A:B", help="Pixel range of the model: 0:1, 0:255, -1:1.", rich_help_panel=MODEL
    ),
]
Split = Annotated[
    str | None, typer.Option(help="Split of the data: train or test.", rich_help_panel=DATA)
]
Take = Annotated[
    float | None,
    typer.Option(help="Use this many images, or this share below 1.", rich_help_panel=DATA),
]
Seed = Annotated[int, typer.Option(help="Seed of the choice of images.", rich_help_panel=DATA)]
Size = Annotated[
    str | None,
    typer.Option(metavar="HxW", help="Fit pictures to this size.", rich_help_panel=DATA),
]
Unlabelled = Annotated[
    bool,
    typer.Option(
        "--unlabelled",
        help="Ignore the labels: they are not the model's classes.",
        rich_help_panel=DATA,
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="A setting of the method; repeatable."),
]
Out = Annotated[
    Path | None, typer.Option(help="Where the result is written.", rich_help_panel=RESULT)
]
Force = Annotated[
    bool, typer.Option("--force", help="Replace what is there.", rich_help_panel=RESULT)
]
Json = Annotated[
    Path | None, typer.Option("--json", help="Write the figures as JSON.", rich_help_panel=RESULT)
]
Report = Annotated[
    Path | None, typer.Option(help="Write a page with pictures there.", rich_help_panel=RESULT)
]


ValueRange = Annotated[
    str | None,
    typer.Option(
        metavar="A:B",
        help="Range of floating pixels, where it is none of 0:1, -1:1, 0:255.",
        rich_help_panel=DATA,
    ),
]


@dataclass(frozen=True)
class DataOptions:
    """How data is chosen on the command line."""

    split: str | None = None
    take: float | None = None
    seed: int = 0
    size: str | None = None
    unlabelled: bool = False
    value_range: str | None = None

    def open(self, path: Path, shape: Sequence[int | None] | None, prefer: str) -> "Samples":
        """The chosen samples.

        Args:
            path: the data.
            shape: (height, width, channels) that pictures are fitted to, or None.
            prefer: the split that is taken where none is asked for.
        """
        from keras_backdoor import datasets

        height, width, channels = shape or (None, None, None)
        samples = datasets.open(
            path,
            split=self.split,
            prefer=prefer,
            size=parse_size(self.size) if self.size else None,
            fit=(height, width) if height and width else None,
            channels=channels,
            value_range=parse_range(self.value_range, "--value-range"),
        )
        samples = samples.unlabelled() if self.unlabelled else samples
        return samples if self.take is None else samples.take(self.take, seed=self.seed)


def parse_range(text: str | None, option: str = "--input-range") -> tuple[float, float] | None:
    """`0:255` as numbers."""
    if text is None:
        return None
    try:
        low, high = (float(part) for part in text.split(":"))
    except ValueError:
        raise BadInput(f"{option} is written A:B, for example 0:255. Received: {text}") from None
    return low, high


def parse_size(text: str) -> tuple[int, int]:
    """`55x47` as (height, width)."""
    try:
        height, width = (int(part) for part in text.lower().split("x"))
    except ValueError:
        raise BadInput(f"--size is written HxW, for example 55x47. Received: {text}") from None
    return height, width


def open_model(
    path: str, architecture: str | None, classes: int | None, input_range: str | None
) -> "Classifier":
    """The classifier of a model file, or of a saved answer that has a model."""
    from keras_backdoor.loading import load_model

    file = Path(path)
    if (file / "answer.json").is_file() and (file / "model.keras").is_file():
        file = file / "model.keras"
    return load_model(
        file, architecture=architecture, classes=classes, input_range=parse_range(input_range)
    )


def open_trigger(text: str) -> Any:
    """A trigger from its specification, or the most suspicious one of a saved scan."""
    from keras_backdoor.triggers._parse import parse

    folder = Path(text.partition("#")[0])
    if not (folder / "answer.json").is_file():
        return parse(text)
    from keras_backdoor.answers import FlaggedClasses, load_answer

    answer = load_answer(folder)
    if not isinstance(answer, FlaggedClasses) or not answer.triggers:
        raise BadInput(f"The answer in {folder} has no triggers.")
    chosen = text.partition("#")[2]
    number = (
        int(chosen) if chosen.isdigit() else max(answer.triggers, key=lambda c: answer.scores[c])
    )
    if number not in answer.triggers:
        raise BadInput(f"The answer in {folder} has no trigger for class {number}.")
    return answer.triggers[number]


def open_attack(
    trigger: str | None,
    target: int | None,
    classes: int,
    *,
    source: int | None = None,
    needs: object = True,
) -> Any:
    """The trigger of an attack that is to be measured, checked before long work starts."""
    if trigger is None:
        if target is not None or source is not None:
            raise BadInput("--target and --source speak of an attack: pass --trigger too.")
        return None
    if not needs:
        raise BadInput("--trigger is measured on test data: pass --test too.")
    stamp = open_trigger(trigger)
    if target is None or not 0 <= target < classes:
        raise BadInput(
            f"A trigger is measured with a target class in 0..{classes - 1}. "
            f"Received: target={target}"
        )
    return stamp


def methods_of(command: str) -> dict[str, Any]:
    """Word -> class of the methods that answer to a command."""
    found = {}
    for folder in ("defenses", "explanations"):
        for key in _discovery.keys(folder):
            cls = _discovery.load(folder, key)
            if command in cls.commands:
                found[_discovery.word(key)] = cls
    return found


def choose_method(command: str, method: str | None, settings: list[str] | None) -> Any:
    """The method of a command with its settings."""
    found = methods_of(command)
    if not found:
        raise BadInput(f"No method for '{command}' is installed; 'methods' lists what there is.")
    if method is None:
        defaults = [w for w, cls in found.items() if command in cls.default_for]
        method = (defaults or list(found))[0]
    if method not in found:
        raise BadInput(f"'{command}' has no method '{method}'; it has: {', '.join(found)}.")
    return _settings.build(found[method], _settings.parse_pairs(settings or []))


def safe(text: str) -> str:
    """Text that may come from a stranger's file: control characters and markup made visible."""
    return escape("".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text))


def print_rows(title: str, rows: list[tuple[str, str]]) -> None:
    """A two-column table; text that comes from files is escaped."""
    table = Table(title=safe(title), show_header=False, title_justify="left", box=None)
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(safe(name), safe(value))
    out.print(table)


def print_columns(title: str, header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    """A table with a header."""
    table = Table(title=escape(title) or None, title_justify="left", box=None)
    for place, name in enumerate(header):
        table.add_column(
            escape(name),
            justify="right" if name else "left",
            no_wrap=not (place or name),
            overflow="fold",
        )
    for row in rows:
        table.add_row(*map(safe, row))
    out.print(table)


@contextmanager
def one_sentence() -> Iterator[None]:
    """Errors of the user's input end the program with one sentence on stderr and exit code 2."""
    try:
        yield
    except BadInput as error:
        fail(str(error))
    except (KeyboardInterrupt, typer.Abort):
        say(
            "Interrupted; no half-written file is left, and what was finished is used next time "
            "(train: --checkpoint; methods: --workdir; study: its cache)."
        )
        # Threads that feed the model may be inside Python: leaving in the ordinary way while they
        # run can crash the interpreter after everything is in order.
        os._exit(ERROR)
    except BrokenPipeError:
        sys.exit(ERROR)
    except MemoryError:
        fail("Not enough memory: use fewer images (--take) or a smaller model.")
    except OSError as error:
        fail(f"{error.strerror or error}: {error.filename or ''}")
    except Exception as error:
        if hasattr(error, "show"):
            error.show()
            sys.exit(ERROR)
        if os.environ.get("KERAS_BACKDOOR_DEBUG"):
            raise
        text = " ".join(str(error).split())[:300]
        fail(f"{type(error).__name__}: {text} (KERAS_BACKDOOR_DEBUG=1 shows where).")


def say(message: str) -> None:
    """One sentence on stderr."""
    Console(stderr=True, highlight=False).print(f"Error: {safe(message)}", soft_wrap=True)
    sys.stdout.flush()
    sys.stderr.flush()


def fail(message: str) -> NoReturn:
    """Say what is wrong and stop."""
    say(message)
    sys.exit(ERROR)
