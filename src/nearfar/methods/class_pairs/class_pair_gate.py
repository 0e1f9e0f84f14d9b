"""The feature filter of Hydra (arXiv 2410.18200): which dimensions are open to a pair of classes."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self, get_args

import torch
from torch import Tensor, nn

from nearfar import files
from nearfar.errors import UserError
from nearfar.modes import evaluating

Kind = Literal["sigmoid", "gumbel", "stochastic", "open"]
SPREAD = 0.5
"""Of the stochastic gate's noise (arXiv 1810.04247)."""


class Gates(NamedTuple):
    """`gate` `[N, D]` in [0, 1], and `chance` `[N, D]`, that a dimension is open: the same but for noise."""

    gate: Tensor
    chance: Tensor


class ClassPairGate(nn.Module):
    """A gate in [0, 1] for each dimension and each pair of classes, the same for (a, b) and (b, a).

    A class is a number to it, with an embedding of its own that is learned: names mean nothing, and nothing is
    pretrained. The pair is the mean of both embeddings, so that (a, b) and (c, d) share a gate where the means are the
    same. Gates start near 0.5. Batch norm sees the pairs of the batch, and their running statistics in evaluation.

    Args:
        classes: how many there are.
        dim: width of the embeddings that are gated.
        kind: "sigmoid" (paper); "gumbel", a sample of it, by noise in training; "stochastic", a clamped Gaussian, which
            closes gates wholly; "open", all ones: no filter, and nothing to learn.
        fuse: the gate of the mean of both embeddings (paper); False: the product of both classes' gates.
        width: of a class's embedding (code: 512).
        hidden: width of the hidden layer (code: 1024).

    Raises:
        UserError: a size below 1, no such kind; in training one pair alone; a class that is not there.

    >>> gate = ClassPairGate(10, 8, width=16, hidden=32).eval()
    >>> a, b = torch.tensor([0, 4]), torch.tensor([3, 4])
    >>> gate(a, b).shape, torch.equal(gate(a, b), gate(b, a))
    (torch.Size([2, 8]), True)
    """

    def __init__(
        self, classes: int, dim: int, *, kind: Kind = "sigmoid", fuse: bool = True, width: int = 512, hidden: int = 1024
    ) -> None:
        super().__init__()
        if min(classes, dim, width, hidden) < 1:
            raise UserError(f"classes={classes}, dim={dim}, width={width}, hidden={hidden}: numbers of at least 1")
        if kind not in get_args(Kind):
            raise UserError(f"gate={kind!r}: choose {', '.join(get_args(Kind))}")
        self.classes, self.dim, self.kind, self.fuse = classes, dim, kind, fuse
        self.width, self.hidden = width, hidden
        if kind == "open":
            return
        self.embedding = nn.Embedding(classes, width)
        self.network = nn.Sequential(
            nn.ReLU(),
            nn.BatchNorm1d(width),
            nn.Linear(width, hidden),
            nn.ReLU(),
            nn.BatchNorm1d(hidden),
            nn.Linear(hidden, dim),
        )

    def forward(self, first: Tensor, second: Tensor | None = None) -> Tensor:
        """Gates `[N, D]`, float32, of the pairs of classes `first` and `second` `[N]` int64; of a class with itself
        without `second`. Raises UserError for a class that is not there, or one pair alone in training."""
        return self.draw(first, second).gate

    def draw(self, first: Tensor, second: Tensor | None = None) -> Gates:
        """Gates and their chances of being open, float32, of the classes `first` and `second` `[N]` int64. Raises
        UserError as `forward` does."""
        second = first if second is None else second
        if first.shape != second.shape or first.ndim != 1:
            raise UserError(f"pairs of classes are two lists of one length, not {first.shape} and {second.shape}")
        self.check_labels(torch.cat([first, second]))
        if self.kind == "open":
            ones = torch.ones(len(first), self.dim, device=first.device)
            return Gates(ones, ones)
        if self.training and len(first) == 1:
            raise UserError("the gate's batch norm needs two pairs at least in training: raise the batch size")
        one, other = self.embedding(first), self.embedding(second)
        if self.fuse:
            return self._opened((one + other) / 2)
        of_one, of_other = self._opened(one), self._opened(other)
        return Gates(of_one.gate * of_other.gate, of_one.chance * of_other.chance)

    @torch.no_grad()
    def gates(self, first: Tensor, second: Tensor | None = None) -> Tensor:
        """Gates `[N, D]`, float32, of the classes `first` and `second` `[N]` int64, in evaluation: without noise, by
        the running statistics, 4,096 pairs at a time. Raises UserError for a class that is not there."""
        second = first if second is None else second
        with evaluating(self):
            parts = [self(*pair) for pair in zip(first.split(4096), second.split(4096), strict=True)]
        return torch.cat(parts) if parts else torch.ones(0, self.dim, device=first.device)

    def save(self, file: str | Path) -> Path:
        """Write the gate to a file of safetensors, whole or not at all."""
        from safetensors.torch import save

        settings = {name: getattr(self, name) for name in ("classes", "dim", "kind", "fuse", "width", "hidden")}
        state = {name: value.detach().cpu().contiguous() for name, value in self.state_dict().items()}
        return files.write(Path(file), save(state, {"gate": json.dumps(settings)}))

    @classmethod
    def load(cls, file: str | Path) -> Self:
        """The gate that `save` wrote, in evaluation.

        Raises:
            UserError: no such file, or one that holds another thing.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(str(file), "pt") as opened:
                settings = json.loads((opened.metadata() or {})["gate"])
                state = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
            with torch.device("meta"):  # nothing is allocated for sizes that the file only claims
                gate = cls(**settings)
            gate.load_state_dict(state, assign=True)
        except (OSError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
            raise UserError(f"{file} holds no gate of pairs of classes: name one that 'save' wrote") from error
        return gate.eval()

    def _opened(self, u: Tensor) -> Gates:
        logit = self.network(u)
        if self.kind == "sigmoid":
            gate = logit.sigmoid()
            return Gates(gate, gate)
        if self.kind == "gumbel":
            noise = -(-torch.rand_like(logit).clamp(min=1e-20).log()).clamp(min=1e-20).log()
            return Gates((logit + noise if self.training else logit).sigmoid(), logit.sigmoid())
        noise = SPREAD * torch.randn_like(logit) if self.training else torch.zeros_like(logit)
        chance = 0.5 * (1 + torch.erf((logit + 0.5) / (SPREAD * math.sqrt(2))))
        return Gates((logit + 0.5 + noise).clamp(0, 1), chance)

    def check_labels(self, label: Tensor) -> None:
        """Raise a UserError for a `label` `[N]` int64 that is none of the gate's classes."""
        if len(label) and not (int(label.min()) >= 0 and int(label.max()) < self.classes):
            raise UserError(
                f"labels run from {int(label.min())} to {int(label.max())}, and the gate knows {self.classes} classes, "
                "from 0: train and validate on the same classes, and leave out samples that have none (-1)"
            )


