"""The command line application and its entry point."""

import os
import sys
from collections.abc import Callable
from typing import Annotated

import typer

from keras_backdoor.commands import console, files, judging, making, study
from keras_backdoor.commands.check.command import check

app = typer.Typer(
    name="keras-backdoor",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="Detect, measure and repair backdoors in Keras image classifiers.\n\n"
    "[bold]check MODEL --clean DATA --out DIR[/bold] does everything: it scans, repairs, measures "
    "and exports a model, and decides whether to deploy it. Step by step, start with "
    "[bold]inspect MODEL[/bold], which reads the file without executing any code in it. "
    "Then run [bold]scan MODEL --clean DATA[/bold], which prints the command to run next. "
    "[bold]demo[/bold] inspects and repairs a bundled model. DATA is an .npz file, an HDF5 file, "
    "a folder with one subfolder per class, or a zip "
    "archive of such a folder.",
    epilog="Exit codes: 0 nothing detected, 1 something detected, 2 error, 3 inconclusive, 130 "
    "interrupted.",
)
COMMANDS: dict[str, Callable[..., None]] = {
    "check": check,
    "inspect": files.inspect,
    "poison": making.poison,
    "train": making.train,
    "evaluate": making.evaluate,
    **{
        name: judging.method_command(name, text)
        for name, text in {
            "scan": "Scan a model for a backdoor; report its target class and its trigger.",
            "audit": "Find poisoned images in training data. Requires --train.",
            "repair": "Repair a model with clean data. Save the repaired model with --out DIR.",
            "guard": "Build a model that assigns triggered inputs to an additional reject class.",
            "explain": "Show where in an image the trigger is.",
        }.items()
    },
    "export": files.export,
    "methods": files.methods,
    "schema": files.schema,
    "render": files.render,
    "study": study.study,
    "demo": files.demo,
}
for _name, _command in COMMANDS.items():
    app.command(_name)(_command)


def _print_version(value: bool) -> None:
    if value:
        from keras_backdoor import __version__

        console.out.print(f"keras_backdoor {__version__}")
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version.", callback=_print_version, is_eager=True
        ),
    ] = False,
    quiet: Annotated[
        bool,
        typer.Option("--quiet", "-q", help="Print no tables and no progress, only errors."),
    ] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Show the traceback of unexpected errors.")
    ] = False,
) -> None:
    """Options of all commands, which are given before the name of the command."""
    from keras_backdoor import progress

    if quiet:
        console.be_quiet()
        progress.be_silent()
    if verbose:
        os.environ["KERAS_BACKDOOR_DEBUG"] = "1"


def main() -> None:
    """Run the command line; an input error prints one sentence and exits with code 2."""
    from keras_backdoor import errors, progress

    os.environ.setdefault("KERAS_BACKDOOR_QUIET", "1")
    console.start()
    with (
        errors.on_command_line(),
        console.warnings_as_sentences(),
        console.one_sentence(),
        progress.show() as clear,
        console.interruptible(clear),
    ):
        code = app(prog_name="keras-backdoor", standalone_mode=False)
    sys.exit(code or 0)


if __name__ == "__main__":
    main()
