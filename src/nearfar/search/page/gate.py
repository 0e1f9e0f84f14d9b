"""The gate of the page's server: each request passes here before anything else reads it.

It lets in those with the password, where there is one; keeps other sites' scripts out; keeps visitors apart; opens the
few addresses that the page and programs need and no other that its library may have; answers uploads and files itself;
and makes every file reference of a request one that its visitor may name (`nearfar.search.page.uploads`).
"""

from __future__ import annotations

import json
import mimetypes
import re
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp as App
from starlette.types import Message, Receive, Scope, Send

from nearfar.errors import UserError
from nearfar.search.page.uploads import MOST_BYTES, Uploads
from nearfar.search.page.visitors import Password, VisitorCookies, WrongGuesses

READ = re.compile(
    r"/|/(config|theme\.css|manifest\.json|favicon\.ico|robots\.txt|pwa_icon)|/(assets|static|svelte)/[\w./@+-]+"
    r"|/gradio_api/(info|app_id|startup-events)",
    re.ASCII,
)
"""What may be read as it is: the page itself."""
PROGRAMS = {"/api/search": "POST", "/api/embed": "POST", "/api/info": "GET"}
"""The interface for programs (`nearfar.search.page.programs`), each address with its method."""
HEARTBEAT, FILE = "/gradio_api/heartbeat/", "/gradio_api/file="
NOTHING = "there is nothing at this address"
MOST_QUESTION = 1024 * 1024
"""Bytes of the longest question, which holds texts and numbers."""
MOST_BODY = 28 * 1024 * 1024
"""Bytes of a program's longest request: a picture or sound of MOST_BYTES in base64, and its texts."""
PICTURES = {"image/png", "image/jpeg", "image/gif", "image/webp", "image/bmp", "image/avif"}
CLIPS = {"video/mp4", "video/webm", "audio/ogg", "audio/x-wav", "audio/wav", "audio/flac", "audio/x-flac", "audio/mpeg"}
KEPT = {"cache-control": "private, max-age=600"}


