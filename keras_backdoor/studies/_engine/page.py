"""The report of the results of a study."""

import importlib
import importlib.util
from typing import TYPE_CHECKING

from keras_backdoor.reports.page import Page, Section
from keras_backdoor.reports.sections import short

if TYPE_CHECKING:
    from keras_backdoor.studies._engine.results import Results

NOTE = "Rates in %, with 95 % binomial confidence intervals over the images."


def page_of(results: "Results") -> Page:
    """Return the report of a study: its own sections, or one table of all results."""
    about = [("", ""), *[(k, short(v)) for k, v in results.about.items() if k != "title"]]
    lead = f"Scale: {results.about['scale']}. Published: {results.about['paper']}."
    if results.missing:
        lead += f" Not computed: {len(results.missing)} of {len(results.cells)} cells."
    failed = [("cell", "error"), *[(c["name"], c["error"]) for c in results.cells if "error" in c]]
    return Page(
        title=results.about["title"],
        lead=lead,
        sections=[
            *(_study_sections(results) or [Section("Figures", text=NOTE, table=results.table())]),
            *([Section("Failed", table=failed)] if failed[1:] else []),
            Section("How it was made", table=about),
        ],
    )


def _study_sections(results: "Results") -> list[Section]:
    """Return the sections of `page.py` in the folder of the study, or an empty list."""
    name = f"keras_backdoor.studies.{results.about['study'].replace('-', '_')}"
    spec = importlib.util.find_spec(name)
    if spec is None or spec.submodule_search_locations is None:
        return []
    sections: list[Section] = importlib.import_module(f"{name}.page").sections(results)
    return sections
