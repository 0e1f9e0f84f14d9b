"""What had to be left out, counted and listed, and the share above which loading stops."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from nearfar import files
from nearfar.errors import UserError

LISTED = 1000
"""How many are listed one by one; the rest are only counted."""

JUDGED = 100
"""The share is judged over at least this many records (or all, if there are fewer), so that one broken picture among
the first five does not stop a run."""


def judged_over(source: Any) -> int | None:
    """How many records there are in the data that a source is a part of: a share of few records, one of them broken, is
    judged with the rest of its data. None of a stream.

    >>> from nearfar.data import Records
    >>> judged_over(Records([{"text": c} for c in "abcdefgh"]).select([1, 5]))
    8
    """
    while (whole := getattr(source, "source", None)) is not None:
        source = whole
    return len(source) if hasattr(source, "__len__") else None


class BadRecord(UserError):
    """A record that cannot be used. A loader skips it, counts it and lists it; on its own it is an error."""


class Problem(NamedTuple):
    """One thing left out: where it is (file, row, shard) and why it could not be used."""

    where: str
    why: str

    def __str__(self) -> str:
        """The place once, where the reason begins with it, too.

        >>> str(Problem("a/cat.jpg", "a/cat.jpg: broken"))
        'a/cat.jpg: broken'
        """
        return f"{self.where}: {self.why.removeprefix(f'{self.where}: ')}"


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
        self._known: dict[str, int] = {}
        self._usable: dict[str, int] = {}
        self._lock = threading.Lock()

    def add(self, where: str, why: str, *, count: int = 1) -> None:
        """Note one problem, which costs `count` records. The same place again, in a later epoch, counts no more."""
        where, why = files.one_line(where), files.one_line(why)
        with self._lock:
            if where in self._known:
                return
            self._known[where] = count
            self.count += count
            if len(self.problems) < LISTED:
                self.problems.append(Problem(where, why))

    def note_usable(self, where: str, count: int) -> None:
        """Note how many records were found where these were left out, a whole shard at a time and before any is read.
        The same place again, in a later epoch, counts no more."""
        with self._lock:
            self._usable[where] = count

    @property
    def usable(self) -> int:
        """How many records were found beside those left out; 0 where nobody lists them."""
        return sum(self._usable.values())

    def clear(self) -> None:
        """Begin anew, as whoever reads a stream part by part does before each."""
        with self._lock:
            self.count, self.problems, self._known, self._usable = 0, [], {}, {}

    def check(self, read: int, *, limit: float, name: str, total: int | None = None) -> None:
        """Stop when more than `limit` of the records seen so far could not be used.

        Raises `UserError` that lists the first problems.
        """
        judged = max(read, min(JUDGED, total) if total is not None else JUDGED)
        if self.count <= limit * judged:
            return
        raise UserError(
            f"{name}: {self.count} of the {read} records read could not be used, more than the {limit:.0%} allowed:\n"
            f"{self.reasons(5)}\nMend or remove them, or allow more with max_skipped=SHARE (between 0 and 1)."
        )

    def listing(self, most: int = LISTED) -> str:
        """The problems, one a line, at most `most` of them."""
        lines = [f"  {problem}" for problem in self.problems[:most]]
        if len(self.problems) > most or self.count > len(self.problems):
            lines.append("  ...")
        return "\n".join(lines)

    def reasons(self, most: int) -> str:
        """The reasons, each once, with the first place that it was met in and how many more there are.

        >>> skipped = Skipped()
        >>> for name in ("a", "b", "c"):
        ...     skipped.add(f"{name}.jpg", f"no caption: there is no '{name}.txt'")
        >>> print(skipped.reasons(5))
          a.jpg: no caption: there is no 'a.txt' (and 2 more alike)
        """
        alike: dict[str, list[Problem]] = {}
        for problem in self.problems:
            alike.setdefault(_kind(problem), []).append(problem)
        lines = [
            f"  {met[0]}" + (f" (and {len(met) - 1:,} more alike)" if len(met) > 1 else "")
            for met in islice(alike.values(), most)
        ]
        return "\n".join([*lines, *(["  ..."] if len(alike) > most else [])])

    @classmethod
    def merged(cls, others: Iterable[Skipped]) -> Skipped:
        """All of them as one."""
        whole = cls()
        for other in others:
            whole.count += other.count
            whole.problems += other.problems[: LISTED - len(whole.problems)]
            whole._known |= other._known
            whole._usable |= other._usable
        return whole

    @classmethod
    def by_source(cls, parts: Iterable[tuple[str, Skipped]]) -> Skipped:
        """Those of several data as one, each problem with the name of its data. What parts of the same data ("photos"
        and "photos (held out)") both left out counts for the first.

        >>> train, test = Skipped(), Skipped()
        >>> train.add("cat.jpg", "the file is empty")
        >>> test.add("cat.jpg", "no such file")
        >>> print(Skipped.by_source([("photos", train), ("photos (held out)", train), ("others", test)]))
        2 skipped:
          photos: cat.jpg: the file is empty
          others: cat.jpg: no such file
        """
        whole, known = cls(), dict[str, dict[str, int]]()
        for name, part in parts:
            before = {where for other, held in known.items() if other in name or name in other for where in held}
            whole.count += part.count - sum(count for where, count in part._known.items() if where in before)
            named = [Problem(f"{name}: {each.where}", each.why) for each in part.problems if each.where not in before]
            whole.problems += named[: LISTED - len(whole.problems)]
            known[name] = known.get(name, {}) | part._known
        return whole

    def write(self, file: Path) -> None:
        """List them in a file; where there are none, there is no such file."""
        if self:
            files.write(file, f"{self.count} skipped:\n{self.listing()}\n")
        else:
            file.unlink(missing_ok=True)

    def listed_in(self, file: Path) -> str:
        """Write the list, and say what is in it: how many, the reasons, and where each one stands."""
        self.write(file)
        return f"{self}\nlisted in {file}" if self else ""

    def __iter__(self) -> Iterator[Problem]:
        return iter(self.problems)

    def __len__(self) -> int:
        return self.count

    def __bool__(self) -> bool:
        return self.count > 0

    def __str__(self) -> str:
        return f"{self.count:,} skipped" + (f":\n{self.reasons(10)}" if self.problems else "")


def _kind(problem: Problem) -> str:
    """What is wrong without what differs from place to place: words of the place, names in quotes, numbers.

    >>> _kind(Problem("photos, record 3 (b.jpg)", "b.jpg: broken (cut off after 12 bytes)"))
    'broken (cut off after bytes)'
    >>> _kind(Problem("a.jpg", "a file's name such as 'a.jpg' says nothing"))
    "a file's name such as says nothing"
    """
    of_place = set(re.split(r"[\s(),]+", problem.where))
    words = re.sub(r"(?<!\w)'[^']*'", "", problem.why).split()
    return " ".join(word for word in words if word.strip(":(),") not in of_place and not word.strip(":(),").isdigit())
