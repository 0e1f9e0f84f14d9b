"""The word `open_clip:NAME:PRETRAINED`: a model of open_clip with its own weights, tokenizer and transform."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from nearfar import lookup
from nearfar.errors import UserError, need
from nearfar.files import why
from nearfar.models.dual.open_clip import CONFIG, OpenClipEncoder

PREFIX = "open_clip:"
UNFIT = "its torchvision is of another build than torch: install matching versions"


def from_open_clip(word: str) -> OpenClipEncoder:
    """The model that a word names, in evaluation mode: `encode_image` and `encode_text` are open_clip's own.

    Args:
        word: `open_clip:NAME:PRETRAINED`, where PRETRAINED is one of open_clip's names of weights (fetched once from
            the network) or a checkpoint file; or `open_clip:FOLDER`, a folder with `open_clip_config.json` and weights,
            as open_clip and `save_pretrained` write it. Files and folders need no network.

    Raises:
        UserError: open_clip is missing, a name that it does not have, no weights named, or weights that do not fit.
    """
    name, _, weights = word.removeprefix(PREFIX).partition(":")
    library = _library()
    if Path(name).is_dir():
        if not (Path(name) / CONFIG).is_file():
            raise UserError(f"{name} holds no {CONFIG}: name the model and the file, open_clip:NAME:FILE")
        if not any(path.suffix in (".safetensors", ".bin", ".pth") for path in Path(name).iterdir()):
            raise UserError(f"{name} holds no weights (open_clip_model.safetensors is missing)")
        name, weights = f"local-dir:{Path(name)}", ""
    else:
        lookup.check("open_clip model", [name], library.list_models())
        tags = library.list_pretrained_tags_by_model(name)
        if not weights:
            raise UserError(f"{word} names no weights: open_clip:{name}:TAG with one of {', '.join(tags)}, or a file")
        if not Path(weights).is_file():
            lookup.check(f"weights of open_clip's {name}", [weights], tags)
    try:
        model, _, preprocess = library.create_model_and_transforms(name, pretrained=weights or None)
        tokenizer = library.get_tokenizer(name)
    except Exception as error:  # a broken file, weights of another model, no network: each raises its own
        raise UserError(
            f"{word} cannot be loaded: {why(error, 'its weights are damaged, or of another model')}"
        ) from error
    made = OpenClipEncoder(model, tokenizer=tokenizer, preprocess=preprocess)
    if Path(name.removeprefix("local-dir:")).is_dir():
        config = json.loads((Path(name.removeprefix("local-dir:")) / CONFIG).read_text("utf-8"))
        made.settings = config["model_cfg"]
    else:
        made.settings = library.get_model_config(name)
    return made.eval()


def _library() -> Any:
    try:
        return need("open_clip", "open_clip")
    except UserError:
        raise UserError('this needs the package open_clip: pip install "nearfar[open_clip]"') from None
    except Exception as error:  # a torchvision of another build than torch breaks it with errors of every kind
        raise UserError(f"open_clip cannot be imported: {why(error, UNFIT)}") from error
