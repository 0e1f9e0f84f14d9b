"""Runs of two stages that the tests stop and kill: one of a recipe, one of methods in hand."""

from __future__ import annotations

import time
from pathlib import Path

import safetensors.torch
import torch
from killed import Shuffled
from toy import Pairs, batch

import nearfar
from nearfar.training import FinishedStage, Stage, TrainConfig, run_stages
from nearfar.training.recipe import load

STEPS = 12


def run_recipe(recipe: str | Path, out: str | Path) -> None:
    torch.set_num_threads(1)
    load(recipe).run(out, resume=True)


def in_hand(out: str | Path, *, resume: bool = True, slow: float = 0.0) -> list[FinishedStage]:
    """The second method is around the first one's weights, which both have in hand."""
    torch.set_num_threads(1)
    torch.manual_seed(5)
    first = Pairs(dropout=0.3)
    second = Slow(first, slow)
    config = {"lr": 0.02, "log_every": 1, "save_every": 2, "chunk": 5, "progress": False, "report": False}
    stages = [
        Stage("first", first, Shuffled(), config=TrainConfig(steps=4, ema=0.9, **config)),
        Stage("second", second, Shuffled(), [batch(12, 9)], TrainConfig(steps=STEPS, seed=1, ema=0.9, **config)),
    ]
    return run_stages(stages, out, resume=resume)


class Slow(Pairs):
    """Pairs around the towers of another method."""

    def __init__(self, other: Pairs, seconds: float) -> None:
        super().__init__(dropout=0.3)
        self.seconds = seconds
        for name, module in other.named_children():
            setattr(self, name, module)

    def after_step(self, step: int) -> None:
        super().after_step(step)
        time.sleep(self.seconds)


def best_of(recipe: str, out: str) -> list[bytes]:
    """The best model of the first stage, the model that the second one made of it, and whether blocks were split."""
    from nearfar.training.state import sharding

    first, second = load(recipe).run(out, resume=True)
    models = (nearfar.load(folder) for folder in (first.folder / "model-best", second.folder / "model"))
    return [*(safetensors.torch.save(model.state_dict()) for model in models), bytes([sharding.enabled()])]


def on_ranks(recipe: str, out: str) -> bytes:
    """Every process takes part in all stages; the main one computes what is kept."""
    load(recipe).run(out, resume=True)
    return (Path(out) / "2-whole/checkpoints/last/method.safetensors").read_bytes()


def three_on_ranks(recipe: str, out: str) -> list[bytes]:
    """What three stages end with, and whether each whole batch of the last one is of one cluster."""
    from nearfar import distributed

    load(recipe).run(out, resume=True)
    loader = load(Path(out) / "3-two", ["data.small_clusters=drop", "batch_size=2", "chunk=1"]).build().loader
    pure = all(len(set(distributed.gather_rows(batch["cluster"]).tolist())) == 1 for batch in loader)
    weights = (Path(out) / "3-two/checkpoints/last/method.safetensors").read_bytes()
    return [weights, b"pure" if pure else b"mixed"]
