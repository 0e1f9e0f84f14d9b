"""Training methods, one file a paper. `find("align")` gives a method's class by the name recipes use."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from nearfar.errors import UserError

if TYPE_CHECKING:
    from nearfar.methods.base import Method

METHODS = {
    "albef": "nearfar.methods.image_text.albef:ALBEF",
    "align": "nearfar.methods.image_text.align:ALIGN",
    "answering": "nearfar.methods.image_text.answering:Answering",
    "clip": "nearfar.methods.image_text.clip:CLIP",
    "ensemble": "nearfar.methods.image_text.ensemble:Ensemble",
    "entailment": "nearfar.methods.image_text.entailment:Entailment",
    "negclip": "nearfar.methods.image_text.negclip:NegCLIP",
    "siglip": "nearfar.methods.image_text.siglip:SigLIP",
    "simctg": "nearfar.methods.text.simctg:SimCTG",
    "tcl": "nearfar.methods.image_text.tcl:TCL",
}
"""Name in recipes -> where its class lives."""


def find(name: str) -> type[Method]:
    """The class of a method by its name in recipes.

    Raises:
        UserError: no such method; the message lists those there are.

    >>> find("align").__name__
    'ALIGN'
    """
    if name not in METHODS:
        raise UserError(f"no method {name!r}; there are: {', '.join(METHODS)}")
    module, _, cls = METHODS[name].partition(":")
    return getattr(import_module(module), cls)
