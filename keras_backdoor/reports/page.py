"""A page is a title and sections; it is written as one HTML file, and as Markdown with pictures."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from html import escape
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from keras_backdoor._safe.files import writing

Rows = Sequence[tuple[str, ...]]


@dataclass(frozen=True)
class Figure:
    """A picture with its caption; `png` is an encoded PNG."""

    caption: str
    png: bytes

    @property
    def uri(self) -> str:
        """The picture as a data URI."""
        return "data:image/png;base64," + base64.b64encode(self.png).decode()


@dataclass(frozen=True)
class Section:
    """A heading with text, a table (its first row is the header) and figures."""

    heading: str
    text: str = ""
    table: Rows = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)

    def _ipython_display_(self) -> None:
        """In a notebook: text and table as HTML, then the pictures."""
        from IPython.display import HTML, Image, display

        template = _environment().get_template("section.html.j2")
        display(HTML(template.render(section=replace(self, figures=[]))))
        for figure in self.figures:
            display(Image(figure.png))
            display(HTML(f"<i>{escape(figure.caption)}</i>"))


@dataclass(frozen=True)
class Page:
    """What a reader opens."""

    title: str
    lead: str
    sections: list[Section]

    def html(self) -> str:
        """One self-contained HTML file; text is escaped."""
        return _environment().get_template("page.html.j2").render(page=self)

    def markdown(self) -> str:
        """Markdown that refers to `figure-<section>-<number>.png`."""
        return _environment().get_template("page.md.j2").render(page=self)


def write(page: Page, folder: Path | str, *, force: bool = False) -> Path:
    """Write `index.html`, `report.md` and the figures into a folder; return the HTML file."""
    folder = Path(folder)
    with writing(folder, force=force) as partial:
        partial.mkdir()
        (partial / "index.html").write_text(page.html())
        (partial / "report.md").write_text(page.markdown())
        for place, section in enumerate(page.sections, start=1):
            for number, figure in enumerate(section.figures, start=1):
                (partial / f"figure-{place}-{number}.png").write_bytes(figure.png)
    return folder / "index.html"


def _environment() -> Environment:
    environment: Any = Environment(
        loader=PackageLoader("keras_backdoor.reports"),
        autoescape=lambda name: bool(name and ".html" in name),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["cell"] = lambda text: str(text).replace("|", "\\|").replace("\n", " ")
    return environment
