"""Features of places, in a plain loop: PixContrast between the cells of two crops of one picture.

    python examples/pixel_contrast.py

Pictures are smooth random colours. A crop is resized, perhaps mirrored, and its colours change; its box says where it
was taken. A small network learns to know a place again: the figure is the share of cells whose nearest cell in the
other crop lies close to them in the picture. Half a minute on a CPU.
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, normalize

from nearfar.losses import PixContrast
from nearfar.losses.near_cells import pixel_positive_mask


def main(steps: int = 200, seed: int = 0) -> dict[str, float]:
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for inward, stride in ((3, 2), (32, 2), (32, 1)):
        layers += [nn.Conv2d(inward, 32, 3, stride=stride, padding=1), nn.BatchNorm2d(32), nn.ReLU()]
    network = nn.Sequential(*layers, nn.Conv2d(32, 16, 1))  # 32 pixels become 8 x 8 cells
    loss = PixContrast(learnable=False)
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    figures = {"before": known_again(network)}
    for _ in range(steps):
        picture = pictures(32)
        (first, box), (second, other) = crop(picture), crop(picture)
        near = pixel_positive_mask(box, other, (8, 8))
        x, y = network(first), network(second)
        optimizer.zero_grad()
        ((loss(x, y.detach(), near) + loss(y, x.detach(), near.mT)) / 2).backward()
        optimizer.step()
    figures["after"] = known_again(network)
    for when, share in figures.items():
        print(f"{when:<7} {share:.2f} of the cells are known again")
    return figures


def pictures(n: int) -> Tensor:
    """`[n, 3, 48, 48]`: colours that change slowly from place to place."""
    return interpolate(torch.rand(n, 3, 7, 7), size=(48, 48), mode="bicubic")


def crop(picture: Tensor) -> tuple[Tensor, Tensor]:
    """One crop of all pictures, `[n, 3, 32, 32]`, in other colours, and its box `[n, 4]`: x0, y0, x1, y1 in shares of
    the picture, with x0 > x1 where it is mirrored."""
    side = int(torch.randint(24, 41, ()))
    left, top = (int(torch.randint(0, 48 - side + 1, ())) for _ in range(2))
    cut = interpolate(picture[:, :, top : top + side, left : left + side], size=(32, 32), mode="bilinear")
    box = torch.tensor([left, top, left + side, top + side]) / 48
    if torch.rand(()) < 0.5:
        cut, box = cut.flip(3), box[[2, 1, 0, 3]]
    gain = 0.6 + 0.8 * torch.rand(len(cut), 3, 1, 1)
    return cut * gain, box.expand(len(cut), 4)


@torch.no_grad()
def known_again(network: nn.Module) -> float:
    """Of the cells that have a near one in the other crop, the share whose nearest feature is a near cell's."""
    network.eval()
    hits = total = 0.0
    for _ in range(20):
        picture = pictures(16)
        (first, box), (second, other) = crop(picture), crop(picture)
        near = pixel_positive_mask(box, other, (8, 8), 1.0)
        x, y = (normalize(network(view).flatten(2).mT, dim=2) for view in (first, second))
        nearest = (x @ y.mT).argmax(2, keepdim=True)
        has = near.any(2)
        hits += float((near.gather(2, nearest)[..., 0] & has).sum())
        total += float(has.sum())
    network.train()
    return hits / max(total, 1.0)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=200)
    main(parser.parse_args().steps)
