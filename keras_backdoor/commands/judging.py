"""Commands that run a method: scan, audit, repair, guard, explain."""

import inspect as inspect_module
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from keras_backdoor.commands import console
from keras_backdoor.commands.opening import choose_method, open_model, write_report
from keras_backdoor.commands.options import (
    Architecture,
    Classes,
    DataOptions,
    Force,
    InputRange,
    Json,
    Model,
    Out,
    Report,
    Seed,
    Settings,
    Size,
    Split,
    Take,
    Unlabelled,
    ValueRange,
)
from keras_backdoor.errors import BadInput


def method_command(command: str, help_text: str) -> Callable[..., None]:
    """One of the commands that run a method: what they take is the same for all."""

    def run(
        model: Model,
        image: Annotated[
            Path | None, typer.Argument(metavar="IMAGE", help="Picture (or data), as --incoming.")
        ] = None,
        train: Annotated[Path | None, typer.Option(help="Training data to examine.")] = None,
        clean: Annotated[Path | None, typer.Option(help="Data that is trusted.")] = None,
        incoming: Annotated[Path | None, typer.Option(help="Images to be judged.")] = None,
        found: Annotated[Path | None, typer.Option(help="A saved answer to build on.")] = None,
        reference: Annotated[Path | None, typer.Option(help="A model to compare with.")] = None,
        method: Annotated[str | None, typer.Option(help="See 'methods'.")] = None,
        settings: Settings = None,
        architecture: Architecture = None,
        classes: Classes = None,
        input_range: InputRange = None,
        split: Split = None,
        take: Take = None,
        seed: Seed = 0,
        size: Size = None,
        unlabelled: Unlabelled = False,
        value_range: ValueRange = None,
        out: Out = None,
        json: Json = None,
        report: Report = None,
        workdir: Annotated[
            Path | None, typer.Option(help="Keep finished parts here and resume from them.")
        ] = None,
        force: Force = False,
    ) -> None:
        if image is not None and incoming is not None:
            raise BadInput("Pass IMAGE or --incoming, not both.")
        options = DataOptions(split, take, seed, size, unlabelled, value_range)
        chosen = choose_method(command, method, settings)
        data = {"train": train, "clean": clean, "incoming": image or incoming}
        _answer(
            chosen,
            model,
            data,
            options,
            found,
            reference,
            workdir,
            (architecture, classes, input_range),
            (out, json, report, force),
        )

    run.__doc__ = help_text
    if command != "explain":
        signature = inspect_module.signature(run)
        rest = [p for name, p in signature.parameters.items() if name != "image"]
        run.__signature__ = signature.replace(parameters=rest)  # type: ignore[attr-defined]
    return run


def _answer(
    method: Any,
    model: str,
    data: dict[str, Path | None],
    options: DataOptions,
    found: Path | None,
    reference: Path | None,
    workdir: Path | None,
    opening: tuple[str | None, int | None, str | None],
    results: tuple[Path | None, Path | None, Path | None, bool],
) -> None:
    """Run a method and write what is asked for; the exit code tells the verdict."""
    from keras_backdoor import answers
    from keras_backdoor._safe.files import check_output, write_json

    out, json, report, force = results
    for path in filter(None, (out, report, json)):
        check_output(path, force=force)
    classifier = open_model(model, *opening)
    evidence = {
        name: options.open(path, classifier.image_shape, "train")
        for name, path in data.items()
        if path
    }
    answer = method(
        classifier,
        **evidence,
        found=None if found is None else answers.load_answer(found),
        reference=None if reference is None else open_model(str(reference), None, None, None),
        workdir=workdir,
    )
    console.print_rows(
        type(method).__name__, [*answer.rows(), ("seconds", str(answer.about["seconds"]))]
    )
    if out:
        answer.save(out, force=force)
    if json:
        write_json(json, {**answer.about, **answer.facts()})
    if report:
        write_report(answer, report, force)
    if answer.verdict == "repaired":
        saved = out or "DIR (write it with --out DIR)"
        console.out.print(
            f"measure it: keras-backdoor evaluate {saved} --test DATA", soft_wrap=True
        )
    raise typer.Exit(console.EXIT[answer.verdict])