class RequestFilter:
    """ASGI middleware. What `app` gets are requests for the page, each in a session of its visitor's own.

    Args:
        app: the page.
        uploads: the server's folder.
        password: None lets everybody in.
        functions: numbers of what the page may ask of the server; what the browser does alone is not among them.
    """

    def __init__(
        self, app: App, uploads: Uploads, password: Password | None = None, *, functions: frozenset[int]
    ) -> None:
        self.app, self.uploads, self.password, self.functions = app, uploads, password, functions
        self.visitors, self.wrong_guesses = VisitorCookies(), WrongGuesses()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif scope["type"] != "http":  # a websocket: the page has none
            await send({"type": "websocket.close", "code": 1008})
        elif refusal := self.refusal(request := Request(scope, receive)):
            await refusal(scope, receive, send)
        else:
            await self.let_in(request, send)

    def refusal(self, request: Request) -> Response | None:
        """What is said to those who may not come in."""
        if self.password and (answer := self.without_password(request, self.password)):
            return answer
        if is_from_elsewhere(request):
            return sentence(request, "this page answers to no other site", 403)
        return None

    def without_password(self, request: Request, password: Password) -> Response | None:
        """What is said to those who have not given the password; None to those who have. Only they get a cookie, and
        who has one never waits because of a neighbour's wrong guesses."""
        authorization = request.headers.get("authorization")
        address = request.client.host if request.client else ""
        known = self.visitors.name(request.cookies.get(cookie_name(request))) is not None
        if authorization and not known and self.wrong_guesses.must_wait(address):
            return sentence(request, "too many wrong passwords: wait a few seconds", 429, {"retry-after": "2"})
        if password.opens(authorization):
            return None
        if authorization:
            self.wrong_guesses.add(address)
        challenge = {"www-authenticate": 'Basic realm="nearfar", charset="UTF-8"'}
        return sentence(request, "this page has a password", 401, challenge)

    async def let_in(self, request: Request, send: Send) -> None:
        """Answer a request in the name of its visitor, who gets one if he has none yet."""
        name = cookie_name(request)
        visitor = self.visitors.name(request.cookies.get(name))
        if visitor is None:
            cookie, visitor = self.visitors.welcome()
            send = adding(send, b"set-cookie", f"{name}={cookie}; Path=/; HttpOnly; SameSite=Lax")
        with self.uploads.visit(visitor):
            try:
                answer = await self.answer(request, visitor)
            except HTTPException as error:
                answer = sentence(request, error.detail, error.status_code, error.headers)
            except ClientDisconnect:
                return
            await answer(request.scope, request.receive, send)

    async def answer(self, request: Request, visitor: str) -> App:
        """What answers the request: a response, or the page, once the request holds nothing that it must not."""
        scope, method, path = request.scope, request.method, request.scope["path"]
        query, scope["query_string"] = request.query_params, b""
        reads = method in ("GET", "HEAD")
        if reads and READ.fullmatch(path) and ".." not in path:
            return self.app
        if reads and path.startswith(FILE):
            return await self.file(path.removeprefix(FILE), visitor, request.headers.get("range", ""))
        if method == "GET" and path.startswith(HEARTBEAT):
            scope["path"] = HEARTBEAT + session(path.removeprefix(HEARTBEAT), visitor)
            scope["raw_path"] = scope["path"].encode()
            return self.app
        if method == "GET" and path == "/gradio_api/queue/data":
            scope["query_string"] = f"session_hash={session(query.get('session_hash'), visitor)}".encode()
            return self.app
        if method == "POST" and path == "/gradio_api/queue/join":
            return await self.question(request, visitor)
        if method == "POST" and path == "/gradio_api/upload":
            return await self.upload(request, visitor)
        if method == "GET" and path == "/gradio_api/upload_progress":
            return Response('data: {"msg": "done"}\n\n', media_type="text/event-stream")
        if path in PROGRAMS:
            return await self.program(request)
        raise HTTPException(404, NOTHING)

    async def program(self, request: Request) -> App:
        """The interface for programs, with the whole of a body that is not too large; what it raises is a sentence."""
        method = PROGRAMS[request.scope["path"]]
        if request.method != method:
            raise HTTPException(405, f"this address answers to {method} alone", {"allow": method})
        length = request.headers.get("content-length", "0")
        if length.isdecimal() and int(length) > MOST_BODY:  # before it is read
            raise HTTPException(413, f"what came is larger than the maximum size of {MOST_BODY >> 20} MiB")
        body = await Request(request.scope, bounded(request.receive, MOST_BODY)).body()

        async def answer(scope: Scope, receive: Receive, send: Send) -> None:
            await self.app(scope, preceded(body, receive), send)

        return answer

    async def file(self, path: str, visitor: str, part: str) -> Response:
        """A file that the visitor may name. A browser shows pictures and clips only: it would run what a drawing
        holds."""
        try:
            content = await run_in_threadpool(self.uploads.read, path, visitor=visitor)
        except UserError:
            raise HTTPException(404, NOTHING) from None
        kind = mimetypes.guess_type(Path(path).name)[0]
        if kind in PICTURES:
            return Response(content, media_type=kind, headers=KEPT)
        if kind in CLIPS:
            return part_of(content, part, kind)
        headers = {**KEPT, "content-disposition": "attachment"}
        return Response(content, media_type="application/octet-stream", headers=headers)

    async def upload(self, request: Request, visitor: str) -> Response:
        """Take one file; the answer is its path, by which the visitor may name it."""
        scope = {**request.scope, "app": None}  # starlette then raises what is wrong with a form as HTTPException
        async with Request(scope, bounded(request.receive, MOST_BYTES + 64 * 1024)).form(max_files=1) as form:
            file = form.get("files")
            if not isinstance(file, UploadFile):
                raise HTTPException(400, "no file came")
            try:
                kept = await run_in_threadpool(self.uploads.keep, visitor, file.filename or "", await file.read())
            except UserError as error:
                raise HTTPException(413, str(error)) from None
            except OSError as error:
                raise HTTPException(507, f"the server cannot keep the file: {error.strerror}") from None
        return JSONResponse([kept])

    async def question(self, request: Request, visitor: str) -> App:
        """The page, with of the question only what the page's own questions hold, and only files that the visitor may
        name."""
        try:
            body = json.loads(await Request(request.scope, bounded(request.receive, MOST_QUESTION)).body())
            kept = {name: body[name] for name in ("data", "event_data", "fn_index", "trigger_id") if name in body}
            if type(kept["fn_index"]) is not int or kept["fn_index"] not in self.functions:
                raise ValueError("no function of the server's")
            kept = self.uploads.only(kept, visitor)
            content = json.dumps({**kept, "session_hash": session(body.get("session_hash"), visitor)}).encode()
        except (ValueError, TypeError, AttributeError, KeyError, RecursionError):
            raise HTTPException(400, "this is no question of the page") from None
        kind = {b"content-type": b"application/json", b"content-length": str(len(content)).encode()}
        headers = [pair for pair in request.scope["headers"] if pair[0] not in kind]

        async def page(scope: Scope, receive: Receive, send: Send) -> None:
            await self.app({**scope, "headers": [*headers, *kind.items()]}, preceded(content, receive), send)

        return page


