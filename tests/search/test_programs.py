"""The interface for programs, over HTTP: hits, embeddings, and a sentence for whatever is wrong."""

import base64
import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from installed import needs
from nearfar.data.sources.source import Records
from nearfar.search import build, query
from nearfar.search.page.visitors import Password
from search.colours import ColourEncoder, draw, png
from search.visitors import Visitor, served

pytestmark = needs("gradio")
httpx = pytest.importorskip("httpx")

COLOURS = ("red", "green", "blue", "yellow", "black")
WORD = "me:a long password"


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    rows = [
        {"image": png(draw(c)), "text": f"a {c} disc", "index": i, "price": i, "sku": f"00{i}"}
        for i, c in enumerate(COLOURS)
    ]
    where = tmp_path_factory.mktemp("programs") / "index"
    return build(ColourEncoder(), Records(rows), where, model="/models/colours", keep=["price", "sku"])


@pytest.fixture(scope="module")
def address(index):
    from nearfar.search.page.serving import uploads_folder

    with uploads_folder() as uploads, served(index, ColourEncoder(), uploads) as address:
        yield address


@pytest.fixture
def http(address):
    with httpx.Client(base_url=address, timeout=60) as client:
        yield client


def in_base64(picture):
    return base64.b64encode(png(picture)).decode()


def captions(answer):
    assert answer.status_code == 200, answer.text
    return [hit["caption"] for hit in answer.json()["hits"]]


def test_a_text_finds_what_query_finds(http, index):
    answer = http.post("/api/search", json={"text": "something red", "top": 3})
    expected = query(index, ColourEncoder(), text="something red", top=3)
    content = answer.json()
    assert answer.headers["content-type"] == "application/json"
    assert [hit["key"] for hit in content["hits"]] == [hit.key for hit in expected]
    assert content["hits"][0] == json.loads(json.dumps(expected[0].as_dict()))
    assert (content["items"], content["matching"], set(content["seconds"])) == (5, None, {"embed", "search"})


def test_pictures_come_as_base64_or_in_a_form(http):
    green = draw("green", "square")
    assert captions(http.post("/api/search", json={"image": in_base64(green), "top": 1})) == ["a green disc"]
    uri = f"data:image/png;base64,{in_base64(green)}"
    assert captions(http.post("/api/search", json={"image": uri, "top": 1})) == ["a green disc"]
    form = {"files": {"image": ("../../x.png", png(green))}, "data": {"top": "2", "where": "price < 4"}}
    assert captions(http.post("/api/search", **form))[0] == "a green disc"
    both = {"image": in_base64(green), "plus": ["blue", "blue"], "minus": ["green"], "weight": 2, "top": 1}
    assert captions(http.post("/api/search", json=both)) == ["a blue disc"]
    form = {"files": {"image": ("x", png(green))}, "data": {"plus": ["blue", "blue"], "minus": "green", "weight": "2"}}
    assert captions(http.post("/api/search", **form))[0] == "a blue disc"


def test_filters_and_columns(http):
    answer = http.post("/api/search", json={"text": "red", "where": 'price > 1 and sku != "004"', "keep": ["sku"]})
    assert sorted(captions(answer)) == ["a blue disc", "a yellow disc"]
    assert answer.json()["matching"] == 2
    assert [hit["kept"] for hit in answer.json()["hits"]] == [{"sku": "002"}, {"sku": "003"}]
    assert captions(http.post("/api/search", json={"text": "red", "where": "price > 9"})) == []


def test_embeddings_are_those_of_the_encoder(http):
    encoder = ColourEncoder()
    answer = http.post("/api/embed", json={"text": ["red", "blue red"], "image": in_base64(draw("red"))}).json()
    assert answer["dim"] == 7
    expected = encoder.encode_text(encoder.tokenize(["red", "blue red"]), normalize=True).numpy()
    np.testing.assert_allclose(answer["text"], expected, atol=1e-6)
    expected = encoder.encode_image(encoder.preprocess([draw("red")]), normalize=True).numpy()
    np.testing.assert_allclose(answer["image"], expected, atol=1e-6)
    files = [("image", ("a.png", png(draw("red")))), ("image", ("b.png", png(draw("blue"))))]
    assert np.shape(http.post("/api/embed", files=files, data={"text": "red"}).json()["image"]) == (2, 7)


