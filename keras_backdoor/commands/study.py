"""The command that makes published tables again."""

from pathlib import Path
from typing import Annotated

import typer

from keras_backdoor.commands import console
from keras_backdoor.commands.options import Force, Report


def study(
    name: Annotated[
        str | None, typer.Argument(help="A study, or a Python file with one; none lists them.")
    ] = None,
    scale: Annotated[str, typer.Option(help="full, or smoke: the same steps in seconds.")] = "full",
    data: Annotated[
        list[Path] | None,
        typer.Option(
            help="Folder with data files; repeatable \\[KERAS_BACKDOOR_DATA, data].",
            show_default=False,
        ),
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option(help="Only cells whose name contains this; repeatable.")
    ] = None,
    jobs: Annotated[
        int | None, typer.Option(help="Cells at a time \\[number of cores].", show_default=False)
    ] = None,
    executor: Annotated[str, typer.Option(help="local, or ray.")] = "local",
    address: Annotated[
        str | None, typer.Option(help="Ray cluster; without it Ray starts on this machine.")
    ] = None,
    cells: Annotated[
        bool, typer.Option("--cells", help="List the cells and which are finished; run none.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(help="Collected results \\[results/NAME.json].", show_default=False),
    ] = None,
    known: Annotated[
        Path | None, typer.Option(help="Take finished cells from these results of an earlier run.")
    ] = None,
    again: Annotated[
        bool,
        typer.Option("--again", help="Compute also what the collected results already have."),
    ] = False,
    models: Annotated[
        Path | None, typer.Option(help="Copy the study's networks there, with cards.")
    ] = None,
    report: Report = None,
    force: Force = False,
) -> None:
    """Make a published table again; finished cells are kept, and a killed run goes on.

    Cells and trained networks are kept in KERAS_BACKDOOR_CACHE (default: the user's cache). Cells
    that the collected results have already are not computed again; --again computes them.
    """
    from keras_backdoor.commands import studies

    if name is None:
        for title, rows in studies.studies():
            console.print_rows(title, rows)
        return
    failed = studies.run(
        name,
        list_only=cells,
        settings={
            "scale": scale,
            "only": only or [],
            "jobs": jobs,
            "executor": executor,
            "address": address,
            "known": known,
            "again": again,
            "force": force,
        },
        data=data or (),
        out=out,
        models=models,
        report=report,
    )
    raise typer.Exit(console.ERROR if failed else console.NOTHING)
