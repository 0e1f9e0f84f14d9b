"""The samples of earlier tasks that are kept and rehearsed: so many in all, every class among them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from nearfar.errors import UserError, at_least

Selection = Literal["random", "herding"]
Share = Literal["redistributed", "fixed"]


class RehearsalMemory:
    """Numbers of the samples that are kept, by class; never more than `size`.

    Args:
        size: of the whole memory, in samples.
        selection: "random", or "herding": one after the other those whose mean comes nearest to the mean of their class
            (iCaRL, arXiv 1611.07725), which needs features.
        share: of a class with fewer samples than its part, the rest goes to the others ("redistributed"), or stays
            empty ("fixed").
        seed: of the random selection.

    Attributes:
        kept: the samples' numbers by class, those that would be kept longest first.

    Raises:
        UserError: a size below 1, or a choice that there is not.

    >>> memory = RehearsalMemory(10)
    >>> memory.update(torch.arange(102), torch.tensor([0] * 2 + [1] * 50 + [2] * 50))
    >>> {label: len(numbers) for label, numbers in memory.kept.items()}, len(memory)
    ({0: 2, 1: 4, 2: 4}, 10)
    """

    def __init__(
        self, size: int, *, selection: Selection = "random", share: Share = "redistributed", seed: int = 0
    ) -> None:
        at_least(1, size=size)
        for name, value, known in (
            ("selection", selection, ("random", "herding")),
            ("share", share, ("redistributed", "fixed")),
        ):
            if value not in known:
                raise UserError(f"{name}={value!r}: choose one of {', '.join(known)}")
        self.size, self.selection, self.share, self.seed = size, selection, share, seed
        self.kept: dict[int, list[int]] = {}

    def __len__(self) -> int:
        return sum(map(len, self.kept.values()))

    def numbers(self) -> list[int]:
        """The samples' numbers, class by class."""
        return [number for label in sorted(self.kept) for number in self.kept[label]]

    def update(self, numbers: Tensor, label: Tensor, features: Tensor | None = None) -> None:
        """Take in the samples of a task; classes that are there already keep their first ones, and fewer.

        Args:
            numbers: int64 `[N]`, of the task's samples.
            label: int64 `[N]`, their classes, new ones all.
            features: floating point `[N, D]`, for herding.

        Raises:
            UserError: shapes that do not fit, a class that was there before, more classes than the memory has places,
                or herding without features.
        """
        if numbers.ndim != 1 or label.shape != numbers.shape or (features is not None and len(features) != len(label)):
            raise UserError("numbers and label must be [N], and features [N, D], of the same samples")
        if features is None and self.selection == "herding":
            raise UserError("herding looks at the samples' features: pass them, or selection='random'")
        classes = label.unique().tolist()
        if before := [each for each in classes if each in self.kept]:
            raise UserError(f"class {before[0]} is in the memory already: each task brings classes of its own")
        if len(self.kept) + len(classes) > self.size:
            raise UserError(f"{len(self.kept) + len(classes)} classes, and a memory of {self.size}: make it larger")
        for each in classes:
            own = (label == each).nonzero()[:, 0]
            if self.selection == "herding":
                order = herded(features[own], self.size)  # type: ignore[index]
            else:
                generator = torch.Generator().manual_seed(self.seed * 1_000_003 + each)
                order = torch.randperm(len(own), generator=generator)[: self.size]
            self.kept[each] = numbers[own[order]].tolist()
        shares = class_shares({name: len(members) for name, members in self.kept.items()}, self.size, self.share)
        self.kept = {name: members[: shares[name]] for name, members in self.kept.items()}


def herded(features: Tensor, most: int) -> Tensor:
    """The order in which samples of one class are kept, int64 `[min(N, most)]`: at each step the one with which the
    mean of those kept comes nearest to the mean of all (iCaRL, arXiv 1611.07725).

    Takes `features` `[N, D]` in floating point, which are normalised.

    >>> herded(torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.7, 0.7]]), 2).tolist()
    [2, 0]
    """
    features = F.normalize(features.double(), dim=1)
    mean, total = features.mean(0), torch.zeros_like(features[0])
    left = torch.ones(len(features), dtype=torch.bool)
    order = []
    for count in range(1, min(len(features), most) + 1):
        distance = (mean - (total + features) / count).norm(dim=1)
        best = int(distance.masked_fill(~left, torch.inf).argmin())
        order.append(best)
        left[best], total = False, total + features[best]
    return torch.tensor(order, dtype=torch.long)


def class_shares(counts: Mapping[int, int], size: int, share: Share) -> dict[int, int]:
    """How many samples of each class a memory of `size` keeps, of `counts` that there are.

    >>> class_shares({0: 2, 1: 50, 2: 50}, 10, "redistributed"), class_shares({0: 2, 1: 50, 2: 50}, 10, "fixed")
    ({0: 2, 1: 4, 2: 4}, {0: 2, 1: 3, 2: 3})
    """
    if share == "fixed":
        return {name: min(count, size // len(counts)) for name, count in counts.items()}
    shares: dict[int, int] = {}
    left = size
    # The smallest first: what they leave is shared by the others; places that are over go to the larger ones.
    for place, (name, count) in enumerate(sorted(counts.items(), key=lambda item: item[1])):
        shares[name] = min(count, left // (len(counts) - place))
        left -= shares[name]
    return {name: shares[name] for name in counts}
