"""The ranks of a run notice when one of them ends too early, say which it was, and end too.

A collective operation waits for every rank: where one was killed, the others get a connection's error that names no
rank, or wait half an hour. So each rank keeps a connection to rank 0, on which nothing is sent: the system closes it
when a process ends, however it ends, and rank 0 passes the word on. A machine that is gone is noticed by TCP's
keepalive, after about a minute.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch.distributed as dist

from nearfar import distributed as processes
from nearfar.errors import UserError

GRACE = 10.0
"""Seconds that a rank may go on after another is lost, to end in good order; then it is ended."""
NOTICE = 5.0
"""Seconds that the error of a collective waits for the news which rank was lost."""
CONNECT = 60.0
"""Seconds for all ranks to connect."""

_active = False


@contextmanager
def watched() -> Iterator[None]:
    """Inside the block a rank that ends early ends all of them. Every rank enters it; one process does nothing.

    Raises:
        UserError: another rank ended; the message says which, and why where that is known.
    """
    global _active
    if _active or processes.world_size() == 1:
        yield
        return
    watch, why = PeerMonitor(), None
    _active = True
    try:
        yield
    except BaseException as error:
        lines = str(error).splitlines()
        why = ": ".join([*([] if isinstance(error, UserError) else [type(error).__name__]), *lines[:1]])[:500]
        if _of_a_collective(error) and (sentence := watch.wait(NOTICE)):
            raise UserError(sentence) from error
        raise
    finally:
        _active = False
        watch.close(why)


class PeerMonitor:
    """This rank's connections: of rank 0 to every other, of the others to rank 0."""

    def __init__(self) -> None:
        self.rank, world = processes.rank(), processes.world_size()
        self._lost: str | None = None
        self._news = threading.Event()
        self._timer: threading.Timer | None = None
        self._closed = False
        self._lock = threading.Lock()
        me = {"rank": self.rank, "pid": os.getpid(), "host": socket.gethostname()}
        address = os.environ.get("MASTER_ADDR", "127.0.0.1")
        if self.rank == 0:
            server = _serve(address, world)
            key = secrets.token_hex(16)  # a stranger who connects is no rank
            dist.broadcast_object_list([(server.getsockname()[1], key, me)], src=0)
            self._peers = _accept(server, key, world - 1)
        else:
            message: list[Any] = [None]
            dist.broadcast_object_list(message, src=0)
            port, key, first = message[0]
            line = socket.create_connection((address, port), timeout=CONNECT)
            line.sendall(_line({"key": key, **me}))
            self._peers = [(line, first)]
        for line, peer in self._peers:
            line.settimeout(None)
            _keep_alive(line)
            threading.Thread(target=self._listen, args=(line, peer), daemon=True).start()

    def wait(self, seconds: float) -> str | None:
        """The sentence on the rank that was lost, if one is within so many seconds."""
        self._news.wait(seconds)
        return self._lost

    def close(self, why: str | None) -> None:
        """Say goodbye; `why` is the error that ends this rank, if one does."""
        with self._lock:
            self._closed = True
            if self._timer:
                self._timer.cancel()
        for line, _ in self._peers:
            with suppress(OSError):
                line.sendall(_line({"end": why}))
                line.shutdown(socket.SHUT_WR)

    def _listen(self, line: socket.socket, peer: dict[str, Any]) -> None:
        """Wait for the last word of another rank. None at all means that it was killed."""
        word: dict[str, Any] = {"end": "it said nothing, as a process that is killed"}
        with suppress(OSError, ValueError), line.makefile("rb") as lines:
            word = json.loads(lines.readline(4096) or json.dumps(word))
        if "lost" in word:
            self._lose(word["lost"])
        elif word.get("end") is not None:
            self._lose({**peer, "why": word["end"]})

    def _lose(self, peer: dict[str, Any]) -> None:
        with self._lock:
            if self._lost or self._closed:
                return
            self._lost = (
                f"rank {peer['rank']} (process {peer['pid']} on {peer['host']}) ended before the run was over "
                f"({peer['why']}), so rank {self.rank} ends too: see what that rank printed, then go on from the last "
                "checkpoint (--resume, resume=True)"
            )
            self._timer = threading.Timer(GRACE, self._end)
            self._timer.daemon = True
            self._timer.start()
            self._news.set()
        if self.rank == 0:
            for line, _ in self._peers:
                with suppress(OSError):
                    line.sendall(_line({"lost": peer}))

    def _end(self) -> None:
        """End this process in the middle of a collective that nothing else would end."""
        print(f"nearfar: {self._lost}", file=sys.stderr, flush=True)
        os._exit(1)


def _of_a_collective(error: BaseException) -> bool:
    """Whether an error may come from the loss of another rank: torch has no kind of its own for gloo's."""
    return isinstance(error, (RuntimeError, OSError)) and bool(
        re.search(r"gloo|nccl|connection|peer|timed out|process ?group|socket|store", f"{type(error)} {error}", re.I)
    )


def _serve(address: str, world: int) -> socket.socket:
    """A socket that the other ranks reach: on this machine alone where all of them are."""
    try:
        return socket.create_server((address, 0), backlog=world)
    except OSError:  # the address is one that a router in between gave this machine
        return socket.create_server(("", 0), backlog=world)


def _accept(server: socket.socket, key: str, ranks: int) -> list[tuple[socket.socket, dict[str, Any]]]:
    """The other ranks' connections."""
    connections: list[tuple[socket.socket, dict[str, Any]]] = []
    server.settimeout(CONNECT)
    with server:
        while len(connections) < ranks:
            line, _ = server.accept()
            line.settimeout(CONNECT)
            with suppress(OSError, ValueError):
                with line.makefile("rb") as lines:
                    peer = json.loads(lines.readline(4096))
                if secrets.compare_digest(str(peer.pop("key", "")), key):
                    connections.append((line, peer))
                    continue
            line.close()
    return connections


def _line(word: dict[str, Any]) -> bytes:
    return json.dumps(word).encode() + b"\n"


def _keep_alive(line: socket.socket) -> None:
    """Let the system check now and then that the other machine is still there."""
    line.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3)):
        if hasattr(socket, name):
            line.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
