"""The recipes that come with nearfar, and the configurations of `accelerate launch` beside them: names and files.

Listing them reads no model and needs no torch. `nearfar.training.recipe.load` reads one.
"""

from __future__ import annotations

import re
from itertools import takewhile
from pathlib import Path

LAUNCH = "accelerate"
"""The folder of launch configurations beside those of recipes, which are by kind of method."""


def shipped() -> dict[str, Path]:
    """The recipes that come with nearfar, by name.

    >>> shipped()["clip"].name
    'clip.yaml'
    """
    recipes = [path for path in _folder().glob("*/*.yaml") if path.parent.name != LAUNCH]
    return {path.stem: path for path in sorted(recipes, key=lambda path: path.stem)}


def launch_configurations() -> dict[str, Path]:
    """The configurations for `accelerate launch --config_file` that come with nearfar, by name."""
    return {f"{LAUNCH}/{path.stem}": path for path in sorted((_folder() / LAUNCH).glob("*.yaml"))}


def comment(path: Path) -> str:
    """The first sentence of a recipe's comment: what it is."""
    return comment_of(path.read_text("utf-8"))


def comment_of(text: str) -> str:
    """The first sentence of the comment that a recipe's text begins with, over as many lines as it takes.

    >>> comment_of("# CLIP on emoji, some minutes\\n# on two cores. For more: world.\\nmethod: {name: clip}")
    'CLIP on emoji, some minutes on two cores.'
    """
    lines = takewhile(lambda line: line.startswith("#"), text.lstrip().splitlines())
    return re.split(r"(?<=\.) ", " ".join(line.lstrip("# ").strip() for line in lines), maxsplit=1)[0]


def _folder() -> Path:
    return Path(__file__).parent