def gate_entropy(chance: Tensor) -> Tensor:
    """The mean entropy of Bernoulli variables with `chance` `[N, D]`, floating point, a scalar: ln 2 where all gates
    are undecided, 0 where each is open or closed. A chance of exactly 0 or 1 gets no gradient.

    >>> round(gate_entropy(torch.tensor([[0.5, 1.0]])).item(), 4)
    0.3466
    """
    decided = (chance <= 0) | (chance >= 1)  # there the slope is infinite: NaN times the sigmoid's of 0
    p = chance.masked_fill(decided, 0.5)
    entropy = -(p * p.log() + (1 - p) * torch.log1p(-p))
    return entropy.masked_fill(decided, 0.0).mean()


def gate_statistics(gates: Tensor) -> dict[str, Any]:
    """Of `gates` `[N, D]`, floating point: the mean `activation` (how many dimensions a pair has open, of D), the mean
    `entropy`, and the shares of gates that are `closed` (below 0.1) and `open` (above 0.9).

    >>> gate_statistics(torch.tensor([[0.0, 1.0, 1.0, 0.5]]))["activation"]
    2.5
    """
    return {
        "activation": gates.sum(1).mean().item(),
        "entropy": gate_entropy(gates).item(),
        "closed": (gates < 0.1).float().mean().item(),
        "open": (gates > 0.9).float().mean().item(),
    }
