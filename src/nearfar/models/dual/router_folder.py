"""A router of sentence-transformers to a tower of texts and a tower of pictures, as a `DualEncoder`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from nearfar.errors import UserError
from nearfar.files import why
from nearfar.models.dual.dual_encoder import DualEncoder
from nearfar.models.dual.projection import Kind
from nearfar.models.towers import backbones
from nearfar.models.towers.dense_layers import Dense, dense_layers
from nearfar.models.towers.sentence_folder import SentenceFolder
from nearfar.models.towers.sentence_settings import lower_cased

FILE = "router_config.json"
SIDES = ("image", "text")


def read_router(folder: str | Path) -> DualEncoder:
    """The model of a folder with `router_config.json`, in evaluation mode.

    Raises:
        UserError: other routes than one of texts and one of pictures, or parts that a `DualEncoder` has not.
    """
    folder = Path(folder)
    routes = _routes(folder)
    stated = {side: SentenceFolder.of(folder, routes[side]) for side in SIDES}
    image, pixels = backbones.image_tower(stated["image"].weights, pooling=stated["image"].pooling)
    text, tokenizer = backbones.text_tower(stated["text"].weights, pooling=stated["text"].pooling)
    text.stated_layers = ()
    if stated["text"].lower_case:
        lower_cased(tokenizer)
    layers = {
        side: dense_layers(stated[side].layers, tower.width) for side, tower in (("image", image), ("text", text))
    }
    for side in SIDES:
        stated[side].load_layers(folder, layers[side])
    kinds = {side: _kind(folder, side, stated[side].layers) for side in SIDES}
    width = next((each["out_features"] for each in reversed(stated["text"].layers) if each), text.width)
    model = DualEncoder(
        image,
        text,
        tokenizer=tokenizer,
        pixels=pixels,
        embed_dim=width,
        image_projection=kinds["image"],
        text_projection=kinds["text"],
        max_length=stated["text"].max_length or getattr(tokenizer, "model_max_length", None),
    )
    for side in SIDES:
        ours = [part for part in getattr(model, f"{side}_projection").modules() if isinstance(part, nn.Linear)]
        theirs = [layer.linear for layer in layers[side] if isinstance(layer, Dense)]
        for mine, other in zip(ours, theirs, strict=True):
            mine.load_state_dict(other.state_dict())
    return model.eval()


def _routes(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """The modules of each side, with their folders and types."""
    try:
        stated = json.loads((folder / FILE).read_text("utf-8"))
        types, structure = stated["types"], stated["structure"]
        routes = {side: [{"path": path, "type": types[path]} for path in paths] for side, paths in structure.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{folder / FILE} cannot be read: {why(error, 'copy the folder anew')}") from error
    if set(routes) != set(SIDES):
        raise UserError(
            f"{folder} is a router to {', '.join(routes)}, where a route of texts and one of pictures are read"
        )
    return routes


def _kind(folder: Path, side: str, layers: Sequence[Any]) -> Kind:
    """The projection that a route's dense layers are."""
    made = [(layer["activation"], layer["bias"]) if layer else None for layer in layers]
    while made and made[-1] is None:  # to unit length at the end, which encode does where that is wanted
        made.pop()
    match made:
        case []:
            return "none"
        case [("Identity", bias)]:
            return "linear" if bias else "linear-no-bias"
        case [None, ("Identity", True)]:
            return {"unit": "linear"}
        case [("GELU", True), ("Identity", True)]:
            return "mlp"
    raise UserError(f"{folder}: the dense layers of its {side} route are no projection that is made here: take another")
