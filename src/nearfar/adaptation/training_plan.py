"""Whether candidates are trained beside the maps, and how: by the data, the device and the time that there is."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from nearfar.training.config import TrainConfig
from nearfar.training.own_data import LEAST_BATCH, fitted
from nearfar.training.recipe.forewarnings import BACKWARD, duration

Train = Literal["auto", "none", "lora", "towers"]
Kind = Literal["lora", "towers"]

NAMES: dict[Kind, str] = {"lora": "LoRA on the towers", "towers": "whole towers trained"}

RATES: dict[Kind, tuple[float, ...]] = {"lora": (5e-4, 1e-4), "towers": (1e-5, 5e-5)}
"""Peak learning rates that are tried; where there is time for one, the first."""

WHOLE_FROM = 10_000
"""Fewer pairs than these do not move all weights of pretrained towers to their good, unless it is asked for."""

BATCH, EPOCHS, WARMUP = 256, 10.0, 0.1
"""For many pairs; fewer take smaller batches and more passes, as in a recipe on own data."""

PART = 0.75
"""Of the pairs, what a candidate is trained on while it is tried: all folds but one."""


@dataclass(frozen=True)
class TrainSetting:
    """How a candidate is trained: low-rank adapters ("lora") or all weights ("towers"), the peak learning rate, pairs
    in a batch, and passes over the pairs."""

    kind: Kind
    lr: float
    batch_size: int
    epochs: float

    def steps(self, pairs: int) -> int:
        """Of training on so many pairs.

        >>> TrainSetting("lora", 1e-4, batch_size=32, epochs=10.0).steps(100)
        30
        """
        return max(1, round(self.epochs * (pairs // self.batch_size)))


@dataclass(frozen=True)
class Cost:
    """What training takes.

    Attributes:
        pairs: that the model is adapted to.
        each: seconds that one pair takes through both towers.
        chunk: pairs whose activations are held at a time: a larger batch goes through the towers once more.
    """

    pairs: int
    each: float
    chunk: int

    def seconds(self, settings: list[TrainSetting]) -> float:
        """Of trying all these, and of training the longest of them once more, on all pairs."""
        one = [self._passes(setting) * self.pairs * self.each for setting in settings]
        return PART * sum(one) + max(one, default=0.0)

    def _passes(self, setting: TrainSetting) -> float:
        return setting.epochs * (1 + BACKWARD + (setting.batch_size > self.chunk))


def settings_for(kind: Kind, pairs: int) -> list[TrainSetting]:
    """What is tried of a kind on so many pairs.

    >>> settings_for("lora", 300)[0]
    TrainSetting(kind='lora', lr=0.0005, batch_size=32, epochs=29.0)
    >>> settings_for("towers", 100_000)[0]
    TrainSetting(kind='towers', lr=1e-05, batch_size=256, epochs=10.0)
    """
    part = int(PART * pairs)
    config, _ = fitted(TrainConfig(batch_size=BATCH, epochs=EPOCHS, warmup=WARMUP), part, ("batch_size", "epochs"))
    size = max(2, min(config.batch_size, part // 2))
    return [TrainSetting(kind, lr, size, config.epochs) for lr in RATES[kind]]


def planned(
    train: Train, device: str, cost: Cost, possible: dict[Kind, str | None], left: float | None
) -> tuple[list[TrainSetting], str]:
    """What is trained, and a sentence that says why.

    Args:
        train: "auto" goes by device and data; "none", "lora" and "towers" say it.
        device: the kind of device, "cpu" say.
        cost: what training takes.
        possible: for each kind why the model cannot be trained so; None where it can.
        left: seconds that there are; None where nobody said how many.
    """
    if train == "none":
        return [], "training: none, as --train none says; the towers stay as they are"
    kinds, why = _by_device(device, cost, possible) if train == "auto" else ([train], f"as --train {train} says")
    settings = [setting for kind in kinds for setting in settings_for(kind, cost.pairs)]
    if not settings:
        return [], f"training: none, {why}; the towers stay as they are"
    return _in_time(settings, cost, why, left)


def _by_device(device: str, cost: Cost, possible: dict[Kind, str | None]) -> tuple[list[Kind], str]:
    """What is trained where nobody said so, and why."""
    if device == "cpu":
        time = duration(cost.seconds(settings_for("lora", cost.pairs)))
        return [], f"as this is a CPU, where it would take about {time} (--train lora tries it)"
    if cost.pairs < 4 * LEAST_BATCH:
        return [], f"as {cost.pairs:,} pairs are too few"
    kinds: list[Kind] = [] if possible["lora"] else ["lora"]
    reason = f"as this is a GPU ({device})"
    if possible["lora"]:
        reason += f"; not LoRA: {possible['lora']}"
    if cost.pairs < WHOLE_FROM:
        return kinds, f"{reason}; whole towers from {WHOLE_FROM:,} pairs on (--train towers tries them)"
    return [*kinds, "towers"], f"{reason} and {cost.pairs:,} pairs are enough for whole towers"


def _in_time(settings: list[TrainSetting], cost: Cost, why: str, left: float | None) -> tuple[list[TrainSetting], str]:
    """The settings that there is time for: fewer of them first, then fewer passes over the pairs."""
    firsts = [setting for setting in settings if setting.lr == RATES[setting.kind][0]]
    for some in (settings, firsts, firsts[:1]):
        if left is None or cost.seconds(some) <= left:
            return some, _sentence(some, cost, why)
    assert left is not None
    passes = int(settings[0].epochs * left / cost.seconds(settings[:1]))
    if passes < 1:
        needed = duration(cost.seconds([replace(settings[0], epochs=1.0)]))
        return [], f"training: none, as one pass over the pairs would take about {needed} of --minutes"
    fewer = [replace(settings[0], epochs=float(passes))]
    return fewer, _sentence(fewer, cost, f"{why}; as many passes as there is time for")


def _sentence(settings: list[TrainSetting], cost: Cost, why: str) -> str:
    said = []
    for kind in dict.fromkeys(setting.kind for setting in settings):
        some = [setting for setting in settings if setting.kind == kind]
        rates = " or ".join(f"{setting.lr:g}" for setting in some)
        size = f"{some[0].epochs:g} passes in batches of {some[0].batch_size}"
        said.append(f"{NAMES[kind]}, {size}, learning rate {rates}")
    return f"training: {'; '.join(said)}: {why}. About {duration(cost.seconds(settings))}"
