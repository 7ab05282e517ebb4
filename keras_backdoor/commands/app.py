"""The command line: the commands put together, and its entry point."""

import os
import sys
from collections.abc import Callable

import typer

from keras_backdoor.commands import console, files, judging, making, study

app = typer.Typer(
    name="keras-backdoor",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="Find, measure and repair backdoors in Keras image classifiers.\n\n"
    "Start with [bold]inspect MODEL[/bold] (nothing in the file runs), then "
    "[bold]repair MODEL --clean DATA[/bold]; [bold]demo[/bold] shows both. DATA is an .npz, an "
    "HDF5 file, a folder of class folders or a zip of one.",
    epilog="Exit codes: 0 nothing found, 1 something found, 2 an error, 3 inconclusive.",
)
COMMANDS: dict[str, Callable[..., None]] = {
    "inspect": files.inspect,
    "poison": making.poison,
    "train": making.train,
    "evaluate": making.evaluate,
    **{
        name: judging.method_command(name, text)
        for name, text in {
            "scan": "Does the model carry a backdoor? Which class, what trigger?",
            "audit": "Which training images are poisoned? Needs --train.",
            "repair": "Make a repaired model from clean data. Write it with --out DIR.",
            "guard": "Make a model that rejects triggered inputs as class N+1.",
            "explain": "Where in this picture is the trigger?",
        }.items()
    },
    "export": files.export,
    "methods": files.methods,
    "render": files.render,
    "study": study.study,
    "demo": files.demo,
}
for _name, _command in COMMANDS.items():
    app.command(_name)(_command)


def main() -> None:
    """Entry point: one sentence and exit code 2 for any error of the input, and for Ctrl-C."""
    from keras_backdoor import progress

    os.environ.setdefault("KERAS_BACKDOOR_QUIET", "1")
    with console.one_sentence(), progress.show() as clear, console.interruptible(clear):
        code = app(prog_name="keras-backdoor", standalone_mode=False)
    sys.exit(code or 0)


if __name__ == "__main__":
    main()
