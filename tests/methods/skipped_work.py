"""What one process does in the test of a step that the loss scaler skips."""

from __future__ import annotations

from unittest.mock import patch

import torch

from methods.momentum_work import shares
from nearfar import distributed as processes
from nearfar import train
from nearfar.methods import find
from nearfar.models import load
from nearfar.training.loop import training_loop


def trained(folder: str, name: str, settings: dict, accumulate: int) -> dict:
    """Three steps under float16's loss scaler, the gradient infinite in the second, on the last process only: the final
    state, and the steps that `after_step` was called with. All else is float32, which a CPU computes faster."""
    method = find(name)(load(folder), **settings)
    passes = 0
    called = []

    def infinite(gradient: torch.Tensor) -> torch.Tensor:
        nonlocal passes
        passes += 1
        here = processes.rank() == processes.world_size() - 1
        return gradient * torch.inf if here and passes == accumulate + 1 else gradient

    method.model.text_projection.weight.register_hook(infinite)
    after = type(method).after_step

    def after_step(step: int) -> None:
        called.append(step)
        after(method, step)

    method.after_step = after_step  # type: ignore[method-assign]
    data = shares(method.model, 3 * accumulate, 4)
    common = {"progress": False, "report": False, "lr": 1e-3, "warmup": 0, "device": "cpu"}
    with patch.object(training_loop, "grad_scaler", lambda *_: torch.amp.GradScaler("cpu")):
        run = train(method, data, steps=3, accumulate=accumulate, precision="no", **common)
    assert passes == 3 * accumulate
    return {key: value.numpy() for key, value in run.method.state_dict().items()} | {"called": called}
