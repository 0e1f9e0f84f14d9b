"""Many views in a plain torch loop: the drawings of one emoji in three styles are three views of one thing.

    python examples/three_views.py 200

MV-DHEL (arXiv 2507.06979) against the usual mean over pairs of views: after the same steps the script prints how well
each finds a new emoji's drawing in another style, and over how many dimensions its embeddings spread. The number is
how many steps to train.
"""

import io
import sys

import numpy as np
import torch
from PIL import Image
from torch import nn

from nearfar.data import world
from nearfar.losses import MVDHEL, NTXent, PairwiseViews

STEPS = int(sys.argv[1]) if len(sys.argv) > 1 else 200
STYLES = ("noto", "twemoji", "openmoji")


def drawings(split):
    """Pictures `[V, N, 3, 32, 32]` of the emoji that all styles draw."""
    styles = [{r["group"]: r["image"] for r in world.emoji(split, styles=[style])} for style in STYLES]
    things = sorted(set.intersection(*map(set, styles)))
    return torch.stack([torch.stack([picture(style[thing]) for thing in things]) for style in styles])


def picture(data):
    image = Image.open(io.BytesIO(data)).convert("RGB").resize((32, 32))
    return torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255 - 0.5


def block(width, wider):
    return nn.Sequential(nn.Conv2d(width, wider, 3, stride=2, padding=1), nn.GroupNorm(8, wider), nn.GELU())


def effective_rank(z):
    """exp of the entropy of the singular values: over how many dimensions the rows `[N, D]` spread."""
    share = torch.linalg.svdvals(z - z.mean(0))
    share = share / share.sum()
    return torch.exp(-(share * share.clamp(min=1e-12).log()).sum()).item()


def train(criterion, pictures):
    """A small network after `STEPS` steps on all views of 64 things at a time, and its losses."""
    torch.manual_seed(0)
    model = nn.Sequential(block(3, 32), block(32, 64), block(64, 128), nn.Flatten(), nn.Linear(128 * 4 * 4, 32))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(STEPS):
        batch = pictures[:, torch.randperm(pictures.shape[1])[:64]]
        views = model(batch.flatten(0, 1)).view(len(STYLES), 64, -1)
        loss = criterion(views)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return model, losses


pictures, new = drawings("train"), drawings("test")
results = {}
for criterion in (PairwiseViews(NTXent(0.5, learnable=False)), MVDHEL(0.5, learnable=False)):
    model, losses = train(criterion, pictures)
    with torch.no_grad():
        z = nn.functional.normalize(model(new.flatten(0, 1)).view(len(STYLES), new.shape[1], -1), dim=-1)
    nearest = (z[0] @ z[1].T).argmax(1)
    accuracy = (nearest == torch.arange(len(nearest))).float().mean().item()
    results[type(criterion).__name__] = (losses, accuracy, effective_rank(z.flatten(0, 1)))
    print(
        f"{type(criterion).__name__}: another style's drawing found for {accuracy:.1%} of {len(nearest)} new emojis "
        f"(by chance {1 / len(nearest):.1%}), effective rank {results[type(criterion).__name__][2]:.1f} of 32"
    )
