"""What the ranks do in the tests of several processes."""

from __future__ import annotations

import contextlib

import torch
from cases import CASES, N, case_batch, make
from torch import nn
from toy import Deep, Noisy, Pairs, Plain, batch, gradients

from nearfar import distributed as processes
from nearfar.data.batches.batch import rows
from nearfar.errors import UserError
from nearfar.ops.tiling import process_ranks
from nearfar.training.loop.gradients import backward


def local_part(whole: dict, total: int = N, counts: list[int] | None = None) -> dict:
    counts = counts or [total // processes.world_size()] * processes.world_size()
    start = sum(counts[: processes.rank()])
    return rows(whole, start, start + counts[processes.rank()], total)


def gradients_of_all(counts: list[int] | None = None) -> dict[str, tuple[float, dict]]:
    """The loss and gradients of one batch, shared out over the ranks, equally or by `counts`, for every case."""
    actual = {}
    for name, case in CASES.items():
        method = make(case)
        scalars = backward(method, local_part(case_batch(), counts=counts), chunk=case.chunk)
        processes.average_gradients(method.parameters())
        loss = processes.mean(scalars)["loss"].item()
        actual[name] = loss, {key: grad.numpy() for key, grad in gradients(method).items()}
    return actual


def in_a_ring(counts: list[int]) -> dict:
    """What gathers of embeddings a ring needs, how many keys of others a rank holds at once, and what is left after."""
    method = make(CASES["InfoNCE, in a ring"])
    calls, held = [], []
    gather, pass_on = processes.gather_counted, process_ranks.pass_on

    def counted(rows, axis=0):
        calls.append(tuple(rows.shape))
        return gather(rows, axis)

    def passed(block, rows):
        received = pass_on(block, rows)
        held.append(len(received[0]))
        return received

    processes.gather_counted, process_ranks.pass_on = counted, passed
    try:
        backward(method, local_part(case_batch(), counts=counts))
    finally:
        processes.gather_counted, process_ranks.pass_on = gather, pass_on
    return {"gathers": calls, "held": held, "backend": method.loss.backend}


def noisy_gradients() -> tuple[float, dict, float]:
    """The loss and gradients of a batch whose objective drops numbers, and what this process's own stream draws next.
    Every process has a stream of its own, as in training."""
    method = Noisy().double()
    torch.manual_seed(100 + processes.rank())
    scalars = backward(method, local_part(case_batch()), chunk=3, seed=5)
    after = torch.rand(1).item()
    processes.average_gradients(method.parameters())
    loss = processes.mean(scalars)["loss"].item()
    return loss, {key: grad.numpy() for key, grad in gradients(method).items()}, after


def odds_and_ends() -> dict:
    """A weight that only rank 1 uses, one that none uses; what each rank draws in a run; weighted means."""
    from nearfar import train

    method = Pairs()
    for p in method.parameters():
        p.grad = torch.full_like(p, 3.0) if processes.rank() else None
    unused = next(method.parameters())
    unused.grad = None
    processes.average_gradients(method.parameters())
    grads = {name: None if p.grad is None else float(p.grad.mean()) for name, p in method.named_parameters()}

    drawn = []

    class Draws(Pairs):
        def embed(self, data):
            drawn.append(torch.rand(1).item())
            return super().embed(data)

    train(Draws(), [local_part(batch(12), 12)], steps=2, progress=False, report=False)
    count = torch.tensor(1 + 2 * processes.rank())
    return {"grads": grads, "drawn": drawn, "weight": float(processes.mean_weight(count))}


def train_apart(out: str, options: dict) -> tuple[dict, list]:
    """Final weights and history of a run whose ranks start with different weights, on shared-out batches."""
    from nearfar import train

    method = Pairs()
    with torch.no_grad():
        for p in method.parameters():
            p += processes.rank()
    data = [local_part(batch(12, seed), 12) for seed in range(4)]
    run = train(method, data, out=out or None, progress=False, report=False, **options)
    return {name: value.numpy() for name, value in run.method.state_dict().items()}, run.history


def train_sharded(out: str, stop: int, steps: int, options: dict) -> dict:
    """As `train_apart`, with blocks to shard; stops after `stop` steps, resumes, and returns whole final weights."""
    from nearfar import train
    from nearfar.training.state import sharding

    class Stop(Exception):
        pass

    class Stopped(Deep):
        def after_step(self, step):
            super().after_step(step)
            if step == stop:
                raise Stop

    data = [local_part(batch(12, seed), 12) for seed in range(4)]
    common = {"out": out or None, "progress": False, "report": False, "steps": steps, **options}
    if stop:
        with contextlib.suppress(Stop):
            train(Stopped(), data, **common)
        common["resume"] = True
    method = train(Deep(), data, **common).method
    split = sum(processes.is_split(p) for p in method.parameters())
    return {name: value.numpy() for name, value in sharding.full_tensors(method.state_dict()).items()} | {
        "split": split
    }


def train_normed(out: str, stop: int) -> dict:
    """The buffers that 4 steps leave a method with a batch norm, which each rank has of its own samples; stopped after
    `stop` steps and resumed, if any."""
    from nearfar import train

    class Stop(Exception):
        pass

    class Normed(Plain):
        def __init__(self, stop=0):
            super().__init__()
            self.net.insert(1, nn.BatchNorm1d(8))
            self.stop = stop

        def after_step(self, step):
            super().after_step(step)
            if step == self.stop:
                raise Stop

    data = [local_part(batch(12, seed), 12) for seed in range(4)]
    common = {"out": out, "progress": False, "report": False, "steps": 4, "save_every": 1}
    if stop:
        with contextlib.suppress(Stop):
            train(Normed(stop), data, **common)
    norm = train(Normed(), data, resume=bool(stop), **common).method.net[1]
    return {name: value.numpy() for name, value in norm.named_buffers()}


def unequal_statistics():
    """Mean, population variance and unbiased variance over ranks that hold one item and three."""
    rows = torch.tensor([0.0]) if processes.rank() == 0 else torch.full((3,), 2.0)
    count = torch.tensor(len(rows))
    weight = processes.mean_weight(count)
    of_all = processes.mean({"first": weight * rows.mean(), "second": weight * rows.square().mean()})
    total = int(sum(processes.gather_objects(len(rows))))
    variance = of_all["second"] - of_all["first"].square()
    return of_all["first"].item(), variance.item(), variance.item() * total / (total - 1)


def unequal_rows() -> dict[str, object]:
    """What each rank has of tensors that differ in their number of rows, and of some that cannot be joined."""
    rank = processes.rank()
    one, other = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 4.0], [5.0, 6.0], [7.0, 8.0]])
    mine = (one, other)[rank]
    joined, counts = processes.gather_counted(mine.requires_grad_())
    refused = []
    for bad in (
        torch.zeros(2, 3 + rank),
        torch.zeros(2, dtype=(torch.float32, torch.int64)[rank]),
        [one, one[0]][rank],
    ):
        try:
            processes.gather_rows(bad)
        except UserError as error:
            refused.append(str(error))
    return {
        "rows": joined.tolist(),
        "grad": joined.requires_grad,
        "counts": counts,
        "columns": processes.gather_rows(mine.detach().T, axis=1).tolist(),
        "none here": processes.gather_rows(mine.detach()[: 3 * rank].long()).tolist(),
        "refused": refused,
    }
