"""Visitors: a cookie distinguishes one from another, a password lets in those who know it."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping

from nearfar.errors import UserError

VARIABLE = "NEARFAR_AUTH"
FREE_GUESSES = 10
"""Wrong passwords from one address until it has to wait after each."""
PAUSE = 1.0
"""Seconds to wait then. At a guess a second, ten small letters and digits drawn at random last 100 million years."""
REMEMBERED = 600.0
"""Seconds without a wrong password after which an address begins anew."""
MOST_ADDRESSES = 10_000


class VisitorCookies:
    """Knows its visitors again by a signed cookie. Nothing is remembered of them here, so that a thousand strangers
    cost nothing; a name that this server did not give is no name."""

    def __init__(self) -> None:
        self._secret = secrets.token_bytes(32)

    def welcome(self) -> tuple[str, str]:
        """A new visitor's cookie and name."""
        token = secrets.token_urlsafe(24)
        return f"{token}.{self._sign(token)}", named(token)

    def name(self, cookie: str | None) -> str | None:
        """The visitor's name, 32 hex digits, from which the cookie cannot be guessed; None for a false cookie."""
        token, _, signature = (cookie or "").partition(".")
        if not token or not hmac.compare_digest(self._sign(token).encode(), signature.encode("utf-8", "replace")):
            return None
        return named(token)

    def _sign(self, token: str) -> str:
        return hmac.new(self._secret, token.encode("utf-8", "replace"), "sha256").hexdigest()


def named(token: str) -> str:
    """A visitor's name. It stands in the paths of his uploads, and does not reveal his cookie."""
    return hashlib.sha256(token.encode()).hexdigest()[:32]


class Password:
    """The one user and password that open the page, of HTTP's basic authentication.

    >>> Password("me:correct horse").opens("Basic " + base64.b64encode(b"me:correct horse").decode())
    True
    """

    def __init__(self, auth: str) -> None:
        user, colon, word = auth.partition(":")
        if not (user and colon and len(word) >= 8):
            raise UserError("--auth must be user:password, the password of 8 characters or more")
        self._digest = hashlib.sha256(auth.encode()).digest()

    def opens(self, authorization: str | None) -> bool:
        """Whether a request's `Authorization` header holds them. Takes the same time for every wrong one."""
        scheme, _, encoded = (authorization or "").partition(" ")
        try:
            words = base64.b64decode(encoded.strip(), validate=True)
        except (binascii.Error, ValueError):
            return False
        return hmac.compare_digest(hashlib.sha256(words).digest(), self._digest) and scheme.lower() == "basic"


class WrongGuesses:
    """Who has given wrong passwords lately, and must wait before the next is checked.

    >>> guesses = WrongGuesses()
    >>> for _ in range(FREE_GUESSES):
    ...     guesses.add("192.0.2.7")
    >>> guesses.must_wait("192.0.2.7"), guesses.must_wait("192.0.2.8")
    (True, False)
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._guesses: OrderedDict[str, tuple[int, float]] = OrderedDict()  # address -> how many, when the last was

    def add(self, address: str) -> None:
        """One more wrong password from there."""
        count, last = self._guesses.pop(address, (0, 0.0))
        now = self._clock()
        self._guesses[address] = (1 if now - last > REMEMBERED else count + 1, now)
        if len(self._guesses) > MOST_ADDRESSES:
            self._guesses.popitem(last=False)  # the one that has been silent longest

    def must_wait(self, address: str) -> bool:
        """Whether its next password is not even checked yet, right or wrong."""
        count, last = self._guesses.get(address, (0, 0.0))
        return count >= FREE_GUESSES and self._clock() - last < PAUSE


def password(auth: str | None, environment: Mapping[str, str] = os.environ) -> Password | None:
    """The password of `--auth`, or of the variable NEARFAR_AUTH, which no list of processes shows. Raises UserError
    when it is none."""
    words = environment.get(VARIABLE) if auth is None else auth
    return None if words is None else Password(words)
