"""Emojis of several subjects, drawn in five styles of which one is left out, and a small student that learns them: the
last layer of an ImageNet tower, trained on what the frozen layers before it make of small pictures."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from random import Random
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from nearfar.methods.base import Batch, Method
from nearfar.reproductions.shared.per_query import PerQuery

DATA: dict[str, Any] = {
    "splits": ["val", "test"],
    "categories": ["animals-nature", "food-drink", "travel-places", "activities", "objects"],
    "concepts_of_a_class": {"least": 5, "most": 16},
    "draw": 0,
    "shares": {"train": 0.4, "validation": 0.15},
}
"""Concepts that the teacher did not learn from, one of those that are variants of each other; what is left of the
shares is the test."""
TEACHER = "starter"
STUDENT: dict[str, Any] = {"image": "efficientnet-lite0", "image_size": 64, "first_trained_block": 16}


@dataclass(frozen=True)
class Drawings:
    """Pictures: `maps` `[N, C, H, W]`, what the frozen beginning of the student made of them; `teacher` `[N, D]`, the
    teacher's embeddings; `label` `[N]`, the subject; `concept` `[N]`, its number in the world."""

    maps: Tensor
    teacher: Tensor
    label: Tensor
    concept: Tensor

    def take(self, rows: Tensor) -> Drawings:
        """These rows alone, `[M]` int64."""
        return Drawings(self.maps[rows], self.teacher[rows], self.label[rows], self.concept[rows])


@dataclass(frozen=True)
class Task:
    """What a seed draws: the style that is left out, and which concepts are for training, validation and test. Of the
    style that is left out there are pictures in `left_out` alone; `test` has the same concepts in the other styles."""

    style: str
    train: Drawings
    validation: Drawings
    test: Drawings
    left_out: Drawings

    @staticmethod
    def of(seed: int) -> Task:
        """Each style is left out in turn; concepts are drawn class by class."""
        from nearfar.data import world

        every, styles = drawings(), len(world.STYLES)
        left_out = seed % styles
        parts = dict(zip(("train", "validation", "test"), _drawn(seed), strict=True))
        others = [style for style in range(styles) if style != left_out]

        def of(part: str, kept: list[int]) -> Drawings:
            return every.take((torch.tensor(parts[part])[:, None] * styles + torch.tensor(kept)).flatten())

        return Task(
            world.STYLES[left_out],
            of("train", others),
            of("validation", others),
            of("test", others),
            of("test", [left_out]),
        )


def _drawn(seed: int) -> tuple[list[int], list[int], list[int]]:
    """Places of concepts, in the order of `subjects`, for training, validation and test."""
    draw, first = Random(seed), 0
    parts: tuple[list[int], list[int], list[int]] = ([], [], [])
    for numbers in subjects().values():
        order = draw.sample(range(first, first + len(numbers)), len(numbers))
        first += len(numbers)
        train = max(1, round(DATA["shares"]["train"] * len(order)))
        rest = train + max(1, round(DATA["shares"]["validation"] * len(order)))
        for part, own in zip(parts, (order[:train], order[train:rest], order[rest:]), strict=True):
            part.extend(own)
    return parts


@cache
def subjects() -> dict[str, list[int]]:
    """The classes: each subject's name, and the numbers of its concepts."""
    from nearfar.data import world

    members: dict[str, dict[str, int]] = defaultdict(dict)
    for number, concept in enumerate(world.concepts()):
        if concept["split"] in DATA["splits"] and concept["category"] in DATA["categories"]:
            members[concept["subcategory"].replace("-", " ")].setdefault(concept["base"], number)
    least, most = DATA["concepts_of_a_class"].values()
    draw = Random(DATA["draw"])
    return {
        name: sorted(draw.sample(sorted(own.values()), min(most, len(own))))
        for name, own in sorted(members.items())
        if len(own) >= least
    }


@cache
def drawings() -> Drawings:
    """All pictures, read once: the styles of a concept lie next to one another."""
    from nearfar.data import world
    from nearfar.data.pictures.images import load_image
    from nearfar.embedding import embed_images

    labels = [(label, number) for label, own in enumerate(subjects().values()) for number in own]
    pictures = [world.picture(number, style) for _, number in labels for style in world.STYLES]
    read = [load_image(each) for each in pictures]
    maps = torch.cat([_beginning(read[at : at + 128]) for at in range(0, len(read), 128)])
    label, concept = torch.tensor(labels).repeat_interleave(len(world.STYLES), 0).T
    return Drawings(maps, embed_images(teacher(), pictures), label, concept)


