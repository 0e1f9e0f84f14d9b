"""The gate: which addresses are open, to whom, and what is served at them."""

import base64
import os
import time

import pytest

from installed import needs
from nearfar.errors import UserError
from nearfar.search.page.visitors import Password, VisitorCookies, WrongGuesses, password
from search.colours import ColourEncoder, draw, png
from search.visitors import Visitor, served

pytestmark = needs("gradio")
httpx = pytest.importorskip("httpx")

CHOSEN = {"index": 0, "value": None}
OPEN = {
    "GET /", "HEAD /", "GET /config", "GET /theme.css", "GET /manifest.json", "GET /favicon.ico", "GET /robots.txt",
    "GET /pwa_icon", "GET /svelte/{path:path}", "GET /static/{path:path}", "GET /assets/{path:path}",
    "GET /gradio_api/info", "GET /gradio_api/app_id", "GET /gradio_api/startup-events",
    "GET /gradio_api/queue/data", "POST /gradio_api/queue/join", "GET /gradio_api/heartbeat/{session_hash}",
}  # fmt: skip
"""What reaches gradio; uploads and files are answered before it."""


@pytest.fixture
def visitor(address):
    return Visitor(address)


def test_what_the_page_does_not_need_is_closed(index):
    """Of all that this version of gradio answers, whatever the next one adds."""
    from fastapi.testclient import TestClient
    from starlette.routing import Mount

    from nearfar.search.page.serving import make_app, uploads_folder

    reached = set()

    async def note(scope, receive, send):
        await send({"type": "http.response.start", "status": 299, "headers": []})
        await send({"type": "http.response.body"})

    with uploads_folder() as uploads:
        app = make_app(index, ColourEncoder(), uploads)
        page = next(route.app for route in app.routes if isinstance(route, Mount))
        listed = [(method, route.path) for route in routes(page) for method in route.methods]
        assert len(listed) > 60
        page.middleware_stack = note
        client = TestClient(app, base_url="http://127.0.0.1")
        for method, path in listed:
            filled = path.replace("{path:path}", "a.js").replace("{session_hash}", "abc")
            body = b'{"data": [], "fn_index": 0, "session_hash": "abc"}' if method == "POST" else None
            answer = client.request(method, f"{filled}?session_hash=abc", content=body)
            if answer.status_code == 299:
                reached.add(f"{method} {path}")
            else:
                assert answer.status_code in (404, 405) or "/upload" in path, (method, path)
    assert reached == OPEN


def routes(app):
    """Those of an application, and of the routers within it."""
    for route in app.routes:
        if hasattr(route, "methods"):
            yield route
        elif inner := getattr(route, "original_router", None) or getattr(route, "app", None):
            yield from routes(inner)


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/proxy=http://127.0.0.1:1/", "/gradio_api/file/etc/hostname", "/file=/etc/hostname", "/runs",
        "/gradio_api/run/predict", "/gradio_api/call/x", "/gradio_api/deep_link?session_hash=a", "/monitoring",
        "/static/../../x", "/static/%2e%2e/%2e%2e/x", "/assets/..%2f..%2fx", "//etc/hostname", "/gradio_api/file=",
    ],
)  # fmt: skip
def test_side_doors_are_closed(visitor, path):
    for method in ("GET", "POST", "HEAD", "PUT", "DELETE"):
        answer = visitor.http.request(method, path)
        assert answer.status_code in (404, 405), method
        assert answer.headers["x-content-type-options"] == "nosniff"


def test_a_visitors_uploads_are_served_to_that_visitor(address, visitor):
    picture = visitor.upload("mine.png", png(draw("yellow")))["path"]
    page = visitor.upload("page.html", b"<script>1</script>")["path"]
    drawing = visitor.upload("drawing.svg", b"<svg xmlns='http://www.w3.org/2000/svg'/>")["path"]
    mine = visitor.http.get(f"/gradio_api/file={picture}")
    assert (mine.status_code, mine.content) == (200, png(draw("yellow")))
    for path in (page, drawing):
        answer = visitor.http.get(f"/gradio_api/file={path}")
        assert answer.headers["content-type"] == "application/octet-stream"
        assert answer.headers["content-disposition"] == "attachment"
    other = Visitor(address)
    forged = dict(other.http.cookies)
    name, cookie = next(iter(forged.items()))
    for cookies in ({}, {name: cookie}, {name: "x." + cookie.partition(".")[2]}, {name: picture.split("/")[-3]}):
        answer = httpx.get(f"{address}/gradio_api/file={picture}", cookies=cookies)
        missing = httpx.get(f"{address}/gradio_api/file={picture}x", cookies=cookies)
        assert (answer.status_code, answer.text) == (missing.status_code, missing.text)
        assert answer.status_code == 404


