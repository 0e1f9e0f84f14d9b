"""BECLR (arXiv 2402.02444): neighbours from a clustered memory enlarge the batch, and optimal transport moves the few
examples onto the queries.

Every arm trains the same small network from scratch on the same emojis, in the same steps; only what its batch is
enlarged by differs, and its learning rate, which is chosen for each arm on validation emojis. All are tested by the
same episodes of emojis that none was trained on: one drawing is the example, the other styles are the queries.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from nearfar.reproductions.shared.choosing import Grid
from nearfar.reproductions.shared.claims import Arms, Claim, Reproduction

CONFIG: dict[str, Any] = {
    "model": {
        "image": {
            "model_type": "resnet",
            "embedding_size": 16,
            "hidden_sizes": [16, 32, 64, 128],
            "depths": [1, 1, 1, 1],
            "layer_type": "basic",
        },
        "image_size": 32,
        "projector": {"layers": 3, "hidden": 128, "out": 128, "norm": "all"},
    },
    "method": {"masked": 0.0, "momentum": 0.98, "predictor_hidden": 64, "start_epoch": 2},
    "memory": {"memory_size": 2000, "clusters": 50, "neighbours": 3},
    "training": {"batch_size": 64, "steps": 140, "warmup": 0.1, "weight_decay": 1e-4},
    "data": {"concepts": 400, "size": 32, "canvas": 48, "views": "moco"},
    "episodes": {"count": 300, "balanced": 4, "imbalanced": [4, 2, 1, 1, 1]},
}
ARMS: dict[str, dict[str, Any]] = {
    "no memory": {"neighbours": 0},
    "official": {"mode": "official", **CONFIG["memory"]},
    "live": {"mode": "live", **CONFIG["memory"]},
}
KINDS = {"prototypes": "", "opta": ", OpTA", "relaxed_opta": ", relaxed OpTA"}


def run(seed: int, chosen: dict[str, dict[str, Any]]) -> Arms:
    """All arms on one seed, each with its own setting."""
    data, arms = Emojis.of("train").some(CONFIG["data"]["concepts"], seed), Arms()
    for name in ARMS:
        method = trained(name, data, seed, **chosen[name])
        for kind, figures in tested(method.model, Emojis.of("test"), seed).items():
            arms[f"{name}{kind}"] = figures
        if name != "no memory":
            for where, right in right_neighbours(method, data).items():
                arms[f"{name}: {where}"] = {"right neighbours": right}
    return arms


def validated(arm: str, setting: dict[str, Any], seed: int) -> float:
    """1-shot accuracy of the prototypes on validation emojis."""
    data = Emojis.of("train").some(CONFIG["data"]["concepts"], seed)
    return tested(trained(arm, data, seed, **setting).model, Emojis.of("val"), seed)[""]["1 shot"]


def trained(arm: str, data: Emojis, seed: int, *, lr: float) -> Any:
    """Train a fresh network on `data`; the method."""
    import nearfar
    from nearfar.methods import BECLR
    from nearfar.models import image_encoder

    torch.manual_seed(seed)
    model = image_encoder(**CONFIG["model"])
    method = BECLR(model, **CONFIG["method"], **ARMS[arm])
    training = dict(CONFIG["training"])
    batches = ViewBatches(data, training.pop("batch_size"), model.mean, model.std)
    nearfar.train(method, batches, seed=seed, lr=lr, progress=False, report=False, **training)
    return method.eval()


def tested(model: Any, data: Emojis, seed: int) -> dict[str, dict[str, float]]:
    """Accuracy in episodes, with balanced and imbalanced queries, of each way to classify."""
    from nearfar.evaluation import Embeddings, few_shot

    settings = CONFIG["episodes"]
    embedded = Embeddings(embed(model.encode_image, model, data), label=data.concept)
    results = {
        metric: few_shot(embedded, shots=(1,), queries=settings[queries], episodes=settings["count"], seed=seed)
        for metric, queries in {"1 shot": "balanced", "1 shot, imbalanced": "imbalanced"}.items()
    }
    return {
        called: {metric: result[f"{kind}_1_shot"] for metric, result in results.items()}
        for kind, called in KINDS.items()
    }


def right_neighbours(method: Any, data: Emojis) -> dict[str, float]:
    """The share of a sample's neighbours that are of its emoji, in its partition of the teacher's memory and in the
    whole of it, its own copies left out."""
    memory, k = method.memories["teacher"], CONFIG["memory"]["neighbours"]
    features = embed(method.teacher.module.project_image, method.model, data)
    index = torch.arange(len(data))
    inside = memory.neighbours(features, k, index).ids
    unit = torch.nn.functional.normalize(features, dim=1)
    own = index[:, None] == memory.index
    anywhere = memory.index[(unit @ memory.features.T).masked_fill(own, -torch.inf).topk(k).indices]
    return {
        where: float((data.concept[ids] == data.concept[:, None]).float().mean())
        for where, ids in {"in its partition": inside, "in the whole memory": anywhere}.items()
    }


@torch.no_grad()
def embed(encode: Any, model: Any, data: Emojis) -> Tensor:
    """Pictures as they are, without augmentation, in evaluation."""
    from nearfar.data.pictures.views import Views
    from nearfar.modes import evaluating

    views = Views("none", size=CONFIG["data"]["size"], mean=model.mean, std=model.std)
    rows = []
    with evaluating(model):
        for pictures in data.pictures.split(256):
            draws = views.draw(len(pictures), torch.Generator().manual_seed(0))
            rows.append(encode(views(pictures, draws)[0][0]))
    return torch.cat(rows)


class Emojis(NamedTuple):
    """Pictures `[N, 3, S, S]` uint8, and the emoji `[N]` that each shows in one of five styles."""

    pictures: Tensor
    concept: Tensor

    @staticmethod
    @cache
    def of(split: str) -> Emojis:
        """Those of a split, read once."""
        from nearfar.data import world
        from nearfar.data.pictures.images import load_image

        source, side = world.emoji(split, tags=False), CONFIG["data"]["canvas"]
        pictures = [load_image(record["image"]).resize((side, side)) for record in source]
        pixels = torch.stack([torch.frombuffer(bytearray(p.tobytes()), dtype=torch.uint8) for p in pictures])
        return Emojis(pixels.view(-1, side, side, 3).movedim(3, 1).contiguous(), torch.tensor(source.column("label")))

    def __len__(self) -> int:
        return len(self.concept)

    def some(self, count: int, seed: int) -> Emojis:
        """All pictures of so many emojis, drawn by the seed."""
        drawn = self.concept.unique()
        drawn = drawn[torch.randperm(len(drawn), generator=torch.Generator().manual_seed(seed))[:count]]
        rows = torch.isin(self.concept, drawn)
        return Emojis(self.pictures[rows], self.concept[rows])


@dataclass
class ViewBatches:
    """Shuffled batches of two augmented views, one pass an iteration; another order each time."""

    data: Emojis
    size: int
    mean: Any
    std: Any

    def __len__(self) -> int:
        return len(self.data) // self.size

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        from nearfar.data.pictures.views import Views

        settings = CONFIG["data"]
        views = Views(settings["views"], size=settings["size"], n_views=2, mean=self.mean, std=self.std)
        chance = torch.Generator().manual_seed(int(torch.randint(2**62, ())))
        for rows in torch.randperm(len(self.data)).split(self.size)[: len(self)]:
            pixels, _ = views(self.data.pictures[rows], views.draw(len(rows), chance))
            yield {"views": pixels, "index": rows}


def _better(text: str, method: str, baseline: str, metric: str = "1 shot", **settings: Any) -> Claim:
    return Claim(text, method, baseline, metric, **({"effect": 0.03} | settings))


reproduction = Reproduction(
    slug="beclr",
    run=run,
    claims=[
        _better("batches enlarged by live neighbours beat plain ones", "live", "no memory", floor=0.2),
        _better("batches enlarged as in the released code beat plain ones", "official", "no memory", floor=0.2),
        _better("OpTA adds at one shot, without memory", "no memory, OpTA", "no memory", floor=0.2),
        _better("OpTA adds at one shot, with live neighbours", "live, OpTA", "live", floor=0.2),
        _better("OpTA adds with imbalanced queries, too", "live, OpTA", "live", "1 shot, imbalanced"),
        _better(
            "relaxed, it beats OpTA with imbalanced queries", "live, relaxed OpTA", "live, OpTA", "1 shot, imbalanced"
        ),
        _better(
            "partitions hold more right neighbours than the whole memory",
            "live: in its partition",
            "live: in the whole memory",
            "right neighbours",
            effect=0.005,
        ),
    ],
    seeds=range(7),
    pilot=2,
    grid=Grid(list(ARMS), {"lr": [1e-3, 4e-3]}, validated, "1-shot accuracy"),
    config=CONFIG,
    note=(
        "A small network on 2,000 emojis of 32 pixels for 4 epochs, where the paper trains a ResNet on 38,400 pictures "
        "for 400: few neighbours are of the same emoji, which the last claim's figures show. Queries are four an "
        "emoji, since it has five drawings. Uses AdamW, and no blocks that hide pixels."
    ),
)
