"""What one process does in the test of losses in a plain loop of several: gather with gradient, then the whole loss."""

import torch
from torch.distributed.nn.functional import all_gather

from nearfar import distributed as processes
from nearfar.losses import MVDHEL, GatedPairs, GlobalContrastive, MVInfoNCE, PairwiseViews, PolyView, SepCLRLoss, SupCon
from nearfar.losses.individual_temperature import TemperatureRule

SAMPLES, WIDTH = 6, 5
LABEL = torch.tensor([0, 1, 2, 2, 1, 0])
PARTNER = torch.tensor([1, 2, 0, 1, 0, 2])
GATE = torch.rand(SAMPLES, WIDTH, generator=torch.Generator().manual_seed(7), dtype=torch.float64)


def whole(mine):
    """The rows `[N, D]` of all processes, whose gradient goes back to each."""
    return torch.cat(all_gather(mine)) if processes.world_size() > 1 else mine


def losses(criterion, views, index):
    """Each loss of the views `[3, N, D]` of the whole batch, whose samples have the numbers `index`."""
    a, b, _ = views
    return {
        "MVInfoNCE": MVInfoNCE(0.3, learnable=False)(views),
        "MVDHEL": MVDHEL(0.3, learnable=False)(views),
        "PolyView": PolyView(0.3, learnable=False)(views),
        "PairwiseViews": PairwiseViews()(views),
        "GatedPairs": GatedPairs(0.3, learnable=False)(a, b, GATE, LABEL, PARTNER, LABEL),
        "SepCLRLoss": SepCLRLoss()(views[:2], views[1:], LABEL > 0),
        "SupCon": SupCon(0.3, learnable=False)(a, LABEL),
        "GlobalContrastive": criterion(a, b, index),
    }


def trained(views, steps):
    """By loss, its value and the averaged gradient of one weight matrix; then what is kept of samples after `steps`
    steps of `GlobalContrastive` whose batches meet other samples on each process."""
    world, rank = processes.world_size(), processes.rank()
    torch.manual_seed(0)
    network = torch.nn.Linear(WIDTH, WIDTH, dtype=torch.float64)
    criterion = GlobalContrastive(9, 0.2, rule=TemperatureRule(rho=0.3), modalities=1).double()
    results = {}
    for step in range(steps):
        index = (torch.arange(SAMPLES) + step) % 9
        here = slice(rank * SAMPLES // world, (rank + 1) * SAMPLES // world)
        rows = [whole(network(view[here])) for view in views]
        of_all = losses(criterion, torch.stack(rows), whole(index[here]))
        for name, loss in of_all.items():
            network.zero_grad()
            loss.backward(retain_graph=True)
            processes.average_gradients(network.parameters())
            results[name, step] = loss.item(), network.weight.grad.numpy().copy()
        views = views.roll(1, 1)
    return results, {name: value.numpy() for name, value in criterion.state_dict().items()}
