"""Words that are grounded in emojis: a language model and an image tower as they were released, pictures with names and
keywords of training concepts, and the names of test concepts as words whose space is looked at."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from nearfar.reproductions.shared.per_query import PerQuery

DATA: dict[str, Any] = {"styles": ["noto", "openmoji"], "size": 128, "most": None}
MODEL: dict[str, Any] = {
    "pair": {"image": "efficientnet-lite0", "text": "minilm", "embed_dim": 128, "max_length": 16},
    "image_size": DATA["size"],
    "heads": 6,
    "hidden": 768,
}


@dataclass(frozen=True)
class Concepts:
    """Of each concept of a split its pictures `[N, V, 3, S, S]` uint8 in V styles, captions, the first of which is the
    name, subcategory, and the mean colour `[N, 3]` of what is drawn."""

    pictures: Tensor
    captions: list[list[str]]
    subcategory: list[str]
    colour: Tensor


@cache
def concepts(split: str) -> Concepts:
    """Each picture on a white ground. Concepts of one name are one: the first."""
    import io

    import numpy as np
    from PIL import Image

    from nearfar.data import world

    pictures, captions, subcategory, colour, names = [], [], [], [], set[str]()
    records = list(world.emoji(split, styles=DATA["styles"]))
    for start in range(0, len(records), len(DATA["styles"])):
        record = records[start]
        if record["name"] in names:
            continue
        if len(names) == DATA["most"]:
            break
        names.add(record["name"])
        drawn = []
        for each in records[start : start + len(DATA["styles"])]:
            size = (DATA["size"], DATA["size"])
            drawn.append(np.asarray(Image.open(io.BytesIO(each["image"])).convert("RGBA").resize(size)))
        whole = np.stack(drawn).astype(np.float32)
        alpha = whole[..., 3:] / 255
        pictures.append((whole[..., :3] * alpha + 255 * (1 - alpha)).round().astype(np.uint8))
        colour.append((whole[..., :3] * alpha).sum((0, 1, 2)) / max(float(alpha.sum()), 1.0))
        captions.append(list(record["text"]))
        subcategory.append(record["subcategory"])
    pixels = torch.from_numpy(np.stack(pictures)).movedim(-1, 2).contiguous()
    return Concepts(pixels, captions, subcategory, torch.from_numpy(np.stack(colour)))


@cache
def features(split: str) -> Tensor:
    """What the frozen image tower makes of the pictures of a split: `[N, V, 1 + P, C]` float16."""
    from nearfar.modes import evaluating

    pictures = concepts(split).pictures
    model = fresh(0)
    mean, std = (torch.tensor(value).view(3, 1, 1) for value in (model.mean, model.std))
    with torch.no_grad(), evaluating(model):
        parts = pictures.flatten(0, 1).split(32)
        made = [model.image_tokens((part / 255 - mean) / std).half() for part in parts]
    return torch.cat(made).unflatten(0, pictures.shape[:2])


@dataclass(frozen=True)
class PairBatches:
    """`count` batches of pictures and captions of training concepts, each concept once a batch; with `shuffled` the
    picture is of another concept, always the same one."""

    batch_size: int
    count: int
    model: Any
    seed: int
    shuffled: bool = False

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[dict[str, Any]]:
        data, chance = concepts("train"), torch.Generator().manual_seed(self.seed)
        n, styles = data.pictures.shape[:2]
        other = torch.randperm(n, generator=chance)
        for _ in range(self.count):
            rows = torch.randperm(n, generator=chance)[: self.batch_size]
            style = torch.randint(styles, (len(rows),), generator=chance)
            said = [data.captions[row] for row in rows.tolist()]
            which = torch.rand(len(rows), generator=chance).tolist()
            texts = [each[int(share * len(each))] for each, share in zip(said, which, strict=True)]
            place = other[rows] if self.shuffled else rows
            tokens = features("train")[place, style].float()
            yield {"image": tokens, "text": self.model.tokenize(texts), "index": rows}


def grounded(method: Any, seed: int, *, shuffled: bool = False, batch_size: int, **training: Any) -> Any:
    """The method's model after training on pictures and captions; every arm of a seed gets the same ones."""
    import nearfar

    batches = PairBatches(batch_size, training["steps"], method.model, seed, shuffled)
    nearfar.train(method, batches, seed=seed, progress=False, report=False, **training)
    return method.model.eval()


def fresh(seed: int) -> Any:
    """The model before grounding: both towers as they were released, and what joins them new."""
    from nearfar.models import grounded_encoder

    torch.manual_seed(seed)
    return grounded_encoder(**MODEL)


def words_measured(model: Any, split: str) -> dict[str, float]:
    """Of the names of a split's concepts, which no picture of training showed: `colour`, r of the mean colour of their
    pictures told from their vectors, the mean over three channels; `subjects`, the share of a name's nearest names that
    are of its subject; `silhouette` of the subjects."""
    from nearfar.evaluation.words.semantic_space import SemanticSpace

    data = concepts(split)
    names = [said[0] for said in data.captions]
    space = SemanticSpace.of(model, names)
    channels = {
        name: dict(zip(names, data.colour[:, c].tolist(), strict=True))
        for c, name in enumerate(("red", "green", "blue"))
    }
    predicted = space.predict_norms(channels)
    apart = space.category_separation(dict(zip(names, data.subcategory, strict=True)))
    return {
        "colour": sum(predicted.values()) / 3,
        "subjects": apart.neighbours,
        "silhouette": apart.silhouette,
    }


@torch.no_grad()
def retrieved(model: Any, split: str, *, pooled: bool) -> dict[str, PerQuery]:
    """Recall of names by pictures and of pictures by names among all concepts of a split, in the first style; both
    ways together. By cells and words, or by the cosines of their means (`pooled`)."""
    from nearfar.modes import evaluating
    from nearfar.ops import matchmap

    data = concepts(split)
    pictures, names = features(split)[:, 0].float(), [said[0] for said in data.captions]
    with evaluating(model):
        tokens = model.tokenize(names)
        if pooled:
            image = torch.cat([model.encode_image(part, normalize=True) for part in pictures.split(100)])
            scores = image @ model.encode_text(tokens, normalize=True).T
        else:
            cells = torch.cat([model.encode_cells(part) for part in pictures.split(100)])
            scores = matchmap(cells, model.encode_words(tokens), tokens["attention_mask"])
    own = scores.diagonal()
    better = torch.cat([(scores > own[:, None]).sum(1), (scores > own).sum(0)])
    group = list(range(len(names))) * 2
    return {f"R@{k}": PerQuery((better < k).numpy(), group) for k in (1, 5)}
