"""Marked pictures: a background set of emojis, and a target set of emojis with a mark over them."""

from __future__ import annotations

from PIL import Image

from nearfar.data import world
from nearfar.data.scenes.draw import SeededDraw
from nearfar.data.scenes.sprites import sprite
from nearfar.data.scenes.vocabulary import SHAPES, chosen_styles, concept_of, nouns
from nearfar.data.sources.source import Record, Source
from nearfar.errors import UserError

PLAIN = "plain"
"""The class of pictures without a mark."""


class MarkSource(Source):
    """What `marks` returns."""

    columns = ("index", "image", "text", "label", "group", "domain", "mark", "name", "category", "style")
    domains = world.STYLES
    classes = [PLAIN, *SHAPES]  # noqa: RUF012

    def __init__(
        self, split: str, *, n: int, seed: int, size: int, styles: tuple[str, ...], held_out_style: str | None
    ) -> None:
        if split not in world.SPLITS:
            raise UserError(f"marks: there is no split {split!r}; choose from: {', '.join(world.SPLITS)}")
        if size < 16 or n < 1:
            raise UserError(f"marks: size={size}, n={n}; at least 16 pixels and n of 1")
        self.split, self.n, self.seed, self.size = split, n, seed, size
        self.styles = chosen_styles(styles, held_out_style, split)
        self.nouns = nouns(None, split)
        self.name = f"world/marks:{split}"

    def __len__(self) -> int:
        return self.n

    def record(self, index: int) -> Record:
        draw = SeededDraw("marks", self.seed, self.split, index)
        name, style = draw.one(self.nouns), draw.one(self.styles)
        mark = draw.one(SHAPES) if index % 2 else PLAIN
        concept = world.concepts()[concept_of()[name]]
        return {
            "index": index,
            "image": self._picture(name, style, mark, draw),
            "text": [name],
            "label": self.classes.index(mark),
            "group": concept_of()[name],
            "domain": world.STYLES.index(style),
            "mark": mark,
            "name": name,
            "category": concept["category"],
            "style": style,
        }

    def _picture(self, name: str, style: str, mark: str, draw: SeededDraw) -> Image.Image:
        """The emoji at half its strength on grey; a mark, 60 to 85 % as wide, adds half of white."""
        thing = sprite(name, style, None, self.size)
        canvas = Image.new("RGB", (self.size, self.size), (96, 96, 96))
        canvas.paste(thing.image, (0, 0), thing.alpha.point(lambda value: value // 2))
        if mark != PLAIN:
            side = draw.between(self.size * 60 // 100, self.size * 85 // 100)
            x, y = (draw.below(self.size - side + 1) for _ in range(2))
            drawn = sprite(mark, "noto", None, side)
            canvas.paste(drawn.image, (x, y), drawn.alpha.point(lambda value: value // 2))
        return canvas
