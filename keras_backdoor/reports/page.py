"""Pages of titles and sections, written as a self-contained HTML file and as Markdown."""

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
    """A figure with a caption.

    Args:
        caption: the caption.
        png: the encoded PNG image.
    """

    caption: str
    png: bytes

    @property
    def uri(self) -> str:
        """The image as a data URI."""
        return "data:image/png;base64," + base64.b64encode(self.png).decode()


@dataclass(frozen=True)
class Section:
    """A section of a page.

    Args:
        heading: the heading.
        text: a paragraph below the heading.
        table: table rows; the first row is the header.
        figures: figures below the table.
        folded: whether the section is shown only after a click.
    """

    heading: str
    text: str = ""
    table: Rows = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)
    folded: bool = False

    def _ipython_display_(self) -> None:
        """Display the text and the table as HTML, then the figures, in a notebook."""
        from IPython.display import HTML, Image, display

        template = _environment().get_template("section.html.j2")
        display(HTML(template.render(section=replace(self, figures=[]))))
        for figure in self.figures:
            display(Image(figure.png))
            display(HTML(f"<i>{escape(figure.caption)}</i>"))


@dataclass(frozen=True)
class Page:
    """A report page.

    Args:
        title: the title.
        lead: the sentence or paragraph below the title.
        sections: the sections.
        tone: `good`, `bad` or `unsure`, which colors the lead; empty for a neutral one.
    """

    title: str
    lead: str
    sections: list[Section]
    tone: str = ""

    def _repr_html_(self) -> str:
        """The sections of the page without its frame, for a notebook."""
        template = _environment().get_template("fragment.html.j2")
        return template.render(page=self)

    def html(self) -> str:
        """Render the page as one self-contained HTML document; text is escaped."""
        return _environment().get_template("page.html.j2").render(page=self)

    def markdown(self) -> str:
        """Render the page as Markdown that refers to `figure-<section>-<number>.png`."""
        return _environment().get_template("page.md.j2").render(page=self)


def write(page: Page, folder: Path | str, *, force: bool = False) -> Path:
    """Write `index.html`, `report.md` and the figures to a folder.

    Args:
        page: the page.
        folder: the folder to create.
        force: overwrite an existing folder.

    Returns:
        The path of the HTML file.
    """
    folder = Path(folder)
    with writing(folder, force=force) as partial:
        partial.mkdir()
        (partial / "index.html").write_text(page.html())
        (partial / "report.md").write_text(page.markdown())
        for index, section in enumerate(page.sections, start=1):
            for number, figure in enumerate(section.figures, start=1):
                (partial / f"figure-{index}-{number}.png").write_bytes(figure.png)
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
