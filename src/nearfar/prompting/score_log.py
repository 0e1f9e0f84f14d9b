"""Scores that a search keeps on disk, so that one that was killed goes on where it was."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path

from nearfar import files
from nearfar.prompting.set_operators import Candidate


class ScoreLog:
    """Scores of sets by the step of a search. A search that is run again draws the same sets, and finds their scores
    here instead of computing them.

    Args:
        path: a file, a line a step; None keeps nothing.

    >>> ScoreLog().scores("start", [frozenset({1, 2})], lambda items: float(len(items)))
    {frozenset({1, 2}): 2.0}
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self.computed = 0
        """Sets that were scored in this process."""
        self._known: dict[str, dict[Candidate, float]] = {}
        if path is not None and path.is_file():
            content = path.read_bytes()
            # A kill may have cut the last line: what follows must not be joined to it.
            whole = content[: content.rfind(b"\n") + 1]
            if len(whole) < len(content):
                files.write(path, whole)
            for line in whole.decode("utf-8").splitlines():
                row = json.loads(line)
                self._known[row["step"]] = {frozenset(items): score for items, score in row["scores"]}

    def scores(
        self, step: str, candidates: Iterable[Candidate], score: Callable[[Candidate], float]
    ) -> dict[Candidate, float]:
        """The score of each set, in their order; those that are new are appended to the file."""
        known, made = self._known.get(step, {}), {}
        new = 0
        for candidate in candidates:
            if candidate in known:
                made[candidate] = known[candidate]
            else:
                made[candidate] = score(candidate)
                new += 1
        self.computed += new
        if new and self.path is not None:
            row = {"step": step, "scores": [[sorted(items), value] for items, value in made.items()]}
            with files.writing(self.path), self.path.open("ab") as file:
                file.write(json.dumps(row).encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
        return made
