"""An ensemble of image heads on one pair of towers: each trained as if alone, the mean of them what the model gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from statistics import fmean, geometric_mean
from typing import Any

from torch import Tensor, nn

from nearfar.data.batches.data_info import DataInfo
from nearfar.errors import UserError
from nearfar.methods.base import Batch, EmbeddingMethod
from nearfar.models.dual.projection import ProjectionHeads


class Ensemble(EmbeddingMethod):
    """Trains every head of a model with several `image_heads` by the same method, on the same batches.

    Heads that start from different weights, and drop different numbers, err differently; the model's embedding is the
    mean of their unit vectors and errs less. The towers are run once a batch for all of them; where they are frozen and
    read ahead (`data.precompute`), a head more costs little. The loss is the mean of the heads' losses.

    Args:
        model: a dual encoder of `nearfar.models.create(..., image_heads=n)`.
        of: the method of each head as a recipe names it, settings beside the name: one that only calls `encode_image`
            and `encode_text` (`clip`, `align`, `siglip`, `negclip`). Each head has its own temperature.

    Raises:
        UserError: the model has one head, or the method does not go by embeddings of images and texts.

    >>> import torch
    >>> from nearfar.models import create
    >>> model = create("towers", text_projection="none", embed_dim=384, image_heads=3).freeze("image", "text")
    >>> method = Ensemble(model, of={"name": "clip", "exclude_duplicates": True})
    >>> out = method({"image": torch.randn(4, 1280), "text": torch.randn(4, 384)})  # summaries read ahead
    >>> out["loss"].shape
    torch.Size([])
    """

    def __init__(self, model: Any, *, of: Mapping[str, Any]) -> None:
        from nearfar.methods import find

        super().__init__()
        if not isinstance(getattr(model, "image_projection", None), ProjectionHeads):
            raise UserError("an ensemble trains several heads: create the model with image_heads=3, say")
        if "name" not in of:
            raise UserError("an ensemble is of some method: of={'name': 'clip'}, say")
        settings = {name: value for name, value in of.items() if name != "name"}
        member = find(of["name"])
        if not issubclass(member, EmbeddingMethod):
            raise UserError(f"an ensemble's members go by embeddings alone: {member.__name__} does not")
        self.model = model
        self.members = nn.ModuleList(
            member(_OneHead(model, head), **settings) for head in range(len(model.image_projection))
        )
        self.reads, self.gather = member.reads, member.gather
        self.views, self.n_views = member.views, member.n_views

    def embed(self, batch: Batch) -> dict[str, Tensor]:
        read = {"image": self.model.image_summary, "text": self.model.text_summary}
        read["negative_text"] = read["text"]
        summaries = {name: read[name](value) if name in read else value for name, value in batch.items()}
        return {
            f"{head}.{name}": value
            for head, member in enumerate(self.members)
            for name, value in member.embed(summaries).items()  # type: ignore[operator]
        }

    def ring_losses(self) -> list[nn.Module]:
        each = [member.ring_losses() for member in self.members]  # type: ignore[operator]
        return [loss for losses in each for loss in losses] if all(each) else []

    def objective(self, embeddings: Mapping[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        losses: list[dict[str, Tensor]] = []
        for head, member in enumerate(self.members):
            own = {name.partition(".")[2]: value for name, value in embeddings.items() if name.startswith(f"{head}.")}
            losses.append(member.objective(own, member.for_objective(batch)))  # type: ignore[operator]
        return {name: sum(each[name] for each in losses) / len(losses) for name in losses[0]}  # type: ignore[misc]

    def learned(self) -> dict[str, float]:
        """The mean of what the heads have learned, of the temperature the geometric one."""
        each = [member.learned() for member in self.members]  # type: ignore[operator]
        names = [name for name in each[0] if all(name in one for one in each)]
        return {name: _mean([one[name] for one in each], geometric=name == "temperature") for name in names}

    def before_step(self) -> None:
        for member in self.members:
            member.before_step()  # type: ignore[operator]

    def after_step(self, step: int) -> None:
        for member in self.members:
            member.after_step(step)  # type: ignore[operator]

    def begin(self, data: DataInfo) -> None:
        for member in self.members:
            member.begin(data)  # type: ignore[operator]

    def after_epoch(self, epoch: int, refresh: Callable[[], dict[str, Tensor]]) -> None:
        for member in self.members:
            member.after_epoch(epoch, refresh)  # type: ignore[operator]


def _mean(values: list[float], *, geometric: bool) -> float:
    return geometric_mean(values) if geometric else fmean(values)


class _OneHead:
    """The model with one of its heads, as a member's `model`. Not a module: the weights belong to the ensemble."""

    def __init__(self, model: Any, head: int) -> None:
        self.model, self.head = model, head
        self.temperature, self.bias = model.temperature, getattr(model, "bias", None)

    def encode_image(self, pixels: Tensor, normalize: bool = False) -> Tensor:
        return self.model.encode_image(pixels, normalize, head=self.head)

    def encode_text(self, tokens: Mapping[str, Tensor] | Tensor, normalize: bool = False) -> Tensor:
        return self.model.encode_text(tokens, normalize)
