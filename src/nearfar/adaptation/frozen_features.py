"""What a model's towers make of the user's pairs, read once: all that is tried afterwards works on it, in seconds."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from PIL import ImageOps
from torch import Tensor
from torch.nn.functional import normalize, pad

from nearfar.adaptation.kept_reading import ReadOnce
from nearfar.embedding.embed_source import embed
from nearfar.embedding.embeddings import Embeddings, Side
from nearfar.models.dual.dual_encoder import DualEncoder


@dataclass(frozen=True)
class FrozenFeatures:
    """N records and their M captions as a model's frozen towers see them.

    Attributes:
        data: the records as the model embeds them, with captions, groups and what was skipped; as further sides what
            its towers give before the projections: "image_tower" `[N, V * W]`, each picture in V views (as it is, and
            mirrored), and "text_tower" `[M, T]`, float32 unit rows each.
        views: V.
    """

    data: Embeddings
    views: int = 1

    def __len__(self) -> int:
        return len(self.data)

    @classmethod
    def read(
        cls, model: DualEncoder | ReadOnce, source: Any, *, mirror: bool = False, **reading: Any
    ) -> FrozenFeatures:
        """Run the towers over a source, each picture once a view. `reading` are arguments of
        `nearfar.evaluation.embed`: `batch_size`, `max_skipped`, `progress`."""
        views = 1 + mirror
        widths = {"image": [model.embed_dim] + [model.image.width] * views, "text": [model.embed_dim, model.text.width]}
        both = embed(_BothStages(model, mirror, max(map(sum, widths.values()))), source, ["image", "text"], **reading)
        image, text = (_apart(vectors, widths[side]) for side, vectors in (("image", both.image), ("text", both.text)))
        towers = {
            "image_tower": Side(torch.cat(image[1:], dim=1), torch.arange(len(both))),
            "text_tower": Side(text[1], both.image_of_text),
        }
        ends = {"image": Side(image[0], torch.arange(len(both))), "text": Side(text[0], both.image_of_text)}
        return cls(replace(both, sides={**ends, **towers}), views)

    @property
    def image(self) -> Tensor:
        """`[V, N, W]` float32 unit rows: the image tower's summary of each picture in each view."""
        vectors = self.data.sides["image_tower"].vectors
        return vectors.view(len(vectors), self.views, -1).transpose(0, 1)

    @property
    def text(self) -> Tensor:
        """`[M, T]` float32 unit rows: the text tower's summaries of the captions."""
        return self.data.sides["text_tower"].vectors

    def select(self, rows: Tensor) -> FrozenFeatures:
        """Only these records, with their captions."""
        return FrozenFeatures(self.data.select(rows), self.views)

    def captioned(self) -> FrozenFeatures:
        """Those that have a caption; the others count as skipped."""
        known = note_captionless(self.data)
        return self if known.all() else self.select(known.nonzero()[:, 0])

    def embedded(self, image: Tensor, text: Tensor) -> Embeddings:
        """The same records embedded otherwise: `image` `[N, D]`, `text` `[M, D]`."""
        return replace(
            self.data,
            sides={"image": Side(image, torch.arange(len(self))), "text": Side(text, self.data.image_of_text)},
        )


def note_captionless(data: Embeddings) -> Tensor:
    """Count records without a caption as skipped; which others there are, `[N]` bool."""
    known = torch.zeros(len(data), dtype=torch.bool)
    known[data.image_of_text] = True
    for row in (~known).nonzero()[:, 0].tolist():
        data.skipped.add(f"{data.source}, record {int(data.index[row])}", "no caption")
    return known


class _BothStages:
    """An encoder whose vectors are a model's embedding and, beside it, its tower's summaries: one pass for both. Rows
    of both sides are `width` long, with zeros at their end."""

    def __init__(self, model: DualEncoder | ReadOnce, mirror: bool, width: int) -> None:
        self.model, self.mirror, self.width = model, mirror, width
        self.image_size = model.image_size

    def parameters(self) -> Any:
        return self.model.parameters()

    def preprocess(self, pictures: Any) -> Tensor:
        views = [pictures, [ImageOps.mirror(picture) for picture in pictures]] if self.mirror else [pictures]
        return torch.stack([self.model.preprocess(view) for view in views], dim=1)

    def tokenize(self, texts: Any) -> Any:
        return self.model.tokenize(texts)

    def encode_image(self, pixels: Tensor) -> Tensor:
        summaries = [self.model.image_summary(view) for view in pixels.unbind(1)]
        return self._side_by_side(self.model.encode_image(summaries[0]), *summaries)

    def encode_text(self, tokens: Any) -> Tensor:
        summary = self.model.text_summary(tokens)
        return self._side_by_side(self.model.encode_text(summary), summary)

    def _side_by_side(self, *vectors: Tensor) -> Tensor:
        joined = torch.cat([normalize(each.float(), dim=-1) for each in vectors], dim=-1)
        return pad(joined, (0, self.width - joined.shape[1]))


def _apart(rows: Tensor, widths: list[int]) -> list[Tensor]:
    """The unit vectors that stand side by side in rows."""
    return [normalize(part, dim=1) for part in rows[:, : sum(widths)].split(widths, dim=1)]
