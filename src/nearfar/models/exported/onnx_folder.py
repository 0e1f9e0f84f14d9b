"""A folder that `nearfar export MODEL --onnx` wrote: two towers, or one, their tokenizer, and the constants of both.

It may be damaged, or come from somebody else. So the constants are checked as those of a saved model are; a tower must
have the inputs and the width that they state; and its numbers lie in its own file or beside it, never elsewhere.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from nearfar.errors import UserError, need
from nearfar.files import why
from nearfar.models.folder_checks import KEYS, PIXELS, Check, check_values, mapping, text, whole
from nearfar.models.model_folder import TOWERS
from nearfar.models.towers.pixels import Pixels

CONSTANTS, TOKENIZER = "preprocess.json", "tokenizer.json"
REMEDY = "copy it from where it was exported, or export the model anew (nearfar export MODEL --onnx --out DIR)"
DAMAGED = "it is damaged, or of another program"
OLDEST = (1, 24)
"""The onnxruntime from which on a tower's numbers are refused where they lie outside its folder. Those before read
whatever file a tower names."""
MOST = 1 << 20
"""Bytes that the constants may have."""
HELD: dict[str, Check] = {
    **{key: KEYS[key] for key in ("embed_dim", "pixels", "temperature", "bias", "matryoshka")},
    "opset": whole(1),
    "text": mapping,
    "exported_from": text,
    "tokenizer_sum": text,
}
OF_TEXTS: dict[str, Check] = {"max_length": whole(1), "pad_id": whole(0)}


@dataclass(frozen=True)
class Constants:
    """What `preprocess.json` states: how pictures become pixels and how texts are cut, each None in a model without
    that side, and what else a model knows of itself."""

    embed_dim: int
    pixels: Pixels | None
    max_length: int | None
    pad_id: int
    temperature: float | None
    bias: float | None
    matryoshka: tuple[int, ...]
    exported_from: str
    tokenizer_sum: str | None


def read_constants(folder: Path) -> Constants:
    """The constants in an exported folder.

    Raises:
        UserError: they are missing or damaged, or state what cannot be.
    """
    file = folder / CONSTANTS
    if not file.is_file():
        raise UserError(f"{file} is missing: {REMEDY}")
    if file.stat().st_size > MOST:
        raise UserError(f"{file} is larger than any that nearfar writes: {REMEDY}")
    try:
        held = json.loads(file.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file} is not valid JSON ({why(error, 'it cannot be read')}): {REMEDY}") from error
    if not isinstance(held, dict):
        raise UserError(f"{file} holds a {type(held).__name__}, not an object: {REMEDY}")
    for key in ("embed_dim", *(("pixels",) if "text" not in held else ())):
        if key not in held:
            raise UserError(f"{file} has no {key!r}: {REMEDY}")
    check_values(held, HELD, file)
    check_values(held.get("pixels", {}), PIXELS, file, "pixels.")
    check_values(held.get("text", {}), OF_TEXTS, file, "text.")
    try:
        pixels = Pixels(**held["pixels"]) if "pixels" in held else None
        longest = held["text"]["max_length"] if "text" in held else None
    except (UserError, TypeError, KeyError) as error:
        raise UserError(f"{file} does not say how pictures and texts are prepared: {REMEDY}") from error
    return Constants(
        held["embed_dim"],
        pixels,
        longest,
        held.get("text", {}).get("pad_id", 0),
        held.get("temperature"),
        held.get("bias"),
        tuple(held.get("matryoshka", ())),
        held.get("exported_from", "the model that it was exported from"),
        held.get("tokenizer_sum"),
    )


def file_sum(file: Path) -> str:
    """A checksum of a tokenizer's file: texts that another cuts up would mean nothing to the tower."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


def read_words(folder: Path, constants: Constants) -> Any:
    """The tokenizer of package tokenizers in an exported folder, cutting and padding as the constants say.

    Raises:
        UserError: it is missing, damaged, or another than was exported.
    """
    from tokenizers import Tokenizer

    file = folder / TOKENIZER
    if not file.is_file():
        raise UserError(f"{file} is missing: {REMEDY}")
    if constants.tokenizer_sum is not None and file_sum(file) != constants.tokenizer_sum:
        raise UserError(f"{file} is not the tokenizer that the towers were exported with: {REMEDY}")
    try:
        words = Tokenizer.from_file(str(file))
        words.enable_truncation(constants.max_length or 0)
        words.enable_padding(pad_id=constants.pad_id, pad_token=(words.padding or {}).get("pad_token", "[PAD]"))
    except Exception as error:  # tokenizers raises plain Exception
        raise UserError(f"{file} holds no tokenizer ({why(error, DAMAGED)}): {REMEDY}") from error
    return words


def open_tower(folder: Path, side: str, constants: Constants) -> Any:
    """The session of onnxruntime of a folder's tower, `side` "image" or "text", on the CPU with as many threads as
    torch takes. It was looked at, and not run.

    Raises:
        UserError: onnxruntime is missing or too old; the tower's file is missing, damaged, of another program, names
            a file outside the folder, or does not go with the constants.
    """
    runtime, file = _runtime(), folder / TOWERS[side]
    if not file.is_file():
        raise UserError(f"{file} is missing: {REMEDY}")
    options = runtime.SessionOptions()
    options.log_severity_level = 4  # its own lines on the error stream: what fails is an error here
    options.intra_op_num_threads, options.inter_op_num_threads = torch.get_num_threads(), 1
    if os.environ.get("OMP_WAIT_POLICY", "").lower() == "passive":
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        session = runtime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has a kind of error for each state of its own
        fault = "it is damaged, of another program, or names numbers outside the folder"
        raise UserError(f"{file} is no tower that can be run ({why(error, fault)}): {REMEDY}") from error
    inputs = {each.name: each.shape for each in session.get_inputs()}
    widths = [each.shape[-1:] for each in session.get_outputs()]
    size = constants.pixels.size if constants.pixels else 0
    if side == "image":
        fits = list(inputs) == ["pixels"] and inputs["pixels"][1:] == [3, size, size]
    else:
        fits = sorted(inputs) == ["attention_mask", "input_ids"]
    if not fits or widths != [[constants.embed_dim]]:
        raise UserError(f"{file} does not go with {CONSTANTS} beside it: {REMEDY}")
    return session


def _runtime() -> Any:
    runtime: Any = need("onnxruntime", "onnx")
    if tuple(int(part) for part in runtime.__version__.split(".")[:2]) < OLDEST:
        raise UserError(
            f"onnxruntime {runtime.__version__} reads files outside a model's folder where the model names them, and "
            f"opens none here: pip install 'onnxruntime>={OLDEST[0]}.{OLDEST[1]}'"
        )
    return runtime
