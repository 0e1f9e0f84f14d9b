"""The page's server under several visitors at once, asked as the page asks it."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from installed import needs
from nearfar.search import build
from search.colours import ColourEncoder, draw, folder_source, png
from search.visitors import Visitor, served

pytestmark = needs("gradio")
pytest.importorskip("httpx")


@pytest.fixture
def index(encoder, photos, tmp_path):
    return build(encoder, folder_source(photos), tmp_path / "index")


@pytest.fixture
def address(index):
    from nearfar.search.page.serving import uploads_folder

    with uploads_folder() as uploads, served(index, ColourEncoder(), uploads) as address:
        yield address


def test_eight_visitors_at_once_have_each_their_own_answer(address):
    broken = ("broken.png", png(draw("red"))[:70])
    queries = [
        ("something red", None, "a red"),
        ("something green", None, "a green"),
        ("something blue", None, "a blue"),
        ("", ("mine.png", png(draw("red", "square"))), "a red"),
        ("", ("mine.png", png(draw("green", "square"))), "a green"),
        ("", ("mine.png", png(draw("blue", "square"))), "a blue"),
        ("red", broken, None),
        ("", None, None),
    ]
    start = threading.Barrier(len(queries))

    def visit(text, upload, _):
        visitor = Visitor(address)
        start.wait(60)
        return [visitor.search(text, upload) for _ in range(3)]

    with ThreadPoolExecutor(len(queries)) as crowd:
        answers = list(crowd.map(lambda one: visit(*one), queries))
    for (text, upload, expected), thrice in zip(queries, answers, strict=True):
        for captions, said in thrice:
            if expected:
                assert len(captions) == 3
                assert all(expected in caption for caption in captions), (text, captions)
                assert "3 of 9 pictures" in said
            else:
                assert captions == []
                assert ("broken.png: " if upload else "nothing to look for") in said
                assert 'role="alert"' in said


def test_the_heading_counts_what_the_index_holds_now(address, index, encoder, photos):
    visitor = Visitor(address)
    assert "9 pictures" in visitor.heading()
    draw("yellow").save(photos / "yellow-disc.png")
    build(encoder, folder_source(photos), index.directory)
    assert "10 pictures" in visitor.heading(), "who comes now, or searches now, reads the new number"
    assert visitor.search("yellow")[0][0].endswith("a yellow disc")
