"""`push_to_hub` against a hub on this machine, which answers as the real one does and keeps what it is given."""

import base64
import json
import subprocess
import sys
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import numpy as np
import pytest

CHILD = """
import sys
import nearfar
from nearfar.errors import UserError

model = nearfar.load(sys.argv[1])
for options in eval(sys.argv[2]):
    try:
        print(model.push_to_hub("me/mine", **options))
    except UserError as error:
        print(error)
print(nearfar.load("me/mine").encode(["a red fox"]).tolist())
"""


class Hub(BaseHTTPRequestHandler):
    """The calls that an upload of small files makes, and the way back. Repositories of `forbidden` tokens answer 401 or
    403."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        self.server.calls.append(self.path)
        token = (self.headers["Authorization"] or "").removeprefix("Bearer ")
        if token != "hf_write":
            return self.answer({"error": "no"}, 403 if token == "hf_read" else 401)
        address = f"http://127.0.0.1:{self.server.server_port}/me/mine"
        if self.path == "/api/repos/create":
            self.server.made = json.loads(body)
            return self.answer({"url": address, "id": "me/mine", "name": "me/mine"})
        if self.path == "/api/validate-yaml":
            return self.answer({"errors": [], "warnings": []})
        if "/preupload/" in self.path:
            requested = json.loads(body)["files"]
            return self.answer(
                {"files": [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in requested]}
            )
        assert self.path == "/api/models/me/mine/commit/main", self.path
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file":
                self.server.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
        return self.answer(
            {"success": True, "commitUrl": f"{address}/commit/1", "commitOid": "1" * 40, "hookOutput": ""}
        )

    def do_GET(self):
        _, _, name = self.path.partition("/resolve/")
        if "/tree/" in self.path:
            sizes = {file: len(content) for file, content in self.server.files.items()}
            return self.answer([{"type": "file", "path": f, "size": n, "oid": "0" * 40} for f, n in sizes.items()])
        if not name:
            siblings = [{"rfilename": file} for file in self.server.files]
            return self.answer({"id": "me/mine", "sha": "0" * 40, "siblings": siblings, "tags": []})
        content = self.server.files.get(name.split("/", 1)[1])
        self.send_response(404 if content is None else 200)
        self.send_header("X-Repo-Commit", "0" * 40)
        self.send_header("Content-Length", str(len(content or b"")))
        if content is None:
            self.send_header("X-Error-Code", "EntryNotFound")
        else:
            self.send_header("ETag", sha256(content).hexdigest())
        self.end_headers()
        if self.command == "GET" and content:
            self.wfile.write(content)
        return None

    do_HEAD = do_GET

    def answer(self, content, status=200):
        blob = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(blob)))
        self.end_headers()
        self.wfile.write(blob)

    def log_message(self, *_):
        pass


@pytest.fixture
def hub():
    server = HTTPServer(("127.0.0.1", 0), Hub)
    server.files, server.calls, server.made = {}, [], None
    Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()


def pushed(folder, calls, endpoint, home):
    """What each call says in a process whose hub is at `endpoint`, and then what the pushed model embeds."""
    environment = {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", "PATH": "/usr/bin:/bin"}
    environment |= {"PYTHONPATH": ":".join(sys.path), "OMP_NUM_THREADS": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    command = [sys.executable, "-c", CHILD, str(folder), repr(calls)]
    out = subprocess.run(command, capture_output=True, text=True, timeout=240, env=environment)
    assert out.returncode == 0, out.stderr
    return out.stdout.splitlines()


def test_what_is_pushed_is_what_is_saved(model, hub, tmp_path):
    import nearfar

    folder = model.save_pretrained(tmp_path / "model")
    (tmp_path / "card.md").write_text("---\nlibrary_name: nearfar\n---\n# Mine, R@5 81.2 (79.0 to 83.1)\n")
    endpoint = f"http://127.0.0.1:{hub.server_port}"
    calls = [
        {"token": "hf_write", "private": True, "card": str(tmp_path / "card.md")},
        {"token": "hf_read"},
        {},
        {"card": str(tmp_path / "none.md")},
    ]
    *said, by_name = pushed(folder, calls, endpoint, tmp_path / "home")
    assert said == [
        f"{endpoint}/me/mine/commit/1",
        "me/mine cannot be pushed: this token may not write there: make one with write access, or name a repository of "
        "your own",
        "me/mine cannot be pushed: no valid token of the hub was given: `hf auth login`, set HF_TOKEN, or pass "
        "token=...",
        f"card='{tmp_path / 'none.md'}': no such file",
    ]
    assert hub.made["visibility"] == "private"
    assert set(hub.files) == {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    for name, content in hub.files.items():
        (tmp_path / "fetched" / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / "fetched" / name).write_bytes(content)
    assert b"R@5 81.2" in hub.files["README.md"]
    np.testing.assert_allclose(json.loads(by_name), model.encode(["a red fox"]), atol=1e-6)
    again = nearfar.load(tmp_path / "fetched")
    assert (again.encode(["a red fox"]) == model.encode(["a red fox"])).all()


def test_no_network_is_a_sentence(model, monkeypatch):
    from huggingface_hub import constants

    from nearfar.errors import UserError

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with pytest.raises(UserError) as refused:
        model.push_to_hub("me/mine", token="hf_write")
    said = str(refused.value)
    assert said.startswith("me/mine cannot be pushed: the hub cannot be reached: ")
    assert said.endswith(": check the network, or save_pretrained to a folder")


def test_a_name_is_asked_for_once_without_a_network(monkeypatch):
    """Each further look-up would be tried again and again, for half a minute."""
    from huggingface_hub import HfApi, constants

    import nearfar
    from nearfar.errors import UserError
    from nearfar.models import hub

    calls = []

    class ConnectError(Exception):
        pass

    def unreachable(self, name, **settings):
        calls.append(name)
        raise ConnectError("Name or service not known")

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(HfApi, "model_info", unreachable)
    monkeypatch.setattr(hub, "_is_ours", lambda *_: pytest.fail("looked up again"))
    with pytest.raises(UserError, match="no model 'nobody/none' here or on the hub: the hub cannot be reached, and"):
        nearfar.load("nobody/none")
    assert calls == ["nobody/none"]
    monkeypatch.setattr(HfApi, "model_info", lambda *_, **__: (_ for _ in ()).throw(KeyError("no such name")))
    monkeypatch.setattr(hub, "_is_ours", lambda *_: False)
    assert hub.fetched("nobody/none") is None  # the hub answers: what is wrong is said by who looks further