def test_info_says_what_is_searched(http):
    info = http.get("/api/info").json()
    assert info["columns"] == {"price": "whole numbers", "sku": "texts"}
    assert (info["items"], info["dim"], info["kind"], info["model"]) == (5, 7, "flat", "models/colours")
    assert info["sides"] == ["image", "text"]
    assert info["most"]["picture_bytes"] == 20 << 20


BODIES = {
    "no JSON": ({"content": b"{"}, 400, "the body is not JSON"),
    "no number": ({"content": b'{"text": "a", "weight": NaN}'}, 400, "the body is not JSON"),
    "nested": ({"content": b"[" * 100_000}, 400, "the body is not JSON"),
    "not UTF-8": ({"content": b'{"text": "\xff"}'}, 400, "the body is not JSON"),
    "a list": ({"content": b"[1]"}, 400, "must be a JSON object"),
    "nothing": ({"content": b""}, 400, "the body is not JSON"),
    "empty": ({"json": {}}, 422, "nothing to look for: give a text, an image, or both"),
    "unknown field": ({"json": {"query": "red"}}, 422, "no field is called 'query'; the fields are: text, image"),
    "text a number": ({"json": {"text": 3}}, 422, "text must be a text"),
    "text long": ({"json": {"text": "a" * 3000}}, 422, "longer than 2,000 letters"),
    "plus of numbers": ({"json": {"text": "a", "plus": [1]}}, 422, "plus must be a text, or a list of texts"),
    "plus many": ({"json": {"text": "a", "plus": ["b"] * 60}}, 422, "more than 50 texts"),
    "top text": ({"json": {"text": "a", "top": "3"}}, 422, "top must be a whole number from 1 to 1000"),
    "top half": ({"json": {"text": "a", "top": 1.5}}, 422, "top must be a whole number"),
    "top true": ({"json": {"text": "a", "top": True}}, 422, "top must be a whole number"),
    "top none": ({"json": {"text": "a", "top": 0}}, 422, "top must be a number from 1 to 1000"),
    "top huge": ({"json": {"text": "a", "top": 10**9}}, 422, "top must be a number from 1 to 1000"),
    "weight": ({"json": {"text": "a", "weight": "x"}}, 422, "the weight must be a number from 0.1 to 3"),
    "where": ({"json": {"text": "a", "where": "price <"}}, 422, "the filter cannot be read at its end: a value"),
    "where of another": ({"json": {"text": "a", "where": "prize < 1"}}, 422, "'prize' is no column of the index"),
    "where a list": ({"json": {"text": "a", "where": ["x"]}}, 422, "where must be a text"),
    "keep": ({"json": {"text": "a", "keep": ["prize"]}}, 422, "no column 'prize' is kept; those are: price, sku"),
    "image number": ({"json": {"image": 3}}, 422, "image must be the base64 of a picture's bytes"),
    "image object": ({"json": {"image": {"path": "/etc/hostname"}}}, 422, "paths and addresses are not read"),
    "two images": ({"json": {"image": ["", ""]}}, 422, "more than 1 picture"),
    "image cut": ({"json": {"image": base64.b64encode(png(draw("red"))[:70]).decode()}}, 422, "image: "),
    "image text": ({"json": {"image": base64.b64encode(b"not a picture").decode()}}, 422, "image: not an image"),
    "image empty": ({"json": {"image": ""}}, 422, "image: "),
    "image large": ({"json": {"image": base64.b64encode(bytes((20 << 20) + 1)).decode()}}, 422, "size of 20 MiB"),
    "half a character": ({"content": b'{"text": "\\ud800", "where": "x"}'}, 422, "the filter cannot be read"),
    "text plain": ({"content": b"red", "headers": {"content-type": "text/plain"}}, 415, "send JSON"),
    "no type": ({"content": b"{}", "headers": {"content-type": ""}}, 415, "send JSON"),
    "urlencoded": ({"data": {"text": "red"}}, 415, "send JSON"),
    "form broken": (
        {"content": b"--b\r\nbroken", "headers": {"content-type": "multipart/form-data; boundary=b"}}, 422, "nothing",
    ),
    "form without a boundary": ({"content": b"x", "headers": {"content-type": "multipart/form-data"}}, 400, ""),
    "too large": ({"content": b" " * (29 << 20)}, 413, "maximum size of 28 MiB"),
}  # fmt: skip


