"""Training methods, one file a paper. `find("align")` gives a method's class by the name recipes use."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

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
    """The class of a method by its name in recipes, or of your own as `module:Class`.

    Raises:
        UserError: no such method; the message lists those there are.

    >>> find("align").__name__
    'ALIGN'
    >>> find("nearfar.methods.image_text.clip:CLIP").__name__
    'CLIP'
    """
    if ":" in name:
        return imported("method", name)
    if name not in METHODS:
        raise UserError(f"no method {name!r}; there are: {', '.join(METHODS)} (or your own, as module:Class)")
    module, _, cls = METHODS[name].partition(":")
    return getattr(import_module(module), cls)


def imported(what: str, where: str) -> Any:
    """What `where` names as `module:name`. The module is installed, or a file in the current folder.

    Raises:
        UserError: no such module, or nothing of that name in it; `what` says whose setting it is.
    """
    if (here := os.getcwd()) not in sys.path:
        sys.path.append(here)  # the command itself does not look there; last, so that no file hides a package
    module, _, name = where.partition(":")
    try:
        return getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"{what}: no {where!r} (write module:name): {error}") from None