def test_only_pictures_are_seen_of_what_is_not_there_or_not_a_file(visitor, private):
    answers = {visitor.http.get(f"/gradio_api/file={path}", timeout=20).text for path in private.values()}
    assert answers == {"there is nothing at this address"}


def test_two_visitors_with_one_sessions_name_have_a_session_each(address):
    ann, bob = Visitor(address), Visitor(address)
    bob.session = ann.session
    ann.ask("go", "click", ["blue", None, "", "", 1, 3])
    assert "chosen" in ann.ask("hits", "select", [None], event_data=CHOSEN)[1]
    assert bob.ask("hits", "select", [None], event_data=CHOSEN)[1] == ""


def test_uploads_go_when_the_page_is_closed(index):
    from nearfar.search.page.serving import uploads_folder

    with uploads_folder(linger=0.3) as uploads, served(index, ColourEncoder(), uploads) as address:
        visitor = Visitor(address)
        with visitor.http.stream("GET", f"/gradio_api/heartbeat/{visitor.session}") as page:
            beats = page.iter_lines()
            next(beats)
            path = visitor.upload("mine.png", png(draw("red")))["path"]
            wait_until(lambda: False, 1.0)
            assert os.path.exists(path), "while the page is open"
        wait_until(lambda: not os.path.exists(path), 30)
        assert not os.path.exists(path)


def wait_until(holds, seconds):
    end = time.monotonic() + seconds
    while not holds() and time.monotonic() < end:
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"sec-fetch-site": "same-origin"}, 200),
        ({"sec-fetch-site": "none"}, 200),
        ({"sec-fetch-site": "cross-site", "sec-fetch-dest": "document"}, 200),
        ({"sec-fetch-site": "cross-site", "sec-fetch-dest": "empty"}, 403),
        ({"sec-fetch-site": "same-site", "sec-fetch-dest": "image"}, 403),
        ({"origin": "http://elsewhere.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "ADDRESS"}, 200),
        ({"host": "elsewhere.example"}, 400),
    ],
)
def test_other_sites_do_not_come_in_through_a_browser(address, headers, status):
    sent = {name: value.replace("ADDRESS", address) for name, value in headers.items()}
    answer = httpx.get(f"{address}/config", headers=sent)
    assert answer.status_code == status
    assert answer.headers.get("access-control-allow-origin") in (None, address)


def test_a_form_that_is_none_is_refused(visitor):
    forms = [
        {"content": b"x"},
        {"files": {"other": ("a.png", b"1")}},
        {"data": {"files": "text"}},
        {"files": [("files", ("a.png", b"1")), ("files", ("b.png", b"1"))]},
        {"content": b"--b\r\nbroken", "headers": {"content-type": "multipart/form-data; boundary=b"}},
        {"content": b"", "headers": {"content-type": "multipart/form-data"}},
    ]
    assert {visitor.http.post("/gradio_api/upload", **form).status_code for form in forms} == {400}


def test_the_password_is_needed_at_every_address(index, monkeypatch):
    from nearfar.search.page.serving import uploads_folder

    monkeypatch.setattr("nearfar.search.page.visitors.FREE_GUESSES", 1000)
    word = "me:a long password"
    with uploads_folder() as uploads, served(index, ColourEncoder(), uploads, password=Password(word)) as address:
        http = httpx.Client(base_url=address)
        paths = [
            "/",
            "/config",
            "/theme.css",
            "/gradio_api/file=/x",
            "/gradio_api/heartbeat/a",
            "/gradio_api/queue/join",
        ]
        wrong = [None, "me:a long passworD", "me:", "you:a long password", ":", "me:a long password2"]
        for path in [*paths, "/gradio_api/upload", "/gradio_api/queue/data?session_hash=a", "/gradio_api/info", "/x"]:
            for method in ("GET", "POST"):
                for words in wrong:
                    auth = {} if words is None else {"authorization": basic(words)}
                    answer = http.request(method, path, headers=auth)
                    assert answer.status_code == 401
                    assert answer.headers["www-authenticate"].startswith("Basic")
                    assert "set-cookie" not in answer.headers
        visitor = Visitor(address, headers={"authorization": basic(word)})
        assert visitor.search("blue")[0][0].endswith("a blue disc")
        assert visitor.search("", ("mine.png", png(draw("red"))))[0][0].endswith("a red disc")


