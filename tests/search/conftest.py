"""Pictures to index: a folder of files, and a labelled source in memory."""

from pathlib import Path

import pytest

from nearfar.data.sources.source import Records
from search.colours import SHAPES, ColourEncoder, draw, png


@pytest.fixture
def encoder() -> ColourEncoder:
    return ColourEncoder()


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of 9 pictures: red, green and blue shapes on white."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for colour in ("red", "green", "blue"):
        for shape in SHAPES:
            draw(colour, shape).save(folder / f"{colour}-{shape}.png")
    return folder


@pytest.fixture
def world() -> Records:
    """Pictures that are bytes in memory, with labels: 4 colours on white and on black."""
    colours = ["red", "green", "blue", "yellow"]
    records = [
        {
            "image": png(draw(colour, "disc", ground)),
            "text": [f"{colour} disc", f"a {colour} thing on {ground}"],
            "label": label,
            "group": label,
            "domain": domain,
            "index": domain * len(colours) + label,
        }
        for domain, ground in enumerate(("white", "black"))
        for label, colour in enumerate(colours)
    ]
    return Records(records, name="world/toy", classes=[f"{c} disc" for c in colours], domains=["white", "black"])
