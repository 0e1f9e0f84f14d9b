"""Training methods, one file a paper: `from nearfar.methods import CLIP`. `find("clip")` gives a method's class by the
name recipes use. What methods are made of is in `nearfar.methods.parts`."""

from __future__ import annotations

from collections.abc import Collection
from importlib import import_module
from typing import TYPE_CHECKING, Any

from nearfar import trust as trusted
from nearfar.errors import UserError

if TYPE_CHECKING:
    from nearfar.methods.base import Method

METHODS = {
    "albef": "nearfar.methods.image_text.albef:ALBEF",
    "align": "nearfar.methods.image_text.align:ALIGN",
    "answering": "nearfar.methods.image_text.answering:Answering",
    "beclr": "nearfar.methods.image.beclr:BECLR",
    "byol": "nearfar.methods.image.byol:BYOL",
    "cless": "nearfar.methods.text.cless:CLESS",
    "captioning": "nearfar.methods.lvlm.captioning:Captioning",
    "cg_vlm": "nearfar.methods.lvlm.cg_vlm:CGVLM",
    "clip": "nearfar.methods.image_text.clip:CLIP",
    "close": "nearfar.methods.lvlm.close:CLOSE",
    "coconut": "nearfar.methods.speech.coconut:COCONUT",
    "consert": "nearfar.methods.text.consert:ConSERT",
    "cosmo": "nearfar.methods.lvlm.interleaved.cosmo:COSMO",
    "detection": "nearfar.methods.detection.detection:Detection",
    "distill_ood": "nearfar.methods.image_text.distill_ood:DistillOOD",
    "dito": "nearfar.methods.detection.dito:DITO",
    "dpo": "nearfar.methods.lvlm.preferences:DPO",
    "ensemble": "nearfar.methods.image_text.ensemble:Ensemble",
    "entailment": "nearfar.methods.image_text.entailment:Entailment",
    "hydra": "nearfar.methods.image.hydra:Hydra",
    "image_dpo": "nearfar.methods.lvlm.preferences:ImageDPO",
    "instruction": "nearfar.methods.lvlm.instruction_tuning:InstructionTuning",
    "isogclr": "nearfar.methods.image.sogclr:ISogCLR",
    "lexiclip": "nearfar.methods.text.lexiclip:LexiCLIP",
    "masked_language": "nearfar.methods.text.masked_language:MaskedLanguage",
    "matryoshka": "nearfar.methods.image_text.nested_widths:Matryoshka",
    "moco": "nearfar.methods.image.moco:MoCo",
    "multiview": "nearfar.methods.image.multiview:MultiView",
    "negclip": "nearfar.methods.image_text.negclip:NegCLIP",
    "ogen": "nearfar.methods.prompts.ogen:OGEN",
    "pixpro": "nearfar.methods.image.pixpro:PixPro",
    "prior": "nearfar.methods.lvlm.prior:PRIOR",
    "prompt_tuning": "nearfar.methods.prompts.prompt_tuning:PromptTuning",
    "relational": "nearfar.methods.text.relational:RelationalGrounding",
    "sepclr": "nearfar.methods.image.sepclr:SepCLR",
    "siglip": "nearfar.methods.image_text.siglip:SigLIP",
    "simclr": "nearfar.methods.image.simclr:SimCLR",
    "simcse": "nearfar.methods.text.simcse:SimCSE",
    "simctg": "nearfar.methods.text.simctg:SimCTG",
    "simsiam": "nearfar.methods.image.simsiam:SimSiam",
    "sogclr": "nearfar.methods.image.sogclr:SogCLR",
    "supcon": "nearfar.methods.image.supervised:SupCon",
    "svco": "nearfar.methods.lvlm.svco:SVCO",
    "tcl": "nearfar.methods.image_text.tcl:TCL",
    "transcription": "nearfar.methods.speech.transcription:Transcription",
    "vladva": "nearfar.methods.lvlm.vladva:VladVA",
    "vl2v": "nearfar.methods.image_text.vl2v:VL2V",
    "whitenedcse": "nearfar.methods.text.whitened:WhitenedCSE",
    "two_stream": "nearfar.methods.text.two_stream:TwoStreamGrounding",
    "within_clusters": "nearfar.methods.image.within_clusters:WithinClusters",
    "xclip": "nearfar.methods.video.xclip:XCLIP",
}
"""Name in recipes -> where its class lives."""

_CLASSES = {home.partition(":")[2]: home.partition(":")[0] for home in METHODS.values()}
__all__ = [*_CLASSES, "METHODS", "find"]


def __getattr__(name: str) -> Any:
    if name in _CLASSES:
        return getattr(import_module(_CLASSES[name]), name)
    raise AttributeError(f"module 'nearfar.methods' has no attribute {name!r}")


def find(name: str | type[Method], trust: Collection[str] = ()) -> type[Method]:
    """The class of a method by its name in recipes, or of your own as `module:Class`.

    Args:
        name: the name; a class is returned as it is.
        trust: modules of your own that may be named; see `nearfar.trust`.

    Raises:
        UserError: no such method (the message lists those there are), a module that is not trusted, a class that is no
            `Method`.

    >>> find("align").__name__
    'ALIGN'
    >>> find("nearfar.methods.image_text.clip:CLIP").__name__
    'CLIP'
    """
    from nearfar.methods.base import Method

    method = name if isinstance(name, type) else trusted.find("method", name, METHODS, trust)
    if not (isinstance(method, type) and issubclass(method, Method)):
        raise UserError(f"method: {name!r} is no method: it must be a subclass of nearfar.methods.base.Method")
    return method
