"""Commands that read and convert files: inspect, export, methods, render and demo."""

from pathlib import Path
from typing import Annotated, Any

import typer

from keras_backdoor.commands import console
from keras_backdoor.commands.judging import SCHEMA
from keras_backdoor.commands.opening import open_model, write_report
from keras_backdoor.commands.options import (
    Architecture,
    Classes,
    Force,
    Json,
    Model,
    Preprocess,
    Report,
    Sarif,
)
from keras_backdoor.errors import BadInput


def inspect(
    model: Model,
    architecture: Architecture = None,
    classes: Classes = None,
    json: Json = None,
    report: Report = None,
    sarif: Sarif = None,
    force: Force = False,
) -> None:
    """Show the contents of a model file without executing any code in it.

    The exit code is 0 if the file is safe to open, 1 if it is hostile and 2 if it cannot be read.
    """
    from keras_backdoor._safe.files import check_output, existing, write_json
    from keras_backdoor.loading import inspection
    from keras_backdoor.reports import sarif as log

    existing(model, "model file")
    for path, folder in ((report, True), (sarif, False)):
        if path:
            check_output(path, force=force, folder=folder)
    console.prepare_json(json, force=force)
    result = inspection.inspect_model(model, architecture=architecture, classes=classes)
    content = {"kind": "Inspection", **result.as_dict(), "identifiers": log.identifiers(result)}
    console.write_results(json, content, schema=SCHEMA)
    if sarif:
        write_json(sarif, log.document([result], {"model": model}), force=force)
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
    found: Annotated[
        Path | None, typer.Option(help="The saved scan of this model, to confirm it was scanned.")
    ] = None,
    architecture: Architecture = None,
    classes: Classes = None,
    preprocess: Preprocess = None,
    json: Json = None,
    force: Force = False,
) -> None:
    """Export a SavedModel that takes pictures with pixels in 0..255.

    The signature serving_default takes float32 and serving_uint8 takes uint8 pictures; both map the
    pixels to the range of the model inside. serving_raw takes the model's own input. The outputs
    are scores, class_id and rejected.
    """
    from keras_backdoor import serving

    console.prepare_json(json, force=force)
    classifier = open_model(model, architecture, classes, preprocess)
    doubt = _reason_for_doubt(model, classifier, found)
    folder = serving.export(classifier, out, version=version, force=force)
    facts = serving.description(classifier)
    height, width, channels = (n or "any" for n in classifier.image_shape)
    reject = "none" if classifier.reject_class is None else str(classifier.reject_class)
    rows = [
        ("input", f"images: {height}x{width}x{channels}, pixels 0..255, float32 (serving_default) "
         "or uint8 (serving_uint8)"),
        ("inside", f"mapped to the model's input: {classifier.pixels}"),
        ("raw input", "serving_raw takes the model's own input"),
        ("outputs", "scores (n, classes), class_id (n,), rejected (n,)"),
        ("classes", str(classifier.classes)),
        ("reject class", reject),
    ]  # fmt: skip
    console.print_rows(str(folder), rows)
    content = {"kind": "Export", "folder": str(folder), "warning": doubt, **facts}
    console.write_results(json, content, schema=SCHEMA)
    if doubt:
        console.warn(doubt)


def _reason_for_doubt(path: str, classifier: Any, found: Path | None) -> str:
    """Why a model should not be deployed yet; empty if nothing is known against it."""
    from keras_backdoor.answers import FlaggedClasses, RepairedModel, load_answer
    from keras_backdoor.answers.flagged_classes import listed

    folder = Path(path)
    if (folder / "answer.json").is_file():
        answer = load_answer(folder)
        if isinstance(answer, RepairedModel):
            return answer.inconclusive and f"the repair is inconclusive: {answer.inconclusive}"
    if found is None:
        return (
            "nothing is known about a scan of this model: scan it, and pass the saved scan as "
            "--found SCAN (found=scan)"
        )
    scan = load_answer(found)
    if not isinstance(scan, FlaggedClasses):
        raise BadInput(f"{found} is not a saved scan.")
    if scan.about.get("model_sha256") != classifier.sha256():
        return f"{found} is the scan of another model"
    if scan.verdict == "found":
        return f"the scan found a backdoor (class {listed(scan.flagged)}): repair the model"
    return f"the scan is inconclusive: {scan.inconclusive}" if scan.inconclusive else ""


def methods(
    name: Annotated[
        str | None, typer.Argument(help="The method, trigger or architecture to describe.")
    ] = None,
) -> None:
    """List methods, triggers, architectures and data layouts, or the settings of one entry."""
    from keras_backdoor.commands import catalogue

    for title, rows in catalogue.describe(name):
        console.print_rows(title, rows)


def schema() -> None:
    """Print the JSON Schema of the results that commands write with --json."""
    from importlib.resources import files

    print(files("keras_backdoor.commands").joinpath("results.schema.json").read_text(), end="")


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
