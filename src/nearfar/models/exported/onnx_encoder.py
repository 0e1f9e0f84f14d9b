"""An exported model as an encoder: the towers run by onnxruntime, pictures and texts are prepared as everywhere here.

It embeds, and is neither trained nor saved. Nothing of transformers is imported, which takes longer than all else that
a query does: `nearfar search` from a shell is what this is for. `nearfar.load` opens one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from nearfar.data.sources.record_text import readable
from nearfar.errors import UserError
from nearfar.files import why
from nearfar.models.exported.onnx_folder import REMEDY, Constants, open_tower, read_constants, read_words
from nearfar.models.mixed_inputs import encode
from nearfar.models.model_folder import TOWERS
from nearfar.models.towers.pixels import Pixels, PreparesPictures
from nearfar.models.towers.tokens import Tokens

UNRUN = "its operations do not go with these inputs"


def read_onnx(folder: str | Path) -> OnnxEncoder:
    """The model in a folder that `nearfar export MODEL --onnx` wrote: an `OnnxDualEncoder`, or of texts or pictures
    alone an `OnnxTextEncoder` or `OnnxImageEncoder`, in evaluation mode.

    Raises:
        UserError: the extra `onnx` is missing; a file is missing or damaged, or does not go with the others.
    """
    folder = Path(folder)
    constants = read_constants(folder)
    if constants.pixels is None:
        return OnnxTextEncoder(folder, constants)
    return (OnnxImageEncoder if constants.max_length is None else OnnxDualEncoder)(folder, constants)


def refuse(model: Any, doing: str) -> None:
    """Raise a `UserError` that says which model to open instead, for an exported one. `doing` is what it cannot."""
    if isinstance(model, OnnxEncoder):
        raise UserError(
            f"{model.folder} holds a model as ONNX files, which only embed: {doing} the one that they were exported "
            f"from, {model.constants.exported_from!r}"
        )


class OnnxEncoder(nn.Module):
    """What the three kinds have in common. Embeddings have unit length always, as the towers in the files give them.

    Attributes:
        folder: where the files are.
        embed_dim: width of the embeddings.
        temperature, bias: what the model was trained with; None where there is none.
        matryoshka: the widths that its embeddings may be cut to; else empty.
    """

    encode = encode
    sides_in_files: tuple[str, ...] = ()

    def __init__(self, folder: Path, constants: Constants) -> None:
        super().__init__()
        self.folder, self.constants = folder, constants
        self.embed_dim, self.matryoshka = constants.embed_dim, constants.matryoshka
        self.temperature, self.bias = constants.temperature, constants.bias
        self._towers = {side: open_tower(folder, side, constants) for side in self.sides_in_files}
        self.eval()

    def train(self, mode: bool = True) -> Self:
        """Evaluation mode it is in for good.

        Raises:
            UserError: it is to train.
        """
        if mode:
            refuse(self, "train")
        return super().train(mode)

    def __reduce__(self) -> Any:
        """A copy opens the files anew: a session of onnxruntime is neither copied nor sent to another process."""
        return read_onnx, (self.folder,)

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        """The files of the towers, byte by byte: what tells this model from another where weights are compared."""
        super()._save_to_state_dict(destination, prefix, keep_vars)
        for side in self.sides_in_files:
            for file in sorted(self.folder.glob(f"{TOWERS[side]}*")):
                destination[prefix + file.name] = torch.from_numpy(np.fromfile(file, np.uint8))

    def _run(self, side: str, inputs: Mapping[str, Tensor]) -> Tensor:
        size = len(next(iter(inputs.values())))
        if not size:
            return torch.zeros(0, self.embed_dim)
        arrays = {name: np.ascontiguousarray(value.detach().cpu().numpy()) for name, value in inputs.items()}
        try:
            (vectors,) = self._towers[side].run(None, arrays)
        except Exception as error:  # onnxruntime has a kind of error for each state of its own
            file = self.folder / TOWERS[side]
            raise UserError(f"{file} does not run ({why(error, UNRUN)}): {REMEDY}") from error
        if vectors.shape != (size, self.embed_dim):
            raise UserError(f"{self.folder / TOWERS[side]} gives {vectors.shape} numbers for {size} inputs: {REMEDY}")
        return torch.from_numpy(vectors).float()


class OnnxTextEncoder(OnnxEncoder):
    """An exported model of texts.

    Attributes:
        max_length: tokens a text may have.
    """

    sides_in_files: tuple[str, ...] = ("text",)

    def __init__(self, folder: Path, constants: Constants) -> None:
        super().__init__(folder, constants)
        self.max_length = constants.max_length or 0
        self._words = read_words(folder, constants)

    def tokenize(self, texts: Sequence[str]) -> Tokens:
        """`input_ids` and `attention_mask` `[B, L]` int64, cut at `max_length`, padded to the longest text.

        Raises:
            UserError: one text instead of a list.
        """
        if isinstance(texts, str):
            raise UserError("tokenize takes a list of texts, not one text: write [text]")
        encoded = self._words.encode_batch([readable(text) if isinstance(text, str) else text for text in texts])
        pairs = {"input_ids": [each.ids for each in encoded], "attention_mask": [e.attention_mask for e in encoded]}
        return Tokens({name: torch.tensor(rows or [[]]).long()[: len(rows)] for name, rows in pairs.items()})

    def encode_text(self, tokens: Mapping[str, Tensor], normalize: bool = False) -> Tensor:
        """Unit embeddings `[B, embed_dim]` float32 of a dict of tokens `[B, L]` int64, whatever `normalize` says.

        Raises:
            UserError: texts longer than `max_length`, or a tower that does not run.
        """
        inputs = {name: tokens[name] for name in ("input_ids", "attention_mask")}
        if inputs["input_ids"].shape[-1] > self.max_length:
            raise UserError(f"{inputs['input_ids'].shape[-1]} tokens, and this model takes {self.max_length} at most")
        return self._run("text", inputs)


class OnnxImageEncoder(PreparesPictures, OnnxEncoder):
    """An exported model of pictures.

    Attributes:
        image_size, mean, std: what `preprocess` makes of pictures.
    """

    sides_in_files: tuple[str, ...] = ("image",)

    def __init__(self, folder: Path, constants: Constants) -> None:
        super().__init__(folder, constants)
        assert constants.pixels is not None
        self.pixels: Pixels = constants.pixels

    def encode_image(self, pixels: Tensor, normalize: bool = False) -> Tensor:
        """Unit embeddings `[B, embed_dim]` float32 of pixels `[B, 3, image_size, image_size]` float32, whatever
        `normalize` says.

        Raises:
            UserError: pixels of another shape, or a tower that does not run.
        """
        if pixels.shape[1:] != (3, self.image_size, self.image_size):
            size = self.image_size
            raise UserError(f"pixels {tuple(pixels.shape)}, and this model takes (B, 3, {size}, {size})")
        return self._run("image", {"pixels": pixels.float()})


class OnnxDualEncoder(OnnxImageEncoder, OnnxTextEncoder):
    """An exported model of pictures and texts, with the attributes of both."""

    sides_in_files: tuple[str, ...] = ("image", "text")

    def forward(self, pixels: Tensor, tokens: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Both embeddings, `[B, embed_dim]` each, of unit length."""
        return self.encode_image(pixels), self.encode_text(tokens)
