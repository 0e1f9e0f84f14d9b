"""Emojis with their names and tags, as vectors of the starter model, which is read once: what is learnt from it is
trained on some concepts, and measured on others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from random import Random
from typing import Any

import torch
from torch import Tensor

DATA: dict[str, Any] = {
    "style": "noto",
    "split": "train",
    "texts": 4,
    "shares": {"train": 0.6, "val": 0.15},
    "least_of_a_subject": 8,
}
"""Concepts that the starter model knows; of each its name and up to three texts of tags. What is left of the shares is
the test."""
LANGUAGE: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 192,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
VOCABULARY = 1000


@dataclass(frozen=True)
class Vectors:
    """Of N concepts: unit vectors of their pictures, `[N, D]`, and of the texts of each, `[K, D]`; these texts; what
    Unicode files each under; and a number that variants of one thing share."""

    image: Tensor
    text: list[Tensor]
    texts: list[list[str]]
    subject: list[str]
    base: list[str]

    def take(self, rows: Sequence[int]) -> Vectors:
        """These concepts alone."""
        return Vectors(
            self.image[list(rows)],
            [self.text[row] for row in rows],
            [self.texts[row] for row in rows],
            [self.subject[row] for row in rows],
            [self.base[row] for row in rows],
        )

    @property
    def names(self) -> Tensor:
        """The vectors of the names, `[N, D]`."""
        return torch.stack([own[0] for own in self.text])


@cache
def pair() -> Any:
    """The image-text model."""
    import nearfar

    return nearfar.load("starter")


@cache
def vectors() -> Vectors:
    """Those of all concepts of the split."""
    from nearfar.data import world
    from nearfar.embedding import embed

    source: Any = world.emoji(DATA["split"], styles=[DATA["style"]])
    read = embed(pair(), source, captions=DATA["texts"], progress=False)
    concepts = [world.concepts()[number] for number in source.members]
    owner = read.image_of_text.tolist()
    text: list[list[Tensor]] = [[] for _ in concepts]
    texts: list[list[str]] = [[] for _ in concepts]
    for own, vector, words in zip(owner, read.text, read.captions, strict=True):
        text[own].append(vector)
        texts[own].append(words.lower())
    subject = [concept["subcategory"].replace("-", " ") for concept in concepts]
    return Vectors(read.image, [torch.stack(own) for own in text], texts, subject, [str(c["base"]) for c in concepts])


@cache
def parts(seed: int) -> dict[str, Vectors]:
    """Concepts for training, validation and test, drawn by `seed`; variants of one thing are on one side."""
    every = vectors()
    bases = sorted(set(every.base))
    Random(seed).shuffle(bases)
    first = round(DATA["shares"]["train"] * len(bases))
    second = first + round(DATA["shares"]["val"] * len(bases))
    sides = {"train": bases[:first], "val": bases[first:second], "test": bases[second:]}
    return {
        name: every.take([row for row, base in enumerate(every.base) if base in set(own)])
        for name, own in sides.items()
    }


def of_large_subjects(side: Vectors, train: Vectors) -> Vectors:
    """The concepts of subjects that training has enough of."""
    count = Counter(train.subject)
    return side.take([row for row, name in enumerate(side.subject) if count[name] >= DATA["least_of_a_subject"]])


@cache
def tokenizer(seed: int) -> Any:
    """Learnt from the texts of training."""
    from nearfar.data.fields.text import train_tokenizer

    return train_tokenizer([text for own in parts(seed)["train"].texts for text in own], VOCABULARY)


def tokens(seed: int, texts: Sequence[str]) -> dict[str, Tensor]:
    """`input_ids` and `attention_mask` `[B, L]`."""
    made = tokenizer(seed)(list(texts), padding=True, truncation=True, max_length=32, return_tensors="pt")
    return {name: made[name] for name in ("input_ids", "attention_mask")}


def words_alone(seed: int) -> Any:
    """A language model before training."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from nearfar.models.language.model import LanguageModel

    torch.manual_seed(seed)
    own = tokenizer(seed)
    ends = {"pad_token_id": own.pad_token_id, "bos_token_id": own.cls_token_id, "eos_token_id": own.sep_token_id}
    config = LlamaConfig(vocab_size=len(own), max_position_embeddings=64, tie_word_embeddings=True, **LANGUAGE, **ends)
    return LanguageModel(LlamaForCausalLM(config), own)


@dataclass(frozen=True)
class WrittenBatches:
    """`count` batches of vectors and of what is to be written of each: a text of each concept, drawn at random,
    whose vector it is; with `pictures` the vectors are those of pictures."""

    train: Vectors
    count: int
    batch_size: int
    seed: int
    pictures: bool = False

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[dict[str, Any]]:
        draw, order = Random(self.seed), list[int]()
        for _ in range(self.count):
            while len(order) < self.batch_size:
                order += draw.sample(range(len(self.train.texts)), len(self.train.texts))
            rows, order = order[: self.batch_size], order[self.batch_size :]
            read, written = [], []
            for row in rows:
                which = draw.randrange(len(self.train.texts[row]))
                read.append(self.train.image[row] if self.pictures else self.train.text[row][which])
                written.append(self.train.texts[row][which])
            yield {
                "stand_in": torch.stack(read),
                "targets": tokens(self.seed, written),
                "target_count": torch.ones(len(rows), dtype=torch.long),
                "index": torch.tensor(rows),
            }
