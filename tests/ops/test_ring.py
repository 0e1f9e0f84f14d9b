"""The ring across 2 and 4 real processes gives the losses and gradients of one process that holds all rows."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from nearfar import ops
from nearfar.errors import UserError

WORKER = Path(__file__).with_name("ring_worker.py")
spec = importlib.util.spec_from_file_location("ring_worker", WORKER)
worker = importlib.util.module_from_spec(spec)
spec.loader.exec_module(worker)


@pytest.mark.parametrize("world", [2, 4])
def test_ranks_agree_with_one_process(world, tmp_path):
    processes = [
        subprocess.Popen(
            [sys.executable, str(WORKER), str(rank), str(world), str(tmp_path)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(world)
    ]
    outputs = [process.communicate(timeout=240)[0] for process in processes]
    assert all(process.returncode == 0 for process in processes), "\n".join(outputs)
    actual = [torch.load(tmp_path / f"{rank}.pt") for rank in range(world)]
    _, q, k, ids = worker.data(world)
    for case in worker.CASES:
        expected = worker.run(case, worker.Model(), q, k, ids, "auto")
        ranks = [each[case] for each in actual]
        assert torch.allclose(torch.stack([r["loss"] for r in ranks]).mean(), expected["loss"], rtol=1e-10), case
        for name in ("tower", "scale", "bias"):  # averaged over ranks
            for r in ranks:
                assert torch.allclose(r[name], expected[name], rtol=1e-9, atol=1e-12), (case, name)
        for name in ("q", "k"):  # gradients to embeddings are those of the sum of losses
            mine = torch.cat([r[name] for r in ranks]) / world
            assert torch.allclose(mine, expected[name], rtol=1e-9, atol=1e-12), (case, name)
    for each in actual:
        assert each["refused"]
        for case, loss in each["without gradients"].items():
            assert torch.allclose(loss, each[case]["loss"])


def test_without_a_process_group_says_what_to_do():
    with pytest.raises(UserError, match="process group"):
        ops.log_partition(torch.eye(2), torch.eye(2), 1.0, backend="ring")


@pytest.mark.parametrize("world", [1, 4])
def test_a_rank_keeps_tiles_up_to_the_budget_over_all_its_steps(monkeypatch, world):
    """And not so many in each of them; the same where none is named, by the usual one."""
    from nearfar.ops.tiling import ring
    from nearfar.ops.tiling.tiles import Pairs

    kept: list[int] = []

    def forward(*args):
        out = partition_forward(*args)
        kept.append(out[3].numel() * 4)
        return out

    partition_forward = ring.partition_forward
    monkeypatch.setattr(ring, "partition_forward", forward)
    monkeypatch.setattr(ring, "BUDGET", 5 * 16 * 4)
    monkeypatch.setattr(ring, "block_sizes", lambda rows, device: [rows] * world)
    monkeypatch.setattr(ring, "next_block", lambda sizes, step, keys, groups, extra: (keys, groups, extra))
    q = torch.randn(8, 2, requires_grad=True)
    for budget, tiles in ((None, 5), (3 * 16 * 4, 3), (0, 0)):
        ring.ring_partition(Pairs(q, q, torch.ones(8), tile=(4, 4)), both=True, budget=budget)
        assert sum(kept) == min(tiles, 4 * world) * 16 * 4
        kept.clear()
    with torch.no_grad():
        ring.ring_partition(Pairs(q, q, torch.ones(8), tile=(4, 4)), both=True, budget=None)
    assert sum(kept) == 0
