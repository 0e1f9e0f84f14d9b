"""Any two classes as a positive pair, in a plain loop: Hydra's loss and its gate on a table.

    python examples/pairs_of_classes.py

27 classes, each a combination of three attributes with three values, as noisy rows. The gate learns which dimensions to
open to a pair of classes; whether it has learned what classes share shows in how its gates go together. With little
noise (--noise 0.3) any detail tells a class, and the gates say less of the attributes. Some seconds on a CPU.
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor, nn

from nearfar.losses import GatedPairs
from nearfar.methods.class_pairs import ClassPairGate, ClassRelations, PairRule


def main(steps: int = 400, noise: float = 1.0, seed: int = 0) -> float:
    torch.manual_seed(seed)
    values = torch.cartesian_prod(*[torch.arange(3)] * 3)
    mixing = torch.randn(9, 32)
    encoder = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 32))
    gate, loss, rule = ClassPairGate(27, 32, width=32, hidden=64), GatedPairs(0.1), PairRule("arbitrary")
    optimizer = torch.optim.Adam([*encoder.parameters(), *gate.parameters(), *loss.parameters()], lr=2e-3)
    for _ in range(steps):
        label = torch.randint(27, (128,))
        partner = rule(label, classes=27)
        anchors, keys = (encoder(rows(values[label], mixing, noise)) for _ in range(2))
        optimizer.zero_grad()
        loss(anchors, keys, gate(label, partner), label, partner, label).backward()
        optimizer.step()
        loss.temperature.clamp_()

    relations = ClassRelations.of(gate)
    shared = (values[:, None] == values).sum(2)
    agreement = relations.agreement(3 - shared)
    activation, entropy = (relations.statistics[name] for name in ("activation", "entropy"))
    print(f"open of 32 dimensions: {activation:.1f}, entropy {entropy:.2f}")
    print(f"classes that share more attributes have more alike gates: rank correlation {agreement:.2f}")
    return agreement


def rows(values: Tensor, mixing: Tensor, noise: float) -> Tensor:
    """Attributes `[N, 3]` as noisy rows `[N, 32]`."""
    attributes = nn.functional.one_hot(values, 3).flatten(1).float()
    return torch.tanh(attributes @ mixing) + noise * torch.randn(len(values), mixing.shape[1])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--noise", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    main(options.steps, options.noise, options.seed)
