"""What two sets share, and what only one of them has, in a plain loop: SepCLR's loss on a table.

    python examples/common_and_salient.py

Rows of 12 numbers. Four hidden factors are in all of them, two more in the target's alone. Two encoders learn them
apart; a linear map from each shows what it tells of rows that it has not met. Half a minute on a CPU.
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor, nn

from nearfar.losses import SepCLRLoss


def main(steps: int = 400, lambda_jem: float = 10.0, seed: int = 0) -> dict[str, float]:
    torch.manual_seed(seed)
    mixing = torch.randn(4, 12) / 2, torch.randn(2, 12) / 2
    common, salient = (nn.Sequential(nn.Linear(12, 64), nn.Tanh(), nn.Linear(64, width)) for width in (4, 2))
    loss = SepCLRLoss(lambda_jem=lambda_jem)
    optimizer = torch.optim.Adam([*common.parameters(), *salient.parameters()], lr=3e-3)
    for _ in range(steps):
        rows, _, _, target = table(128, mixing)
        views = torch.stack([rows + 0.2 * torch.randn_like(rows) for _ in range(2)])
        optimizer.zero_grad()
        loss(common(views), salient(views), target).backward()
        optimizer.step()

    rows, shared, own, _ = (values[2000:] for values in table(4000, mixing))  # the target's
    with torch.no_grad():
        spaces = {"common": nn.functional.normalize(common(rows), dim=1), "salient": salient(rows)}
    factors = {"shared factors": shared, "the target's own": own}
    explained = {
        f"{factor}, from the {space} space": r2(z, y) for factor, y in factors.items() for space, z in spaces.items()
    }
    for what, value in explained.items():
        print(f"{what:<45} {value:5.2f} of their variance")
    return explained


def table(n: int, mixing: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Rows, their shared factors, the target's own, and which are of the target: the second half."""
    target = torch.arange(n) >= n // 2
    shared, own = torch.randn(n, 4), 1.5 * torch.randn(n, 2) * target[:, None]
    return shared @ mixing[0] + own @ mixing[1], shared, own, target


def r2(z: Tensor, y: Tensor) -> float:
    """The share of y's variance that a linear map of z explains, fitted on one half and measured on the other."""
    z = torch.cat([z, torch.ones(len(z), 1)], 1)
    half = len(z) // 2
    solution = torch.linalg.lstsq(z[:half], y[:half]).solution
    left = (y[half:] - z[half:] @ solution).square().sum()
    return 1 - (left / (y[half:] - y[half:].mean(0)).square().sum()).item()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--lambda-jem", type=float, default=10.0, help="0: without k-JEM, what is salient stays common")
    options = parser.parse_args()
    main(options.steps, options.lambda_jem)
