"""What a training method is: a module that owns its models and losses and turns a batch into a loss.

Any loop can train a :class:`Method`. An :class:`EmbeddingMethod` also says where its embeddings end and its objective
begins; `nearfar.training` then adds gradient caching and the negatives of other processes, once, for all methods.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from nearfar.losses.temperature import Temperature

Batch = Mapping[str, Any]
"""A plain dict of tensors; `nearfar.data.batches.batch` lists its keys."""


class Method(nn.Module, ABC):
    """A training method: an `nn.Module` that owns the models and losses it trains.

    Everything that changes during training must live in parameters or buffers (queues, momentum copies, moving
    averages), so that `state_dict` is enough to resume.
    """

    @abstractmethod
    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return `{"loss": scalar}` with a gradient, and any further detached scalars to log. Must not change state:
        an evaluation in the middle of training, or a second call in the same step, must leave nothing behind. What a
        queue is to get after the step waits in `nearfar.methods.parts.pending.Pending`."""

    def before_step(self) -> None:
        """Forget what an earlier step left that was not taken. Called before the first forward pass of each step. Here
        there is nothing to forget."""

    def after_step(self, step: int) -> None:
        """Update what follows the optimiser: momentum encoders, queues, schedules. Called once after each optimiser
        step that changed the weights, with its number (1 for the first); a step that the float16 loss scaler skips has
        a number, too, and no call. Here: temperatures return within their bounds."""
        for module in self.modules():
            if isinstance(module, Temperature):
                module.clamp_()

    def param_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """The optimiser's parameter groups. By default weight decay spares vectors and scalars (biases, norms,
        temperatures), as in the papers' code."""
        return decay_groups(self.parameters(), weight_decay)


class EmbeddingMethod(Method):
    """A method whose loss sees the batch only through embeddings.

    `embed` must treat rows independently (no batch statistics shared between rows), so that it may be run in chunks:
    that is what makes gradient caching exact.
    """

    @abstractmethod
    def embed(self, batch: Batch) -> dict[str, Tensor]:
        """Embeddings by name. Row i of a `[B, D]` tensor belongs to sample i; a tensor of `[B * K, D]` holds K rows a
        sample, sample-major."""

    @abstractmethod
    def objective(self, embeddings: Mapping[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        """The loss over embeddings of the whole (global) batch. `batch` holds only the per-sample vectors (`index`,
        `group`, `label`, `domain`, `weight`), gathered like the embeddings."""

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        return self.objective(self.embed(batch), batch)


def decay_groups(parameters: Iterable[nn.Parameter], weight_decay: float) -> list[dict[str, Any]]:
    """Two groups: matrices with `weight_decay`, vectors and scalars without."""
    trainable = [p for p in parameters if p.requires_grad]
    return [
        {"params": [p for p in trainable if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trainable if p.ndim < 2], "weight_decay": 0.0},
    ]
