"""The command that reproduces published tables."""

from pathlib import Path
from typing import Annotated

import typer

from keras_backdoor.commands import console
from keras_backdoor.commands.options import Force, Report


def study(
    name: Annotated[
        str | None,
        typer.Argument(help="A study or a Python file with a study; without it, list studies."),
    ] = None,
    scale: Annotated[str, typer.Option(help="full, or smoke for a test run in seconds.")] = "full",
    data: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATH",
            help="A folder with data files, or a URL such as s3://bucket/data; repeatable "
            "\\[KERAS_BACKDOOR_DATA, data].",
            show_default=False,
        ),
    ] = None,
    cache: Annotated[
        str | None,
        typer.Option(
            metavar="PATH",
            help="The folder for finished cells and networks, or a URL that machines share "
            "\\[KERAS_BACKDOOR_CACHE].",
            show_default=False,
        ),
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option(help="Run only cells whose name contains this; repeatable.")
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option(
            help="The number of cells to run in parallel \\[number of cores].", show_default=False
        ),
    ] = None,
    executor: Annotated[
        str, typer.Option(help="Where cells run: local processes, or ray.")
    ] = "local",
    address: Annotated[
        str | None,
        typer.Option(help="The address of a Ray cluster; by default, start Ray locally."),
    ] = None,
    cells: Annotated[
        bool, typer.Option("--cells", help="List the cells and their state without running them.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(help="The results file to write \\[results/NAME.json].", show_default=False),
    ] = None,
    known: Annotated[
        Path | None,
        typer.Option(help="An earlier results file from which to reuse finished cells."),
    ] = None,
    again: Annotated[
        bool,
        typer.Option("--again", help="Run the cells again that the results file contains."),
    ] = False,
    models: Annotated[
        Path | None, typer.Option(help="Copy the trained networks and model cards to this folder.")
    ] = None,
    report: Report = None,
    force: Force = False,
) -> None:
    """Reproduce a published table. A stopped run resumes after its finished cells.

    Finished cells and trained networks are kept in the folder that --cache or KERAS_BACKDOOR_CACHE
    names (by default in the cache folder of the user), or in an object store. Cells that the
    results file already contains are not run again unless --again is passed.
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
        cache=cache,
        out=out,
        models=models,
        report=report,
    )
    raise typer.Exit(console.ERROR if failed else console.NOTHING)
