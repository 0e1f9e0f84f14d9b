"""What the settings of a recipe may be, so that a wrong one is said before anything is read or made."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any, Literal, get_args, get_origin

from nearfar.errors import UserError


@dataclass(frozen=True)
class Range:
    """What a number may be, and what to write instead of one that does not fit."""

    fits: Callable[[Any], bool]
    must: str
    remedy: str
    whole: bool = False
    optional: bool = False


def _count(remedy: str, *, least: int = 1, optional: bool = False) -> Range:
    return Range(lambda value: value >= least, f"at least {least}", remedy, whole=True, optional=optional)


TRAINING = {
    "epochs": Range(lambda value: value > 0, "above 0", "1 reads the data once"),
    "steps": _count("or leave it out and set epochs", optional=True),
    "batch_size": _count("256, say"),
    "chunk": _count("or leave it out to embed the whole batch at once", optional=True),
    "accumulate": _count("1 takes a step after each batch"),
    "lr": Range(lambda value: value > 0, "above 0", "1e-3, say"),
    "weight_decay": Range(lambda value: value >= 0, "at least 0", "0 leaves it out"),
    "eps": Range(lambda value: value > 0, "above 0", "1e-8, say"),
    "warmup": Range(
        lambda value: 0 <= value < 1 or (value >= 1 and value == int(value)),
        "a share of the steps from 0 to below 1, or a whole number of steps",
        "0 leaves it out",
    ),
    "min_lr": Range(lambda value: value >= 0, "at least 0", "0 lets the rate fall to nothing"),
    "clip_norm": Range(lambda value: value > 0, "above 0", "or null (None), which clips nothing", optional=True),
    "ema": Range(
        lambda value: 0 < value < 1,
        "a decay between 0 and 1",
        "0.999, say, or null (None), which keeps no average",
        optional=True,
    ),
    "seed": Range(lambda value: 0 <= value < 2**32, "from 0 to 2**32 - 1", "0, say", whole=True),
    "workers": _count("0 reads when a batch is needed", least=0),
    "log_every": _count("10, say, or null (None), which goes by the length of the run", optional=True),
    "eval_every": _count("or null (None), which validates after each epoch", optional=True),
    "save_every": _count("or null (None), which saves after each epoch", optional=True),
    "keep": _count("the last one is needed to resume"),
}
"""Of `training`, those that are one number. `betas` are two."""

DATA = {
    "limit": _count("or leave it out to use all records", optional=True),
    "hard_images": _count("or leave it out to draw whole batches", optional=True),
    "per_class": _count("or leave it out to draw batches over all data", least=2, optional=True),
    "per_domain": _count("or leave it out to draw batches over all data", optional=True),
    "n_views": _count("1, say, or leave it to the method", optional=True),
    "small_views": _count("0 takes none", least=0, optional=True),
    "small_size": _count("or leave it out for 96 in 224", optional=True),
    "negatives": _count("0 takes none", least=0, optional=True),
    "max_length": _count("or leave it to the tokenizer", optional=True),
    "pad_to": _count("or leave it out to pad to the longest of a batch", optional=True),
    "cache": _count("0 keeps no picture", least=0),
    "max_skipped": Range(lambda value: 0 <= value <= 1, "a share from 0 to 1", "0.1, say"),
}
"""The same of `data`."""

SHARE = Range(
    lambda value: 0 < value < 1, "a share between 0 and 1", "0.1, say, or name the data to validate on, or leave it out"
)
"""Of `data.validation`, where it is a number."""

SHARE_OF_CLASSES = Range(lambda value: 0 < value < 1, "a share between 0 and 1", "0.5, say, or name the classes")
"""Of `data.base_classes`, likewise."""

EVALUATION = {"captions": _count("0 for pictures alone, or leave it out to count all", least=0, optional=True)}
"""The same of `evaluation`."""

BETA = Range(lambda value: 0 <= value < 1, "from 0 to below 1", "0.9 and 0.98, say")


def check(section: str, numbers: Mapping[str, Range], values: Mapping[str, Any], kinds: Mapping[str, Any]) -> None:
    """Raise a `UserError` that names the first of a section's settings that is not what it may be, and the remedy.

    `kinds` are the annotated types by name, by which words of a `Literal` and flags are checked.

    >>> check("training", TRAINING, {"lr": -1.0}, {})
    Traceback (most recent call last):
    nearfar.errors.UserError: training.lr must be above 0, not -1.0: set training.lr (1e-3, say).
    """
    for name, value in values.items():
        if name in numbers:
            check_number(f"{section}.{name}", value, numbers[name])
        elif get_origin(kinds.get(name)) is Literal and value not in get_args(kinds[name]):
            words = ", ".join(get_args(kinds[name]))
            raise UserError(f"{section}.{name} must be one of {words}, not {value!r}.")
        elif kinds.get(name) is bool and not isinstance(value, bool):
            raise UserError(f"{section}.{name} must be true or false, not {value!r}.")


def check_number(key: str, value: Any, allowed: Range) -> None:
    """Raise a `UserError` where the setting `key` is not a number that it may be."""
    if value is None and allowed.optional:
        return
    if not isinstance(value, Real) or isinstance(value, bool) or not math.isfinite(value):
        must = "a whole number" if allowed.whole else "a number"
    elif allowed.whole and not float(value).is_integer():
        must = "a whole number"
    elif not allowed.fits(value):
        must = allowed.must
    else:
        return
    raise UserError(f"{key} must be {must}, not {value!r}: set {key.partition('[')[0]} ({allowed.remedy}).")