def test_guessing_passwords_takes_time_and_stops_nobody_who_is_in(index, monkeypatch):
    from nearfar.search.page.serving import uploads_folder

    monkeypatch.setattr("nearfar.search.page.visitors.PAUSE", 0.5)
    word = "me:a long password"
    with uploads_folder() as uploads, served(index, ColourEncoder(), uploads, password=Password(word)) as address:
        inside = httpx.Client(base_url=address, headers={"authorization": basic(word)})
        assert inside.get("/config").status_code == 200
        outside = httpx.Client(base_url=address)
        assert [outside.get("/config").status_code for _ in range(30)] == [401] * 30, "asking is no guess"
        answers = [outside.get("/config", headers={"authorization": basic(f"me:guess {i}")}) for i in range(13)]
        assert [answer.status_code for answer in answers] == [401] * 10 + [429] * 3
        assert outside.get("/config", headers={"authorization": basic(word)}).status_code == 429, "nothing is learnt"
        assert inside.get("/config").status_code == 200
        time.sleep(0.6)
        assert outside.get("/config", headers={"authorization": basic("me:one more")}).status_code == 401
        assert outside.get("/config", headers={"authorization": basic(word)}).status_code == 429
        time.sleep(0.6)
        assert outside.get("/config", headers={"authorization": basic(word)}).status_code == 200


def test_wrong_guesses_are_forgotten_and_never_fill_the_memory(monkeypatch):
    monkeypatch.setattr("nearfar.search.page.visitors.MOST_ADDRESSES", 3)
    now = [1000.0]
    guesses = WrongGuesses(lambda: now[0])
    for _ in range(10):
        guesses.add("a")
    assert guesses.must_wait("a")
    now[0] += 700
    guesses.add("a")
    assert not guesses.must_wait("a"), "ten minutes later it begins anew"
    for _ in range(10):
        guesses.add("b")
    for other in "cde":
        guesses.add(other)
    assert len(guesses._guesses) == 3
    assert not guesses.must_wait("b"), "the oldest went"


def basic(words):
    return "Basic " + base64.b64encode(words.encode()).decode()


def test_the_password_is_compared_whole_and_in_constant_time(monkeypatch):
    compared = []
    monkeypatch.setattr(
        "nearfar.search.page.visitors.hmac.compare_digest", lambda a, b: compared.append((a, b)) or a == b
    )
    guard = Password("me:correct horse")
    assert guard.opens(basic("me:correct horse"))
    for words in ("me:correct hors", "", "me:correct horse\0", "ü"):
        assert not guard.opens(basic(words))
    assert {len(side) for pair in compared for side in pair} == {32}, "digests, whatever was given"
    assert not guard.opens("Bearer " + basic("me:correct horse")[6:])
    assert not guard.opens("Basic !!!")
    assert not guard.opens(None)


def test_where_the_password_comes_from():
    assert password(None, {}) is None
    assert password(None, {"NEARFAR_AUTH": "a:from the environment"}).opens(basic("a:from the environment"))
    both = password("b:from the command", {"NEARFAR_AUTH": "a:from the environment"})
    assert both.opens(basic("b:from the command"))
    for bad in ("", "me", "me:", "me:short", ":a long password"):
        with pytest.raises(UserError, match="user:password"):
            password(bad, {})
        with pytest.raises(UserError, match="user:password"):
            password(None, {"NEARFAR_AUTH": bad})


def test_a_cookie_that_was_not_given_is_none():
    visitors, others = VisitorCookies(), VisitorCookies()
    cookie, name = visitors.welcome()
    assert visitors.name(cookie) == name
    assert name not in cookie
    for false in (None, "", ".", "a.b", cookie[:-1], "x" + cookie, others.welcome()[0], "ü.ü", name):
        assert visitors.name(false) is None