@pytest.mark.parametrize("name", BODIES)
def test_what_is_wrong_is_a_sentence_with_its_status(http, name):
    sent, status, message = BODIES[name]
    if "content" in sent:
        sent = {"headers": {"content-type": "application/json"}, **sent}
    answer = http.post("/api/search", **sent)
    assert answer.status_code == status, answer.text
    assert list(answer.json()) == ["error"]
    assert message in answer.json()["error"]
    assert "\n" not in answer.json()["error"]
    assert captions(http.post("/api/search", json={"text": "red", "top": 1})) == ["a red disc"]


@pytest.mark.parametrize("path", ["/api/search", "/api/embed"])
@pytest.mark.parametrize("ending", ["", ".png"])
@pytest.mark.parametrize("as_file", [True, False])
def test_a_path_or_an_address_is_never_read(address, http, tmp_path, path, ending, as_file):
    picture = tmp_path / f"yellow{ending}"
    picture.write_bytes(png(draw("yellow")))
    visitor = Visitor(address)
    upload = visitor.upload("mine.png", png(draw("yellow")))["path"]
    named = [str(picture), f"file://{picture}", "http://127.0.0.1:1/a.png", "../yellow.png", "/etc/hostname1", upload]
    for value in named:
        sent = {"files": {"image": (value, b"no picture")}} if as_file else {"json": {"image": value}}
        answer = visitor.http.post(path, **sent)
        assert answer.status_code == 422, answer.text
        assert ("paths and addresses are not read" in answer.text) or ("not an image" in answer.text), answer.text
        assert str(tmp_path) not in answer.json()["error"]


def test_a_chunked_body_is_bounded_too(http):
    def pieces():
        for _ in range(30):
            yield b" " * (1 << 20)

    headers = {"content-type": "application/json"}
    try:
        answer = http.post("/api/search", content=pieces(), headers=headers)
    except httpx.HTTPError:  # the server has hung up while the rest was sent
        return
    assert (answer.status_code, "28 MiB" in answer.json()["error"]) == (413, True)


def test_other_addresses_and_methods(http):
    for method, path, status in [
        ("GET", "/api/search", 405), ("GET", "/api/embed", 405), ("POST", "/api/info", 405),
        ("PUT", "/api/search", 405),
        ("GET", "/api", 404), ("GET", "/api/", 404), ("GET", "/api/search/", 404), ("POST", "/api/searches", 404),
        ("GET", "/openapi.json", 404), ("GET", "/docs", 404),
    ]:  # fmt: skip
        answer = http.request(method, path)
        assert answer.status_code == status, (method, path)
        if status == 405:
            assert answer.headers["allow"] in ("GET", "POST")
    assert http.get("/api/searches").json() == {"error": "there is nothing at this address"}
    for path in ("/api/search", "/api/info"):
        answer = http.request("POST", path, json={"text": "a"}, headers={"origin": "http://elsewhere.example"})
        assert (answer.status_code, answer.json()["error"]) == (403, "this page answers to no other site")


def test_the_password_opens_it(index):
    from nearfar.search.page.serving import uploads_folder

    with uploads_folder() as uploads, served(index, ColourEncoder(), uploads, password=Password(WORD)) as address:
        for method, path in (("POST", "/api/search"), ("POST", "/api/embed"), ("GET", "/api/info")):
            answer = httpx.request(method, address + path)
            assert (answer.status_code, answer.json()) == (401, {"error": "this page has a password"})
            wrong = httpx.request(method, address + path, auth=("me", "another word"))
            assert wrong.status_code == 401
        answer = httpx.post(f"{address}/api/search", json={"text": "blue", "top": 1}, auth=("me", "a long password"))
        assert captions(answer) == ["a blue disc"]


def test_sixteen_programs_at_once_have_each_their_own_answer(address):
    def ask(number):
        colour = COLOURS[number % 5]
        sent = {"text": colour} if number % 2 else {"image": in_base64(draw(colour, "bar"))}
        answers = [captions(httpx.post(f"{address}/api/search", json={**sent, "top": 1}, timeout=60)) for _ in range(4)]
        return colour, answers

    with ThreadPoolExecutor(16) as crowd:
        for colour, answers in crowd.map(ask, range(32)):
            assert answers == [[f"a {colour} disc"]] * 4


def test_too_many_at_once_are_turned_away(address, monkeypatch):
    monkeypatch.setattr("nearfar.search.page.programs.MOST_WAITING", 0)
    answer = httpx.post(f"{address}/api/search", json={"text": "red"})
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert "too many questions" in answer.json()["error"]
