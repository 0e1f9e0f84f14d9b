"""A second encoder learns what the first one left out, in a plain loop: MCL's stages on a table.

    python examples/what_was_left_out.py

Rows of 24 numbers with a loud factor of ten values and a quiet one of five. The first encoder tells the loud one alone.
Its embeddings are clustered, and the second encoder's negatives share a cluster: there the loud factor tells nothing,
so the quiet one is learnt. Half a minute on a CPU.
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from nearfar.data import ClusterBatchSampler, cluster_codes
from nearfar.losses import NTXent


def main(steps: int = 300, seed: int = 0) -> dict[str, dict[str, float]]:
    torch.manual_seed(seed)
    loud, quiet = torch.randint(10, (3000,)), torch.randint(5, (3000,))
    codes = (
        3 * nn.functional.normalize(torch.randn(10, 12), dim=1),
        0.6 * nn.functional.normalize(torch.randn(5, 12), dim=1),
    )
    rows = torch.cat([codes[0][loud], codes[1][quiet]], 1)

    first = trained(rows, torch.zeros(3000, dtype=torch.long), steps)
    cluster = cluster_codes(first(rows).detach(), 10, starts=4)
    second = trained(rows, torch.from_numpy(cluster), steps)

    with torch.no_grad():
        parts = [
            nn.functional.normalize(encoder(rows + 0.15 * torch.randn_like(rows)), dim=1) for encoder in (first, second)
        ]
    spaces = {"first stage": parts[0], "second stage": parts[1], "both, side by side": torch.cat(parts, 1)}
    results = {
        name: {"loud factor": accuracy(z, loud), "quiet factor": accuracy(z, quiet)} for name, z in spaces.items()
    }
    for name, factors in results.items():
        print(f"{name:<20} " + ", ".join(f"{factor} {value:.2f}" for factor, value in factors.items()))
    return results


def trained(rows: Tensor, cluster: Tensor, steps: int) -> nn.Module:
    """A fresh encoder; each of its batches is of one cluster."""
    encoder = nn.Sequential(nn.Linear(24, 64), nn.ReLU(), nn.Linear(64, 4))
    loss, optimizer = NTXent(0.2, learnable=False), torch.optim.Adam(encoder.parameters(), lr=3e-3)
    sampler = ClusterBatchSampler(cluster, batch_size=128)
    loader = DataLoader(TensorDataset(rows), batch_sampler=sampler)
    taken = 0
    while taken < steps:
        for (x,) in loader:
            views = [x + 0.15 * torch.randn_like(x) for _ in range(2)]
            optimizer.zero_grad()
            loss(*map(encoder, views)).backward()
            optimizer.step()
            taken += 1
        sampler.set_epoch(sampler.epoch + 1)
    return encoder


def accuracy(z: Tensor, factor: Tensor) -> float:
    """How often a linear map of z tells the factor, fitted on one half and measured on the other."""
    z, half = torch.cat([z, torch.ones(len(z), 1)], 1), len(z) // 2
    solution = torch.linalg.lstsq(z[:half], nn.functional.one_hot(factor[:half]).float()).solution
    return ((z[half:] @ solution).argmax(1) == factor[half:]).float().mean().item()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=300)
    main(parser.parse_args().steps)
