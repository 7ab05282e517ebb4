"""Commands that read and convert files: inspect, export, methods, render and demo."""

from pathlib import Path
from typing import Annotated

import typer

from keras_backdoor.commands import console
from keras_backdoor.commands.opening import open_model, write_report
from keras_backdoor.commands.options import (
    Architecture,
    Classes,
    Force,
    Json,
    Model,
    Preprocess,
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
    """Show the contents of a model file without executing any code in it.

    The exit code is 0 if the file is safe to open, 1 if it is hostile and 2 if it cannot be read.
    """
    from keras_backdoor._safe.files import check_output, existing, write_json
    from keras_backdoor.loading import inspection

    existing(model, "model file")
    for path in filter(None, (json, report)):
        check_output(path, force=force)
    result = inspection.inspect_model(model, architecture=architecture, classes=classes)
    if json:
        write_json(json, result.as_dict())
    console.print_rows(result.path, result.rows())
    if result.layers:
        console.print_columns("layers", result.HEADER, result.layer_rows())
    if report:
        write_report(result, report, force)
    raise typer.Exit({"safe": 0, "hostile": 1}.get(result.verdict, 2))


def export(
    model: Model,
    out: Annotated[Path, typer.Option(help="The folder of the model for TensorFlow Serving.")],
    version: Annotated[int, typer.Option(help="The version number to write.")] = 1,
    architecture: Architecture = None,
    classes: Classes = None,
    preprocess: Preprocess = None,
    force: Force = False,
) -> None:
    """Export a SavedModel with the input 'images' and the outputs 'scores' and 'class'."""
    from keras_backdoor import serving

    classifier = open_model(model, architecture, classes, preprocess)
    folder = serving.export(classifier, out, version=version, force=force)
    console.print_rows(str(folder), [("input", "images"), ("outputs", "scores, class")])


def methods(
    name: Annotated[
        str | None, typer.Argument(help="The method, trigger or architecture to describe.")
    ] = None,
) -> None:
    """List methods, triggers, architectures and data layouts, or the settings of one entry."""
    from keras_backdoor.commands import catalogue

    for title, rows in catalogue.describe(name):
        console.print_rows(title, rows)


def render(
    folder: Annotated[Path, typer.Argument(help="The folder of a saved answer.")],
    out: Annotated[Path, typer.Option(help="The folder to write the report to.")],
    force: Force = False,
) -> None:
    """Write the report of a saved answer as HTML and Markdown with figures."""
    from keras_backdoor.answers import load_answer

    write_report(load_answer(folder), out, force)


def demo(
    out: Annotated[
        Path, typer.Option(help="The folder for the report and the repaired model.")
    ] = Path("demo"),
    force: Force = False,
) -> None:
    """Inspect, measure and repair a bundled BadNet model, and write a report."""
    from keras_backdoor.commands.demo import show

    show.main(out, force=force)
