"""The starter model: pretrained towers with heads trained on the embedded world, ready made in the package.

`tools/make_starter.py` makes the file, and checks it. It is what `nearfar.adapt` starts from where no other model is
named: it knows simple drawings and English names, and is a start, not a general image-text model.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nearfar.errors import UserError
from nearfar.models.dual.dual_encoder import DualEncoder
from nearfar.models.folder_checks import PARTS
from nearfar.models.presets import create

FILE = Path(__file__).with_name("starter.safetensors")
MADE_OF: dict[str, Any] = {
    "image": "efficientnet-lite0-deep",
    "image_projection": "linear",
    "image_heads": 4,
    "text_projection": "none",
    "projection_dropout": 0.5,
    "embed_dim": 384,
}


def starter() -> DualEncoder:
    """The starter model, in evaluation mode, all of it frozen. `nearfar.load("starter")` gives it too.

    Raises:
        UserError: the packages of its towers are missing; the message says what to install.

    >>> model = starter()
    >>> model.embed_dim, model.image_size
    (384, 112)
    """
    from safetensors import safe_open

    if not FILE.is_file():
        raise UserError(f"{FILE} is missing: install nearfar anew, or make it with tools/make_starter.py")
    with safe_open(FILE, "pt") as file:
        heads = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118 (no mapping)
        temperature = json.loads(file.metadata()["nearfar"])["temperature"]
    model = create("towers", temperature=temperature, **MADE_OF)
    model.image_projection.load_state_dict(heads)
    return model.freeze(*PARTS).eval()


def write_heads(model: DualEncoder, temperature: float) -> None:
    """Keep a trained model's picture heads, in half precision, as the starter's."""
    from safetensors.torch import save_file

    heads: dict[str, Tensor] = {
        name: value.to(torch.float16) for name, value in model.image_projection.state_dict().items()
    }
    save_file(heads, FILE, metadata={"format": "pt", "nearfar": json.dumps({"temperature": temperature})})
