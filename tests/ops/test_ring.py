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


@pytest.mark.parametrize("world", [1, 4, 16])
def test_a_rank_keeps_what_one_process_would(monkeypatch, world):
    """An eighth of the whole batch's tiles, however many ranks share it; of its own that is all, where eight do."""
    from nearfar.ops.tiling import ring
    from nearfar.ops.tiling.tiles import Pairs

    budgets: list[int] = []
    monkeypatch.setattr("nearfar.ops.tiling.tiles.KEEP_ALL_BELOW", 0)
    monkeypatch.setattr(ring, "block_sizes", lambda rows, device: [rows] * world)
    monkeypatch.setattr(ring._RingPartition, "apply", lambda *args: budgets.append(args[-2]))
    q = torch.zeros(1600 // world, 2, requires_grad=True)
    ring.ring_partition(Pairs(q, q, torch.ones(len(q))), both=True, budget=None)
    assert budgets == [1600**2 * 4 // 8]
