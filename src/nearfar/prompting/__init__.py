"""Prompts: classes as texts, the sentences that a class name is put into, searches for better ones, and texts
for single pictures.

Names are imported when they are first used: a search of an index needs no search of prompts."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nearfar.prompting.class_texts import ClassTexts
    from nearfar.prompting.description_search import GroupSearch
    from nearfar.prompting.image_texts.caption_source import CaptionReport, caption_source
    from nearfar.prompting.image_texts.class_descriptions import ClassDescriptions
    from nearfar.prompting.image_texts.match_texts import MatchedTexts, match_texts
    from nearfar.prompting.proapo import ProAPO
    from nearfar.prompting.prompt_fitness import Fitness, ShotScorer, prompt_fitness, text_redundancy
    from nearfar.prompting.prompt_library import PromptLibrary
    from nearfar.prompting.prompt_templates import TEMPLATES, templates
    from nearfar.prompting.set_search import SearchSize
    from nearfar.prompting.shots import draw_shots
    from nearfar.prompting.template_library import expand_templates

_HOME = {
    "TEMPLATES": "prompt_templates",
    "CaptionReport": "image_texts.caption_source",
    "ClassDescriptions": "image_texts.class_descriptions",
    "ClassTexts": "class_texts",
    "Fitness": "prompt_fitness",
    "GroupSearch": "description_search",
    "MatchedTexts": "image_texts.match_texts",
    "ProAPO": "proapo",
    "PromptLibrary": "prompt_library",
    "SearchSize": "set_search",
    "ShotScorer": "prompt_fitness",
    "caption_source": "image_texts.caption_source",
    "draw_shots": "shots",
    "expand_templates": "template_library",
    "match_texts": "image_texts.match_texts",
    "prompt_fitness": "prompt_fitness",
    "templates": "prompt_templates",
    "text_redundancy": "prompt_fitness",
}
__all__ = [
    "TEMPLATES",
    "CaptionReport",
    "ClassDescriptions",
    "ClassTexts",
    "Fitness",
    "GroupSearch",
    "MatchedTexts",
    "ProAPO",
    "PromptLibrary",
    "SearchSize",
    "ShotScorer",
    "caption_source",
    "draw_shots",
    "expand_templates",
    "match_texts",
    "prompt_fitness",
    "templates",
    "text_redundancy",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"nearfar.prompting.{_HOME[name]}"), name)
    raise AttributeError(f"module 'nearfar.prompting' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
