"""Language models behind one interface, SmolLM2 among them."""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOME = {"LanguageModel": "model", "language_model": "model", "smollm2": "smollm"}
__all__ = ["LanguageModel", "language_model", "smollm2"]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"nearfar.models.language.{_HOME[name]}"), name)
    raise AttributeError(f"module 'nearfar.models.language' has no attribute {name!r}")
