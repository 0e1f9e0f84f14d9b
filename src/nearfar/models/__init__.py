"""Towers and how they are joined.

`create` makes a dual encoder from a preset, from names or from configs; `load` opens a saved or pretrained one; both
give an *encoder*: `encode_image`, `encode_text`, `preprocess`, `tokenize`. The parts that fusion and momentum methods
are made of stand beside it. Importing this package imports none of the libraries behind it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nearfar.models.dual_encoder import DualEncoder
    from nearfar.models.loading import load
    from nearfar.models.presets import PRESETS, create

_HOME = {
    "DualEncoder": "dual_encoder",
    "PRESETS": "presets",
    "create": "presets",
    "load": "loading",
}
__all__ = ["PRESETS", "DualEncoder", "create", "load"]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"nearfar.models.{_HOME[name]}"), name)
    raise AttributeError(f"module 'nearfar.models' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
