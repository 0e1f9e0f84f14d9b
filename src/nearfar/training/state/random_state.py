"""Random state: to take it, to put it back, to save it."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nearfar import distributed as processes


@dataclass(frozen=True)
class RandomState:
    """The state of torch's generators, on the CPU and on the current accelerator."""

    cpu: Tensor
    cuda: Tensor | None

    @classmethod
    def take(cls) -> RandomState:
        return cls(torch.get_rng_state(), torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None)

    def restore(self) -> None:
        torch.set_rng_state(self.cpu)
        if self.cuda is not None:
            torch.cuda.set_rng_state(self.cuda)


@contextmanager
def shared_randomness(seed: int) -> Iterator[None]:
    """Random draws that are the same on every rank and leave this rank's own stream as it was."""
    state = RandomState.take()
    torch.manual_seed(seed)
    try:
        yield
    finally:
        state.restore()


@contextmanager
def untouched() -> Iterator[None]:
    """Whatever is drawn inside, all of python's, numpy's and torch's streams go on as if it had not been."""
    state = state_dict()
    try:
        yield
    finally:
        load_state_dict(state)


def seed_everything(seed: int) -> None:
    """Seed python, numpy and torch."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002
    torch.manual_seed(seed)


def seed_process(seed: int, step: int) -> None:
    """Give this process a random stream of its own, which depends on the step that it begins at."""
    seed_everything(seed + 7919 * processes.rank() + 1_000_003 * step)


def state_dict() -> dict[str, Any]:
    """All random state of this process, of types that `torch.load(weights_only=True)` reads."""
    version, numbers, gauss = random.getstate()
    numpy_state: Any = np.random.get_state(legacy=True)  # noqa: NPY002
    name, keys, position, has_gauss, cached = numpy_state
    torch_state = RandomState.take()
    return {
        "python": [version, torch.tensor(numbers), gauss],
        "numpy": [name, torch.from_numpy(keys.astype(np.int64)), position, has_gauss, cached],
        "torch": torch_state.cpu,
        "cuda": torch_state.cuda,
    }


def load_state_dict(state: dict[str, Any]) -> None:
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers.tolist()), gauss))
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, cached))  # noqa: NPY002
    RandomState(state["torch"], state["cuda"]).restore()
