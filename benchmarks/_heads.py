"""The heads that `compare_objectives.py` trains, and objectives that are no method of nearfar by themselves."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from nearfar import losses
from nearfar.data import cluster_codes
from nearfar.data.batches.data_info import DataInfo
from nearfar.losses.within_groups import within_groups
from nearfar.methods.base import Batch, EmbeddingMethod, Method
from nearfar.methods.parts.momentum_encoder import MomentumEncoder
from nearfar.models.image.projector import MLP
from nearfar.reproductions.setups import emoji_views

CLUSTERS = 10
WIDTH, HEAD = 64, {"layers": 2, "hidden": 128, "out": 32, "norm": "hidden"}


class Head(nn.Module):
    """A head on the features of drawings."""

    projected_dim = HEAD["out"]

    def __init__(self) -> None:
        super().__init__()
        self.image = MLP(WIDTH, **HEAD)

    def encode_image(self, features: Tensor) -> Tensor:
        """`[B, 32]` of features `[B, 64]`."""
        return self.image(features)


class TwoHeads(Head):
    """And one on the features of names."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.text = MLP(width, **HEAD)

    def encode_text(self, features: Tensor) -> Tensor:
        """`[B, 32]` of features `[B, width]`."""
        return self.text(features)


class ByLoss(EmbeddingMethod):
    """A loss of two embeddings as a method: those of two drawings, or of drawing and name."""

    def __init__(self, model: Any, loss: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.model, self.loss = model, loss

    def embed(self, batch: Batch) -> dict[str, Tensor]:
        """Both sides `[B, 32]`."""
        encode = self.model.encode_image
        other = self.model.encode_text(batch["text"]) if "text" in batch else encode(batch["views"][1])
        return {"a": encode(batch["image"]), "b": other}

    def objective(self, embeddings: Mapping[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        """The loss."""
        return {"loss": self.loss(embeddings["a"], embeddings["b"])}


class Distilled(Method):
    """Soft targets of a slow copy (ALBEF's, without its queue): `losses.SoftTargetInfoNCE` in both directions."""

    def __init__(self, model: TwoHeads, temperature: float) -> None:
        super().__init__()
        self.model, self.slow = model, MomentumEncoder(model, 0.99)
        self.loss = losses.SoftTargetInfoNCE(temperature, learnable=False)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The mean of both directions."""
        images, texts = batch["image"], batch["text"]
        a, b = self.model.encode_image(images), self.model.encode_text(texts)
        with torch.no_grad():
            slow_a, slow_b = self.slow.module.encode_image(images), self.slow.module.encode_text(texts)
        across = self.loss(a, slow_b, teacher_q=slow_a, alpha=0.4) + self.loss(b, slow_a, teacher_q=slow_b, alpha=0.4)
        return {"loss": across / 2}

    def after_step(self, step: int) -> None:
        """The slow copy follows."""
        super().after_step(step)
        self.slow.update()


class AcrossAndWithin(EmbeddingMethod):
    """Contrast of a drawing with its name, and with another drawing (TCL's, without its slow copy)."""

    def __init__(self, model: TwoHeads, temperature: float) -> None:
        super().__init__()
        self.model = model
        self.across = losses.InfoNCE(temperature, learnable=False)
        self.within = losses.NTXent(temperature, learnable=False)

    def embed(self, batch: Batch) -> dict[str, Tensor]:
        """Two drawings and the name, `[B, 32]` each."""
        first, second = (self.model.encode_image(view) for view in batch["views"])
        return {"first": first, "second": second, "name": self.model.encode_text(batch["text"])}

    def objective(self, embeddings: Mapping[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        """The mean of both."""
        first = embeddings["first"]
        loss = self.across(first, embeddings["name"]) + self.within(first, embeddings["second"])
        return {"loss": loss / 2}


class TwoStages(Method):
    """MCL in heads of half the width and steps, one beside the other: the second among emojis of one cluster of the
    first, each emoji in the mean of its drawings."""

    def __init__(self, model: Head, temperature: float) -> None:
        super().__init__()
        half = {**HEAD, "hidden": HEAD["hidden"] // 2, "out": HEAD["out"] // 2}
        self.model, self.parts = model, nn.ModuleList(MLP(WIDTH, **half) for _ in range(2))
        model.image = SideBySide(self.parts)
        self.loss = losses.NTXent(temperature, learnable=False)
        self.cluster: Tensor | None = None
        self.last_of_first = 1

    def begin(self, data: DataInfo) -> None:
        """Half of the steps are the first head's."""
        super().begin(data)
        self.last_of_first = max(1, (data.steps or 2) // 2)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """NT-Xent of two drawings, then that within clusters."""
        a, b = (self.parts[0 if self.cluster is None else 1](view) for view in batch["views"])
        if self.cluster is None:
            return {"loss": self.loss(a, b)}
        return {"loss": within_groups(self.loss, self.cluster[batch["index"]], a, b)}

    def after_step(self, step: int) -> None:
        """Clusters of the first head's embeddings, when it has done its steps."""
        super().after_step(step)
        if step == self.last_of_first:
            first = self.parts[0].eval().requires_grad_(False)
            z = normalize(first(emoji_views.drawings("train")[0][:-1].flatten(0, 1)), dim=1)
            z = z.unflatten(0, (-1, emoji_views.drawings("train")[0].shape[1])).mean(0)
            self.cluster = torch.from_numpy(cluster_codes(z, CLUSTERS))


class SideBySide(nn.Module):
    """Heads' unit embeddings, one behind the other."""

    def __init__(self, parts: nn.ModuleList) -> None:
        super().__init__()
        self.parts = parts

    def forward(self, features: Tensor) -> Tensor:
        return torch.cat([normalize(part(features), dim=1) for part in self.parts], dim=1)
