"""Documents of pictures of two coloured shapes, each described in one of two styles, and single pictures with a title;
a language model that was trained on such texts alone, and an image tower that was trained by contrast with titles."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from random import Random
from typing import Any, Literal

import torch

from nearfar.reproductions.vision_language_models import described_sprites as setup

LANGUAGE: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 192,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
}
PARTS: dict[str, Any] = {"latents": 8, "depth": 2, "heads": 4, "head_width": 16, "embed_dim": 64, "max_length": 128}
WORDS: dict[str, Any] = {"seed": 5000, "steps": 250, "batch_size": 32, "lr": 3e-3, "warmup": 0.1, "weight_decay": 0.01}
TOWER: dict[str, Any] = {"seed": 5000, "steps": 800, "batch_size": 32, "lr": 2e-3, "warmup": 0.1, "weight_decay": 0.01}
PICTURES = 3
"""Of a document."""
Style = Literal["title", "placed"]
STYLES: tuple[Style, ...] = ("title", "placed")


def said(pair: setup.Pair, style: Style) -> str:
    """What is said of a picture, left before right.

    >>> pair = (setup.Thing("red", "bar"), setup.Thing("blue", "ring"))
    >>> said(pair, "title"), said(pair, "placed")
    ('a red bar and a blue ring', 'on the left a red bar on the right a blue ring')
    """
    if style == "title":
        return setup.title(pair)
    left, right = pair
    return f"on the left a {left.colour} {left.shape} on the right a {right.colour} {right.shape}"


def style_of(text: str) -> Style:
    """The style that a written text begins in."""
    return "placed" if text.split()[:1] == ["on"] else "title"


def drawn_pairs(chance: Random, count: int) -> list[setup.Pair]:
    """Pairs of training, none twice."""
    return chance.sample(setup.pairs("train"), count)


@dataclass(frozen=True)
class TextBatches:
    """`count` batches of texts alone, one to five captions of one style in a row."""

    count: int
    batch_size: int
    seed: int

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[dict[str, Any]]:
        chance = Random(f"texts {self.seed}")
        for _ in range(self.count):
            texts = []
            for _ in range(self.batch_size):
                style = chance.choice(STYLES)
                texts.append(" . ".join(said(pair, style) for pair in drawn_pairs(chance, chance.randint(1, 5))))
            yield {"text": setup.tokens(texts)}


@dataclass(frozen=True)
class TitledBatches:
    """`count` batches of single pictures with their titles."""

    count: int
    batch_size: int
    seed: int

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[dict[str, Any]]:
        chance = Random(f"titles {self.seed}")
        for _ in range(self.count):
            pairs = drawn_pairs(chance, self.batch_size)
            pixels = setup.pixels([setup.picture(pair, chance) for pair in pairs])
            yield {"image": pixels, "text": setup.tokens([setup.title(pair) for pair in pairs])}


@dataclass(frozen=True)
class MixedBatches:
    """`count` batches of `singles` pictures with titles, and `documents` of three pictures and captions of one style,
    as `model` tokenizes them."""

    model: Any
    count: int
    singles: int
    documents: int
    seed: int

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[dict[str, Any]]:
        chance, size = Random(f"mixed {self.seed}"), setup.DATA["size"]
        for _ in range(self.count):
            rows = [[pair] for pair in drawn_pairs(chance, self.singles)]
            texts = [f"<visual>{said(pair, 'title')}" for (pair,) in rows]
            for _ in range(self.documents):
                style = chance.choice(STYLES)
                rows.append(drawn_pairs(chance, PICTURES))
                texts.append("".join(f"<visual>{said(pair, style)}" for pair in rows[-1]))
            pixels = torch.zeros(len(rows), PICTURES, 3, size, size)
            for place, row in enumerate(rows):
                pixels[place, : len(row)] = setup.pixels([setup.picture(pair, chance) for pair in row])
            counts = torch.tensor([len(row) for row in rows])
            paired = (counts == 1).long()
            yield {
                "images": pixels,
                "image_count": counts,
                "text": self.model.tokenize(texts),
                "paired": paired,
                "index": torch.arange(len(rows)),
            }


@cache
def words_alone() -> Any:
    """The language model, trained on texts alone, once for all seeds."""
    from transformers import LlamaConfig, LlamaForCausalLM

    import nearfar
    from nearfar.methods import SimCTG
    from nearfar.models.language.model import LanguageModel

    settings = dict(WORDS)
    seed = settings.pop("seed")
    torch.manual_seed(seed)
    own = setup.tokenizer()
    ends = {"pad_token_id": own.pad_token_id, "bos_token_id": own.cls_token_id, "eos_token_id": own.sep_token_id}
    config = LlamaConfig(vocab_size=len(own), tie_word_embeddings=True, **LANGUAGE, **ends)
    method = SimCTG(LanguageModel(LlamaForCausalLM(config), deepcopy(own)), weight=0.0)
    batches = TextBatches(settings["steps"], settings.pop("batch_size"), seed)
    nearfar.train(method, batches, seed=seed, progress=False, report=False, **settings)
    return method.model.eval()


@cache
def tower() -> Any:
    """A dual encoder of pictures and titles, whose image tower all arms of all seeds have."""
    import nearfar
    from nearfar.methods import CLIP

    settings = dict(TOWER)
    seed = settings.pop("seed")
    method = CLIP(setup.two_towers(seed))
    batches = TitledBatches(settings["steps"], settings.pop("batch_size"), seed)
    nearfar.train(method, batches, seed=seed, progress=False, report=False, **settings)
    return method.model.eval()


def model_of(seed: int, **shape: Any) -> Any:
    """A model of the tower and the language model, both frozen, with fresh parts between."""
    from nearfar.models.vlm.interleaved.interleaved_maker import interleaved_model

    torch.manual_seed(seed)
    return interleaved_model(tower(), words_alone(), **{**PARTS, **shape})
