"""Matryoshka representation learning (arXiv 2205.13147) around any method that goes by embeddings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from nearfar.data.batches.data_info import DataInfo
from nearfar.errors import UserError
from nearfar.losses.matryoshka import check_widths, checked_widths
from nearfar.methods.base import Batch, DataPart, EmbeddingMethod


class Matryoshka(EmbeddingMethod):
    """Trains a model by another method at several widths of its embeddings at once, so that they can be cut later:
    `model.encode(..., dim=64)`, `nearfar index --dim 64`.

    The loss is `sum_d w_d L(z[:, :d])`; the towers run once. The temperature is one for all widths. With
    `dims=[embed_dim]` it is the method as it is.

    Args:
        model: any model that the method trains.
        of: the method as a recipe names it, settings beside the name: one whose loss sees embeddings alone (`clip`,
            `siglip`, `align`, `negclip`, `ensemble`).
        dims: the widths, rising; the last is the model's own width if all of it is to be used, too.
        weights: of each width; None: 1 each, as in the paper.

    Raises:
        UserError: widths that do not rise or are more than the model has, or a method that does not go by embeddings
            or keeps something of each sample.

    Example:
        >>> import torch
        >>> class Identity(torch.nn.Module):
        ...     def encode_image(self, pixels, normalize=False): return pixels
        ...     def encode_text(self, tokens, normalize=False): return tokens
        >>> method = Matryoshka(Identity(), of={"name": "clip", "temperature": 1.0}, dims=[2, 4])
        >>> out = method({"image": torch.eye(4), "text": torch.eye(4)})
        >>> {name: round(value.item(), 4) for name, value in out.items()}
        {'loss': 1.8086, 'temperature': 1.0, 'loss_at_2': 1.065, 'loss_at_4': 0.7437}
    """

    def __init__(
        self, model: Any, *, of: Mapping[str, Any], dims: Sequence[int], weights: Sequence[float] | None = None
    ) -> None:
        from nearfar.methods import find

        super().__init__()
        if "name" not in of:
            raise UserError("matryoshka is around some method: of={'name': 'clip'}, say")
        kind = find(of["name"])
        if not issubclass(kind, EmbeddingMethod):
            raise UserError(f"matryoshka is around a method that goes by embeddings alone: {kind.__name__} does not")
        self.dims, self.weights = checked_widths(dims, weights)
        if isinstance(width := getattr(model, "embed_dim", None), int):
            check_widths({"of the model": width}, self.dims)
        self.model = model
        self.member = kind(_Lent(model), **{name: value for name, value in of.items() if name != "name"})
        if any(isinstance(part, DataPart) for part in self.member.modules()):
            raise UserError(
                f"{kind.__name__} keeps something of each sample, which would be of several widths at once: train it "
                "as it is"
            )
        self.reads, self.gather = self.member.reads, self.member.gather
        self.views, self.n_views = self.member.views, self.member.n_views

    def embed(self, batch: Batch) -> dict[str, Tensor]:
        return self.member.embed(batch)

    def ring_losses(self) -> list[nn.Module]:
        return self.member.ring_losses()

    def objective(self, embeddings: Mapping[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        check_widths({name: value.shape[-1] for name, value in embeddings.items()}, self.dims)
        batch = self.member.for_objective(batch)
        each = [
            self.member.objective({name: value[..., :dim] for name, value in embeddings.items()}, batch)
            for dim in self.dims
        ]
        loss = sum(weight * out["loss"] for weight, out in zip(self.weights, each, strict=True))
        at = {f"loss_at_{dim}": out["loss"].detach() for dim, out in zip(self.dims, each, strict=True)}
        return {**each[-1], "loss": loss, **at}  # type: ignore[dict-item]

    def learned(self) -> dict[str, float]:
        return self.member.learned()

    def hand_over(self) -> None:
        """As any method; the model also learns what it may be cut to."""
        super().hand_over()
        if hasattr(self.encoder, "matryoshka"):
            self.encoder.matryoshka = self.dims

    def before_step(self) -> None:
        self.member.before_step()

    def after_step(self, step: int) -> None:
        self.member.after_step(step)

    def begin(self, data: DataInfo) -> None:
        self.member.begin(data)

    def after_epoch(self, epoch: int, refresh: Callable[[], dict[str, Tensor]]) -> None:
        self.member.after_epoch(epoch, refresh)


class _Lent:
    """The model as the inner method's `model`. Not a module: its weights are in the state once."""

    def __init__(self, model: Any) -> None:
        self._lent = model

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "_lent":  # a copy needs these before it has anything
            raise AttributeError(name)
        return getattr(self._lent, name)
