"""Scenes of a coloured shape with captions and questions; what a frozen tower sees of them, and a small language
model that answers about texts.

The tower, EfficientNet-Lite0 with ImageNet's weights, is never trained: each picture goes through it once, and models
read its cells, in the principal directions of the captioned training scenes, each of mean 0 and variance 1.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import cycle, islice
from typing import Any

import torch
from torch import Tensor, nn

from nearfar.models.vlm.patch_word_space import word_rows
from nearfar.models.vlm.vision_language_model import VisionLanguageModel

DATA: dict[str, Any] = {
    "size": 96,
    "make": {"vocabulary": "shapes", "objects": 1, "ground": "varied"},
    "seeds": {"captions": 5, "questions": 6},
    "captions": {"train": 1000, "test": 150},
    "questions": {"train": 1000, "val": 150, "test": 200},
    "directions": 256,
}
"""Numbers are of scenes; to each of those with questions there are two."""
TOWER = "efficientnet-lite0"
LANGUAGE = {"hidden_size": 64, "intermediate_size": 192, "num_hidden_layers": 2, "num_attention_heads": 4}
Things = list[dict[str, Any]]


@dataclass(frozen=True)
class Scenes:
    """Cells `[N, P, C]` float16 of N pictures; of each the captions that name its thing and its colour, the
    fullest first; two questions with their answers; and its things, as records have them."""

    cells: Tensor
    captions: list[list[str]]
    questions: list[tuple[str, str]]
    things: list[Things]


class ReadsCells(VisionLanguageModel):
    """Reads what the tower made of pictures before, `[B, P, C]` float32, in the place of pixels; or a text in the place
    of a picture, its tokens `[B, P]` int64."""

    def picture_tokens(self, pixels: Tensor) -> Tensor:
        if not pixels.is_floating_point():
            return self.lm.get_input_embeddings()(pixels)
        return self.projector(pixels)


@cache
def scenes(kind: str, split: str) -> Scenes:
    """Those with "captions", or with "questions", of a split."""
    from nearfar.data.scenes import scenes as described

    source = described(split, n=DATA[kind][split], size=DATA["size"], seed=DATA["seeds"][kind], **DATA["make"])
    pictures, captions, questions, things = [], [], [], []
    for number, record in enumerate(source):
        own = record["objects"]
        pictures.append(record["image"])
        captions.append([text for text in record["text"] if all(thing["colour"] in text for thing in own)])
        things.append([{name: thing[name] for name in ("name", "colour", "box")} for thing in own])
        drawn = torch.randint(len(own), (2,), generator=torch.Generator().manual_seed(number)).tolist()
        questions += [questions_about(things[-1][which])[kind_of] for kind_of, which in enumerate(drawn)]
    return Scenes(_cells(pictures), captions, questions, things)


def questions_about(thing: dict[str, Any]) -> list[tuple[str, str]]:
    """What may be asked of a thing of a scene, and the answers: its colour, and what it is.

    >>> questions_about({"name": "star", "colour": "red"})
    [('what colour is the star?', 'red'), ('what is red?', 'star')]
    """
    return [
        (f"what colour is the {thing['name']}?", thing["colour"]),
        (f"what is {thing['colour']}?", thing["name"]),
    ]


@cache
def tower() -> Any:
    """The frozen tower, and how pictures are prepared for it."""
    from nearfar.models.towers import backbones

    made, pixels = backbones.image_tower(TOWER, image_size=DATA["size"])
    made.requires_grad_(False).eval()
    return made, pixels


@torch.no_grad()
def _cells(pictures: list[Any]) -> Tensor:
    image, pixels = tower()
    image = image.for_inference()
    parts = [
        image.encode_image_map(pixels(pictures[i : i + 50])).flatten(2).mT.half() for i in range(0, len(pictures), 50)
    ]
    return torch.cat(parts)


@cache
def directions() -> tuple[Tensor, Tensor]:
    """The mean `[C]` of the cells of the captioned training scenes, and `[C, D]`: their first principal directions,
    over the spread along each."""
    cells = scenes("captions", "train").cells.double().flatten(0, 1)
    mean = cells.mean(0)
    values, vectors = torch.linalg.eigh((cells - mean).T.cov())
    kept = slice(-DATA["directions"], None)
    spread = values[kept].clamp(min=1e-6 * float(values[-1])).sqrt()
    return mean.float(), (vectors[:, kept] / spread).float()


def cells_of(own: Scenes, rows: list[int]) -> Tensor:
    """What models read of some pictures, `[B, P, D]` float32."""
    mean, whitened = directions()
    return (own.cells[rows].float() - mean) @ whitened


def cell_at(thing: dict[str, Any], cells: int) -> int:
    """The cell, of a square grid of `cells`, that the middle of a thing lies in."""
    side = round(cells**0.5)
    left, top, right, bottom = thing["box"]
    x, y = ((low + high) / 2 / DATA["size"] * side for low, high in ((left, right), (top, bottom)))
    return min(int(y), side - 1) * side + min(int(x), side - 1)


@cache
def tokenizer() -> Any:
    """Each word of captions, questions and answers is one token."""
    from nearfar.data.fields.text import train_tokenizer

    own = scenes("captions", "train")
    texts = [text for captions in own.captions for text in captions]
    texts += [" ".join(pair) for things in own.things for thing in things for pair in questions_about(thing)]
    return train_tokenizer([text for text in texts for _ in range(2)], 1000)


def tokens(texts: list[str]) -> dict[str, Tensor]:
    """`input_ids` and `attention_mask` `[B, L]`."""
    made = tokenizer()(texts, padding=True, return_tensors="pt")
    return {name: made[name] for name in ("input_ids", "attention_mask")}


def words_for_cells(captions: list[str]) -> Tensor:
    """Captions one after the other, as many tokens `[P]` as a picture has cells, from the first again at the end."""
    ids = tokenizer()(" ".join(captions), add_special_tokens=False)["input_ids"]
    return torch.tensor(list(islice(cycle(ids), tower()[0].patches)))


def words_alone(seed: int) -> ReadsCells:
    """A model whose language model is fresh."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    own = tokenizer()
    ends = {"pad_token_id": own.pad_token_id, "bos_token_id": own.cls_token_id, "eos_token_id": own.sep_token_id}
    config = LlamaConfig(vocab_size=len(own), max_position_embeddings=64, tie_word_embeddings=True, **LANGUAGE, **ends)
    return _around(LlamaForCausalLM(config))


