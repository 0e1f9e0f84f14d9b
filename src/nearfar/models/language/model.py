"""A causal language model with its tokenizer, as training and evaluation here want a model."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from nearfar import files
from nearfar.data.sources.record_text import readable
from nearfar.errors import UserError
from nearfar.files import why
from nearfar.models.card import card
from nearfar.models.hub import push_to_hub
from nearfar.models.mixed_inputs import encode
from nearfar.models.model_folder import CARD
from nearfar.models.shared.sentence_layout import sentence_layout
from nearfar.models.tokenizer_files import read_tokenizer, tokenizer_sum
from nearfar.models.towers.backbones import quiet
from nearfar.models.towers.tokens import Tokens, check_words

SIZES = {"tiny": (128, 2, 4), "small": (256, 4, 4)}
"""Width, layers and heads of the models made from nothing."""


class LanguageModelOutput(NamedTuple):
    """`logits` `[B, T, V]` and the last-layer states `[B, T, D]` they were read from."""

    logits: Tensor
    hidden: Tensor


class LanguageModel(nn.Module):
    """A transformers causal language model and its tokenizer.

    `lm` is what decoding takes. As an encoder it reads texts alone: `encode_text` is the mean of the last layer's
    states.
    """

    encode = encode
    push_to_hub = push_to_hub

    def __init__(self, lm: Any, tokenizer: Any) -> None:
        super().__init__()
        check_words(tokenizer)
        self.lm = lm
        self.tokenizer = tokenizer
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        tokenizer.padding_side = "right"  # for training; `tokenize_prompts` pads on the left

    def forward(self, tokens: dict[str, Tensor]) -> LanguageModelOutput:
        out = self.lm(**tokens, output_hidden_states=True, use_cache=False)
        return LanguageModelOutput(out.logits, out.hidden_states[-1])

    @property
    def embed_dim(self) -> int:
        """Width of `encode_text`."""
        return int(self.lm.config.hidden_size)

    def tokenize(self, texts: list[str]) -> dict[str, Tensor]:
        """Token ids and mask `[B, T]` int64, padded on the right, cut where the model's positions end.

        Raises:
            UserError: one text in the place of a list.
        """
        if isinstance(texts, str):
            raise UserError("tokenize takes a list of texts, not one text: write [text]")
        most = getattr(self.lm.config, "max_position_embeddings", None)
        texts = [readable(text) if isinstance(text, str) else text for text in texts]
        tokens = self.tokenizer(texts, padding=True, truncation=most is not None, max_length=most, return_tensors="pt")
        return Tokens(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"])

    def encode_text(self, tokens: dict[str, Tensor], normalize: bool = False) -> Tensor:
        """The mean of the last layer's states over the tokens `[B, T]` int64 that are no padding: `[B, D]`, in the
        weights' dtype; of unit length with `normalize=True`."""
        real = tokens["attention_mask"].unsqueeze(-1)
        hidden = self(tokens).hidden
        mean = (hidden * real).sum(1) / real.sum(1).clamp(min=1)
        return torch.nn.functional.normalize(mean, dim=-1) if normalize else mean

    def tokenize_prompts(self, texts: list[str], *, templated: bool = False) -> dict[str, Tensor]:
        """Ids and mask `[B, T]` int64 of prompts to continue: padded on the left, not closed by an end token, on the
        model's device. Those `templated` come out of the model's chat template, with all signs that they begin with."""
        ends = {self.tokenizer.sep_token_id, self.tokenizer.eos_token_id} - {None}
        rows = self.tokenizer(texts, add_special_tokens=not templated)["input_ids"]
        rows = [row[:-1] if row and row[-1] in ends else row for row in rows]
        width = max(map(len, rows), default=0)
        ids = torch.full((len(rows), width), self.tokenizer.pad_token_id, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, (tokens, real) in zip(rows, zip(ids, mask, strict=True), strict=True):
            tokens[width - len(row) :] = torch.tensor(row, dtype=torch.long)
            real[width - len(row) :] = 1
        return Tokens(input_ids=ids.to(self.lm.device), attention_mask=mask.to(self.lm.device))

    def save_pretrained(self, folder: str | Path, *, state_dict: Mapping[str, Tensor] | None = None) -> Path:
        """Write a folder that transformers, sentence-transformers, `language_model` and `nearfar.load` read.

        `state_dict` gives the weights where the module does not hold them all (sharded training).
        """
        self.lm.config.tokenizer_sum = tokenizer_sum(self.tokenizer)
        weights = {name.removeprefix("lm."): value for name, value in (state_dict or {}).items()}
        sentence_layout(self).describe(files.folder(Path(folder)))
        with files.filled(Path(folder)) as scratch:
            self.lm.save_pretrained(scratch, state_dict=weights or None)
            self.tokenizer.save_pretrained(scratch)
            files.write(scratch / CARD, card(self))
        return Path(folder)


def language_model(name: str | os.PathLike[str] = "smollm2", *, tokenizer: Any = None, seed: int = 0) -> LanguageModel:
    """A language model by name.

    Args:
        name: "smollm2" (comes in a package), a folder or name that transformers knows, or "tiny" or "small" for
            a fresh one.
        tokenizer: for a fresh model, a tokenizer of transformers (`nearfar.data.train_tokenizer` makes one).
            A model that has been trained keeps its own.
        seed: of a fresh model's weights.

    Raises:
        UserError: no such model, or a fresh one without tokenizer.

    >>> from nearfar.data.fields.text import train_tokenizer
    >>> model = language_model("tiny", tokenizer=train_tokenizer(["a red car", "a red cat"], 300))
    >>> model(model.tokenize_prompts(["a red"])).hidden.shape[-1]
    128
    """
    from transformers import AutoModelForCausalLM

    name = os.fspath(name)
    if name in SIZES:
        if tokenizer is None:
            raise UserError(f"a fresh {name!r} language model needs a tokenizer: nearfar.data.train_tokenizer")
        return LanguageModel(_fresh(*SIZES[name], tokenizer, seed), tokenizer)
    if name == "smollm2":
        from nearfar.models.language.smollm import smollm2

        name = str(smollm2())
    try:
        with quiet():
            lm = AutoModelForCausalLM.from_pretrained(name, dtype=torch.float32, trust_remote_code=False)
    except Exception as error:  # a folder's files are refused with every kind of error
        fault = why(error, "its files are damaged, or of another kind of model")
        raise UserError(f"no language model at {name!r} ({fault}); there are also: smollm2, tiny, small") from error
    return LanguageModel(lm.eval(), read_tokenizer(name, getattr(lm.config, "tokenizer_sum", None)))


def _fresh(width: int, layers: int, heads: int, tokenizer: Any, seed: int) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=3 * width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.cls_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id,
        eos_token_id=tokenizer.sep_token_id if tokenizer.eos_token_id is None else tokenizer.eos_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config)
