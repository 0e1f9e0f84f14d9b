"""What had to be left out, counted and listed, and the share above which loading stops."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from nearfar import files
from nearfar.errors import UserError

LISTED = 1000
"""How many are listed one by one; the rest are only counted."""

JUDGED = 100
"""The share is judged over at least this many records (or all, if there are fewer), so that one broken picture among
the first five does not stop a run."""


class BadRecord(UserError):
    """A record that cannot be used. A loader skips it, counts it and lists it; on its own it is an error."""


class Problem(NamedTuple):
    """One thing left out: where it is (file, row, shard) and why it could not be used."""

    where: str
    why: str

    def __str__(self) -> str:
        return f"{self.where}: {self.why}"


class Skipped:
    """The records left out: `count`, and `problems` for the first thousand.

    >>> skipped = Skipped()
    >>> skipped.add("cat.jpg", "the file is empty")
    >>> print(skipped)
    1 skipped:
      cat.jpg: the file is empty
    """

    def __init__(self) -> None:
        self.count = 0
        self.problems: list[Problem] = []
        self._known: set[str] = set()
        self._lock = threading.Lock()

    def add(self, where: str, why: str, *, count: int = 1) -> None:
        """Note one problem, which costs `count` records. The same place again, in a later epoch, counts no more."""
        where, why = files.one_line(where), files.one_line(why)
        with self._lock:
            if where in self._known:
                return
            self._known.add(where)
            self.count += count
            if len(self.problems) < LISTED:
                self.problems.append(Problem(where, why))

    def check(self, read: int, *, limit: float, name: str, total: int | None = None) -> None:
        """Stop when more than `limit` of the records seen so far could not be used.

        Raises `UserError` that lists the first problems.
        """
        judged = max(read, min(JUDGED, total) if total is not None else JUDGED)
        if self.count <= limit * judged:
            return
        raise UserError(
            f"{name}: {self.count} of the {read} records read could not be used, more than the {limit:.0%} allowed:\n"
            f"{self.listing(5)}\nMend or remove them, or allow more with max_skipped=SHARE (between 0 and 1)."
        )

    def listing(self, most: int = LISTED) -> str:
        """The problems, one a line, at most `most` of them."""
        lines = [f"  {problem}" for problem in self.problems[:most]]
        if len(self.problems) > most or self.count > len(self.problems):
            lines.append("  ...")
        return "\n".join(lines)

    @classmethod
    def merged(cls, others: Iterable[Skipped]) -> Skipped:
        """All of them as one."""
        whole = cls()
        for other in others:
            whole.count += other.count
            whole.problems += other.problems[: LISTED - len(whole.problems)]
            whole._known |= other._known
        return whole

    def __iter__(self) -> Iterator[Problem]:
        return iter(self.problems)

    def __len__(self) -> int:
        return self.count

    def __bool__(self) -> bool:
        return self.count > 0

    def __str__(self) -> str:
        return f"{self.count} skipped" + (f":\n{self.listing(10)}" if self.problems else "")
