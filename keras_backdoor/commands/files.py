"""Commands on a file: what is in it, and what it is written as."""

from pathlib import Path
from typing import Annotated

import typer

from keras_backdoor.commands import console
from keras_backdoor.commands.opening import open_model, write_report
from keras_backdoor.commands.options import (
    Architecture,
    Classes,
    Force,
    InputRange,
    Json,
    Model,
    Report,
)


def inspect(
    model: Model,
    architecture: Architecture = None,
    classes: Classes = None,
    json: Json = None,
    report: Report = None,
    force: Force = False,
) -> None:
    """Say what is in a model file, without running anything of it.

    Exit code 0 clean, 1 hostile, 2 unreadable.
    """
    from keras_backdoor._safe.files import check_output, existing, write_json
    from keras_backdoor.loading import inspection

    existing(model, "model file")
    for path in filter(None, (json, report)):
        check_output(path, force=force)
    found = inspection.inspect_model(model, architecture=architecture, classes=classes)
    if json:
        write_json(json, found.as_dict())
    console.print_rows(found.path, found.rows())
    if found.layers:
        console.print_columns("layers", found.HEADER, found.layer_rows())
    if report:
        write_report(found, report, force)
    raise typer.Exit({"clean": 0, "hostile": 1, "unreadable": 2}[found.verdict])


def export(
    model: Model,
    out: Annotated[Path, typer.Option(help="The model's folder for TensorFlow Serving.")],
    version: Annotated[int, typer.Option(help="Version that is written.")] = 1,
    architecture: Architecture = None,
    classes: Classes = None,
    input_range: InputRange = None,
    force: Force = False,
) -> None:
    """Write a SavedModel with a named input (images) and outputs (scores, class)."""
    from keras_backdoor import serving

    classifier = open_model(model, architecture, classes, input_range)
    folder = serving.export(classifier, out, version=version, force=force)
    console.print_rows(str(folder), [("input", "images"), ("outputs", "scores, class")])


def methods(
    name: Annotated[str | None, typer.Argument(help="A method, trigger or architecture.")] = None,
) -> None:
    """List methods, triggers, architectures and layouts, or the settings of one."""
    from keras_backdoor.commands import catalogue

    for title, rows in catalogue.describe(name):
        console.print_rows(title, rows)


def render(
    folder: Annotated[Path, typer.Argument(help="A saved answer.")],
    out: Annotated[Path, typer.Option(help="Where the page is written.")],
    force: Force = False,
) -> None:
    """Write the page (HTML, Markdown, figures) of a saved answer."""
    from keras_backdoor.answers import load_answer

    write_report(load_answer(folder), out, force)


def demo(
    out: Annotated[Path, typer.Option(help="Where the page and the repaired model go.")] = Path(
        "demo"
    ),
    force: Force = False,
) -> None:
    """Inspect, measure and repair a real BadNet, and show it on a page."""
    from keras_backdoor.commands.demo import show

    show.main(out, force=force)
