"""What the page shows of hits and takes from an address, without a browser."""

import re

import pytest

from installed import needs
from nearfar.data.sources.source import Records
from nearfar.search import build
from nearfar.search.page.search_page import SearchService
from nearfar.search.page.uploads import Uploads
from search.colours import ColourEncoder, draw, png

pytestmark = needs("gradio")


@pytest.fixture
def uploads():
    with Uploads() as folder:
        yield folder


@pytest.fixture
def service(tmp_path, uploads):
    rows = [
        {"image": png(draw(c)), "text": f"a {c} <disc>", "price": i, "sizes": ["S"], "note": None}
        for i, c in enumerate(("red", "green", "blue", "yellow"))
    ]
    index = build(ColourEncoder(), Records(rows), tmp_path / "index", keep=["price", "sizes", "note"])
    return SearchService(index, ColourEncoder(), uploads)


def test_kept_columns_stand_under_each_hit(service):
    (_, title), *_ = service.search("blue", None, "", "", 1.0, 1)[0]
    assert title.splitlines()[0].endswith("a blue <disc>")
    assert title.splitlines()[1] == 'price\N{NO-BREAK SPACE}2 \N{MIDDLE DOT} sizes\N{NO-BREAK SPACE}["S"]'


def test_a_long_caption_is_cut_in_the_gallery_and_whole_in_the_larger_view(tmp_path, uploads):
    rows = [{"image": png(draw("red")), "text": "red " * 100 + "end"}]
    one = SearchService(build(ColourEncoder(), Records(rows), tmp_path / "index"), ColourEncoder(), uploads)
    shown, hits, said, _ = one.search("red", None, "", "", 1, 24)
    assert len(shown[0][1]) < 180
    assert "end</p>" in one.larger(hits, 0)
    assert "1 of 1 picture for <b>red</b>" in said


def test_no_hits_are_a_sentence(service):
    shown, hits, said, _ = service.search("red", None, "", "", 1, 3, "price < 0")
    assert (shown, hits) == ([], [])
    assert "of 4 pictures none matches the filter <b>price &lt; 0</b>" in said


def test_before_a_search_the_page_says_what_to_do(service):
    assert "Say what to look for or drop a picture." in service.invitation()


def test_the_larger_view_has_the_picture_its_words_and_its_columns(service, uploads):
    hits = service.search("blue", None, "", "", 1.0, 4)[1]
    assert service.larger(hits, None) == ""
    shown = service.larger(hits, 0)
    path, alt = re.search(r'<img src="/gradio_api/file=([^"]+)" alt="([^"]+)">', shown).groups()
    assert uploads.find(path, visitor="anybody") is not None, "a picture of the index, which every visitor may see"
    assert alt == "a blue &lt;disc&gt;"
    assert "<dt>price</dt><dd>2</dd>" in shown
    assert "note" not in shown
    assert "<disc>" not in shown
    assert 'aria-label="close the larger view"' in shown


def test_an_address_fills_the_boxes(service):
    boxes = service.opened("?q=blue+green&minus=green&weight=2&top=2&where=price+%3E+0")
    assert boxes == ("blue green", "", "green", "price > 0", 2, 2)
    text, plus, minus, where, weight, top = boxes
    shown, hits, said, _ = service.search(text, None, plus, minus, weight, top, where)
    assert [hit.caption for hit in hits] == ["a blue <disc>", "a yellow <disc>"]
    assert len(shown) == 2
    assert "2 of 4 pictures for <b>blue green \N{MINUS SIGN} green</b>" in said


@pytest.mark.parametrize(
    ("address", "boxes"),
    [
        ("", ("", "", "", "", 1, 24)),
        ("?", ("", "", "", "", 1, 24)),
        ("?top=3", ("", "", "", "", 1, 3)),
        ("?q=&x=1", ("", "", "", "", 1, 24)),
    ],
)
def test_an_address_without_a_query_leaves_the_boxes_empty(service, address, boxes):
    assert service.opened(address) == boxes


@pytest.mark.parametrize("top", ["many", "0", "1e9", "nan", "-1", ""])
def test_a_number_of_an_address_that_is_none_is_the_usual_one(service, top):
    assert service.opened(f"?q=red&top={top}&weight={top}")[4:] == (1, 24)


def test_what_an_address_says_wrong_is_a_sentence(service):
    text, plus, minus, where, weight, top = service.opened("?q=%3Cb%3Ered&where=price+%3C")
    _, hits, said, _ = service.search(text, None, plus, minus, weight, top, where)
    assert hits == []
    assert "the filter cannot be read at its end" in said
    assert len(service.opened("?q=" + "a" * 9000)[0]) < 9000, "cut before it is read"
    assert "<b>red" not in service.search("<b>red", None, "", "", 1.0, 4)[2]
