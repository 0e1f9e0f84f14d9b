"""Drawings of one emoji in several styles as its natural views: read once by a frozen tower, embedded by a small head.

Tested by retrieval among emojis that training never shows, in a style that training never shows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nearfar.reproductions.setups.grid_encoder import Reduction
from nearfar.reproductions.shared.per_query import PerQuery

DATA: dict[str, Any] = {
    "tower": {"image": "efficientnet-lite0", "image_size": 64},
    "components": 64,
    "styles": ["noto", "twemoji", "openmoji", "openmoji-line"],
    "unseen": "fluent-3d",
    "asks": "noto",
}
HEAD: dict[str, Any] = {"layers": 2, "hidden": 128, "out": 32}


@cache
def drawings(split: str) -> tuple[Tensor, Tensor]:
    """Features `[S, N, C]` of the `N` emojis of a split, in the styles of training and then in the unseen one, and the
    emojis' numbers `[N]`. In the principal components of the training drawings, each of unit spread."""
    features, number = _read(split)
    rows = features.flatten(0, 1)
    return _reduction()(rows[:, None]).unflatten(0, features.shape[:2]), number


@cache
def _reduction() -> Reduction:
    features, _ = _read("train")
    return Reduction(features[:-1].flatten(0, 1)[:, None], kept=DATA["components"])


@cache
def _read(split: str) -> tuple[Tensor, Tensor]:
    from nearfar.data import world
    from nearfar.embedding import embed
    from nearfar.models import image_encoder

    styles = [*DATA["styles"], DATA["unseen"]]
    source = world.emoji(split, styles=styles, tags=False)
    read = embed(image_encoder(**DATA["tower"]), source, captions=0, max_skipped=0)
    assert read.group is not None
    # The styles of an emoji lie next to one another.
    return read.image.unflatten(0, (-1, len(styles))).transpose(0, 1), read.group[:: len(styles)]


class Head(nn.Module):
    """What is trained: an MLP on the features of drawings."""

    def __init__(self) -> None:
        super().__init__()
        from nearfar.models.image.projector import MLP

        self.network = MLP(DATA["components"], **HEAD)

    def encode_image(self, features: Tensor, normalize: bool = False) -> Tensor:
        """Embeddings `[B, D]` of features `[B, C]`."""
        z = self.network(features)
        return F.normalize(z, dim=-1) if normalize else z


class ViewBatches:
    """Shuffled batches of emojis in `n_views` of the training styles, drawn anew for each batch; one pass an iteration.

    Args:
        features: `[S, N, C]`, of the styles to draw from.
        rows: the emojis that are trained on, `[M]`; one that comes several times is shown so often.
        batch_size, n_views: of a batch.
    """

    def __init__(self, features: Tensor, rows: Tensor, *, batch_size: int, n_views: int) -> None:
        self.features, self.rows, self.n_views = features, rows, n_views
        self.size = min(batch_size, len(rows))

    def __len__(self) -> int:
        return len(self.rows) // self.size

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        for places in torch.randperm(len(self.rows)).split(self.size)[: len(self)]:
            styles = torch.randperm(len(self.features))[: self.n_views]
            views = self.features[styles[:, None], self.rows[places]]
            yield {"views": views, "image": views[0], "index": places}


def trained(make: Callable[[Head], Any], batches: Any, seed: int, **training: Any) -> Head:
    """A fresh head after training by the method that `make` makes of it."""
    import nearfar

    torch.manual_seed(seed)
    head = Head()
    nearfar.train(make(head), batches, seed=seed, progress=False, report=False, **training)
    return head.eval()


@torch.no_grad()
def embedded(head: Head, split: str) -> Tensor:
    """Unit embeddings `[S, N, D]` of a split's drawings, the unseen style last."""
    features, _ = drawings(split)
    return head.encode_image(features.flatten(0, 1), normalize=True).unflatten(0, features.shape[:2])


def hits_in_the_unseen_style(z: Tensor, number: Tensor) -> PerQuery:
    """Whether each emoji's drawing, of embeddings `z` `[S, N, D]`, is nearest to its own one in the unseen style."""
    asks = z[DATA["styles"].index(DATA["asks"])]
    hit = (asks @ z[-1].T).argmax(1) == torch.arange(len(asks))
    return PerQuery(hit.double().numpy(), number.numpy())
