"""What `study` does on the command line."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from keras_backdoor import _cli, _discovery, reports
from keras_backdoor._files import check_output
from keras_backdoor.studies import _run
from keras_backdoor.studies._place import Place, default_cache
from keras_backdoor.studies._results import Results
from keras_backdoor.studies.base import load_study

Blocks = list[tuple[str, list[tuple[str, str]]]]


def studies() -> Blocks:
    """The studies, with what they make again and their number of cells."""
    rows = []
    for key in _discovery.keys("studies"):
        study = load_study(key)
        text = f"{study.title} ({len(study.cells())} cells; {study.paper})"
        text += f"; unfinished: {study.unfinished}" if study.unfinished else ""
        rows.append((_discovery.word(key), text))
    return [("studies", rows), ("cache", [("folder", str(default_cache()))])]


def run(
    name: str,
    *,
    list_only: bool,
    settings: dict[str, Any],
    data: Sequence[Path],
    out: Path | None,
    models: Path | None,
    report: Path | None,
) -> list[str]:
    """Run a study, or list its cells, and print its table; the names of failed cells."""
    study = load_study(name, settings["scale"])
    place = Place(tuple(data))
    if list_only:
        known = _run.start(study, name, place, settings["known"])
        _print_cells(known)
        return []
    suffix = "" if study.scale == "full" else f"-{study.scale}"
    out = out or Path("results") / f"{study.word.replace('-', '_')}{suffix}.json"
    if report is not None:
        check_output(report, force=settings["force"])
    results = _run.run(name, place=place, out=out, **settings)
    header, *rows = results.table(compact=True)
    _cli.print_columns(results.about["title"], header, rows)
    failed = [c for c in results.cells if "error" in c]
    for cell in failed:
        _cli.say(f"{cell['name']}: {cell['error']}")
    lines = [("results", str(out))]
    if any(c.get("published") for c in results.cells):
        lines.append(("in brackets", f"published: {study.paper}"))
    if results.missing:
        lines.append(("not computed", f"{len(results.missing)} of {len(results.cells)} cells"))
    if models is not None:
        lines += [("model", str(p)) for p in study.keep(results.figures(), place, models)]
    if report is not None:
        page = reports.write(reports.page_of(results), report, force=settings["force"])
        lines.append(("page", str(page)))
    _cli.print_rows("", lines)
    return [c["name"] for c in failed]


def _print_cells(known: Results) -> None:
    rows = [
        (c["name"], "finished" if "figures" in c else "", f"{c.get('seconds', '')}")
        for c in known.cells
    ]
    _cli.print_columns(known.about["title"], ("", "", "seconds"), rows)
