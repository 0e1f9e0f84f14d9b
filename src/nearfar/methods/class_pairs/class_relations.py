"""What the gates of pairs of classes (Hydra, arXiv 2410.18200) say of the classes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nearfar import files
from nearfar.errors import UserError
from nearfar.methods.class_pairs.class_pair_gate import ClassPairGate, gate_statistics

MOST = 40
"""Classes on a map: more names cannot be read."""

THIRD = 64
"""Third classes that two classes are compared against."""


@dataclass(frozen=True)
class ClassRelations:
    """How alike the gates of classes are.

    `relation[a][b]` is the correlation of the gates of a and b over dimensions and third classes c: how much the gates
    of (a, c) and (b, c) go together, each dimension's mean over all classes taken off. 1: to the filter a and b are one
    class. `activation[a][b]` is how many dimensions are open to the pair itself. `names` are the classes; `statistics`
    are of the gates of all these pairs (`gate_statistics`), and `dim` is how many there are.
    """

    names: tuple[str, ...]
    relation: tuple[tuple[float, ...], ...]
    activation: tuple[tuple[float, ...], ...]
    statistics: dict[str, float]
    dim: int

    @classmethod
    def of(cls, gate: ClassPairGate, names: Sequence[str] | None = None, *, most: int | None = MOST) -> ClassRelations:
        """Those of a gate, in evaluation; of more than `most` classes (None: all) evenly spread ones.

        Raises:
            UserError: as many names as the gate has no classes, or fewer than two classes.
        """
        if names is not None and len(names) != gate.classes:
            raise UserError(f"the gate knows {gate.classes} classes, and there are {len(names)} names")
        if gate.classes < 2:
            raise UserError("relations are of two classes at least")
        chosen = evenly(gate.classes, most)
        third = evenly(gate.classes, THIRD)
        device = next((p.device for p in gate.parameters()), torch.device("cpu"))
        against = pair_gates(gate, chosen.to(device), third.to(device))
        among = pair_gates(gate, chosen.to(device), chosen.to(device))
        profile = (against - against.mean(0)).flatten(1)
        profile = torch.nn.functional.normalize(profile, dim=1)
        called = [str(i) if names is None else str(names[i]) for i in chosen.tolist()]
        return cls(
            tuple(called),
            _rows(profile @ profile.T),
            _rows(among.sum(2)),
            gate_statistics(among.flatten(0, 1)),
            gate.dim,
        )

    def agreement(self, distance: Tensor) -> float:
        """Spearman's correlation of relation and nearness over all pairs of two classes, for a `distance` `[C, C]`,
        numbers of any dtype, of the same classes (`nearfar.data.wordnet.distances`, say): 1 where the nearest are the
        most alike, NaN where all are equally far.

        Raises:
            UserError: distances of other classes.
        """
        if distance.shape != (len(self.names),) * 2:
            raise UserError(f"distance must be [{len(self.names)}, {len(self.names)}], not {tuple(distance.shape)}")
        above = torch.triu_indices(len(self.names), len(self.names), 1)
        return rank_correlation(torch.tensor(self.relation)[*above], -distance.cpu()[*above].float())

    def write(self, file: str | Path) -> Path:
        """Write it as JSON, which a run's report draws."""
        return files.write(Path(file), json.dumps(asdict(self)))


def pair_gates(gate: ClassPairGate, first: Tensor, second: Tensor) -> Tensor:
    """Gates `[A, B, D]`, float32, in evaluation, of every class of `first` `[A]` with each of `second` `[B]`, int64.

    >>> pair_gates(ClassPairGate(5, 3), torch.arange(5), torch.arange(2)).shape
    torch.Size([5, 2, 3])
    """
    a, b = first.repeat_interleave(len(second)), second.repeat(len(first))
    return gate.gates(a, b).unflatten(0, (len(first), len(second)))


def rank_correlation(x: Tensor, y: Tensor) -> float:
    """Spearman's correlation of `x` and `y` `[N]`, floating point, ties by their mean rank; NaN where one is constant.

    >>> round(rank_correlation(torch.tensor([1.0, 2.0, 9.0]), torch.tensor([0.0, 1.0, 1.5])), 6)
    1.0
    """
    centred = [rank - rank.mean() for rank in map(_ranks, (x, y))]
    return float((centred[0] * centred[1]).sum() / (centred[0].norm() * centred[1].norm()))


def evenly(count: int, most: int | None) -> Tensor:
    """`most` of the numbers below `count`, evenly spread, int64; all where they are no more, or `most` is None."""
    return torch.arange(count) if most is None or count <= most else torch.linspace(0, count - 1, most).round().long()


def _ranks(x: Tensor) -> Tensor:
    _, place, counts = x.unique(return_inverse=True, return_counts=True)
    last = counts.cumsum(0).double()
    return (last - (counts - 1) / 2)[place]


def _rows(matrix: Tensor) -> Any:
    return tuple(tuple(round(value, 4) for value in row) for row in matrix.cpu().tolist())
