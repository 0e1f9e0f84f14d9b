"""Two towers of transformers as a router of sentence-transformers, which sends texts to one and pictures to the other.

Each side is a folder of its own, `text` and `image`, which opens alone, too: in sentence-transformers, and its
transformer by AutoModel.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from nearfar.errors import UserError
from nearfar.files import why
from nearfar.models.shared.folder_layout import TYPES, Layout, Place, plain_config, tower_places
from nearfar.models.shared.pair_layout import processor_settings
from nearfar.models.shared.sentence_layout import OWN, add_pooling, add_steps, head_steps, sentence_layout
from nearfar.models.weight_files import tied_names

POOLING = {"cls": "cls", "mean": "mean", "tower": OWN}


def towers_layout(model: Any) -> Layout:
    """The files of a router with the numbers of a `DualEncoder` without adapters.

    Raises:
        UserError: a tower, pooling or head that neither library can express.
    """
    text, image = sentence_layout(model).within("text"), image_layout(model).within("image")
    tied = tied_names(model)
    routes = {"text": text.modules, "image": image.modules}
    router = {
        "types": {path: TYPES + kind for modules in routes.values() for path, kind in modules},
        "structure": {side: [path for path, _ in modules] for side, modules in routes.items()},
        "parameters": {"default_route": "text", "allow_empty_key": True, "route_mappings": {}},
    }
    return Layout(
        kind="towers",
        embeds="texts and pictures",
        configs=text.configs | image.configs,
        modules=[("", "Router")],
        small={**text.small, **image.small, "router_config.json": router},
        tokenizer=text.tokenizer,
        places={name: place for name, place in tower_places(model).items() if name not in tied},
    )


def image_layout(model: Any) -> Layout:
    """The files of the image side alone, without weights.

    Raises:
        UserError: as `towers_layout`.
    """
    tower: Any = model.image
    backbone, name = tower.backbone, type(tower.backbone).__name__
    if tower.spec["library"] != "transformers":
        raise UserError(f"its image tower is a {name}, and none of transformers")
    if tower._extra:
        raise UserError(f"its pictures have {tower.image_size} pixels, and its {name} was made for another size")
    if tower.pooling == "mean" and tower.prefix:
        raise UserError(f"its {name} is pooled by the mean of its patches, without the class token beside them")
    config = plain_config(backbone.config, name, next(backbone.parameters()).dtype)
    _check_opens(backbone, name)
    small: dict[str, Any] = {
        "preprocessor_config.json": processor_settings(model.pixels),
        "sentence_bert_config.json": {},
    }
    modules: list[Place] = [("", "Transformer")]
    add_pooling(POOLING[tower.pooling], tower.width, "image", modules, small)
    add_steps(head_steps(model.image_projection, "image"), modules, small)
    return Layout("towers", "pictures", {"config.json": config}, modules, small, None, {})


def _check_opens(backbone: nn.Module, name: str) -> None:
    """Whether AutoModel makes a model with these tensors; it may have a pooling of its own beside them."""
    from transformers import AutoModel

    try:
        with torch.device("meta"):
            theirs = {key: value.shape for key, value in AutoModel.from_config(backbone.config).state_dict().items()}
    except Exception as error:  # transformers refuses settings with every kind of error
        raise UserError(f"its {name} is none that AutoModel makes ({why(error, 'it has no place there')})") from error
    ours = {key: value.shape for key, value in backbone.state_dict().items()}
    if any(theirs.get(key) != shape for key, shape in ours.items()) or any(
        not key.startswith("pooler.") for key in theirs.keys() - ours.keys()
    ):
        raise UserError(f"its {name} has other weights than the model that AutoModel makes")
