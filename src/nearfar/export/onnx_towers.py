"""Both towers as ONNX files, compared with the model before they are kept.

Beside them lies all that is needed to embed without torch: `tokenizer.json`, and `preprocess.json` with the constants
of pictures and texts. `nearfar.load` opens the folder; `examples/embed_onnx.py` is a reader of one page.
"""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nearfar import files
from nearfar.errors import UserError, need
from nearfar.files import why
from nearfar.models.card import card, own_use
from nearfar.models.exported.onnx_folder import CONSTANTS, TOKENIZER, file_sum
from nearfar.models.model_folder import TOWERS
from nearfar.models.tokenizer_files import TEXTS
from nearfar.modes import evaluating

OPSET = 18
USE = """{own}

It needs `pip install "nearfar[onnx]"`, and no transformers. `examples/embed_onnx.py` of nearfar, one page, reads this
folder without nearfar and without torch:

    pip install numpy pillow tokenizers onnxruntime
    python embed_onnx.py this/folder {words}"""
UNKNOWN = "the exporter does not know a part of it"
CLOSE = 1e-5
"""How far numbers of unit embeddings may lie from the model's own: the order of float32 arithmetic."""
BATCHES = (1, 2, 5)
LONG = "two red birds sit on a long wire in the rain, and a third one looks at them from the roof of the old house "


@dataclass(frozen=True)
class Compared:
    """A tower through onnxruntime beside the model: on how many probes, and the greatest difference of a number."""

    side: str
    probes: int
    difference: float

    def __str__(self) -> str:
        return f"{self.side} tower: {self.probes} probes, greatest difference {self.difference:.1e}"


def export_onnx(model: Any, out: str | Path, *, name: str = "a model", measured: str = "") -> list[Compared]:
    """Write `image.onnx` and `text.onnx` (of a model of texts or pictures alone one of them), `tokenizer.json` where
    it reads texts, `preprocess.json` and a card to `out`, all or nothing. Batch and text length are free; embeddings
    have unit length. `nearfar.load(out)` opens it.

    Each tower runs through onnxruntime on batches of 1, 2 and 5, texts of several lengths up to the longest.

    Args:
        model: a `DualEncoder`, a `TextEncoder`, a `LanguageModel` or an `ImageEncoder`, on the CPU in float32.
        out: the folder; what is there is replaced.
        name: what to call the model in the card.
        measured: what the model's own card says of its data and figures (`nearfar.models.card.measured`).

    Returns:
        For each tower what was compared.

    Raises:
        UserError: a package is missing, or a tower that cannot be exported, or whose embeddings differ (by more than
            `CLOSE`).
    """
    for package in ("onnx", "onnxscript", "onnxruntime"):
        need(package, "onnx")
    sides = [side for side in ("image", "text") if hasattr(model, f"encode_{side}")]
    compared, facts = [], {**constants(model), "exported_from": name}
    with files.new_folder(Path(out)) as scratch, evaluating(model):
        for side in sides:
            file = scratch / TOWERS[side]
            _write_tower(model, side, file)
            compared.append(_compare(model, side, file))
        if "text" in sides:
            _write_tokenizer(model, scratch / TOKENIZER)
            facts["tokenizer_sum"] = file_sum(scratch / TOKENIZER)
        files.write(scratch / CONSTANTS, json.dumps(facts, indent=2) + "\n")
        differences = "Through onnxruntime, beside the model itself:\n\n" + "\n".join(f"- {each}" for each in compared)
        figures = f"{measured}\n\n{differences}".strip()
        words = '"a red car" car.png' if "image" in sides else '"a red car" "a small dog"'
        use = USE.format(own=own_use(model), words=words)
        title = f"{name}, as ONNX (opset {OPSET})"
        files.write(scratch / "README.md", card(model, title=title, figures=figures, use=use))
    return compared


def constants(model: Any) -> dict[str, Any]:
    """What makes pixels and tokens of pictures and texts, as plain data."""
    facts: dict[str, Any] = {"embed_dim": model.embed_dim, "opset": OPSET}
    if hasattr(model, "encode_image"):
        if model.pixels.fit == "naflex":
            raise UserError(
                "this image tower takes patches of pictures of any shape, which is not exported: use encode"
            )
        pixels = {**vars(model.pixels), "mean": list(model.mean), "std": list(model.std)}
        facts["pixels"] = {key: value for key, value in pixels.items() if key not in ("patch", "patches")}
        facts["pixels"]["resize"] = model.pixels.resize or model.pixels.size
    if hasattr(model, "encode_text"):
        facts["text"] = {"max_length": _longest(model), "pad_id": model.tokenizer.pad_token_id or 0}
    facts |= {key: getattr(model, key, None) for key in ("temperature", "bias")}
    if widths := getattr(model, "matryoshka", ()):
        facts["matryoshka"] = list(widths)
    return facts


