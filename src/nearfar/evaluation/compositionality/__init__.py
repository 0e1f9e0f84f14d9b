"""Compositionality (ARO, arXiv 2210.01936): does a model know who does what, which attribute belongs to which thing,
and in which order words come? Multiple choice on ARO's own files, on generated scenes, or on any captions.

Names are imported when first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_LAZY = {
    "ChoiceQuestion": "choice",
    "choice_accuracy": "choice",
    "NgramBaseline": "blind",
    "ORDER": "perturb",
    "SYMMETRIC": "aro",
    "aro_cases": "aro",
    "aro_tasks": "aro",
    "compositionality": "multiple_choice",
    "cosine_scorer": "scorer",
    "multiple_choice": "multiple_choice",
    "order_options": "perturb",
    "order_probe": "probe",
    "scene_tasks": "scenes",
    "shuffle_patches": "perturb",
    "strict_choice": "sugarcrepe",
    "sugarcrepe_cases": "sugarcrepe",
    "sugarcrepe_pp_scores": "sugarcrepe_pp",
    "winoground_scores": "winoground",
}
__all__ = list(_LAZY)


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
