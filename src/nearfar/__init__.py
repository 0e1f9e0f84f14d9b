"""nearfar: contrastive learning of images, text, speech, video: losses, models, methods, search, decoding, evaluation.

`import nearfar` stays near torch's own import time: what a name needs is imported when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_LAZY = {
    "adapt": "nearfar.adaptation",
    "train": "nearfar.training",
    "load": "nearfar.models",
}
_MODULES = (
    "adaptation",
    "data",
    "decoding",
    "evaluation",
    "losses",
    "methods",
    "models",
    "ops",
    "papers",
    "search",
    "training",
)
__all__ = [*_LAZY, *_MODULES]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    if name in _MODULES:
        return import_module(f"nearfar.{name}")
    raise AttributeError(f"module 'nearfar' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
