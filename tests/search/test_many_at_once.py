"""The page's server under several visitors at once, asked as the page asks it."""

import json
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest

from nearfar.search import build
from search.colours import ColourEncoder, draw, folder_source, png

pytest.importorskip("gradio")
httpx = pytest.importorskip("httpx")


class Visitor:
    """One session of the page, without a browser."""

    def __init__(self, address):
        self.http = httpx.Client(base_url=address, timeout=60)
        self.session = uuid.uuid4().hex
        self.page = self.http.get("/config").json()

    def place(self, name):
        """The number of a part of the page, by its `elem_id`."""
        return next(part["id"] for part in self.page["components"] if part["props"].get("elem_id") == name)

    def ask(self, part, event, data):
        """What the page's answer to an event brings, part by part."""
        place = self.place(part) if part else None
        asked = next(
            each
            for each in self.page["dependencies"]
            if any(name == event and place in (None, target) for target, name in each["targets"])
        )
        body = {"data": data, "fn_index": asked["id"], "session_hash": self.session}
        assert self.http.post("/gradio_api/queue/join", json=body).status_code == 200
        with self.http.stream("GET", "/gradio_api/queue/data", params={"session_hash": self.session}) as answer:
            for line in answer.iter_lines():
                said = json.loads(line[6:]) if line.startswith("data: ") else {}
                if said.get("msg") == "process_completed":
                    assert said["success"], said
                    return said["output"]["data"]
        raise AssertionError("no answer came")

    def search(self, text, upload=None):
        """The captions of the hits, and the sentence."""
        picture = None
        if upload is not None:
            sent = self.http.post("/gradio_api/upload", files={"files": upload})
            picture = {"path": sent.json()[0], "orig_name": upload[0], "meta": {"_type": "gradio.FileData"}}
        shown, _, said, _ = self.ask("go", "click", [text, picture, "", "", 1, 3])
        return [hit["caption"] for hit in shown], said

    def heading(self):
        return self.ask(None, "load", [])[0]


@pytest.fixture
def index(encoder, photos, tmp_path):
    return build(encoder, folder_source(photos), tmp_path / "index")


@pytest.fixture
def address(index):
    import uvicorn

    from nearfar.search.serving import free_port, make_app, uploads_folder

    with uploads_folder():
        port = free_port()
        server = uvicorn.Server(
            uvicorn.Config(make_app(index, ColourEncoder()), host="127.0.0.1", port=port, log_level="warning")
        )
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
        server.should_exit = server.force_exit = True
        thread.join(20)


def test_eight_visitors_at_once_have_each_their_own_answer(address):
    broken = ("broken.png", png(draw("red"))[:70])
    asked = [
        ("something red", None, "a red"),
        ("something green", None, "a green"),
        ("something blue", None, "a blue"),
        ("", ("mine.png", png(draw("red", "square"))), "a red"),
        ("", ("mine.png", png(draw("green", "square"))), "a green"),
        ("", ("mine.png", png(draw("blue", "square"))), "a blue"),
        ("red", broken, None),
        ("", None, None),
    ]
    start = threading.Barrier(len(asked))

    def visit(text, upload, _):
        visitor = Visitor(address)
        start.wait(60)
        return [visitor.search(text, upload) for _ in range(3)]

    with ThreadPoolExecutor(len(asked)) as crowd:
        answers = list(crowd.map(lambda one: visit(*one), asked))
    for (text, upload, expected), thrice in zip(asked, answers, strict=True):
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