class _Image(nn.Module):
    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: Tensor) -> Tensor:
        return self.model.encode_image(pixels, normalize=True)


class _Text(nn.Module):
    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.model.encode_text({"input_ids": input_ids, "attention_mask": attention_mask}, normalize=True)


def _write_tower(model: Any, side: str, file: Path) -> None:
    batch = torch.export.Dim.DYNAMIC
    if side == "image":
        made: nn.Module = _Image(model)
        inputs: dict[str, Tensor] = {"pixels": torch.rand(2, 3, model.image_size, model.image_size)}
        shapes: dict[str, Any] = {"pixels": {0: batch}}
    else:
        made, inputs = _Text(model), dict(model.tokenize(["a dog", LONG]))
        shapes = {key: {0: batch, 1: batch} for key in inputs}
    try:
        with _quiet():
            torch.onnx.export(
                made.eval(),
                kwargs=inputs,
                f=file,
                input_names=list(inputs),
                output_names=["unit_vectors"],
                dynamic_shapes=shapes,
                opset_version=OPSET,
                dynamo=True,
                external_data=sum(p.numel() for p in made.parameters()) > 4e8,  # one file holds 2 GB at most
                verbose=False,
            )
    except Exception as error:  # the exporter meets what it does not know with every kind of error
        raise UserError(
            f"the {side} tower cannot be exported to ONNX ({why(error, UNKNOWN)}): use model.encode, which needs torch"
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's words on itself: packages that it could use and this model does not, and its own calls of
    what torch will change. What fails is an error."""
    exporter = logging.getLogger("torch.onnx")
    before = exporter.level
    exporter.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        exporter.setLevel(before)


def _compare(model: Any, side: str, file: Path) -> Compared:
    runtime: Any = need("onnxruntime", "onnx")
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    session = runtime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    worst, count = 0.0, 0
    for inputs in _image_probes(model) if side == "image" else _text_probes(model):
        expected = model.encode_image(inputs["pixels"], True) if side == "image" else model.encode_text(inputs, True)
        (vectors,) = session.run(None, {name: value.numpy() for name, value in inputs.items()})
        difference = (
            (torch.from_numpy(vectors) - expected).abs().max().item() if vectors.shape == expected.shape else 2.0
        )
        worst, count = max(worst, difference), count + 1
    if not worst <= CLOSE:
        raise UserError(
            f"the {side} tower gives other embeddings through onnxruntime than in torch (by up to {worst:.1e}, allowed "
            f"{CLOSE:.0e}), so nothing was kept: use model.encode, which needs torch"
        )
    return Compared(side, count, worst)


def _image_probes(model: Any) -> Iterator[Mapping[str, Tensor]]:
    noise = torch.Generator().manual_seed(0)
    for batch in BATCHES:
        yield {"pixels": torch.randn(batch, 3, model.image_size, model.image_size, generator=noise)}


def _text_probes(model: Any) -> Iterator[Mapping[str, Tensor]]:
    texts = ["a dog", TEXTS[0], LONG, *TEXTS[1:], "", LONG * 4]
    for batch in BATCHES:
        for first in range(0, len(texts), batch):
            yield model.tokenize(texts[first : first + batch])
    yield model.tokenize(["a dog", LONG * 99])  # cut at the longest


def _write_tokenizer(model: Any, file: Path) -> None:
    """The tokenizer as one file that the package `tokenizers` reads, if its ids are the model's."""
    from tokenizers import Tokenizer

    backend = getattr(model.tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise UserError("this model's tokenizer has no tokenizer.json: it cannot be read without transformers")
    made = Tokenizer.from_str(backend.to_str())
    made.enable_truncation(_longest(model))
    made.enable_padding(pad_id=model.tokenizer.pad_token_id or 0, pad_token=str(model.tokenizer.pad_token))
    for inputs, texts in ((model.tokenize(list(some)), list(some)) for some in (TEXTS, ("a dog", LONG * 99))):
        encoded = made.encode_batch(texts)
        same = torch.equal(torch.tensor([each.ids for each in encoded]), inputs["input_ids"])
        if not same or not torch.equal(torch.tensor([e.attention_mask for e in encoded]), inputs["attention_mask"]):
            raise UserError("this model's tokenizer gives other ids without transformers: use model.encode")
    files.write(file, made.to_str())


def _longest(model: Any) -> int:
    own = getattr(model, "max_length", None)
    return int(own or model.lm.config.max_position_embeddings)
