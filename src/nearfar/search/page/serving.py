"""The page's address: on this machine only by default, behind a gate (`nearfar.search.page.gate`), and nothing goes out
from it.

A content security policy forbids the page to load or send anything elsewhere, whatever a library of it would like; on
a loopback address requests under another host's name are refused, so that no web page in the same browser can reach
the index by way of DNS.
"""

from __future__ import annotations

import ipaddress
import os
import signal
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from nearfar.errors import UserError, need
from nearfar.search.index.stored_index import Index
from nearfar.search.page.search_page import TEMPLATES, SearchService, make_page
from nearfar.search.page.uploads import LINGER, MOST_BYTES, Uploads
from nearfar.search.page.visitors import VARIABLE, Password
from nearfar.search.querying.query import query

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

MOST_WAITING = 256
"""Questions that wait for their turn; more are turned away with a sentence."""
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; media-src 'self' data: blob:; font-src 'self' data:; connect-src 'self' data: blob:; "
    "worker-src 'self' blob:; object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'none'"
)
HEADERS = [
    (b"content-security-policy", POLICY.encode()),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
    (b"cross-origin-resource-policy", b"same-origin"),
]


def serve(
    index: Index, encoder: Any, *, host: str = "127.0.0.1", port: int = 7860, password: Password | None = None
) -> None:
    """Serve the page until interrupted. Raises UserError when the port is taken or the index is empty."""
    need("gradio", "serve")
    import uvicorn

    if not len(index):
        raise UserError(f"the index {index.directory} is empty: add pictures with `nearfar index`")
    check_address(host, port)
    query(index, encoder, text="a picture")  # what is imported at the first query is not to be waited for at the page
    with ended_by_signals(), uploads_folder() as uploads:
        app = make_app(index, encoder, uploads, host=host, password=password)
        print(f"nearfar search of {index.counted}: http://{host}:{port} (stop with Ctrl+C)", flush=True)
        print(opened_to(host, password), flush=True)
        # An open page holds a connection: do not wait for it when the server is to stop.
        uvicorn.run(app, host=host, port=port, log_level="warning", timeout_graceful_shutdown=1)


def opened_to(host: str, password: Password | None) -> str:
    """Who can see what, in a sentence or two.

    >>> opened_to("127.0.0.1", None)
    'Open to every user of this machine, and to no other machine.'
    """
    if is_loopback(host):
        return (
            "Open to every user of this machine"
            + (" who has the password" if password else "")
            + (", and to no other machine.")
        )
    everyone = "whoever has the password" if password else "EVERYONE"
    can = f"Open to {everyone} on other machines: all pictures and captions of the index can be searched and viewed."
    if password:
        return f"{can} Password and pictures travel unencrypted: outside a network that you trust, put TLS before it."
    return f"{can} For a password, set {VARIABLE}=user:password in the environment, or give --auth user:password."


def make_app(
    index: Index, encoder: Any, uploads: Uploads, *, host: str = "127.0.0.1", password: Password | None = None
) -> Any:
    """The page as an ASGI application, within `uploads_folder`. A route that is added to it is closed until
    `nearfar.search.page.gate` lets it through, and is then behind the same password and guard."""
    # Read by gradio, and by libraries under it, when they are imported or when a page is made.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    gr = need("gradio", "serve")
    from fastapi import FastAPI
    from starlette.exceptions import HTTPException
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    from nearfar.search.page.gate import RequestFilter, sentence
    from nearfar.search.page.programs import Programs

    async def as_json(request: Request, error: Any) -> Response:
        return sentence(request, error.detail, error.status_code, error.headers)

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    service = SearchService(index, encoder, uploads)
    page = make_page(service).queue(api_open=False, max_size=MOST_WAITING)
    functions = frozenset(number for number, function in page.fns.items() if function.fn is not None)
    app.add_middleware(RequestFilter, uploads=uploads, password=password, functions=functions)
    if is_loopback(host):
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1", "localhost", host])
    app.add_middleware(SecurityHeaders)
    app.router.routes += Programs(service).routes
    app.add_exception_handler(HTTPException, as_json)
    page.has_launched = page.is_running = True  # a mounted page is not launched, and gradio would not check files
    fonts = ["system-ui", "sans-serif"]  # plain names: gradio's default fonts are fetched from afar
    return gr.mount_gradio_app(
        app,
        page,
        path="/",
        css=(TEMPLATES / "search_page.css").read_text("utf-8"),
        js=(TEMPLATES / "search_page.js").read_text("utf-8"),
        theme=gr.themes.Base(primary_hue="indigo", font=fonts, font_mono=["ui-monospace", "monospace"]),
        footer_links=[],
        max_file_size=MOST_BYTES,
        show_error=False,
        ssr_mode=False,
        enable_monitoring=False,
        mcp_server=False,
    )


class SecurityHeaders:
    """Adds HEADERS to every answer, without holding back a streamed one."""

    def __init__(self, app: Callable[..., Awaitable[None]]) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def add(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), *HEADERS]
            await send(message)

        await self.app(scope, receive, add)


@contextmanager
def uploads_folder(*, linger: float = LINGER) -> Iterator[Uploads]:
    """The server's own folder, which gradio, too, uses for as long; it goes when the page does."""
    before = os.environ.get("GRADIO_TEMP_DIR")
    with Uploads(linger=linger) as uploads:
        os.environ["GRADIO_TEMP_DIR"] = str(uploads.root)
        try:
            yield uploads
        finally:
            if before is None:
                del os.environ["GRADIO_TEMP_DIR"]
            else:
                os.environ["GRADIO_TEMP_DIR"] = before


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """End as by Ctrl+C when the terminal closes or the process gets a signal to stop, so that the folder is removed.
    uvicorn raises the signal again when it has stopped."""

    def stop(number: int, _: Any) -> None:
        raise SystemExit(128 + number)

    def hang_up(*_: Any) -> None:
        signal.raise_signal(signal.SIGTERM)  # which uvicorn, while it runs, takes for an orderly end

    handlers = {"SIGTERM": stop, "SIGHUP": hang_up} if threading.current_thread() is threading.main_thread() else {}
    before = {
        number: signal.signal(number, handler)
        for name, handler in handlers.items()
        if (number := getattr(signal, name, None)) is not None
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def check_address(host: str, port: int) -> None:
    """Raise UserError when nothing can listen there."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tried.bind((host, port))
        except (OSError, OverflowError) as error:
            raise UserError(
                f"cannot listen on {host}:{port}: choose another --port, or a --host of this machine"
            ) from error


def free_port(host: str = "127.0.0.1") -> int:
    """A port that nothing listens on."""
    with socket.socket() as tried:
        tried.bind((host, 0))
        return int(tried.getsockname()[1])


def is_loopback(host: str) -> bool:
    """Whether the address is this machine's own.

    >>> is_loopback("127.0.0.1"), is_loopback("localhost"), is_loopback("0.0.0.0")
    (True, True, False)
    """
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
