"""Command line options shared by several commands."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from keras_backdoor.errors import BadInput

if TYPE_CHECKING:
    from keras_backdoor.network.classifier import Classifier
    from keras_backdoor.samples import Samples

DATA, EACH, MODEL, RESULT = "Data", "Data, if several kinds are given", "Model", "Result"
Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL", help="A model file (.h5 or .keras) or a saved answer with a model."
    ),
]
Architecture = Annotated[
    str | None,
    typer.Option(
        help="The architecture of a weights-only file (see 'methods').", rich_help_panel=MODEL
    ),
]
Classes = Annotated[
    int | None,
    typer.Option(help="The number of classes of a weights-only file.", rich_help_panel=MODEL),
]
Preprocess = Annotated[
    str | None,
    typer.Option(
        "--preprocess",
        "--input-range",
        metavar="TEXT",
        help="How pixels become the model's input: a range such as 0:1, 0:255 or -1:1; caffe, "
        "torch, tf, vggface or vggface2; or mean=M/M/M,scale=S. ',bgr' reverses the channels.",
        rich_help_panel=MODEL,
    ),
]
Split = Annotated[
    str | None,
    typer.Option(help="The split of the data to use: train or test.", rich_help_panel=DATA),
]
Take = Annotated[
    float | None,
    typer.Option(
        help="The number of images to use; a value below 1 is a fraction.", rich_help_panel=DATA
    ),
]


def split_of(kind: str) -> Any:
    """Return the type of the option for the split of one kind of evidence."""
    default = "test" if kind in ("incoming", "test") else "train"
    return Annotated[
        str | None,
        typer.Option(
            f"--{kind}-split",
            help=f"The split of --{kind} to use; by default {default}, if the data has it.",
            rich_help_panel=EACH,
        ),
    ]


def take_of(kind: str) -> Any:
    """Return the type of the option for the number of images of one kind of evidence."""
    return Annotated[
        float | None,
        typer.Option(
            f"--{kind}-take",
            help=f"The number of images of --{kind} to use; a value below 1 is a fraction.",
            rich_help_panel=EACH,
        ),
    ]


Seed = Annotated[
    int, typer.Option(help="The random seed for selecting images.", rich_help_panel=DATA)
]
Size = Annotated[
    str | None,
    typer.Option(
        metavar="HxW", help="Resize the images to this height and width.", rich_help_panel=DATA
    ),
]
Channels = Annotated[
    int | None,
    typer.Option(help="Convert the images to 1 (gray) or 3 channels.", rich_help_panel=DATA),
]
ClassNames = Annotated[
    str | None,
    typer.Option(
        metavar="a,b,c|FILE|text",
        help="The names of the class folders in the order of the model's classes: separated by "
        "commas, or a file with one name on each line; 'text' sorts them as Keras does (0, 1, 10).",
        rich_help_panel=DATA,
    ),
]
Key = Annotated[
    list[str] | None,
    typer.Option(
        "--key",
        metavar="COLUMN=NAME",
        help="The array of an .npz or HDF5 file with the images or labels; repeatable.",
        rich_help_panel=DATA,
    ),
]
Unlabelled = Annotated[
    bool,
    typer.Option(
        "--unlabelled",
        help="Ignore the labels, because they are not the classes of the model.",
        rich_help_panel=DATA,
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="A setting, for example epochs=3; repeatable."),
]
Out = Annotated[
    Path | None, typer.Option(help="The folder to save the answer in.", rich_help_panel=RESULT)
]
Force = Annotated[
    bool, typer.Option("--force", help="Overwrite existing output.", rich_help_panel=RESULT)
]
Json = Annotated[
    Path | None,
    typer.Option(
        "--json",
        help="Write the results to this JSON file; '-' is stdout (tables then go to stderr).",
        rich_help_panel=RESULT,
        allow_dash=True,
    ),
]
Sarif = Annotated[
    Path | None,
    typer.Option(
        help="Write the findings to this SARIF 2.1.0 file, which code hosts and CI read.",
        rich_help_panel=RESULT,
    ),
]
Report = Annotated[
    Path | None,
    typer.Option(help="Write a report with figures to this folder.", rich_help_panel=RESULT),
]
ValueRange = Annotated[
    str | None,
    typer.Option(
        metavar="A:B",
        help="The range of floating-point pixels, if it is not 0:1, -1:1 or 0:255.",
        rich_help_panel=DATA,
    ),
]
Trigger = Annotated[
    str | None,
    typer.Option(help="A trigger name:key=value,…, a preset (see 'methods') or a saved scan."),
]


def target_class(text: str) -> int | str:
    """The target class of a backdoor: a class number, or `next`."""
    if text == "next":
        return text
    try:
        return int(text)
    except ValueError:
        raise typer.BadParameter(f"a class number or 'next' is needed. Received: {text}") from None


Target = Annotated[
    Any,
    typer.Option(
        parser=target_class,
        metavar="INTEGER|next",
        help="The target class of the backdoor; 'next' if every class is mapped to the next one.",
    ),
]
Source = Annotated[
    int | None, typer.Option(help="The source class, if only one class is attacked.")
]


@dataclass(frozen=True)
class DataOptions:
    """The data selection options of the command line.

    Args:
        split: the split of the data, or None for the default split.
        take: the number of images, or a fraction below 1 of them; None uses all.
        seed: the random seed for selecting images.
        size: `HxW` to which images are resized, or None.
        channels: the number of channels to which images are converted, or None.
        unlabelled: whether labels are ignored.
        value_range: `A:B`, the range of floating-point pixels, or None.
        class_names: the names of the class folders, see `parse_class_names`, or None.
        keys: `COLUMN=NAME` texts that name arrays.
    """

    split: str | None = None
    take: float | None = None
    seed: int = 0
    size: str | None = None
    channels: int | None = None
    unlabelled: bool = False
    value_range: str | None = None
    class_names: str | None = None
    keys: tuple[str, ...] = ()

    def for_kind(self, split: str | None, take: float | None, several: bool) -> "DataOptions":
        """Return the options of one kind of evidence.

        The common options `--split` and `--take` apply only if one kind of evidence is given.

        Args:
            split: the split of this kind of evidence, or None.
            take: the number of images of this kind of evidence, or None.
            several: whether several kinds of evidence are given.

        Raises:
            BadInput: if a common option is used with several kinds of evidence.
        """
        if several and (self.split is not None or self.take is not None):
            raise BadInput(
                "With several kinds of data, pass an option for each kind, such as --clean-take or "
                "--train-split, instead of --take and --split."
            )
        return replace(
            self,
            split=self.split if split is None else split,
            take=self.take if take is None else take,
        )

    def words(self) -> list[str]:
        """The options that differ from the defaults, as words of a command line."""
        own = {
            "--split": self.split,
            "--take": None if self.take is None else f"{self.take:g}",
        }
        words = [w for name, v in own.items() if v is not None for w in (name, v)]
        return [*words, *self.common_words()]

    def common_words(self) -> list[str]:
        """The options that all kinds of evidence share, as words of a command line."""
        named = {
            "--seed": self.seed or None,
            "--size": self.size,
            "--channels": self.channels,
            "--value-range": self.value_range,
            "--class-names": self.class_names,
        }
        words = [w for name, v in named.items() if v is not None for w in (name, str(v))]
        words += [w for key in self.keys for w in ("--key", key)]
        return [*words, "--unlabelled"] if self.unlabelled else words

    def open(
        self, path: Path, prefer: str, model: "Classifier | None" = None, shape: Any = None
    ) -> "Samples":
        """Open the data and return the selected samples.

        Args:
            path: the path of the data.
            prefer: the split to use if no split is requested.
            model: the model that the images and labels have to fit, or None.
            shape: (height, width, channels) to which image files are converted; by default that of
                the model.
        """
        from keras_backdoor import datasets

        samples = datasets.open(
            path,
            split=self.split,
            prefer=prefer,
            size=parse_size(self.size) if self.size else None,
            channels=self.channels,
            fit=shape or (model and model.image_shape),
            value_range=parse_range(self.value_range),
            class_names=parse_class_names(self.class_names),
            classes=None if model is None or self.unlabelled else model.true_classes,
            keys=parse_keys(self.keys),
        )
        samples = samples.unlabelled() if self.unlabelled else samples
        return samples if self.take is None else samples.take(self.take, seed=self.seed)


def parse_class_names(text: str | None) -> tuple[str, ...] | str | None:
    """Parse the names of classes: `a,b,c`, the path of a file with a name a line, or `text`."""
    from keras_backdoor._safe.files import MAX_JSON
    from keras_backdoor.datasets.base import TEXT_ORDER

    if text is None or text == TEXT_ORDER:
        return text
    file = Path(text)
    if file.is_file():
        if file.stat().st_size > MAX_JSON:
            raise BadInput(f"{file} is too large for a file with class names.")
        try:
            lines = file.read_text(encoding="utf-8-sig").splitlines()
        except UnicodeDecodeError:
            raise BadInput(f"{file} is not a text file with class names.") from None
        names = tuple(line.strip() for line in lines if line.strip())
    else:
        names = tuple(name.strip() for name in text.split(","))
    if len(names) < 2 or len(set(names)) < len(names) or "" in names:
        raise BadInput(
            "--class-names is written a,b,c with different names, or names a file with one name a "
            f"line, or is 'text'. Received: {text}"
        )
    return names


def as_keys(texts: list[str] | None) -> tuple[str, ...]:
    """The texts of a repeatable option as a tuple."""
    return tuple(texts or ())


def parse_keys(texts: Sequence[str]) -> dict[str, str]:
    """Parse `COLUMN=NAME` texts."""
    pairs = [text.partition("=") for text in texts]
    if any(not (column and name) for column, _, name in pairs):
        raise BadInput(f"--key is written COLUMN=NAME, for example images=x. Received: {texts}")
    return {column: name for column, _, name in pairs}


def parse_range(text: str | None, option: str = "--value-range") -> tuple[float, float] | None:
    """Parse a range such as `0:255`; None stays None."""
    if text is None:
        return None
    try:
        low, high = (float(part) for part in text.split(":"))
    except ValueError:
        raise BadInput(f"{option} is written A:B, for example 0:255. Received: {text}") from None
    return low, high


def parse_size(text: str) -> tuple[int, int]:
    """Parse a size such as `55x47` into (height, width)."""
    try:
        height, width = (int(part) for part in text.lower().split("x"))
    except ValueError:
        raise BadInput(f"--size is written HxW, for example 55x47. Received: {text}") from None
    return height, width
