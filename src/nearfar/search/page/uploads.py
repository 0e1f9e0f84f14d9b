"""The server's own folder, and the guard over it: which files a visitor may name in a request.

A request names a picture by its path, and a path can say anything. Only two kinds are accepted: what this same visitor
has uploaded to this server, and pictures of the index that the page has shown. A name that does not begin with the
server's own folder is refused before the disk is read, so that not even the existence of another file can be
learnt; links are followed before the second check; pipes, devices and folders are never opened.

Whatever serves pictures to visitors, as a page or as JSON, goes through this one class.
"""

from __future__ import annotations

import io
import os
import secrets
import shutil
import stat
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nearfar.errors import UserError
from nearfar.locks import Lock

if TYPE_CHECKING:
    from PIL.Image import Image

MOST_BYTES = 20 * 1024 * 1024
"""Bytes of the largest picture that is taken."""
MOST_UPLOADS = 20
"""Uploads of one visitor; one more takes the place of the oldest."""
MOST_HELD = 2 * 1024**3
"""Bytes of all visitors' uploads; above it the server takes no more until some visits have ended."""
LINGER = 60.0
"""Seconds from a visitor's last open request (an open page holds one) to the end of the visit."""
OLDEST = 3600.0
"""Seconds after which a file goes, even while its visitor stays."""
PREFIX, LOCKED = "nearfar-serve-", "serving from"
YOUNG = 60.0
"""Seconds in which a new server's folder may not be locked yet."""
GONE = "the upload is gone: drop the file again"


