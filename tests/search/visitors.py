"""The page's server on this machine, and visitors who send it what a browser sends, without a browser."""

from __future__ import annotations

import json
import threading
import time
import uuid
from contextlib import contextmanager


@contextmanager
def served(index, encoder, uploads, **options):
    """The address of the page, served in a thread."""
    import uvicorn

    from nearfar.search.page.serving import free_port, make_app

    port = free_port()
    app = make_app(index, encoder, uploads, **options)
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="critical"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    end = time.monotonic() + 60
    while not server.started and time.monotonic() < end:
        time.sleep(0.05)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = server.force_exit = True
        thread.join(20)


class Visitor:
    """One session of the page."""

    def __init__(self, address, **options):
        import httpx

        self.http = httpx.Client(base_url=address, timeout=60, **options)
        self.session = uuid.uuid4().hex
        self.page = self.http.get("/config").json()

    def place(self, name):
        """The number of a part of the page, by its `elem_id`."""
        return next(part["id"] for part in self.page["components"] if part["props"].get("elem_id") == name)

    def function(self, part, event):
        """What the page calls at an event of one of its parts (None: of the page): the first of those that follow each
        other which is sent anything."""
        place = self.place(part) if part else None
        steps = self.page["dependencies"]
        step = next(
            each for each in steps if any(name == event and place in (None, target) for target, name in each["targets"])
        )
        while not step["inputs"] and (later := [each for each in steps if each["trigger_after"] == step["id"]]):
            step = later[0]
        return step

    def call(self, function, data, *, seconds=60, **more):
        """The message that ends the call of a function, by its number: `success`, and `output`."""
        body = {"data": data, "fn_index": function, "session_hash": self.session, **more}
        joined = self.http.post("/gradio_api/queue/join", content=json.dumps(body))
        if joined.status_code != 200:
            return {"success": False, "status": joined.status_code, "output": {"error": joined.text}}
        end = time.monotonic() + seconds
        with self.http.stream("GET", "/gradio_api/queue/data", params={"session_hash": self.session}) as answer:
            for line in answer.iter_lines():
                said = json.loads(line[6:]) if line.startswith("data: ") else {}
                if said.get("msg") == "process_completed":
                    return said
                assert time.monotonic() < end, f"no answer within {seconds} s"
        raise AssertionError("no answer came")

    def ask(self, part, event, data, **more):
        """What the page's answer to an event brings, part by part."""
        said = self.call(self.function(part, event)["id"], data, **more)
        assert said["success"], said
        return said["output"]["data"]

    def upload(self, name, content):
        """Send a file; the reference to it."""
        sent = self.http.post("/gradio_api/upload", files={"files": (name, content)})
        assert sent.status_code == 200, sent.text
        return reference(sent.json()[0])

    def search(self, text, upload=None):
        """The captions of the hits, and the sentence."""
        picture = self.upload(*upload) if upload else None
        shown, _, said, _ = self.ask("go", "click", [text, picture, "", "", 1, 3])
        return [hit["caption"] for hit in shown], said

    def heading(self):
        return self.ask(None, "load", [])[0]


def reference(path):
    """A file as a browser names it in a request."""
    return {"path": path, "orig_name": "picture.png", "meta": {"_type": "gradio.FileData"}}
