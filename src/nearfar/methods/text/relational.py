"""Relational grounding, the third stage of VG-Bert (arXiv 2111.07180): phrases find their things in a picture, and the
model says what the things are and how they are related. The losses of relations are in `relation_losses`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from nearfar.errors import UserError
from nearfar.losses.groups import lifted
from nearfar.methods.base import Batch, EmbeddingMethod
from nearfar.methods.text.relation_losses import checked_labels, pair_of_rows, relation_of_rows
from nearfar.models.grounded.frozen_language import freeze_language


class RelationalGrounding(EmbeddingMethod):
    """L = L_object + L_relation + L_pair over a `RelationEncoder`, each a sum over a batch divided by its pictures.

    Below the attention over cells the pictures' stream stays as it is, and of the language model all but the last
    layers, and all queries and keys. Negatives of the pair loss are the labelled pairs of the whole batch, of all
    processes.

    Args:
        model: a `nearfar.models.RelationEncoder`; `.model` is what to evaluate and save.
        temperature: tau of the two losses of relations (paper: 1), fixed.
        weights: of the losses of objects, relations and pairs; 0 leaves one out.
        trained_layers: of the language model, the last ones (paper: 2).
        frozen_query_key: whether its queries and keys are frozen (paper: yes).
        train_image: whether the image tower is trained, too (paper: no).

    The batch has `image` `[B, 3, S, S]`, `phrases`, tokens `[B, N, L]`, `object_label` `[B, N]` and `relation_label`
    `[B, N, N]`, 0 for none, as `nearfar.data.PhraseField` makes them of records. Logs `object_loss`,
    `relation_loss`, `pair_loss`, and of the labelled ones the shares whose object and whose relation come first,
    `object_accuracy` and `relation_accuracy`.

    Raises:
        UserError: a model without relations, or settings out of their range.
    """

    captions = False
    reads = ("object_label", "relation_label")

    def __init__(
        self,
        model: Any,
        *,
        temperature: float = 1.0,
        weights: tuple[float, ...] = (1.0, 1.0, 1.0),
        trained_layers: int = 2,
        frozen_query_key: bool = True,
        train_image: bool = False,
    ) -> None:
        super().__init__()
        if not (hasattr(model, "ground") and hasattr(model, "relation")):
            raise UserError(
                f"relational trains a model of phrases and relations, and this is a {type(model).__name__}: make one "
                "with nearfar.models.relation_encoder (in a recipe, model.make: relation_encoder)"
            )
        if not temperature > 0:
            raise UserError(f"temperature is {temperature}: it must be above 0")
        if len(weights) != 3 or min(weights) < 0 or not sum(weights):
            raise UserError(f"weights are three, of objects, relations and pairs, and not all 0; got {list(weights)}")
        backbone = model.pair.text.backbone
        depth = int(backbone.config.num_hidden_layers)
        freeze_language(backbone, layers=max(0, depth - trained_layers), query_key=frozen_query_key)
        if not train_image:
            model.pair.freeze("image")
        model.without_captions()
        self.model = model
        self.temperature, self.weights = temperature, tuple(weights)

    def embed(self, batch: Batch) -> dict[str, Tensor]:
        return {"grounded": self.model.ground(batch["image"], batch["phrases"])}

    def objective(self, embeddings: Mapping[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        o, object_label, relation_label = embeddings["grounded"], batch["object_label"], batch["relation_label"]
        of_object, of_relation, of_pair = self.weights
        zero = o.sum() * 0  # a batch without a label has a gradient, too
        terms, logs = [zero], dict[str, Tensor]()
        if of_object:
            things = self.model.object_logits(o[object_label > 0])
            label = checked_labels(object_label[object_label > 0], things.shape[1], "thing")
            logs["object_loss"] = F.cross_entropy(lifted(things), label, reduction="sum") / len(o)
            terms.append(of_object * logs["object_loss"])
            logs["object_accuracy"] = share(things.argmax(1) == label)
        b, i, j = (relation_label > 0).nonzero(as_tuple=True)
        u = self.model.down(o)
        rows = self.model.relation.pairs(u[b, i], u[b, j]) / self.temperature
        label = checked_labels(relation_label[b, i, j], rows.shape[1], "relation")
        for name, weight, loss in (
            ("relation_loss", of_relation, relation_of_rows),
            ("pair_loss", of_pair, pair_of_rows),
        ):
            if weight:
                logs[name] = loss(rows, label) / len(o)
                terms.append(weight * logs[name])
        logs["relation_accuracy"] = share(rows.argmax(1) == label)
        return {"loss": torch.stack(terms).sum(), **{name: value.detach() for name, value in logs.items()}}


def share(hits: Tensor) -> Tensor:
    """The share `[]` float32 of hits `[K]` bool; 0 of none."""
    return hits.float().sum() / max(1, len(hits))
