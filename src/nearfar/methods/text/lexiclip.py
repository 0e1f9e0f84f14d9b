"""LexiCLIP (arXiv 2509.19203): a sentence encoder is calibrated, on texts alone, to find the description of a picture
by a query.

Of queries q and descriptions d of the same pictures, through the same encoder f,

    S_ij = f(q_i) . f(d_j) / tau
    L    = 1/2 [ CE(S, diagonal) + CE(S^T, diagonal) ]

Texts of one picture are never each other's negatives; hard negatives, queries that are false of a picture, are further
columns of their description's row of S^T.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

from torch import Tensor, nn

from nearfar.errors import UserError
from nearfar.losses.alignment_uniformity import alignment
from nearfar.losses.first_view import NegativesOf, first_view_info_nce
from nearfar.losses.groups import group_sum, unit
from nearfar.losses.infonce import InfoNCE
from nearfar.losses.temperature import Temperature, as_scale
from nearfar.methods.base import Batch, EmbeddingMethod
from nearfar.methods.text.sentence_views import embed_sentences, hard_negatives, views_in

SamePicture = Literal["mask", "joint", "negatives"]


class LexiCLIP(EmbeddingMethod):
    """Calibration over any model with `encode_text`, on pairs of a query, `text`, and a description, `text2`.

    The paper's stages are two recipes' stages: short captions as queries first, then captions mixed with queries about
    parts of a scene. Which of a record's texts is taken is a setting of the data, `caption`.

    Args:
        model: the encoder to train; `.model` is what to evaluate, save and search with. Queries and descriptions go
            through the same weights.
        temperature: tau, 0.02; the paper's is not known, and encoders of this kind are trained with 0.01 to 0.02.
        learn_temperature: whether tau is trained, kept at 0.01 or above.
        same_picture: texts of one `group` are left out of each other's negatives ("mask"), are each other's positives,
            each with the same weight ("joint"), or are "negatives" like any.
        negatives_for: whether a hard negative counts for its "own" description alone, or for "all": a short query that
            is false of one picture may well be true of another.

    Logs `alignment` of queries and descriptions, and `temperature`.

    Raises:
        UserError: no such choice; in training, data without a second text.

    Example:
        >>> import torch
        >>> class Identity(nn.Module):
        ...     def encode_text(self, rows): return rows
        >>> eye = torch.eye(2)
        >>> round(LexiCLIP(Identity(), temperature=1.0)({"text": eye, "text2": eye})["loss"].item(), 6)
        0.313262
    """

    views = "none"
    text_pairs = True
    pictures = False
    reads = ("group", "negative_count", "has_negative")

    def __init__(
        self,
        model: nn.Module,
        *,
        temperature: float = 0.02,
        learn_temperature: bool = False,
        same_picture: SamePicture = "mask",
        negatives_for: NegativesOf = "own",
    ) -> None:
        super().__init__()
        for name, value, known in (
            ("same_picture", same_picture, SamePicture),
            ("negatives_for", negatives_for, NegativesOf),
        ):
            if value not in get_args(known):
                raise UserError(f"{name}={value!r}: choose one of {', '.join(get_args(known))}")
        self.model, self.same_picture, self.negatives_for = model, same_picture, negatives_for
        self.loss = InfoNCE(Temperature(temperature, learnable=learn_temperature))

    def embed(self, batch: Batch) -> dict[str, Tensor]:
        """`view_0`, the queries, and `view_1`, the descriptions, `[B, D]`; `negative` `[B * K, D]` where there are hard
        negatives; floating point."""
        if "text2" not in batch:
            raise UserError(
                "LexiCLIP trains on pairs of texts, and these data have no text2: give each query the description of "
                "its picture, in a column text2"
            )
        return embed_sentences(self.model, batch, 2)

    def objective(self, embeddings: Mapping[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        query, description = views_in(embeddings)
        group = None if self.same_picture == "negatives" else batch.get("group")
        masked = group if self.same_picture == "mask" else None
        tau = self.loss.temperature
        hard = hard_negatives(embeddings, batch)
        if hard and len(hard["negatives"]):
            back = first_view_info_nce(
                [description, query],
                temperature=tau,
                group=masked,
                negatives=hard["negatives"],
                negative_of=hard["negative_of"],
                negatives_for=self.negatives_for,
            )
            loss = (first_view_info_nce([query, description], temperature=tau, group=masked) + back) / 2
        else:
            loss = self.loss(query, description, group=masked)
        if self.same_picture == "joint" and group is not None:
            loss = loss + _toward_all(query, description, group.long(), as_scale(tau))
        aligned = alignment(query.detach(), description.detach())
        return {"loss": loss, "alignment": aligned, "temperature": tau().detach()}


def _toward_all(query: Tensor, description: Tensor, group: Tensor, scale: float | Tensor) -> Tensor:
    """What InfoNCE lacks for all texts of a picture to be positives of each: the own positive's logit less their mean,
    the mean of both directions."""
    q, d = unit(query), unit(description)

    def direction(x: Tensor, y: Tensor) -> Tensor:
        total, count = group_sum(y, group, group)
        return (x * (y - total / count[:, None])).sum(1).mean()

    return scale * (direction(q, d) + direction(d, q)) / 2
