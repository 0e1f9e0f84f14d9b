"""The page of a small index, served for a whole test file, and files that no visitor may have."""

from __future__ import annotations

import os

import pytest

from nearfar.search import build
from search.colours import ColourEncoder, draw, folder_source
from search.visitors import served


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    """Red, green and blue discs. Nothing in it is yellow."""
    folder = tmp_path_factory.mktemp("photos")
    for colour in ("red", "green", "blue"):
        draw(colour).save(folder / f"{colour}-disc.png")
    return build(ColourEncoder(), folder_source(folder), tmp_path_factory.mktemp("index"))


@pytest.fixture(scope="module")
def uploads():
    """The folder of the server at `address`."""
    from nearfar.search.page.serving import uploads_folder

    with uploads_folder() as folder:
        yield folder


@pytest.fixture(scope="module")
def address(index, uploads):
    """Where the page is served."""
    with served(index, ColourEncoder(), uploads) as address:
        yield address


@pytest.fixture(scope="module")
def private(tmp_path_factory):
    """Places outside the server's folder, by what lies there. The pictures are yellow, so that one that was read would
    show: in what a search finds, or in a file that was copied."""
    folder = tmp_path_factory.mktemp("private")
    (folder / "folder").mkdir()
    draw("yellow").save(folder / "picture.png")
    draw("yellow").save(folder / "drawing.svg", "PNG")  # a name that a library may take for harmless
    (folder / "notes.txt").write_text("a note that is private")
    os.mkfifo(folder / "pipe.png")
    (folder / "link.png").symlink_to(folder / "picture.png")
    names = ("folder", "picture.png", "drawing.svg", "notes.txt", "pipe.png", "link.png", "nothing.png")
    return {name: str(folder / name) for name in names}


@pytest.fixture(scope="module")
def inside(private):
    """Makes the places inside a server's folder that lead out of it, or hold no file."""

    def make(uploads, visitor):
        home = uploads.visits / visitor
        home.mkdir(exist_ok=True)
        (home / "out").symlink_to(private["picture.png"])
        (home / "out-folder").symlink_to(os.path.dirname(private["picture.png"]))
        (home / "folder").mkdir()
        os.mkfifo(home / "pipe.png")
        root = str(uploads.root)
        names = ("out", "out-folder/picture.png", "folder", "pipe.png", "nothing.png", "../../../etc/hostname", "a\0b")
        return {f"own {name}": f"{home}/{name}" for name in names} | {
            "the root": root,
            "a longer name": root + "-other/picture.png",
            "up and out": f"{root}/visits/../../{os.path.relpath(private['picture.png'], uploads.root.parent)}",
        }

    return make
