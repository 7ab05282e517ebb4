"""Options that several commands take."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from keras_backdoor.errors import BadInput

if TYPE_CHECKING:
    from keras_backdoor.samples import Samples

DATA, EACH, MODEL, RESULT = "Data", "Data, where several are given", "Model", "Result"
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


def split_of(kind: str) -> Any:
    """The option for the split of one kind of evidence."""
    default = "test" if kind == "incoming" else "train"
    return Annotated[
        str | None,
        typer.Option(
            f"--{kind}-split",
            help=f"Split of --{kind}; by default {default}, where there is one.",
            rich_help_panel=EACH,
        ),
    ]


def take_of(kind: str) -> Any:
    """The option for the number of images of one kind of evidence."""
    return Annotated[
        float | None,
        typer.Option(
            f"--{kind}-take",
            help=f"Use this many images of --{kind}, or this share below 1.",
            rich_help_panel=EACH,
        ),
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
Trigger = Annotated[
    str | None,
    typer.Option(help="name:key=value,… or a preset (see 'methods'), or a saved scan."),
]
Target = Annotated[int | None, typer.Option(help="The class that the backdoor serves.")]
Source = Annotated[int | None, typer.Option(help="The only class that is attacked.")]


@dataclass(frozen=True)
class DataOptions:
    """How data is chosen on the command line."""

    split: str | None = None
    take: float | None = None
    seed: int = 0
    size: str | None = None
    unlabelled: bool = False
    value_range: str | None = None

    def for_kind(self, split: str | None, take: float | None, several: bool) -> "DataOptions":
        """The options of one kind of evidence: its own, or the common ones where it is alone.

        Args:
            split: its own split, or None.
            take: its own number of images, or None.
            several: whether several kinds of evidence are given.

        Raises:
            BadInput: a common option with several kinds of evidence.
        """
        if several and (self.split is not None or self.take is not None):
            raise BadInput(
                "With several kinds of data say of which: --clean-take, --train-split and so on, "
                "in place of --take and --split."
            )
        return replace(
            self,
            split=self.split if split is None else split,
            take=self.take if take is None else take,
        )

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
