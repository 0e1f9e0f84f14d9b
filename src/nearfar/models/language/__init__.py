"""Models that read texts alone: language models, SmolLM2 among them, and encoders of texts."""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOME = {"LanguageModel": "model", "language_model": "model", "smollm2": "smollm"}
_HOME |= {"TextEncoder": "text_model", "text_encoder": "text_model"}
__all__ = ["LanguageModel", "TextEncoder", "language_model", "smollm2", "text_encoder"]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"nearfar.models.language.{_HOME[name]}"), name)
    raise AttributeError(f"module 'nearfar.models.language' has no attribute {name!r}")
