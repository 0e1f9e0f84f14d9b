"""InfoNCE in a plain torch loop: two drawings of one thing, in two styles, are brought near each other.

    python examples/infonce.py 300

From nearfar come the loss and the pictures; model, loader, optimiser and loop are torch's. The number is how many
steps to train.
"""

import io
import sys

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset

from nearfar.data import world
from nearfar.losses import InfoNCE

STEPS = int(sys.argv[1]) if len(sys.argv) > 1 else 300
torch.manual_seed(0)


class Drawings(Dataset):
    """Pairs of pictures `[3, 32, 32]`: an emoji in Noto's style and the same emoji in Fluent's."""

    def __init__(self, split):
        noto, fluent = (world.emoji(split, styles=[style]) for style in ("noto", "fluent-3d"))
        places = {record["group"]: place for place, record in enumerate(fluent)}
        self.pairs = [(noto, i, fluent, places[r["group"]]) for i, r in enumerate(noto) if r["group"] in places]

    def __len__(self):
        return len(self.pairs)

    def __getitem__(self, index):
        noto, i, fluent, j = self.pairs[index]
        return picture(noto[i]["image"]), picture(fluent[j]["image"])


def picture(data):
    image = Image.open(io.BytesIO(data)).convert("RGB").resize((32, 32))
    return torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255 - 0.5


def block(width, wider):
    return nn.Sequential(nn.Conv2d(width, wider, 3, stride=2, padding=1), nn.GroupNorm(8, wider), nn.GELU())


model = nn.Sequential(block(3, 32), block(32, 64), block(64, 128), nn.Flatten(), nn.Linear(128 * 4 * 4, 64))
criterion = InfoNCE(temperature=0.1)  # normalises the embeddings itself; the temperature is learned
optimizer = torch.optim.AdamW([*model.parameters(), *criterion.parameters()], lr=1e-3)
loader = DataLoader(Drawings("train"), batch_size=64, shuffle=True, drop_last=True)

losses = []
while len(losses) < STEPS:
    for first, second in loader:
        loss = criterion(model(first), model(second))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        criterion.temperature.clamp_()
        losses.append(loss.item())
        if len(losses) % 20 == 0:
            print(f"step {len(losses)}: loss {sum(losses[-20:]) / 20:.3f}")
        if len(losses) == STEPS:
            break

# How often is the nearest Fluent drawing of a new Noto drawing the right one?
with torch.no_grad():
    noto, fluent = (torch.stack(side) for side in zip(*Drawings("test"), strict=True))
    similarity = nn.functional.cosine_similarity(model(noto)[:, None], model(fluent)[None], dim=2)
accuracy = (similarity.argmax(1) == torch.arange(len(noto))).float().mean().item()
print(f"found among {len(noto)} new emojis: {accuracy:.1%} (by chance {1 / len(noto):.1%})")