class Uploads:
    """A folder of mode 0700, `root`, with `visits/VISITOR/` for uploads and `shown/` for pictures of the index. Removed
    by `close`; a thread removes the files of visits that have ended.

    >>> with Uploads() as uploads:
    ...     mine = uploads.keep("ann", "cat.png", b"a picture")
    ...     uploads.read(mine), uploads.find(mine, visitor="bob"), uploads.find("/etc/hostname", visitor="ann")
    (b'a picture', None, None)
    """

    def __init__(self, *, linger: float = LINGER, oldest: float = OLDEST) -> None:
        self.linger, self.oldest = linger, oldest
        remove_folders_of_dead_servers()
        self.root = Path(tempfile.mkdtemp(prefix=PREFIX)).resolve()  # mode 0700
        self._alive = Lock(self.root, LOCKED)
        self.visits, self.shown = self.root / "visits", self.root / "shown"
        self.visits.mkdir(mode=0o700)
        self.shown.mkdir(mode=0o700)
        self.gone = str(self.visits / "gone")
        """A path at which there is never a file."""
        self._lock = threading.Lock()
        self._open: dict[str, int] = {}  # visitor -> requests that are being answered
        self._left: dict[str, float] = {}  # visitor -> when the last of them ended
        self._closed = threading.Event()
        threading.Thread(target=self._sweep_until_closed, daemon=True).start()

    def __enter__(self) -> Uploads:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Remove the folder."""
        self._closed.set()
        self._alive.release()
        shutil.rmtree(self.root, ignore_errors=True)

    def find(self, path: Any, *, visitor: str | None = None) -> Path | None:
        """The real path of a file that `visitor` may name; None for all others, whatever is there. Without a visitor:
        of any visitor's."""
        if not isinstance(path, str) or not os.path.normpath(path).startswith(f"{self.root}{os.sep}"):
            return None  # by its name alone
        try:
            real = Path(path).resolve(strict=True)
            about = real.lstat()
        except (OSError, ValueError, RuntimeError):
            return None
        upload = real.is_relative_to(self.visits if visitor is None else self._home(visitor))
        if not (upload or real.is_relative_to(self.shown)):
            return None
        return real if stat.S_ISREG(about.st_mode) and about.st_size <= MOST_BYTES else None

    def read(self, path: Any, *, visitor: str | None = None) -> bytes:
        """The content of a file that `find` finds. Raises UserError, always the same, for any other."""
        real = self.find(path, visitor=visitor)
        try:
            if real is None:
                raise OSError
            # Should the file have been replaced since: no link is followed, and no pipe waited for.
            handle = os.open(real, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
            with open(handle, "rb") as file:
                content = file.read(MOST_BYTES + 1) if stat.S_ISREG(os.fstat(handle).st_mode) else None
        except OSError:
            raise UserError(GONE) from None
        if content is None or len(content) > MOST_BYTES:
            raise UserError(GONE)
        return content

    def picture(self, path: Any) -> Image:
        """An uploaded picture, decoded. Raises UserError that names the file as its visitor knows it."""
        from nearfar.data.pictures.images import load_image

        content = io.BytesIO(self.read(path))
        content.name = Path(path).name
        return load_image(content)

    def sound(self, path: Any) -> bytes:
        """An uploaded sound's file. Raises UserError that names it as its visitor knows it."""
        from nearfar.data.sound.sound_files import sound_seconds

        content = self.read(path)
        sound_seconds({"bytes": content, "path": Path(path).name})
        return content

    def only(self, content: Any, visitor: str) -> Any:
        """A request's JSON value in which each reference to a file, `{"path": ...}`, leads to one that the visitor may
        name, or nowhere; nothing else of a reference is passed on."""
        if isinstance(content, dict):
            if "path" in content:
                file = self.find(content["path"], visitor=visitor)
                return {"path": str(file or self.gone), "meta": {"_type": "gradio.FileData"}}
            return {name: self.only(value, visitor) for name, value in content.items()}
        return [self.only(value, visitor) for value in content] if isinstance(content, list) else content

    def keep(self, visitor: str, name: str, content: bytes) -> str:
        """Keep an upload under its own name in a folder of its own; its path. Raises UserError when it is too large, or
        when the server holds too much."""
        if len(content) > MOST_BYTES:
            raise UserError(f"the file is larger than the maximum size of {MOST_BYTES >> 20} MiB")
        with self._lock:
            if len(content) + sum(file.stat().st_size for file in self.visits.glob("*/*/*")) > MOST_HELD:
                raise UserError("the server holds too many uploads: try again in some minutes")
            home = self._home(visitor)
            home.mkdir(mode=0o700, exist_ok=True)
            self._left.setdefault(visitor, time.monotonic())
            earlier = sorted(home.iterdir())
            for folder in earlier[: max(0, len(earlier) + 1 - MOST_UPLOADS)]:
                shutil.rmtree(folder, ignore_errors=True)
            place = home / f"{time.time_ns():020}-{secrets.token_hex(8)}"
            place.mkdir(mode=0o700)
            file = place / plain_name(name)
            file.write_bytes(content)
        return str(file)

    def show(self, image: Image) -> str:
        """Keep a picture of the index where every visitor may see it; its path."""
        from nearfar.search.page.pictures import to_webp

        return self.share(to_webp(image), "webp")

    def share(self, content: bytes, ending: str) -> str:
        """Keep a file made of the index where every visitor may see it; its path."""
        file = self.shown / f"{secrets.token_hex(16)}.{ending}"
        file.write_bytes(content)
        return str(file)

    @contextmanager
    def visit(self, visitor: str) -> Iterator[None]:
        """Around each request of a visitor."""
        with self._lock:
            self._open[visitor] = self._open.get(visitor, 0) + 1
        try:
            yield
        finally:
            with self._lock:
                self._open[visitor] -= 1
                if not self._open[visitor]:
                    del self._open[visitor]
                if (self.visits / visitor).exists():
                    self._left[visitor] = time.monotonic()

    def sweep(self) -> None:
        """Remove the uploads of visits that have ended, and files that are too old."""
        with self._lock:
            ended = time.monotonic() - self.linger
            for visitor in [name for name, left in self._left.items() if left <= ended and name not in self._open]:
                shutil.rmtree(self.visits / visitor, ignore_errors=True)
                del self._left[visitor]
            for file in [*self.visits.glob("*/*/*"), *self.shown.rglob("*")]:
                if file.is_file() and time.time() - file.stat().st_mtime > self.oldest:
                    file.unlink(missing_ok=True)

    def _home(self, visitor: str) -> Path:
        if not visitor.isalnum():
            raise ValueError(f"{visitor!r} is no visitor's name: letters and digits are")
        return self.visits / visitor

    def _sweep_until_closed(self) -> None:
        while not self._closed.wait(min(self.linger, self.oldest) / 4):
            try:
                self.sweep()
            except OSError:  # the folder went while it was read
                continue


def remove_folders_of_dead_servers() -> None:
    """Remove the folders of servers that were killed and so could not do it themselves: this user's own, whose lock
    nobody holds."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with suppress(OSError, UserError):
            about = folder.lstat()
            mine = stat.S_ISDIR(about.st_mode) and about.st_uid == os.getuid()
            if mine and time.time() - about.st_mtime > YOUNG and (folder / ".lock").is_file():
                Lock(folder, LOCKED).release()
                shutil.rmtree(folder)


def plain_name(name: str) -> str:
    """The last part of a file's name, without what a file system or a terminal could take for something else.

    >>> plain_name("../../.config/my cat.png"), plain_name(".."), plain_name("a\\x00b.png")
    ('my cat.png', 'picture', 'ab.png')
    """
    last = name.replace("\\", "/").rpartition("/")[2]
    kept = "".join(letter for letter in last if letter.isprintable()).strip().lstrip(".")
    stem, dot, suffix = kept.rpartition(".")
    short = stem.encode("utf-8", "ignore")[:100].decode("utf-8", "ignore") + dot + suffix[:10] if dot else kept[:30]
    return short.encode("utf-8", "ignore").decode() or "picture"
