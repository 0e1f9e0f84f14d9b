"""Batches without end, that can stop anywhere and go on from there."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

from nearfar.errors import UserError
from nearfar.methods.base import Batch


class EndlessBatches:
    """Endless batches of a loader: epoch after epoch, with its place in the data as a state.

    The loader is anything that can be iterated once an epoch and gives the same batches for the same epoch each time.
    `set_epoch(epoch)`, where it has one, is called before each epoch. On resume its `load_state_dict`
    finds the place; without one the batches that were used already are read and dropped.

    >>> batches = EndlessBatches(["a", "b", "c"])
    >>> iterator = iter(batches)
    >>> [next(iterator) for _ in range(4)], batches.epoch
    (['a', 'b', 'c', 'a'], 1)
    >>> again = EndlessBatches(["a", "b", "c"])
    >>> again.load_state_dict(batches.state_dict())
    >>> next(iter(again))
    'b'
    """

    def __init__(self, loader: Iterable[Batch]) -> None:
        self.loader = loader
        self.epoch = 0
        self.used = 0
        """Batches of this epoch that were handed out."""
        self.ends: list[int] = []
        """How many batches had been handed out, in all, when each epoch ended."""
        self._resumed: dict[str, Any] | None = None
        self._ahead: list[Batch] = []
        self._place: Any = None
        self._rest: Iterator[Batch] = iter(())
        self._total = 0

    def __iter__(self) -> Iterator[Batch]:
        while True:
            self._rest = iter(self._rest_of_epoch())
            while self._peek():
                batch = self._ahead.pop()
                self.used, self._total = self.used + 1, self._total + 1
                yield batch
            if not self.used:
                raise UserError(
                    "the data gives no batch: it is empty, or holds fewer samples than one batch (lower "
                    "training.batch_size)."
                )
            self.ends.append(self._total)
            self.epoch, self.used = self.epoch + 1, 0

    def finished(self) -> int:
        """Epochs whose batches have all been handed out. Where the loader has no length, the next batch is read to
        find out."""
        try:
            return self.epoch + (0 < len(self.loader) <= self.used)  # type: ignore[arg-type]
        except TypeError:
            return self.epoch + (not self._peek())

    def state_dict(self) -> dict[str, Any]:
        inner = self._place if self._ahead else self._loader_state()
        return {"epoch": self.epoch, "used": self.used, "loader": inner}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.epoch, self.used = state["epoch"], state["used"]
        self._resumed = state

    def _peek(self) -> bool:
        """Whether the epoch has a batch more, which is read and waits; the place in the data stays before it."""
        if not self._ahead:
            self._place = self._loader_state()
            self._ahead = list(islice(self._rest, 1))
        return bool(self._ahead)

    def _loader_state(self) -> Any:
        return self.loader.state_dict() if hasattr(self.loader, "state_dict") else None

    def _rest_of_epoch(self) -> Iterable[Batch]:
        resumed, self._resumed = self._resumed, None
        if resumed and resumed["loader"] is not None and hasattr(self.loader, "load_state_dict"):
            self.loader.load_state_dict(resumed["loader"])
            return self.loader
        if hasattr(self.loader, "set_epoch"):
            self.loader.set_epoch(self.epoch)
        return islice(self.loader, self.used, None) if resumed else self.loader