def sentence(request: Request, text: str, status: int, headers: Mapping[str, str] | None = None) -> Response:
    """What was wrong, as text for people and as JSON for programs."""
    if request.scope["path"].startswith("/api/"):
        return JSONResponse({"error": text}, status, headers)
    return PlainTextResponse(text, status, headers)


def part_of(content: bytes, part: str, kind: str) -> Response:
    """A clip, or the one part of it that a `Range` header names: browsers play from wherever they are told to."""
    headers, size = {**KEPT, "accept-ranges": "bytes"}, len(content)
    range_of = re.fullmatch(r"bytes=(\d{1,12})-(\d{0,12})", part.strip(), re.ASCII)
    if range_of is None:
        return Response(content, media_type=kind, headers=headers)
    first, last = int(range_of[1]), min(int(range_of[2] or size - 1), size - 1)
    if first > last:
        return Response(None, 416, {**headers, "content-range": f"bytes */{size}"})
    headers["content-range"] = f"bytes {first}-{last}/{size}"
    return Response(content[first : last + 1], 206, headers, kind)


def cookie_name(request: Request) -> str:
    """The cookie of this server: the servers of one machine share a browser's cookies."""
    return f"nearfar-{(request.scope.get('server') or ('', 0))[1]}"


def is_from_elsewhere(request: Request) -> bool:
    """Whether another site's page makes the request in a visitor's browser. A link to the page may be followed."""
    site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
    if site is not None:
        follows = request.method == "GET" and request.headers.get("sec-fetch-dest") == "document"
        return site not in ("same-origin", "none") and not follows
    return origin is not None and urlsplit(origin).netloc.lower() != request.headers.get("host", "").lower()


def session(name: str | None, visitor: str) -> str:
    """The visitor's own session of that name: whoever guesses the name of another's reaches one of his own."""
    if not isinstance(name, str) or not re.fullmatch(r"[\w-]{1,64}", name, re.ASCII):
        raise HTTPException(400, "this is no session of the page")
    return f"{visitor[:16]}-{name}"


def adding(send: Send, name: bytes, value: str) -> Send:
    """`send` with one more header."""

    async def add(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", []), (name, value.encode())]
        await send(message)

    return add


def bounded(receive: Receive, most: int) -> Receive:
    """`receive` until a body has more than `most` bytes."""
    came = 0

    async def count() -> Message:
        nonlocal came
        message = await receive()
        came += len(message.get("body", b""))
        if came > most:
            raise HTTPException(413, f"what came is larger than the maximum size of {most >> 20} MiB")
        return message

    return count


def preceded(content: bytes, receive: Receive) -> Receive:
    """`receive` with a whole body before whatever else comes."""
    bodies = [{"type": "http.request", "body": content, "more_body": False}]

    async def first() -> Message:
        return bodies.pop() if bodies else await receive()

    return first