def _around(lm: Any) -> ReadsCells:
    image, pixels = tower()
    model = ReadsCells(image, lm, tokenizer=tokenizer(), pixels=pixels, projector="linear", max_length=24)
    model.projector = nn.Linear(DATA["directions"], model.embed_dim)
    return model


@torch.no_grad()
def reader(words: ReadsCells, seed: int) -> ReadsCells:
    """A copy of a model with a fresh projector, whose tokens are as long as words are on average."""
    from copy import deepcopy

    torch.manual_seed(seed)
    model = _around(deepcopy(words.lm))
    own = scenes("captions", "train")
    made = model.picture_tokens(cells_of(own, list(range(min(200, len(own.cells))))))
    rows, real = word_rows(model, tokens([own.captions[row][0] for row in range(len(made))]))
    ratio = rows[real].norm(dim=-1).mean() / made.norm(dim=-1).mean()
    for each in model.projector.parameters():
        each.mul_(ratio)
    return model


@dataclass(frozen=True)
class Batches:
    """`count` batches, each row once in a pass, in an order that `seed` draws: cells and their captions ("captions"),
    cells with questions and answers ("questions"), or captions in the place of a picture ("texts"), with a question
    about them and its answer, or with another caption to be written."""

    kind: str
    rows: list[int]
    count: int
    batch_size: int
    seed: int

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[dict[str, Any]]:
        chance = torch.Generator().manual_seed(self.seed)
        order = list[int]()
        for _ in range(self.count):
            while len(order) < self.batch_size:
                order += [self.rows[place] for place in torch.randperm(len(self.rows), generator=chance).tolist()]
            rows, order = order[: self.batch_size], order[self.batch_size :]
            yield {"index": torch.tensor(rows), **self._of(rows, chance)}

    def _of(self, rows: list[int], chance: torch.Generator) -> dict[str, Any]:
        if self.kind == "questions":
            own = scenes("questions", "train")
            return _answered(cells_of(own, [row // 2 for row in rows]), [own.questions[row] for row in rows])
        own = scenes("captions", "train")
        if self.kind == "captions":
            return {"image": cells_of(own, rows), "text": tokens([own.captions[row][0] for row in rows])}
        texts, pairs = [], []
        for row in rows:
            order = torch.randperm(len(own.captions[row]), generator=chance).tolist()
            texts.append(words_for_cells([own.captions[row][place] for place in order]))
            possible = [pair for thing in own.things[row] for pair in questions_about(thing)]
            draw = int(torch.randint(2 * len(possible), (1,), generator=chance))
            pairs.append(possible[draw] if draw < len(possible) else ("", own.captions[row][0]))
        return _answered(torch.stack(texts), pairs)


def _answered(pictures: Tensor, pairs: list[tuple[str, str]]) -> dict[str, Any]:
    questions, answers = zip(*pairs, strict=True)
    return {
        "image": pictures,
        "text": tokens(list(questions)),
        "answers": tokens(list(answers)),
        "answer_weight": torch.ones(len(pairs), 1),
    }
