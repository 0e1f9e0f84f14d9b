"""One rank of the ring test: `python ring_worker.py RANK WORLD FOLDER`. Writes what it found to FOLDER/RANK.pt."""

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.functional import normalize

from nearfar import ops
from nearfar.losses import functional as F

DIM = 6


class Model(nn.Module):
    """A linear tower, a scale and a bias: enough to see a gradient that depends on the number of processes."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.tower = nn.Parameter(torch.randn(DIM, DIM, generator=generator, dtype=torch.float64))
        self.scale = nn.Parameter(torch.tensor(9.0, dtype=torch.float64))
        self.bias = nn.Parameter(torch.tensor(-4.0, dtype=torch.float64))

    def forward(self, case, q, k, ids, backend):
        q, k = normalize(q @ self.tower, dim=1), normalize(k, dim=1)
        return CASES[case](q, k, ids, self.scale, self.bias, backend) + 0.0 * (self.scale + self.bias)


def spread(rows, cols, backend):
    # Per-row values on an uneven weighting, so that a column's weight must travel with its keys.
    loss = rows.square().sum() + cols.sin().sum()
    return loss * (dist.get_world_size() if backend == "ring" else 1)


CASES = {
    "log_partition": lambda q, k, ids, s, b, backend: spread(
        *ops.log_partition(
            q, k, s, q_group=ids, k_group=ids, admit="different", both=True, backend=backend, tile=3, budget=300
        ),
        backend,
    ),
    "info_nce": lambda q, k, ids, s, b, backend: ops.info_nce(q, k, s, backend=backend),
    "info_nce with groups": lambda q, k, ids, s, b, backend: ops.info_nce(q, k, s, group=ids, backend=backend, tile=4),
    "one direction": lambda q, k, ids, s, b, backend: ops.info_nce(q, k, s, symmetric=False, backend=backend),
    "extra negatives": lambda q, k, ids, s, b, backend: F.info_nce(
        q, k, temperature=1 / s, group=ids, negatives_a=k.flip(1), negatives_b=q.flip(1), backend=backend
    ),
    "nt_xent": lambda q, k, ids, s, b, backend: ops.nt_xent(torch.cat([q, k]), s, backend=backend),
    "sigmoid": lambda q, k, ids, s, b, backend: ops.sigmoid(q, k, s, b, backend=backend),
    "sigmoid with groups": lambda q, k, ids, s, b, backend: ops.sigmoid(
        q, k, s, b, q_group=ids, k_group=ids, backend=backend
    ),
}


def data(world):
    """Rank r holds 4 + r rows: the blocks differ in length. Of four ranks the third has none."""
    sizes = [0 if rank == 2 else 4 + rank for rank in range(world)]
    generator = torch.Generator().manual_seed(1)
    q, k = (torch.randn(sum(sizes), DIM, generator=generator, dtype=torch.float64) for _ in range(2))
    return sizes, q, k, torch.randint(5, (sum(sizes),), generator=generator)


def run(case, model, q, k, ids, backend):
    """The loss and the gradients to parameters and embeddings."""
    q, k = q.clone().requires_grad_(), k.clone().requires_grad_()
    model.zero_grad()
    loss = model(case, q, k, ids, backend)
    loss.backward()
    if backend == "ring":  # what DistributedDataParallel does, without the seconds that importing it takes
        for parameter in model.parameters():
            dist.all_reduce(parameter.grad)
            parameter.grad /= dist.get_world_size()
    gradients = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    return {"loss": loss.detach(), "q": q.grad, "k": k.grad} | gradients


def second_derivatives_are_refused(q, k):
    q = q.clone().requires_grad_()
    out = ops.log_partition(q, k, 2.0, backend="ring").sum()
    try:
        torch.autograd.grad(out, q, create_graph=True)
    except Exception as error:
        return "second derivatives" in str(error)
    return False


def main(rank, world, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world)
    sizes, q, k, ids = data(world)
    mine = slice(sum(sizes[:rank]), sum(sizes[: rank + 1]))
    model = Model()
    actual = {case: run(case, model, q[mine], k[mine], ids[mine], "ring") for case in CASES}
    with torch.no_grad():
        actual["without gradients"] = {
            case: model(case, q[mine], k[mine], ids[mine], "ring") for case in ("info_nce", "sigmoid")
        }
    actual["refused"] = second_derivatives_are_refused(q[mine], k[mine])
    torch.save(actual, Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
