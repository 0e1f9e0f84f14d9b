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
from torch.nn import functional as F

from nearfar.data.fields.text import SPECIAL, clean_caption

DATA: dict[str, Any] = {
    "style": "noto",
    "split": "train",
    "most_of_a_thing": 24,
    "shares": {"train": 0.6, "val": 0.15},
    "least_of_a_subject": 8,
    "least_of_a_word": 3,
}
"""Concepts that the starter model knows. What is left of the shares is the test. A thing of more variants than that is
left out: flags, a fifth of all, are variants of one, and would be on one side and count as one query. Words are written
that the captions of so many training concepts hold."""
LANGUAGE: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
}


@dataclass(frozen=True)
class Vectors:
    """Of N concepts: unit vectors of their pictures, of their names and of their captions, `[N, D]` each; these
    captions; what Unicode files each under; and a number that variants of one thing share."""

    image: Tensor
    name: Tensor
    caption: Tensor
    captions: list[str]
    subject: list[str]
    thing: list[int]

    def take(self, rows: Sequence[int]) -> Vectors:
        """These concepts alone."""
        own = list(rows)
        vectors = (self.image[own], self.name[own], self.caption[own])
        lists: Any = ([each[row] for row in own] for each in (self.captions, self.subject, self.thing))
        return Vectors(*vectors, *lists)


@cache
def pair() -> Any:
    """The image-text model."""
    import nearfar

    return nearfar.load("starter")


@cache
def vectors() -> Vectors:
    """Those of all concepts of the split. A caption says what a concept is filed under, and its name."""
    from nearfar.data import world
    from nearfar.embedding import embed, embed_texts

    source: Any = world.emoji(DATA["split"], styles=[DATA["style"]], tags=False)
    read = embed(pair(), source, progress=False)
    concepts = [world.concepts()[number] for number in source.members]
    subject = [concept["subcategory"].replace("-", " ") for concept in concepts]
    captions = [f"{kind} {clean_caption(name, None)}" for kind, name in zip(subject, read.captions, strict=True)]
    things = sorted({str(concept["base"]) for concept in concepts})
    thing = [things.index(str(concept["base"])) for concept in concepts]
    return Vectors(read.image, read.text, embed_texts(pair(), captions, progress=False), captions, subject, thing)


@cache
def parts(seed: int) -> dict[str, Vectors]:
    """Concepts for training, validation and test, drawn by `seed`; variants of one thing are on one side, and things of
    very many variants on none."""
    every = vectors()
    things = sorted(thing for thing, count in Counter(every.thing).items() if count <= DATA["most_of_a_thing"])
    Random(seed).shuffle(things)
    first = round(DATA["shares"]["train"] * len(things))
    second = first + round(DATA["shares"]["val"] * len(things))
    sides = {"train": things[:first], "val": things[first:second], "test": things[second:]}
    return {
        name: every.take([row for row, thing in enumerate(every.thing) if thing in set(own)])
        for name, own in sides.items()
    }


def of_large_subjects(side: Vectors, train: Vectors) -> Vectors:
    """The concepts of subjects that training has enough of."""
    count = Counter(train.subject)
    return side.take([row for row, name in enumerate(side.subject) if count[name] >= DATA["least_of_a_subject"]])


@cache
def vocabulary(seed: int) -> list[str]:
    """The words that are written: those that enough concepts of training have, the commonest first."""
    count = Counter(word for text in parts(seed)["train"].captions for word in dict.fromkeys(text.split()))
    return [word for word, times in count.most_common() if times >= DATA["least_of_a_word"]]


@cache
def tokenizer(seed: int) -> Any:
    """A token for each word of the vocabulary."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    pad, begin, end, _, other = SPECIAL
    ids = {word: number for number, word in enumerate([*SPECIAL, *vocabulary(seed)])}
    made = Tokenizer(models.WordLevel(ids, unk_token=other))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A {end}", special_tokens=[(begin, ids[begin]), (end, ids[end])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token=pad, cls_token=begin, sep_token=end, unk_token=other
    )


def tokens(seed: int, texts: Sequence[str]) -> dict[str, Tensor]:
    """`input_ids` and `attention_mask` `[B, L]` of the words of texts that the vocabulary has."""
    known = set(vocabulary(seed))
    short = [" ".join(word for word in text.split() if word in known) for text in texts]
    made = tokenizer(seed)(short, padding=True, return_tensors="pt")
    return {name: made[name] for name in ("input_ids", "attention_mask")}


def words_alone(seed: int) -> Any:
    """A language model before training. Its words begin as what the image-text model makes of them, along as many of
    their main directions as it is wide."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from nearfar.embedding import embed_texts
    from nearfar.models.language.model import LanguageModel

    torch.manual_seed(seed)
    own = tokenizer(seed)
    ends = {"pad_token_id": own.pad_token_id, "bos_token_id": own.cls_token_id, "eos_token_id": own.sep_token_id}
    config = LlamaConfig(vocab_size=len(own), max_position_embeddings=64, tie_word_embeddings=True, **LANGUAGE, **ends)
    lm = LlamaForCausalLM(config)
    rows = embed_texts(pair(), vocabulary(seed), progress=False)
    directions = torch.linalg.svd(rows - rows.mean(0), full_matrices=False).Vh[: LANGUAGE["hidden_size"]]
    table = lm.get_input_embeddings().weight.data
    placed = F.normalize((rows - rows.mean(0)) @ directions.T, dim=1) * table[len(SPECIAL) :].norm(dim=1).mean()
    table[len(SPECIAL) :] = F.pad(placed, (0, table.shape[1] - placed.shape[1]))
    return LanguageModel(lm, own)


@dataclass(frozen=True)
class WrittenBatches:
    """`count` batches of vectors and of what is to be written of each: the caption of each concept in turn, in an order
    that `seed` draws, with the caption's vector; with `pictures` with the picture's."""

    train: Vectors
    count: int
    batch_size: int
    seed: int
    pictures: bool = False

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[dict[str, Any]]:
        draw, order = Random(self.seed), list[int]()
        read = self.train.image if self.pictures else self.train.caption
        for _ in range(self.count):
            while len(order) < self.batch_size:
                order += draw.sample(range(len(read)), len(read))
            rows, order = order[: self.batch_size], order[self.batch_size :]
            words = tokens(self.seed, [self.train.captions[row] for row in rows])
            yield {
                "stand_in": read[rows],
                "targets": words,
                "target_count": torch.ones(len(rows), dtype=torch.long),
                "text": words,
                "index": torch.tensor(rows),
            }
