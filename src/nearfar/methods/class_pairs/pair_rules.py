"""Which partner class an anchor gets (Hydra, arXiv 2410.18200)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from nearfar.errors import UserError

RuleName = Literal["arbitrary", "identical", "distinct", "weighted"]
ROWS = 256
"""Anchors that are drawn for at a time: no matrix of batch by batch, however many classes it has."""


class PairRule:
    """Partners of a batch's labels. Drawn from torch's own generator, on the CPU: on any device the same.

    Args:
        name: "arbitrary" (paper): the labels of the batch, shuffled, so that every partner is there; "identical": the
            anchor's own class; "distinct": any other class, which may be absent from the batch; "weighted": the nearer
            a class that is there, the likelier, by `distance`.
        present_only: with "distinct", only classes that the batch has.
        distance: with "weighted", `[C, C]`, at least 0, of every two classes; the weight of a pair is
            1 / (1 + distance) ** power.
        power: 0: all classes alike.
        max_distance: pairs farther apart are not drawn; 0 leaves identical ones alone.

    Raises:
        UserError: no such rule, or settings that do not fit it.

    >>> label = torch.tensor([0, 0, 1, 2])
    >>> PairRule("identical")(label, classes=3)
    tensor([0, 0, 1, 2])
    >>> sorted(PairRule()(label, classes=3).tolist())
    [0, 0, 1, 2]
    """

    def __init__(
        self,
        name: RuleName = "arbitrary",
        *,
        present_only: bool = False,
        distance: Tensor | None = None,
        power: float = 1.0,
        max_distance: float | None = None,
    ) -> None:
        if name not in get_args(RuleName):
            raise UserError(f"rule={name!r}: choose {', '.join(get_args(RuleName))}")
        if present_only and name != "distinct":
            raise UserError("present_only is for rule='distinct': the other rules draw classes of the batch alone")
        if (distance is not None) != (name == "weighted"):
            raise UserError("rule='weighted' needs distances of the classes, and no other rule takes them")
        self.name, self.present_only = name, present_only
        self.weight = None if distance is None else pair_weights(distance, power, max_distance)

    def __call__(self, label: Tensor, *, classes: int) -> Tensor:
        """The partners `[B]` of `label` `[B]` int64, on its device, of so many `classes`.

        Raises:
            UserError: "distinct" with one class alone, "weighted" with distances of other classes.
        """
        if self.name == "identical" or not len(label):
            return label
        cpu = label.cpu()
        if self.name == "arbitrary":
            return cpu[torch.randperm(len(cpu))].to(label.device)
        return (self._distinct(cpu, classes) if self.weight is None else self._weighted(cpu, classes)).to(label.device)

    def _distinct(self, label: Tensor, classes: int) -> Tensor:
        drawn_from, place = torch.arange(classes), label
        if self.present_only:
            drawn_from, place = label.unique(return_inverse=True)
        if len(drawn_from) < 2:
            where = "the batch has" if self.present_only else "there is"
            raise UserError(f"rule='distinct' needs a second class, and {where} one")
        return drawn_from[(place + torch.randint(1, len(drawn_from), place.shape)) % len(drawn_from)]

    def _weighted(self, label: Tensor, classes: int) -> Tensor:
        assert self.weight is not None
        if len(self.weight) != classes:
            raise UserError(f"the distances are of {len(self.weight)} classes, and the data have {classes}")
        present = label.unique()
        drawn = [torch.multinomial(self.weight[part][:, present], 1)[:, 0] for part in label.split(ROWS)]
        return present[torch.cat(drawn)]


def pair_weights(distance: Tensor, power: float = 1.0, max_distance: float | None = None) -> Tensor:
    """Weights `[C, C]`, float32, of pairs whose classes are so far apart: 1 / (1 + distance) ** power, 0 beyond
    `max_distance`.

    Raises:
        UserError: `distance` is no square of numbers from 0, or `power` is below 0.

    >>> pair_weights(torch.tensor([[0.0, 3.0], [3.0, 0.0]]))
    tensor([[1.0000, 0.2500],
            [0.2500, 1.0000]])
    """
    if distance.ndim != 2 or distance.shape[0] != distance.shape[1] or not bool((distance >= 0).all()) or power < 0:
        raise UserError(f"distances must be [C, C] and at least 0, and power={power} too: {tuple(distance.shape)}")
    distance = distance.float()
    weight = (1 + distance) ** -power
    return weight if max_distance is None else weight.masked_fill(distance > max_distance, 0.0)


def by_wordnet(classes: Sequence[str] | None, folder: str | None, power: float, max_distance: float | None) -> PairRule:
    """ "weighted" by how far apart the names of the classes are in WordNet.

    Raises:
        UserError: classes without names, WordNet is not on this machine, or does not have a name.
    """
    from nearfar.data import wordnet

    if classes is None:
        raise UserError("rule='weighted' needs the names of the classes, and these data have none")
    distance = wordnet.distances(classes, folder=folder)
    return PairRule("weighted", distance=distance, power=power, max_distance=max_distance)
