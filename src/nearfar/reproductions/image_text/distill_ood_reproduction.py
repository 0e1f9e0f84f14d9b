"""Distilling for unseen classes (arXiv 2307.03135): a small image tower that imitates a frozen image-text model names
classes that it was never trained on better than one that learns class names alone does.

The starter model teaches, which knows all classes here, and these drawings of them. A small convolutional net is
trained on six in ten of the classes, in four styles. It is measured on the other classes, in all five styles, with
their names alone to choose from; and on the classes of training in the fifth style. Each seed draws the classes, the
start and the batches. Arms add one term of the loss at a time; the last has keywords in the texts of classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from random import Random
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from nearfar.prompting.class_texts import ClassTexts
from nearfar.reproductions.shared.choosing import Grid, Setting
from nearfar.reproductions.shared.claims import Arms, Claim, Reproduction

CONFIG: dict[str, Any] = {
    "teacher": "starter",
    "data": {
        "split": "train",
        "styles": ["noto", "openmoji", "openmoji-line", "fluent-3d"],
        "held_out": "twemoji",
        "keywords": 8,
        "least_keywords": 3,
        "classes": 400,
        "validation": 60,
        "trained": 0.6,
    },
    "pictures": {"size": 24, "canvas": 30, "views": "distill-ood-half", "n_views": 4},
    "student": {"widths": [24, 48, 96], "cells": 2},
    "texts": {"names": "a photo of {}", "keywords": "a photo of {name} . {description}"},
    "training": {"steps": 120, "batch_size": 128, "warmup": 0.1, "weight_decay": 1e-4, "clip_norm": None},
    "neighbours": 10,
}
CLASSIFIED, DISTANCE, CONTRAST = "class names", "+ distance", "+ contrast"
ALIGNED, KEYWORDS, AT_TEST = "+ alignment, all labels", "+ keywords", "+ alignment; keywords at the test"
NONE = {"distance": 0.0, "contrast": 0.0, "alignment": 0.0}
ARMS: dict[str, dict[str, Any]] = {
    CLASSIFIED: NONE,
    DISTANCE: NONE | {"distance": 1.0},
    CONTRAST: NONE | {"distance": 1.0, "contrast": 1.0},
    "+ alignment, k 2": {"top_k": 2},
    "+ alignment, k 8": {"top_k": 8},
    ALIGNED: {"top_k": 256},  # there are fewer classes
    KEYWORDS: {"top_k": 256},
}
"""What each arm says of the method; the last is trained on texts with keywords."""


def run(seed: int, chosen: dict[str, Setting]) -> Arms:
    """All arms on one seed, each with its own setting, beside the teacher and chance."""
    split = drawn(seed)
    arms: Arms = {}
    for arm in ARMS:
        student = trained(arm, split, seed, **chosen[arm])
        arms[arm] = measured(student, split, split.unseen, texts_of(arm))
        if arm == ALIGNED:
            arms[AT_TEST] = measured(student, split, split.unseen, "keywords")
    arms["teacher"] = measured(None, split, split.unseen, "names")
    arms["teacher, keywords"] = measured(None, split, split.unseen, "keywords")
    return arms | {"chance": {"unseen": 1 / len(split.unseen), "known": 1 / len(split.trained)}}


def validated(arm: str, setting: Setting, seed: int) -> float:
    """Mean per-class accuracy on classes that no seed trains on or is tested on."""
    split = drawn(seed)
    return float(measured(trained(arm, split, seed, **setting), split, split.validation, texts_of(arm))["unseen"])


def texts_of(arm: str) -> str:
    """Which texts of classes an arm is trained and tested with."""
    return "keywords" if arm == KEYWORDS else "names"


@dataclass(frozen=True)
class Split:
    """Places of classes in the pool."""

    trained: Tensor
    unseen: Tensor
    validation: Tensor


def drawn(seed: int) -> Split:
    """The classes of a seed. Those of validation are the same for all."""
    data, count = CONFIG["data"], len(pool().names)
    fixed = torch.randperm(count, generator=torch.Generator().manual_seed(0))
    validation, others = fixed[: data["validation"]], fixed[data["validation"] :]
    others = others[torch.randperm(len(others), generator=torch.Generator().manual_seed(seed))]
    trained_on = round(data["trained"] * len(others))
    return Split(others[:trained_on], others[trained_on:], validation)


def trained(arm: str, split: Split, seed: int, *, lr: float) -> Student:
    """A student, trained as an arm."""
    import nearfar
    from nearfar.methods import DistillOOD

    torch.manual_seed(seed)
    student, training = Student(), dict(CONFIG["training"])
    names = [pool().names[i] for i in split.trained.tolist()]
    method = DistillOOD(student, classes=names, texts=class_texts(texts_of(arm)), **ARMS[arm])
    batches = Batches(split.trained, training.pop("batch_size"))
    nearfar.train(method, batches, seed=seed, lr=lr, progress=False, report=False, **training)
    return student


def measured(student: Student | None, split: Split, unseen: Tensor, texts: str) -> dict[str, float]:
    """Mean per-class accuracies on `unseen` classes and, in the style held out, on those of training; the cosine with
    the teacher and the neighbours shared with it, on pictures of unseen classes. The teacher itself without a student.
    """
    from nearfar.evaluation.measures.teacher_agreement import shared_neighbours, teacher_cosines

    data, vectors = pool(), class_vectors(texts)
    taught = data.taught[unseen]
    of_unseen = taught if student is None else student.embedded(data.pixels[unseen])
    of_known = data.taught[split.trained, -1:] if student is None else student.embedded(data.pixels[split.trained, -1:])
    figures = {
        "unseen": per_class_accuracy(of_unseen, vectors[unseen]),
        "known": per_class_accuracy(of_known, vectors[split.trained]),
    }
    if student is not None:
        own, theirs = of_unseen.flatten(0, 1), taught.flatten(0, 1)
        figures["cosine"] = teacher_cosines(own, theirs).mean().item()
        figures["neighbours"] = shared_neighbours(own, theirs, k=CONFIG["neighbours"]).mean().item()
    return figures


def per_class_accuracy(pictures: Tensor, texts: Tensor) -> float:
    """Of pictures `[C, S, D]` of `C` classes and their texts `[C, D]`."""
    from nearfar.evaluation.protocols.zero_shot_accuracy import per_class

    label = torch.arange(len(texts)).repeat_interleave(pictures.shape[1])
    hits = (pictures.flatten(0, 1) @ texts.T).argmax(1) == label
    return float(per_class(hits.double().numpy(), label).mean())


@dataclass(frozen=True)
class Pool:
    """All classes: names, keywords, pixels `[C, S, 3, size, size]` in the styles of training and then in the one held
    out, augmented `views` `[V, C, S - 1, 3, size, size]` of the former, and the teacher's embeddings `[C, S, D]` of the
    pictures as they are, of unit length."""

    names: list[str]
    keywords: list[str]
    pixels: Tensor
    views: Tensor
    taught: Tensor


@cache
def pool() -> Pool:
    """Read once, for all arms and seeds."""
    import numpy as np

    from nearfar.data import world
    from nearfar.data.pictures.images import load_image, resize
    from nearfar.data.pictures.views import Views
    from nearfar.embedding import embed_images

    data, config = CONFIG["data"], CONFIG["pictures"]
    styles = [*data["styles"], data["held_out"]]
    records = concepts()
    drawings = [load_image(world.picture(record["group"], style)) for record in records for style in styles]
    taught = embed_images(teacher(), drawings).unflatten(0, (-1, len(styles)))
    canvases = np.stack([resize(drawing, config["canvas"]) for drawing in drawings])
    canvas = torch.from_numpy(canvases).movedim(3, 1)
    kinds: dict[str, Any] = {"size": config["size"], "mean": (0.5,) * 3, "std": (0.5,) * 3}
    plain, augmented = Views("none", **kinds), Views(config["views"], n_views=config["n_views"], **kinds)
    seeded = torch.Generator().manual_seed(0)
    pixels = plain(canvas, plain.draw(len(canvas), seeded))[0][0].unflatten(0, (-1, len(styles)))
    to_train = canvas.unflatten(0, (-1, len(styles)))[:, :-1].flatten(0, 1)
    views = augmented(to_train, augmented.draw(len(to_train), seeded))[0].unflatten(1, (-1, len(styles) - 1))
    return Pool([r["name"] for r in records], [", ".join(keywords_of(r)) for r in records], pixels, views, taught)


def concepts() -> list[dict[str, Any]]:
    """One emoji of each family of variants (a cook, of the cooks) that has keywords beside its name."""
    from nearfar.data import world

    data, families, kept = CONFIG["data"], set(), []
    for record in world.emoji(data["split"], styles=["noto"]):
        family = world.concepts()[record["group"]]["base"]
        if family not in families and len(keywords_of(record)) >= data["least_keywords"]:
            families.add(family)
            kept.append(record)
    drawn_places = sorted(Random(0).sample(range(len(kept)), data["classes"]))
    return [kept[place] for place in drawn_places]


def keywords_of(record: dict[str, Any]) -> list[str]:
    """The keywords of an emoji but the words of its name."""
    name = record["name"].lower()
    return [word for word in record["tags"] if word.lower() not in name][: CONFIG["data"]["keywords"]]


@cache
def teacher() -> Any:
    """The frozen model."""
    import nearfar

    return nearfar.load(CONFIG["teacher"])


@cache
def text_bank() -> Any:
    """The teacher's texts, each embedded once."""
    from nearfar.embedding.text_bank import TextBank

    return TextBank(teacher())


