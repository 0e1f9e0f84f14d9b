"""What one process does in the tests of ALBEF's state under two processes."""

from __future__ import annotations

from typing import Any

import torch

from nearfar import distributed as processes
from nearfar import train
from nearfar.methods import find
from nearfar.models import load


class Stop(Exception):
    pass


def shares(model: Any, steps: int, size: int) -> list[dict]:
    """This process's part of each of `steps` global batches."""
    collected = []
    words = ["a red car", "two small dogs", "the old house", "a boat at sea", "one red fish", "a tall tower"]
    share = size // processes.world_size()
    mine = slice(processes.rank() * share, (processes.rank() + 1) * share)
    for step in range(steps):
        g = torch.Generator().manual_seed(step)
        views = torch.randn(2, size, 3, 16, 16, generator=g)
        index = torch.arange(size) + size * step
        texts = model.tokenize([words[i % len(words)] for i in index[mine].tolist()])
        collected.append({"image": views[0, mine], "views": views[:, mine], "text": texts, "index": index[mine]})
    return collected


def trained(folder: str, name: str, out: str, stop: int, settings: dict) -> dict:
    """Train four steps on global batches of 4; with `stop`, stop there and go on. The method's final state."""
    model = load(folder)
    method = find(name)(model, **settings)
    common: dict[str, Any] = {"steps": 4, "progress": False, "report": False, "lr": 1e-3, "save_every": 1, "warmup": 0}
    data = shares(model, 4, 4)
    if stop:
        original = type(method).after_step

        def after_step(step: int) -> None:
            original(method, step)
            if step == stop:
                raise Stop

        method.after_step = after_step  # type: ignore[method-assign]
        try:
            train(method, data, out=out, **common)
        except Stop:
            method = find(name)(load(folder), **settings)
    run = train(method, data, out=out, resume=bool(stop), **common)
    return {key: value.numpy() for key, value in run.method.state_dict().items()}
