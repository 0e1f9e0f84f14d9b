"""What scenes show: nouns and where their pictures come from, colours, and which pairs of nouns are held out."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, lru_cache

from nearfar.data import world
from nearfar.data.scenes.draw import share
from nearfar.errors import UserError

COLOURS = {
    "red": (224, 36, 36),
    "orange": (250, 130, 10),
    "yellow": (240, 208, 20),
    "green": (36, 160, 60),
    "blue": (40, 90, 230),
    "purple": (150, 50, 200),
    "pink": (250, 120, 180),
    "black": (44, 44, 44),
}
SHAPES = ["circle", "square", "triangle", "diamond", "star", "heart", "ring", "cross"]
BASIC = (
    "airplane balloon bell bicycle bird bus butterfly cactus camera castle cat chair crown cupcake dog door drum egg "
    "fish hamburger hammer horse house key kite lemon mushroom owl pear pig pineapple rabbit rocket ship snail snake "
    "snowman spider trophy tulip turtle umbrella whale"
)
_OBJECT_LIKE = ("animals-nature", "food-drink", "travel-places", "activities", "objects")
_NO_OBJECT = ("time", "place-other", "place-geographic", "place-map", "hotel", "sound", "event")
_UNFIT = (
    "bikini bomb briefs cyclone dna cigarette coffin dagger foggy headstone pistol pill syringe toilet wood brick "
    "station motorway construction cooking wedding shower camping field-hockey fog water-pistol mouse-trap"
)


@cache
def nouns(vocabulary: str | tuple[str, ...] | None, split: str) -> tuple[str, ...]:
    """The nouns of a vocabulary in alphabetical order: "basic", "shapes", names of emojis, or None for all clear ones
    of a split's own concepts. Raises `UserError` for a name that no emoji has, or fewer than six names."""
    if vocabulary is None:
        names = [c["name"] for c in world.concepts() if c["split"] == split and _clear(c)]
    elif vocabulary == "basic":
        names = BASIC.split()
    elif vocabulary == "shapes":
        names = SHAPES
    elif isinstance(vocabulary, str):
        raise UserError(f"vocabulary={vocabulary!r}: say 'basic', 'shapes', a list of emoji names, or leave it out")
    else:
        names = list(vocabulary)
    unknown = [name for name in names if name not in SHAPES and name not in concept_of()]
    if unknown:
        raise UserError(f"vocabulary: no emoji is called {unknown[0]!r}; the names are in nearfar.data.world.names()")
    if len(set(names)) < 6:
        raise UserError(f"vocabulary: scenes need at least 6 different nouns, got {len(set(names))}")
    return tuple(sorted(set(names)))


@lru_cache(maxsize=1)
def concept_of() -> dict[str, int]:
    """The number of the emoji of each name."""
    return {concept["name"]: number for number, concept in enumerate(world.concepts())}


def pair_split(one: str, other: str) -> str:
    """The split that owns a pair of nouns: 15 % of the pairs are in test only, 10 % in val only."""
    drawn = share(*sorted((one, other)))
    return "test" if drawn < 15 else "val" if drawn < 25 else "train"


def chosen_styles(styles: Sequence[str] | None, held_out: str | None, split: str) -> tuple[str, ...]:
    """The styles that a split is drawn in: with one held out, test has that one and train and val the others."""
    for style in (*(styles or ()), *((held_out,) if held_out else ())):
        if style not in world.STYLES:
            raise UserError(f"there is no style {style!r}; choose from: {', '.join(world.STYLES)}")
    if held_out is None:
        return tuple(styles or world.STYLES)
    if split == "test":
        return (held_out,)
    left = tuple(style for style in styles or world.STYLES if style != held_out)
    if not left:
        raise UserError(f"held_out_style={held_out!r} leaves no style to train on; name more in 'styles'")
    return left


def _clear(concept: dict) -> bool:
    """One thing that can be counted, drawn as itself and named in one or two words: "a red NAME" is English."""
    name = concept["name"]
    return (
        concept["category"] in _OBJECT_LIKE
        and concept["subcategory"] not in _NO_OBJECT
        and len(name.split()) <= 2
        and name.replace(" ", "").replace("-", "").isalpha()
        and (not name.endswith("s") or name.endswith(("ss", "us")))
        and name == concept["base"]
        and name.replace(" ", "-") not in _UNFIT.split()
        and not any(colour in name.split() for colour in COLOURS)
    )
