"""What a report is made of. Each kind of block names the file in `templates/` that shows it.

All values are plain text, which the templates escape; a drawing alone is markup, made by `figures.draw`.
A new kind of block is one class here and one template.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

from markupsafe import Markup


class Block(Protocol):
    """Anything that a section may hold: its template finds it as `block`."""

    template: ClassVar[str]


@dataclass(frozen=True)
class Section:
    """A heading, what the data is to the model (`about`) and how much it is (`counted`), and what stands below.

    >>> Section("By part", []).anchor
    'by-part'
    """

    heading: str
    blocks: Sequence[Block]
    about: str = ""
    counted: str = ""

    @property
    def anchor(self) -> str:
        """The section's id on the page."""
        return "".join(c if c.isalnum() else "-" for c in self.heading.lower())


@dataclass(frozen=True)
class Note:
    """What to know of what follows."""

    template: ClassVar[str] = "note.html.jinja"
    text: str


@dataclass(frozen=True)
class KeyFigure:
    """A large figure at the top."""

    name: str
    value: str
    remark: str


@dataclass(frozen=True)
class Cell:
    """A cell of a table; `remark` stands behind the text, small and grey."""

    text: str = ""
    remark: str = ""
    strong: bool = False


@dataclass(frozen=True)
class TableRow:
    """A row of a table, under its name."""

    name: str
    cells: Sequence[Cell]


@dataclass(frozen=True)
class Table:
    """A table; `head` has one entry more than a row has cells."""

    template: ClassVar[str] = "table.html.jinja"
    caption: str
    head: Sequence[str]
    rows: Sequence[TableRow]


@dataclass(frozen=True)
class Spot:
    """A place on a drawing, in percent from its left and top, whose picture shows when it is pointed at."""

    left: float
    top: float
    url: str
    title: str


@dataclass(frozen=True)
class Figure:
    """A drawing, its legend (the colour of each name), its caption, and places that show pictures."""

    svg: Markup
    colours: Mapping[str, str]
    caption: str = ""
    spots: Sequence[Spot] = ()


@dataclass(frozen=True)
class Figures:
    """Drawings side by side, or one over the whole width."""

    template: ClassVar[str] = "figures.html.jinja"
    figures: Sequence[Figure]
    wide: bool = False


@dataclass(frozen=True)
class Picture:
    """A picture under a text. `kind` is `right` (framed), `missed` (set apart) or nothing; a `film` is a video's frames
    in a row, wider than a picture."""

    url: str
    alt: str
    title: str = ""
    kind: str = ""
    remark: str = ""
    film: bool = False


@dataclass(frozen=True)
class Example:
    """A text, remarks on it, and the pictures that belong to it."""

    text: str
    remarks: Sequence[str]
    pictures: Sequence[Picture]


@dataclass(frozen=True)
class Examples:
    """Examples under a heading of their own, if they have one."""

    template: ClassVar[str] = "examples.html.jinja"
    examples: Sequence[Example]
    heading: str = ""
    remark: str = ""


@dataclass(frozen=True)
class FoundText:
    """A text that a picture found; `kind` as of a `Picture`."""

    text: str
    kind: str = ""
    remark: str = ""


@dataclass(frozen=True)
class PictureExample:
    """A picture, remarks on it, and the texts that belong to it."""

    picture: Picture
    remarks: Sequence[str]
    texts: Sequence[FoundText]


@dataclass(frozen=True)
class PictureExamples:
    """Pictures with texts, under a heading of their own."""

    template: ClassVar[str] = "picture_examples.html.jinja"
    examples: Sequence[PictureExample]
    heading: str = ""
    remark: str = ""


@dataclass(frozen=True)
class Listing:
    """Entries that are shown when their title is clicked."""

    template: ClassVar[str] = "listing.html.jinja"
    title: str
    entries: Sequence[str]


@dataclass(frozen=True)
class Verbatim:
    """Text as it is, line by line."""

    template: ClassVar[str] = "verbatim.html.jinja"
    text: str
