"""A loss in a LightningModule: MV-DHEL (arXiv 2507.06979) on drawings of one emoji in three styles.

    python examples/under_lightning.py 200

The module is an ordinary one: its `training_step` hands the embeddings to a function of nearfar. A whole method, with
its queue or its slow copy, goes under Lightning by `nearfar.training.adapters.lightning_module`. Needs
`pip install lightning`; the number is how many steps to train.
"""

import io
import sys

import lightning
import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from nearfar.data import world
from nearfar.losses.functional import mv_dhel

STEPS = int(sys.argv[1]) if len(sys.argv) > 1 else 200
STYLES = ("noto", "twemoji", "openmoji")


class Views(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        blocks = [
            nn.Sequential(nn.Conv2d(width, wider, 3, stride=2, padding=1), nn.GroupNorm(8, wider), nn.GELU())
            for width, wider in ((3, 32), (32, 64), (64, 128))
        ]
        self.network = nn.Sequential(*blocks, nn.Flatten(), nn.Linear(128 * 4 * 4, 32))
        self.losses = []

    def forward(self, pictures):
        return self.network(pictures)

    def training_step(self, batch, number):
        (pictures,) = batch  # [B, V, 3, 32, 32]
        views = self(pictures.flatten(0, 1)).unflatten(0, pictures.shape[:2]).transpose(0, 1)
        loss = mv_dhel(views, temperature=0.5)
        self.losses.append(loss.item())
        return loss

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


def drawings(split):
    """Pictures `[N, V, 3, 32, 32]` of the emoji that all styles draw."""
    styles = [{r["group"]: r["image"] for r in world.emoji(split, styles=[style])} for style in STYLES]
    things = sorted(set.intersection(*map(set, styles)))
    return torch.stack([torch.stack([picture(style[thing]) for style in styles]) for thing in things])


def picture(data):
    image = Image.open(io.BytesIO(data)).convert("RGB").resize((32, 32))
    return torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255 - 0.5


torch.manual_seed(0)
module = Views()
loader = DataLoader(TensorDataset(drawings("train")), batch_size=64, shuffle=True, drop_last=True)
trainer = lightning.Trainer(
    max_steps=STEPS, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False
)
trainer.fit(module, loader)

new = drawings("test")
with torch.no_grad():
    z = nn.functional.normalize(module.eval()(new.flatten(0, 1)).unflatten(0, new.shape[:2]), dim=-1)
nearest = (z[:, 0] @ z[:, 1].T).argmax(1)
accuracy = (nearest == torch.arange(len(new))).float().mean().item()
print(f"another style's drawing found for {accuracy:.1%} of {len(new)} new emojis (by chance {1 / len(new):.1%})")
