"""Commands that run a method: scan, audit, repair, guard and explain."""

import inspect as inspect_module
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from keras_backdoor._safe.files import check_apart, check_output, write_json
from keras_backdoor.commands import console
from keras_backdoor.commands.next_step import Given, next_step
from keras_backdoor.commands.opening import choose_method, open_model, write_report
from keras_backdoor.commands.options import (
    Architecture,
    Channels,
    Classes,
    ClassNames,
    DataOptions,
    Force,
    Json,
    Key,
    Model,
    Out,
    Preprocess,
    Report,
    Sarif,
    Seed,
    Settings,
    Size,
    Split,
    Take,
    Unlabelled,
    ValueRange,
    split_of,
    take_of,
)
from keras_backdoor.errors import BadInput

SCHEMA = 2
"""The version of the keys in the JSON output, which docs/json.md describes."""
PREFERRED = {"train": "train", "clean": "train", "incoming": "test"}
"""The default split of each kind of evidence."""


def method_command(command: str, help_text: str) -> Callable[..., None]:
    """Return the function of a command that runs a method.

    Args:
        command: `scan`, `audit`, `repair`, `guard` or `explain`.
        help_text: the help text of the command.

    Returns:
        A function with the options that all of these commands share. `IMAGE` is left out except
        for `explain`, `--write-clean` except for `audit`, `--sarif` except for `scan` and `audit`,
        `--preset` except for `audit` and `explain`, and `--recipe` except for `audit` and `repair`.
    """

    def run(
        model: Model,
        image: Annotated[
            Path | None,
            typer.Argument(
                metavar="IMAGE", help="An image or data to explain; the same as --incoming."
            ),
        ] = None,
        train: Annotated[
            Path | None, typer.Option(help="Training data to examine for poison.")
        ] = None,
        clean: Annotated[
            Path | None, typer.Option(help="Trusted data without triggers or poison.")
        ] = None,
        incoming: Annotated[
            Path | None, typer.Option(help="Untrusted images to examine for triggers.")
        ] = None,
        found: Annotated[
            Path | None,
            typer.Option(help="An earlier answer, saved with --out, that the method uses."),
        ] = None,
        reference: Annotated[
            Path | None, typer.Option(help="A model file to compare the model with.")
        ] = None,
        method: Annotated[
            str | None, typer.Option(help="The method to run; 'methods' lists them.")
        ] = None,
        settings: Settings = None,
        preset: Annotated[
            str | None,
            typer.Option(
                help="Settings of a publication, for example paper or thesis; see 'methods'."
            ),
        ] = None,
        recipe: Annotated[
            str | None,
            typer.Option(
                help="The recipe of a method that trains the network anew; 'methods' lists them."
            ),
        ] = None,
        architecture: Architecture = None,
        classes: Classes = None,
        preprocess: Preprocess = None,
        split: Split = None,
        take: Take = None,
        seed: Seed = 0,
        size: Size = None,
        channels: Channels = None,
        class_names: ClassNames = None,
        key: Key = None,
        unlabelled: Unlabelled = False,
        value_range: ValueRange = None,
        train_split: split_of("train") = None,  # type: ignore[valid-type]
        train_take: take_of("train") = None,  # type: ignore[valid-type]
        clean_split: split_of("clean") = None,  # type: ignore[valid-type]
        clean_take: take_of("clean") = None,  # type: ignore[valid-type]
        incoming_split: split_of("incoming") = None,  # type: ignore[valid-type]
        incoming_take: take_of("incoming") = None,  # type: ignore[valid-type]
        out: Out = None,
        json: Json = None,
        report: Report = None,
        sarif: Sarif = None,
        write_clean: Annotated[
            Path | None,
            typer.Option(
                help="Write a copy of the data without the flagged images, in the same layout.",
                rich_help_panel="Result",
            ),
        ] = None,
        workdir: Annotated[
            Path | None,
            typer.Option(
                help="The folder for intermediate results, from which a stopped run resumes."
            ),
        ] = None,
        force: Force = False,
    ) -> None:
        if image is not None and incoming is not None:
            raise BadInput("Pass IMAGE or --incoming, not both.")
        common = DataOptions(
            split,
            take,
            seed,
            size,
            channels,
            unlabelled,
            value_range,
            class_names,
            tuple(key or ()),
        )
        paths = {"train": train, "clean": clean, "incoming": image or incoming}
        own = {
            "train": (train_split, train_take),
            "clean": (clean_split, clean_take),
            "incoming": (incoming_split, incoming_take),
        }
        for kind, path in paths.items():
            if path is None and own[kind] != (None, None):
                raise BadInput(f"--{kind}-split and --{kind}-take need --{kind} DATA.")
        several = sum(path is not None for path in paths.values()) > 1
        data = {
            kind: (path, common.for_kind(*own[kind], several=several))
            for kind, path in paths.items()
            if path is not None
        }
        earlier = _open_found(found)
        chosen = choose_method(command, method, settings, preset, recipe)
        opening = (architecture, classes, preprocess)
        results = Results(command, out, json, report, sarif, write_clean, force)
        _answer(chosen, model, opening, data, earlier, reference, workdir, results)

    run.__doc__ = help_text
    omitted = {
        *(() if command == "explain" else ("image",)),
        *(() if command == "audit" else ("write_clean",)),
        *(() if command in ("scan", "audit") else ("sarif",)),
        *(() if command in ("audit", "explain") else ("preset",)),
        *(() if command in ("audit", "repair") else ("recipe",)),
    }
    signature = inspect_module.signature(run)
    parameters = [p for name, p in signature.parameters.items() if name not in omitted]
    run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    return run


