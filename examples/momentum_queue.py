"""A momentum encoder and a queue of negatives (MoCo, arXiv 1911.05722) in a plain torch loop.

    python examples/momentum_queue.py 300

The student embeds one view of each picture, its slow copy the other; the copy's past features are the negatives. So
there are 1,024 of them while a batch has 64 pictures. The number is how many steps to train.
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
from nearfar.methods.parts.feature_queue import FeatureQueue
from nearfar.methods.parts.momentum_encoder import MomentumEncoder

STEPS = int(sys.argv[1]) if len(sys.argv) > 1 else 300
torch.manual_seed(0)


class TwoViews(Dataset):
    """Two random crops `[3, 32, 32]` of a picture, each perhaps mirrored and faded."""

    def __init__(self, source):
        self.source = source

    def __len__(self):
        return len(self.source)

    def __getitem__(self, index):
        image = Image.open(io.BytesIO(self.source[index]["image"])).convert("RGB").resize((40, 40))
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255 - 0.5
        return view(pixels), view(pixels)


def view(pixels):
    top, left = torch.randint(0, 9, (2,)).tolist()
    crop = pixels[:, top : top + 32, left : left + 32]
    crop = crop.flip(2) if torch.rand(()) < 0.5 else crop
    return crop * (0.6 + 0.8 * torch.rand(3, 1, 1))


def block(width, wider):
    return nn.Sequential(nn.Conv2d(width, wider, 3, stride=2, padding=1), nn.GroupNorm(8, wider), nn.GELU())


student = nn.Sequential(block(3, 32), block(32, 64), block(64, 128), nn.Flatten(), nn.Linear(128 * 4 * 4, 64))
teacher = MomentumEncoder(student, momentum=0.99)
queue = FeatureQueue(dim=64, size=1024)  # a multiple of the batch size
criterion = InfoNCE(temperature=0.1, learnable=False, symmetric=False)
optimizer = torch.optim.AdamW(student.parameters(), lr=1e-3)
loader = DataLoader(TwoViews(world.emoji("train")), batch_size=64, shuffle=True, drop_last=True)

losses = []
while len(losses) < STEPS:
    for first, second in loader:
        keys = teacher(second)  # without gradient
        loss = criterion(student(first), keys, negatives_b=queue.features)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        teacher.update()
        queue.push(keys)
        losses.append(loss.item())
        if len(losses) % 20 == 0:
            print(f"step {len(losses)}: loss {sum(losses[-20:]) / 20:.3f}, {len(queue)} features in the queue")
        if len(losses) == STEPS:
            break
