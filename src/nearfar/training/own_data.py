"""A shipped recipe on somebody's own data: it measures on a share of them, and its batch fits them.

A recipe that comes with nearfar names data that go together, to train on, to validate and to measure on, and a batch
and a length for their size. Where `data.train` is replaced by other data, the rest follows, as far as it is not said.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from nearfar import distributed as processes
from nearfar.training.config import TrainConfig

SHARE = 0.1
"""What is held out of own data."""

BATCHES = 4
"""An epoch has so many batches at least: fewer pairs make smaller ones."""

LEAST_STEPS, MOST_EPOCHS = 200, 100
"""Fewer steps teach little, more passes teach the same pairs by heart: so many steps, but no more than these passes."""

LEAST_BATCH = 8

LONGEST_WARMUP = 0.1

FITTED = ("batch_size", "epochs", "steps", "warmup")
"""Settings of `training` that follow the size of the data."""

Values = dict[str, dict[str, Any]]


def is_own(train: Any) -> bool:
    """Whether a recipe's `data.train` is not only of the embedded world.

    >>> is_own("photos/"), is_own("world/emoji + photos/"), is_own({"spec": "world/emoji", "styles": ["noto"]})
    (True, True, False)
    """
    spec = train.get("spec") if isinstance(train, Mapping) else train
    return isinstance(spec, str) and not all(part.strip().startswith("world/") for part in spec.split(" + "))


def follow(values: Values, keys: Collection[str]) -> tuple[str, ...]:
    """Change the sections of a shipped recipe that was given own data, and return which settings of `training` may
    follow their size; nothing where it trains on its own.

    Args:
        values: the sections, with what was overridden.
        keys: the settings that were overridden.
    """
    data = values.get("data", {})
    if not any(_sets(key, "data.train") for key in keys) or not is_own(data.get("train")):
        return ()
    if not any(_sets(key, "data.validation") for key in keys):
        data["validation"] = SHARE
    for name in ("leave_out", "per_domain", "base_classes"):  # domains and classes of the recipe's own data
        if not any(_sets(key, f"data.{name}") for key in keys):
            data.pop(name, None)
    if not any(_sets(key, "evaluation.data") for key in keys):
        evaluation = values.setdefault("evaluation", {})
        for name in ("data", "options"):
            if not any(_sets(key, f"evaluation.{name}") for key in keys):
                evaluation.pop(name, None)
    said = {key.removeprefix("training.") for key in keys}
    length = () if said & {"epochs", "steps"} else ("epochs", "steps")
    return tuple(name for name in FITTED if name not in said and (name in length or name not in ("epochs", "steps")))


def _sets(key: str, setting: str) -> bool:
    return key == setting or key.startswith(f"{setting}.")


def fitted(config: TrainConfig, records: int, free: Collection[str]) -> tuple[TrainConfig, str | None]:
    """The settings for so many records, and a sentence on what was changed; None where nothing was.

    >>> config, changed = fitted(TrainConfig(batch_size=512, epochs=15, warmup=1000), 243, FITTED)
    >>> config.batch_size, config.epochs, config.warmup
    (32, 29.0, 0.1)
    >>> changed
    'training.batch_size 512 -> 32, training.epochs 15 -> 29, training.warmup 1000 -> 0.1'
    """
    new: dict[str, Any] = {}
    if "batch_size" in free and records < BATCHES * config.batch_size:
        most = 2 ** int(math.log2(max(1, records / BATCHES)))
        world = processes.world_size()
        new["batch_size"] = min(config.batch_size, max(LEAST_BATCH, most) // world * world or world)
    batch = new.get("batch_size", config.batch_size)
    an_epoch = max(1, records // batch // config.accumulate)
    steps = config.steps or max(1, round(config.epochs * (records // batch) / config.accumulate))
    if "steps" in free and config.steps and config.steps > MOST_EPOCHS * an_epoch:
        new["steps"] = steps = MOST_EPOCHS * an_epoch
    if "epochs" in free and not config.steps and steps < LEAST_STEPS:
        passes = min(MOST_EPOCHS, math.ceil(LEAST_STEPS / an_epoch))
        if passes > config.epochs:
            new["epochs"], steps = float(passes), passes * an_epoch
    if "warmup" in free and config.warmup >= 1 and config.warmup > LONGEST_WARMUP * steps:
        new["warmup"] = LONGEST_WARMUP
    changed = ", ".join(f"training.{name} {getattr(config, name):g} -> {value:g}" for name, value in new.items())
    return replace(config, **new), changed or None