@dataclass(frozen=True)
class Results:
    """The output paths of a command; None where an output is not requested.

    Attributes:
        command: the name of the command.
        out, json, report, sarif, write_clean: the paths.
        force: whether existing output is replaced.
    """

    command: str
    out: Path | None
    json: Path | None
    report: Path | None
    sarif: Path | None
    write_clean: Path | None
    force: bool

    def check(self, workdir: Path | None) -> None:
        """Raise `BadInput` if an output cannot be written; called before long work.

        Args:
            workdir: the folder for intermediate results, or None.
        """
        kinds = (
            (self.out, True),
            (self.report, True),
            (self.sarif, False),
            (self.write_clean, None),
        )
        for path, folder in kinds:
            if path:
                check_output(path, force=self.force, folder=folder)
        console.prepare_json(self.json, force=self.force)
        named = {
            "--out": self.out,
            "--report": self.report,
            "--json": None if self.json == console.STDOUT else self.json,
            "--sarif": self.sarif,
            "--write-clean": self.write_clean,
            "--workdir": workdir,
        }
        check_apart({name: path for name, path in named.items() if path})

    def write(self, answer: Any, files: dict[str, Path | str]) -> None:
        """Write the requested outputs of an answer.

        Args:
            answer: the answer.
            files: kind -> the examined file: model, train, clean or incoming.
        """
        from keras_backdoor.reports import sarif

        if self.out:
            answer.save(self.out, force=self.force)
        content = {"kind": type(answer).__name__, **answer.about, **answer.facts()}
        if self.command in ("scan", "audit"):
            content["identifiers"] = sarif.identifiers(answer)
        if self.sarif:
            examined = {k: v for k, v in files.items() if k != "clean"}
            write_json(self.sarif, sarif.document([answer], examined), force=self.force)
        console.write_results(self.json, content, schema=SCHEMA)
        if self.report:
            write_report(answer, self.report, self.force)


def _answer(
    method: Any,
    model: str,
    opening: tuple[str | None, int | None, str | None],
    data: dict[str, tuple[Path, DataOptions]],
    found: Any,
    reference: Path | None,
    workdir: Path | None,
    results: Results,
) -> None:
    """Run a method, write the requested outputs and exit with the code of the verdict."""
    results.check(workdir)
    if results.write_clean:
        _check_copy(method, data, results.write_clean)
    classifier = open_model(model, *opening)
    evidence = {
        kind: options.open(path, PREFERRED[kind], classifier)
        for kind, (path, options) in data.items()
    }
    answer = method(
        classifier,
        **evidence,
        found=found,
        reference=None if reference is None else open_model(str(reference), None, None, None),
        workdir=workdir,
    )
    given = Given(model, _options_of(opening, data), results.out)
    step = next_step(results.command, answer, given)
    answer = replace(answer, about={**answer.about, "next": step} if step else answer.about)
    described = [(kind, samples.description()) for kind, samples in evidence.items()]
    rows = [*answer.rows(), ("pixels", answer.about["pixels"]), *described]
    console.print_rows(type(method).__name__, [*rows, ("seconds", str(answer.about["seconds"]))])
    results.write(answer, {"model": model, **{kind: path for kind, (path, _) in data.items()}})
    if results.write_clean:
        _write_clean(method, answer, data, results.write_clean, results.force)
    if step:
        console.out.print(f"next: {console.safe(step)}", soft_wrap=True)
    raise typer.Exit(console.EXIT[answer.verdict])


def _open_found(path: Path | None) -> Any:
    """Load an earlier answer; None stays None."""
    from keras_backdoor.answers import load_answer

    return None if path is None else load_answer(path)


def _options_of(
    opening: tuple[str | None, int | None, str | None],
    data: dict[str, tuple[Path, DataOptions]],
) -> tuple[str, ...]:
    """The options of the model and of its data, to be repeated in the next command."""
    names = ("--architecture", "--classes", "--preprocess")
    words = [w for n, v in zip(names, opening, strict=True) if v is not None for w in (n, str(v))]
    kind = "train" if "train" in data else "clean"
    if kind in data:
        path, options = data[kind]
        words += [f"--{kind}", str(path), *options.words()]
    return tuple(words)


def _check_copy(method: Any, data: dict[str, tuple[Path, DataOptions]], out: Path) -> None:
    """Raise `BadInput` if the examined data cannot be copied; called before long work."""
    from keras_backdoor import datasets

    kind = method.examined()
    if kind is None:
        raise BadInput(f"{type(method).__name__} flags no images of --train: omit --write-clean.")
    if kind in data:
        datasets.check_copy(data[kind][0], out)


def _write_clean(
    method: Any, answer: Any, data: dict[str, tuple[Path, DataOptions]], out: Path, force: bool
) -> None:
    """Write a copy of the examined data without the flagged images."""
    from keras_backdoor import datasets

    kind = method.examined()
    path, options = data[kind]
    datasets.copy_without(
        path,
        out,
        answer.flagged_rows,
        force=force,
        split=options.split,
        prefer=PREFERRED[kind],
    )
    console.out.print(f"without the flagged images: {out}", soft_wrap=True)
