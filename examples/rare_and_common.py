"""A temperature for each sample in a plain torch loop: common things end with a high one, rare ones with a low one.

    python examples/rare_and_common.py 3000

iSogCLR (arXiv 2305.11965) on 800 made points in 20 groups, the largest of 121 and the smallest of 6: after training
the script prints how the mean temperature of a group follows its size. The number is how many steps to train.
"""

import sys

import torch
from torch import nn

from nearfar.losses import GlobalContrastive
from nearfar.losses.individual_temperature import TemperatureRule

STEPS = int(sys.argv[1]) if len(sys.argv) > 1 else 3000
GROUPS, WIDTH = 20, 24

torch.manual_seed(0)
sizes = (121 * 0.05 ** (torch.arange(GROUPS) / (GROUPS - 1))).round().long()
group = torch.arange(GROUPS).repeat_interleave(sizes)
centres = 2 * nn.functional.normalize(torch.randn(GROUPS, WIDTH), dim=1)
points = centres[group] + 0.3 * torch.randn(len(group), WIDTH)

model = nn.Sequential(nn.Linear(WIDTH, 64), nn.ReLU(), nn.Linear(64, 16))
rule = TemperatureRule(rho=0.3, lr=0.03, share=0.5)
criterion = GlobalContrastive(len(points), 0.2, rule=rule, modalities=1)
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
for _ in range(STEPS):
    index = torch.randperm(len(points))[:32]
    first, second = (model(points[index] + 0.25 * torch.randn(32, WIDTH)) for _ in range(2))
    loss = criterion(first, second, index) / 0.2
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()

temperature = criterion.temperatures[0]
means = torch.stack([temperature[group == g].mean() for g in range(GROUPS)])
ranks = [values.argsort().argsort().double() for values in (sizes, means)]
correlation = torch.corrcoef(torch.stack(ranks))[0, 1]
print(f"{len(points)} points in {GROUPS} groups of {int(sizes.min())} to {int(sizes.max())}, {STEPS} steps")
print(f"temperature of the largest group {means[0]:.2f}, of the smallest {means[-1]:.2f}")
print(f"rank correlation of size and mean temperature: {correlation:.2f}")
