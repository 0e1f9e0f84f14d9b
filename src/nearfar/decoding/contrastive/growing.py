"""A tensor that grows along one dimension without being copied at every step."""

from __future__ import annotations

from torch import Tensor

_SPARE = 128  # positions added beyond the need, so that a short text never grows twice


class GrowingTensor:
    """Storage for a sequence of states that grows along dimension `dim`, at amortised constant cost a position.

    >>> import torch
    >>> store = GrowingTensor(dim=1)
    >>> store.write(torch.ones(2, 3, 4)); store.length = 3
    >>> store.write(torch.zeros(2, 1, 4)); store.length = 4
    >>> store.read().shape, store.read().sum().item()
    (torch.Size([2, 4, 4]), 24.0)
    """

    def __init__(self, dim: int) -> None:
        self.dim = dim
        self.length = 0
        self._data: Tensor | None = None

    def write(self, states: Tensor) -> None:
        """Put `states` after the first `length` positions, without counting them yet: the next `write` overwrites
        them unless `length` is moved."""
        stop = self.length + states.shape[self.dim]
        self._reserve(states, stop)
        assert self._data is not None
        self._data.narrow(self.dim, self.length, states.shape[self.dim]).copy_(states)

    def read(self, start: int = 0, extra: int = 0) -> Tensor:
        """A view of positions `start` to `length + extra`."""
        assert self._data is not None
        return self._data.narrow(self.dim, start, self.length + extra - start)

    def keep(self, choice: Tensor | int, among: int) -> None:
        """Of the `among` positions after `length`, move the chosen one to the front and count it. `choice` names one
        for each sequence, `[B]`, or one for all."""
        assert self._data is not None
        if isinstance(choice, Tensor):
            written = self._data.narrow(self.dim, self.length, among)
            shape = [1] * written.ndim
            shape[0] = len(choice)
            index = (
                choice.to(written.device)
                .view(shape)
                .expand(*written.shape[: self.dim], 1, *written.shape[self.dim + 1 :])
            )
            self._data.narrow(self.dim, self.length, 1).copy_(written.gather(self.dim, index))
        elif choice > 0:
            self._data.select(self.dim, self.length).copy_(self._data.select(self.dim, self.length + choice))
        self.length += 1

    def _reserve(self, like: Tensor, stop: int) -> None:
        capacity = 0 if self._data is None else self._data.shape[self.dim]
        if stop <= capacity:
            return
        shape = list(like.shape)
        shape[self.dim] = max(stop + _SPARE, int(1.5 * capacity))
        grown = like.new_empty(shape)
        if self._data is not None:
            grown.narrow(self.dim, 0, self.length).copy_(self._data.narrow(self.dim, 0, self.length))
        self._data = grown
