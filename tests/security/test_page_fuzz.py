"""The page's functions, sent what no browser sends: seconds of it, and the same each time."""

import json
import random

import pytest

from installed import needs
from search.colours import draw, png
from search.visitors import Visitor, reference

pytestmark = needs("gradio")
pytest.importorskip("httpx")

ODD = [
    None, True, -1, 0, 10**30, 1e308, float("nan"), float("-inf"), "", "a", "\x00", "\ud800", "<b>", "../..",
    "a," * 3000, "x" * 5000, [], {}, [[]], {"path": None}, {"path": 7}, {"path": {"path": ["/"]}}, {"value": 1},
    {"path": "/dev/null", "is_stream": True, "url": "http://127.0.0.1:9/"}, {"url": "file:///etc/hostname"},
    {"__type__": "update"},
]  # fmt: skip
PRIVATE = ("Traceback", "site-packages", "/etc/hostname", "/dev/null", "127.0.0.1:9")


def test_odd_questions_are_answered_and_the_page_goes_on(address):
    visitor, chance = Visitor(address), random.Random(0)
    numbers = [each["id"] for each in visitor.page["dependencies"]]
    picture = visitor.upload("mine.png", png(draw("red")))
    kinds = {each["id"]: len(each["inputs"]) for each in visitor.page["dependencies"]}
    for _ in range(60):
        number = chance.choice(numbers)
        long = kinds[number] + chance.choice([0, 0, 0, 0, -1, 1])
        data = [chance.choice([*ODD, picture, "red", 1]) for _ in range(max(0, long))]
        event = chance.choice(
            [None, {}, chance.choice(ODD), {"index": chance.choice(ODD), "value": chance.choice(ODD)}]
        )
        said = json.dumps(visitor.call(number, data, seconds=20, event_data=event)["output"])
        assert not [word for word in PRIVATE if word in said.replace(json.dumps(data), "")], (number, data)
    assert visitor.search("", ("mine.png", png(draw("blue"))))[0][0].endswith("a blue disc")


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"[]", b"7", b"null", b'"text"', b"\xff\xfe", b"[" * 100_000, b'{"data":' * 100_000,
        b'{"data": []}', b'{"data": [], "session_hash": "../x"}', b'{"data": [], "session_hash": ["a"]}',
        b'{"data": 1' + b"0" * 5000 + b"}",
        json.dumps({"data": [], "session_hash": "x" * 65}).encode(),
    ],
)  # fmt: skip
def test_a_question_that_is_none_is_refused(address, body):
    answer = Visitor(address).http.post("/gradio_api/queue/join", content=body)
    assert answer.status_code == 400
    assert "Traceback" not in answer.text


def test_a_question_that_is_too_long_is_refused(address):
    visitor = Visitor(address)
    assert visitor.call(0, ["x" * (1 << 20)])["status"] == 413


def test_a_search_takes_on_only_so_much(address):
    visitor = Visitor(address)
    for text, plus, said in (
        ("x" * 2001, "", "longer than 2,000 letters"),
        ("red", "x" * 2001, "longer than 2,000 letters"),
        ("red", "a," * 51, "more than 50 texts"),
    ):
        assert said in visitor.ask("go", "click", [text, None, plus, "", 1, 3])[2]


def test_numbers_out_of_their_range_are_refused(index, uploads):
    from nearfar.search.page.search_page import SearchService
    from search.colours import ColourEncoder

    service = SearchService(index, ColourEncoder(), uploads)
    for weight, top, said in (
        (float("nan"), 3, "weight must be"), ("1", 3, "weight must be"), (9, 3, "weight must be"),
        (1, 10**9, "hits must be"), (1, None, "hits must be"), (1, float("inf"), "hits must be"),
    ):  # fmt: skip
        assert said in service.search("red", None, "", "", weight, top)[2]


def test_halves_of_characters_are_text_like_any_other(address):
    visitor = Visitor(address)
    assert "of 3 pictures" in visitor.ask("go", "click", ["red \ud800", None, "\udfff", "", 1, 3])[2]
    assert visitor.ask("name-it", "click", [reference("gone"), "\ud800"])[0] in (
        {},
        None,
        {"label": None, "confidences": []},
    )
