"""SimCLR, MoCo and BYOL beside lightly's: the same losses and gradients on the same vectors, the same steps on the same
views where the methods agree, and the script that measures both."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import pytest
import torch
from torch.nn.functional import normalize

from nearfar.losses.functional import nt_xent
from nearfar.methods.parts.feature_queue import queue_info_nce
from nearfar.methods.parts.view_projections import cosine_distance

pytest.importorskip("lightly")
from lightly.loss import NegativeCosineSimilarity, NTXentLoss

TAU = 0.2


def vectors(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).requires_grad_()


def same(ours, theirs, *inputs):
    torch.testing.assert_close(ours, theirs)
    for one, other in zip(torch.autograd.grad(ours, inputs), torch.autograd.grad(theirs, inputs), strict=True):
        torch.testing.assert_close(one, other)


def test_two_views():
    a, b = vectors(9, 6), vectors(9, 6, seed=1)
    tau = torch.tensor(TAU, dtype=torch.float64)
    same(nt_xent(a, b, temperature=tau), NTXentLoss(temperature=TAU)(a, b), a, b)


def test_keys_of_a_queue():
    q, k = vectors(9, 6), vectors(9, 6, seed=1).detach()
    theirs = NTXentLoss(temperature=TAU, memory_bank_size=(32, 6)).double()
    queue = theirs.memory_bank.bank.clone()
    same(queue_info_nce(normalize(q, dim=1), normalize(k, dim=1), queue, TAU), theirs(q, k), q)
    assert torch.equal(theirs.memory_bank.bank[:9], normalize(k, dim=1)), "the keys come after the loss, as ours do"


def test_cosines():
    p, z = vectors(9, 6), vectors(9, 6, seed=1).detach()
    same(cosine_distance(p, z), 1 + NegativeCosineSimilarity()(p, z), p)


@pytest.fixture(scope="module")
def script():
    sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
    return importlib.import_module("beside_lightly")


def test_byol_takes_the_same_steps(script):
    """Ours counts twice the sum of both cosine distances, theirs minus the mean of both cosines. The first step alone:
    from the second on lightly's slow copy is one update behind."""
    batch = script.views("byol", 1, 8, seed=0)[0]
    ours, plain, theirs = (script.learner(who, "byol", 0, 10)[1](batch).item() for who in script.LEARNERS)
    assert ours == plain == pytest.approx(4 * (1 + theirs), rel=1e-4)


def test_simclr_takes_the_same_steps_where_batch_norm_sees_each_view_by_itself(script):
    """Our default, and the released code's, sends both views through together: `normalise="apart"` is lightly's way."""
    batches = script.views("simclr", 3, 8, seed=0)
    steps = [script.learner(who, "simclr", 0, 10)[1] for who in script.LEARNERS]
    ours, plain, theirs = ([step(batch).item() for batch in batches] for step in steps)
    assert ours == pytest.approx(plain, rel=1e-3)
    assert plain == pytest.approx(theirs, rel=1e-3)


def test_a_figure_counts_each_seed_once(script):
    """Of medians 1, 2 and 6: mean 3, standard deviation sqrt(7), and t of two degrees of freedom is 4.3027."""
    figure = script.figure([[1.0, 1.0, 9.0], [2.0], [6.0, 6.0, 6.0, 0.0]])
    width = 4.302653 * 7**0.5 / 3**0.5
    assert [figure[key] for key in ("low", "mean", "high")] == pytest.approx([3 - width, 3, 3 + width])
    assert script.figure([[0.9, 1.1]])["low"] == script.figure([[0.9, 1.1]])["high"] == 1.0


@pytest.mark.timeout(300)
def test_beside_lightly(script, tmp_path, monkeypatch, capsys):
    out = tmp_path / "made" / "beside.json"
    flags = ["beside_lightly.py", "--methods", "moco", "--blocks", "2", "--batch", "8", "--seeds", "0"]
    flags += ["--output", str(out)]
    monkeypatch.setattr(sys, "argv", flags)
    script.main()
    rows = json.loads(out.read_text())["rows"]
    assert [row["method"] for row in rows] == ["moco"]
    assert all(row["images_per_cpu_s"][who] > 0 for row in rows for who in script.LEARNERS)
    for clocks in (clocks for row in rows for clocks in row["to_lightly"].values()):
        assert all(len(blocks) == 2 for clock in script.CLOCKS for blocks in clocks[clock]["blocks"])
    assert out.with_suffix(".md").read_text() in capsys.readouterr().out