@cache
def class_texts(kind: str) -> ClassTexts:
    """The texts of all classes: "names", or names with "keywords"."""
    if kind == "names":
        return ClassTexts.of(pool().names, CONFIG["texts"]["names"])
    return ClassTexts.described(dict(zip(pool().names, pool().keywords, strict=True)), CONFIG["texts"]["keywords"])


@cache
def class_vectors(kind: str) -> Tensor:
    """One unit vector a class, `[C, D]`."""
    return normalize(text_bank()(class_texts(kind).texts), dim=1)


class Student(nn.Module):
    """Three convolutions and a linear map into the teacher's space. Its texts are the teacher's, embedded before."""

    temperature = None

    def __init__(self) -> None:
        super().__init__()
        config, layers, before = CONFIG["student"], [], 3
        for width in config["widths"]:
            layers += [nn.Conv2d(before, width, 3, 2, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
            before = width
        self.embed_dim = pool().taught.shape[-1]
        pooled = nn.Sequential(nn.AdaptiveAvgPool2d(config["cells"]), nn.Flatten())
        self.network = nn.Sequential(*layers, pooled, nn.Linear(before * config["cells"] ** 2, self.embed_dim))
        self.text_side = nn.Parameter(torch.zeros(()), requires_grad=False)  # known as frozen by its weights

    def freeze(self, *parts: str) -> Student:
        return self

    unfreeze = freeze

    def encode_image(self, pixels: Tensor, normalize: bool = False) -> Tensor:
        return self.network(pixels)

    def tokenize(self, texts: Sequence[str]) -> dict[str, Tensor]:
        return {"input_ids": text_bank()(texts)}

    def encode_text(self, tokens: dict[str, Tensor], normalize: bool = False) -> Tensor:
        return tokens["input_ids"]

    @torch.no_grad()
    def embedded(self, pixels: Tensor) -> Tensor:
        """Unit embeddings `[C, S, D]` of pixels `[C, S, 3, H, W]`."""
        from nearfar.modes import evaluating

        with evaluating(self):
            parts = [self.network(part) for part in pixels.flatten(0, 1).split(256)]
        return normalize(torch.cat(parts), dim=1).unflatten(0, pixels.shape[:2])


@dataclass(frozen=True)
class Batches:
    """Shuffled batches of pictures of some classes, each picture in one of its views, drawn anew each time."""

    classes: Tensor
    batch_size: int

    def __len__(self) -> int:
        return len(self.classes) * pool().views.shape[2] // self.batch_size

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        views, taught = pool().views, pool().taught
        count, styles = len(views), views.shape[2]
        for rows in torch.randperm(len(self.classes) * styles).split(self.batch_size)[: len(self)]:
            label, style = rows // styles, rows % styles
            of = self.classes[label]
            yield {
                "index": rows,
                "image": views[torch.randint(count, (len(rows),)), of, style],
                "label": label,
                "teacher_image": taught[of, style],
            }


reproduction = Reproduction(
    slug="distill-ood",
    run=run,
    claims=[
        Claim("the teacher knows the unseen classes", "teacher", "chance", "unseen", premise=True, constant=True),
        Claim("class names carry over to unseen classes", CLASSIFIED, "chance", "unseen", premise=True, constant=True),
        Claim(
            "the distance to the teacher's pictures adds to class names", DISTANCE, CLASSIFIED, "unseen", floor="chance"
        ),
        Claim("contrast with the teacher's pictures adds to that", CONTRAST, DISTANCE, "unseen", floor="chance"),
        Claim("the labels that the teacher finds plausible add to that", ALIGNED, CONTRAST, "unseen", floor="chance"),
        Claim(
            "all terms are better than class names alone on unseen classes",
            ALIGNED,
            CLASSIFIED,
            "unseen",
            floor="chance",
        ),
        Claim("they cost less than 0.02 on the classes of training", ALIGNED, CLASSIFIED, "known", margin=-0.02),
        Claim("keywords in the texts of classes add", KEYWORDS, ALIGNED, "unseen", floor="chance"),
        Claim("training with keywords adds to keywords at the test", KEYWORDS, AT_TEST, "unseen", floor="chance"),
        Claim("all terms bring unseen pictures nearer to the teacher's", ALIGNED, CLASSIFIED, "cosine"),
    ],
    seeds=range(5),
    pilot=0,
    grid=Grid(list(ARMS), {"lr": [1e-3, 3e-3]}, validated, "mean per-class accuracy on validation classes"),
    config=CONFIG,
    note=(
        "The starter model, an EfficientNet-Lite with linear heads beside MiniLM, in the place of CLIP ViT-L/14; it "
        "was trained on all of these emojis, the unseen ones among them, so that it is a ceiling. A net of three "
        "convolutions on pictures of 24 pixels in the place of a ResNet; emojis in five styles in the place of photos; "
        "keywords in the place of descriptions by a language model. Weights, temperature and the "
        "filter are the paper's, and its 256 labels are all labels of 204 classes here. Augmented views were drawn "
        "once, four of each picture, and each picture has its own. Steps and sizes were fixed for the time that they "
        "take, after one look at two arms on validation classes."
    ),
)
