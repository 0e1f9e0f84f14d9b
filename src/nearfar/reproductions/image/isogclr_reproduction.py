"""SogCLR and iSogCLR (arXiv 2202.12387, 2305.11965): a small batch that behaves like a large one, and a temperature for
each sample, high for common ones.

Every arm trains the same small head on the same frozen features of emojis, two drawings of each in other styles being
its views; an emoji stands in the data between one and ten times. Learning rate and temperature are chosen for each arm
on validation emojis. Tested on other emojis, in a style that training never shows.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nearfar.data.batches.data_info import DataInfo
from nearfar.reproductions.setups import emoji_views
from nearfar.reproductions.shared.choosing import Grid
from nearfar.reproductions.shared.claims import Arms, Claim, Reproduction

CONFIG: dict[str, Any] = {
    "data": emoji_views.DATA,
    "head": emoji_views.HEAD,
    "training": {"epochs": 10, "warmup": 0.1, "weight_decay": 1e-4},
    "emojis": 300,
    "most_common": 10,
    "gamma": 0.3,
    "isogclr": {"rho": 0.3, "temperature_lr": 0.1, "share": 0.5},
}
ARMS: dict[str, tuple[str, int]] = {
    "SimCLR, batch 32": ("simclr", 32),
    "SimCLR, batch 256": ("simclr", 256),
    "SogCLR, batch 32": ("sogclr", 32),
    "iSogCLR, batch 32": ("isogclr", 32),
}
NO_RELATION = "no relation"
CORRELATION = "correlation of count and temperature"


def run(seed: int, chosen: dict[str, dict[str, Any]]) -> Arms:
    """All arms on one seed, each with its own setting."""
    arms: Arms = {NO_RELATION: {CORRELATION: 0.0}}
    for arm in ARMS:
        head, method = trained(arm, seed, **chosen[arm])
        arms[arm] = measured(head, "test")
        if ARMS[arm][0] == "isogclr":
            rows, counts = long_tail(seed)
            temperature = method.states.tables[0].get_buffer("temperature")
            each = torch.stack([temperature[rows == row].mean() for row in rows.unique()])
            arms[arm][CORRELATION] = rank_correlation(counts, each)
    return arms


def validated(arm: str, setting: dict[str, Any], seed: int) -> float:
    """R@1 on the validation emojis, which are neither trained on nor tested."""
    return float(measured(trained(arm, seed, **setting)[0], "val")["R@1"])


def trained(arm: str, seed: int, *, lr: float, temperature: float) -> tuple[emoji_views.Head, Any]:
    """A head, and the method that trained it, by an arm on the emojis that the seed draws."""
    from nearfar.methods import find

    name, batch_size = ARMS[arm]
    settings: dict[str, Any] = {"temperature": temperature}
    settings |= {} if name == "simclr" else {"gamma": CONFIG["gamma"]}
    settings |= CONFIG["isogclr"] if name == "isogclr" else {}
    made: list[Any] = []

    def make(head: emoji_views.Head) -> Any:
        made.append(find(name)(head, **settings))
        return made[0]

    rows, _ = long_tail(seed)
    features, _ = emoji_views.drawings("train")
    batches = CountedBatches(features[:-1], rows, batch_size=batch_size, n_views=2)
    head = emoji_views.trained(make, batches, seed, lr=lr, **CONFIG["training"])
    return head, made[0]


class CountedBatches(emoji_views.ViewBatches):
    """Batches that say which samples there are."""

    @property
    def info(self) -> DataInfo:
        """What a method that keeps something of each sample needs to know."""
        return DataInfo(name="emojis", size=len(self.rows), ids=lambda: range(len(self.rows)))


def long_tail(seed: int) -> tuple[Tensor, Tensor]:
    """Places in the training emojis, each as often as it stands in the data; and how often, in order of the places."""
    features, _ = emoji_views.drawings("train")
    count, most = CONFIG["emojis"], CONFIG["most_common"]
    chosen = torch.randperm(features.shape[1], generator=torch.Generator().manual_seed(seed))[:count]
    times = (most ** (1 - torch.arange(count) / (count - 1))).round().long()
    return chosen.repeat_interleave(times), times[chosen.argsort()]


def measured(head: emoji_views.Head, split: str) -> dict[str, Any]:
    """Retrieval in the unseen style."""
    z = emoji_views.embedded(head, split)
    return {"R@1": emoji_views.hits_in_the_unseen_style(z, emoji_views.drawings(split)[1])}


def rank_correlation(x: Tensor, y: Tensor) -> float:
    """Spearman's, ties at their mean rank.

    >>> rank_correlation(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([10.0, 30.0, 20.0]))
    0.5
    """
    ranks = []
    for values in (x, y):
        _, place, times = values.unique(return_inverse=True, return_counts=True)
        ranks.append((times.cumsum(0) - (times + 1) / 2)[place].double())
    return round(float(torch.corrcoef(torch.stack(ranks))[0, 1]), 6)


reproduction = Reproduction(
    slug="isogclr",
    run=run,
    claims=[
        Claim(
            "in batches of 32 SogCLR finds more than SimCLR",
            "SogCLR, batch 32",
            "SimCLR, batch 32",
            "R@1",
            effect=0.03,
        ),
        Claim(
            "SogCLR in batches of 32 is at most three points below SimCLR in batches of 256",
            "SogCLR, batch 32",
            "SimCLR, batch 256",
            "R@1",
            margin=-0.03,
            effect=0.03,
        ),
        Claim(
            "in batches of 32 iSogCLR finds more than SogCLR",
            "iSogCLR, batch 32",
            "SogCLR, batch 32",
            "R@1",
            effect=0.03,
        ),
        Claim(
            "common samples end with a higher temperature than rare ones",
            "iSogCLR, batch 32",
            NO_RELATION,
            CORRELATION,
            effect=0.1,
            constant=True,
        ),
    ],
    seeds=range(8),
    pilot=3,
    grid=Grid(tuple(ARMS), {"lr": [1e-3, 3e-3], "temperature": [0.1, 0.2, 0.5]}, validated, "R@1"),
    config=CONFIG,
    note=(
        "A head of two layers on frozen features of a pretrained tower, where the papers train whole networks for "
        "hundreds of epochs. Ten epochs in batches of 32 are eight times the steps of ten in batches of 256. For "
        "iSogCLR the temperature is where each sample's starts."
    ),
)
