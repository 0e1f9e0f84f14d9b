"""Two coloured shapes and how they lie to one another: pairs of shapes that training does not show are the test."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from nearfar.reproductions.shared.per_query import PerQuery

DATA: dict[str, Any] = {
    "size": 32,
    "vocabulary": "shapes",
    "scenes": {"train": 6000, "val": 400, "test": 800},
    "relations": ["left of", "right of", "above", "below", "inside", "around", "bigger than", "smaller than"],
    "phrase_length": 6,
}
BERT: dict[str, Any] = {
    "model_type": "bert",
    "hidden_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 128,
    "max_position_embeddings": 16,
    "initializer_range": 0.1,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}
RESNET: dict[str, Any] = {
    "model_type": "resnet",
    "embedding_size": 16,
    "hidden_sizes": [32, 64],
    "depths": [1, 1],
    "layer_type": "basic",
}


@dataclass(frozen=True)
class Related:
    """Pictures `[N, 3, S, S]` uint8 with their phrases and labels as batches have them."""

    pictures: Tensor
    annotation: dict[str, Any]

    def rows(self, chosen: Tensor) -> dict[str, Any]:
        """The batch of the scenes `[M]` long."""
        phrases = {name: value[chosen] for name, value in self.annotation["phrases"].items()}
        labels = {name: self.annotation[name][chosen] for name in ("object_label", "relation_label")}
        pixels = self.pictures[chosen].float() / 127.5 - 1
        return {"image": pixels, "phrases": phrases, "index": chosen, **labels}


@cache
def scenes_of(split: str) -> Related:
    """The scenes of a split."""
    import numpy as np

    from nearfar.data.scenes import scenes

    source = scenes(split, n=DATA["scenes"][split], size=DATA["size"], vocabulary=DATA["vocabulary"])
    records = list(source)
    (field,) = fresh(0).fields(False)
    pictures = np.stack([np.asarray(record["image"]) for record in records])
    annotation = field.collate([field.prepare(record, None) for record in records], None)
    return Related(torch.from_numpy(pictures).movedim(3, 1).contiguous(), annotation)


def fresh(seed: int, *, operator: str = "bilinear") -> Any:
    """A model of relations from scratch."""
    from nearfar.data import train_tokenizer
    from nearfar.data.scenes import COLOURS, SHAPES
    from nearfar.models import relation_encoder

    torch.manual_seed(seed)
    tokenizer = train_tokenizer([f"{colour} {shape}" for colour in COLOURS for shape in SHAPES], 300)
    pair = {"pair": {"image": RESNET, "text": BERT, "image_size": DATA["size"], "embed_dim": 64}, "dropout": 0.0}
    names = {"relations": DATA["relations"], "objects": list(SHAPES)}
    shape = {"operator": operator, "most_objects": 2, "phrase_length": DATA["phrase_length"]}
    return relation_encoder(pair, **names, **shape, tokenizer=tokenizer)


@dataclass(frozen=True)
class SceneBatches:
    """`count` batches of training scenes, drawn by the seed: the same for every arm."""

    batch_size: int
    count: int
    seed: int

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[dict[str, Any]]:
        data, chance = scenes_of("train"), torch.Generator().manual_seed(self.seed)
        for _ in range(self.count):
            yield data.rows(torch.randint(len(data.pictures), (self.batch_size,), generator=chance))


def trained(seed: int, *, operator: str, weights: tuple[float, float, float], batch_size: int, **training: Any) -> Any:
    """The model after training."""
    import nearfar
    from nearfar.methods import RelationalGrounding

    model = fresh(seed, operator=operator)
    method = RelationalGrounding(model, weights=weights, train_image=True, frozen_query_key=False)
    batches = SceneBatches(batch_size, training["steps"], seed)
    nearfar.train(method, batches, seed=seed, progress=False, report=False, **training)
    return model.eval()


@torch.no_grad()
def measured(model: Any, split: str) -> dict[str, PerQuery]:
    """Whether the relation of each labelled pair comes first, and the class of each thing."""
    data = scenes_of(split)
    things, relations = [], []
    for part in torch.arange(len(data.pictures)).split(100):
        batch = data.rows(part)
        logits, scores = model(batch["image"], batch["phrases"])
        label = batch["relation_label"]
        relations.append(((scores.argmax(1) == label) & (label > 0))[:, [0, 1], [1, 0]])
        things.append(logits.argmax(2) == batch["object_label"])
    group = torch.arange(len(data.pictures)).repeat_interleave(2).tolist()
    return {
        "relation": PerQuery(torch.cat(relations).flatten().numpy(), group),
        "thing": PerQuery(torch.cat(things).flatten().numpy(), group),
    }
