"""MoCo v2 (arXiv 1911.05722, 2003.04297): a query finds its key, made by a slow copy of the encoder, among the keys of
past batches."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from nearfar.errors import UserError
from nearfar.losses.groups import unit
from nearfar.methods.base import Batch, Method, trained_part
from nearfar.methods.parts.feature_queue import FeatureQueue, queue_info_nce
from nearfar.methods.parts.mean_teacher import MeanTeacher, Normalise, Statistics
from nearfar.methods.parts.pending import Pending
from nearfar.methods.parts.shuffled_keys import shuffled
from nearfar.methods.parts.view_projections import apart, project, projected_dim, spread_of_unit, views_of


class MoCo(Method):
    """MoCo over any model with `encode_image`; it trains through `project_image` where there is one.

    The first view is the query and the second the key. Further views, and small ones (multi-crop), are queries, too.

    Args:
        model: the image encoder to train; `.model` is what to evaluate and save.
        temperature: tau (MoCo v2: 0.2, v1: 0.07), fixed.
        momentum: the old share of the slow copy at each step (paper: 0.999).
        queue_size: keys of past batches that are kept (paper: 65,536).
        normalise: what batch norm in the slow copy normalises keys by: their own "batch" (paper), or the "running"
            statistics of the encoder.
        shuffle: with several processes, make keys in batches drawn anew over all of them (paper); one process has one
            batch, in which queries and keys may recognise each other by the statistics that they share.
        within: a key of the batch, "cluster" say, that holds a number a sample: only keys in the queue with a query's
            own number are its negatives (MCL, arXiv 2402.11816). A batch of one cluster would not do: the queue holds
            those of past batches.

    The batch has `views` `[V, B, 3, H, W]`. Logs `spread`.

    Example:
        >>> from nearfar.models import image_encoder
        >>> method = MoCo(image_encoder("micro-resnet", projector={"hidden": 32, "out": 16}), queue_size=8)
        >>> sorted(method({"views": torch.randn(2, 4, 3, 32, 32)}))
        ['loss', 'spread']
    """

    views = "moco"
    n_views = 2
    validation_views = None

    def __init__(
        self,
        model: nn.Module,
        *,
        temperature: float = 0.2,
        momentum: float = 0.999,
        queue_size: int = 65_536,
        normalise: Normalise = "batch",
        shuffle: bool = True,
        within: str | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.temperature, self.shuffle, self.within = temperature, shuffle, within
        statistics: Statistics = "own" if normalise == "batch" else "copied"
        self.teacher = MeanTeacher(trained_part(model), momentum, normalise=normalise, statistics=statistics)
        self.queue = FeatureQueue(projected_dim(model), queue_size)
        self._pending: Pending[tuple[Tensor, Tensor | None, Tensor | None]] = Pending()

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The loss and the `spread`, scalars. Raises UserError where the batch does not have the key `within`."""
        large, small = views_of(batch)
        queries = [unit(z) for z in apart(partial(project, self.model), [large[0], *large[2:], *small])]
        k = self._keys(large[1])
        if self.within is not None and self.within not in batch:
            raise UserError(f"MoCo's within is {self.within!r}, which the batch does not have: set data.columns")
        cluster = None if self.within is None else batch[self.within].long()
        groups = {} if cluster is None else {"group": cluster, "queue_group": self.queue.group}
        losses = [queue_info_nce(q, k, self.queue.features, self.temperature, **groups) for q in queries]
        loss = torch.stack(losses).mean() if len(losses) > 1 else losses[0]
        self._pending.after_backward(loss, (k, cluster, batch.get("index")))
        return {"loss": loss, "spread": spread_of_unit(queries[0])}

    def _keys(self, pixels: Tensor) -> Tensor:
        with self.teacher.teaching() as slow:
            encode = partial(project, slow)
            mixed = self.shuffle and self.training
            return unit(shuffled(encode, pixels, int(self.teacher.updates)) if mixed else encode(pixels))

    def before_step(self) -> None:
        self._pending.take()
        self.teacher.forget()

    def after_step(self, step: int) -> None:
        super().after_step(step)
        self.teacher.update()
        for keys, cluster, index in self._pending.take():
            self.queue.push(keys, cluster, index=index)