@cache
def teacher() -> Any:
    """The image-text model that teaches: nothing but its embeddings is read."""
    import nearfar

    return nearfar.load(TEACHER)


@cache
def _whole() -> Any:
    """A student with all of its tower."""
    from nearfar.models import student_encoder

    size = STUDENT["image_size"]
    return student_encoder(teacher(), image=STUDENT["image"], image_size=size).eval()


@torch.no_grad()
def _beginning(pictures: list[Any]) -> Tensor:
    """What goes into the first trained block, `[B, C, H, W]`."""
    net: Any = _whole().image.backbone
    x = net._swish(net._bn0(net._conv_stem(_whole().preprocess(pictures))))
    for block in net._blocks[: STUDENT["first_trained_block"]]:
        x = block(x)
    return x


class LastBlocks(nn.Module):
    """The end of the tower: of maps `[B, C, H, W]` the mean of the last map and its cells, `[B, 1 + P, width]`, as a
    tower gives them. Batch norm keeps its running statistics in training, for all arms alike."""

    def __init__(self, net: Any) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(net._blocks[STUDENT["first_trained_block"] :])
        self.head, self.norm, self.activation = net._conv_head, net._bn1, net._swish
        self.width = net._conv_head.out_channels

    def forward(self, maps: Tensor) -> Tensor:
        for block in self.blocks:
            maps = block(maps)
        cells = self.activation(self.norm(self.head(maps))).flatten(2).transpose(1, 2)
        return torch.cat([cells.mean(1, keepdim=True), cells], dim=1)

    def check_pixels(self, maps: Tensor) -> None:
        """All maps are taken."""

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        for module in self.modules():
            if isinstance(module, _BatchNorm):
                module.eval()
        return self


def fresh(seed: int) -> Any:
    """A student with the pretrained end of the tower, and a new projection. Its text side, which nothing trains, is one
    for all."""
    whole = _whole()
    shared = {id(part): part for part in (whole.text, whole.text_projection, whole.tokenizer)}
    student = deepcopy(whole, shared)
    student.image = LastBlocks(student.image.backbone)
    torch.manual_seed(seed)
    student.image_projection.reset_parameters()
    return student


def copied(student: Any) -> Any:
    """A student of its own, as it is now; the text side stays one for all."""
    return deepcopy(student, {id(part): part for part in (student.text, student.text_projection, student.tokenizer)})


@dataclass(frozen=True)
class DrawingBatches:
    """Shuffled batches, one pass an iteration; another order each time. `image`: what is read of the pictures, maps or
    the tower's summaries `[N, W]`."""

    data: Drawings
    image: Tensor
    batch_size: int

    def __len__(self) -> int:
        return max(1, len(self.image) // self.size)

    @property
    def size(self) -> int:
        return min(self.batch_size, len(self.image))

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        for rows in torch.randperm(len(self.image)).split(self.size)[: len(self)]:
            label, target = self.data.label[rows], self.data.teacher[rows]
            yield {"image": self.image[rows], "label": label, "teacher_image": target, "index": rows}


class CrossEntropy(Method):
    """What the paper compares with: a tower and a fresh linear layer over the classes, by cross-entropy; with `texts`
    half of it against what the teacher says of the classes (distillation of logits, arXiv 1503.02531).

    Args:
        tower: from maps to `[B, 1 + P, W]`.
        classes: their number.
        texts: unit embeddings `[C, D]` of the classes by the teacher.
        temperature: the teacher's.
    """

    captions = False

    def __init__(self, tower: Any, classes: int, *, texts: Tensor | None = None, temperature: float = 1.0) -> None:
        super().__init__()
        self.tower, self.layer = tower, nn.Linear(tower.width, classes)
        self.texts, self.temperature = texts, temperature

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        logits, label = self.logits(batch["image"]), batch["label"]
        loss = F.cross_entropy(logits, label)
        if self.texts is not None:
            said = F.normalize(batch["teacher_image"], dim=1) @ self.texts.T / self.temperature
            loss = (loss + F.cross_entropy(logits, said.softmax(1))) / 2
        return {"loss": loss}

    def logits(self, image: Tensor) -> Tensor:
        """`[B, C]` of maps, or of the tower's summaries `[B, W]`."""
        return self.layer(image if image.ndim == 2 else self.tower(image)[:, 0])


def hits(scores: Tensor, drawn: Drawings) -> PerQuery:
    """Whether each picture's class has the highest of its scores `[N, C]`; pictures of a concept go together."""
    right = scores.argmax(1) == drawn.label
    return PerQuery(right.double().numpy(), drawn.concept.numpy())
