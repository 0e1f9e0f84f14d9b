import pytest
import torch

from nearfar.errors import UserError
from nearfar.ops.transport import sinkhorn

SCORES = torch.tensor([[0.9, 0.1], [0.8, 0.1], [0.7, 0.1], [0.1, 0.9]])


def test_shares_worked_out_by_hand():
    """BECLR's settings on four samples: not converged after ten iterations, so the loads are uneven."""
    actual = sinkhorn(SCORES, epsilon=0.05, iterations=10)
    torch.testing.assert_close(actual[:, 0], torch.tensor([0.9977, 0.9832, 0.8879, 0.0]), atol=1e-4, rtol=0)
    torch.testing.assert_close(actual.sum(0), torch.tensor([2.869, 1.131]), atol=1e-3, rtol=0)
    torch.testing.assert_close(actual.sum(1), torch.ones(4))


def test_the_same_as_other_packages_give():
    """Swapped scores as costs: 0.401092 on the diagonal of a plan whose rows and columns hold one half each."""
    plan = sinkhorn(torch.tensor([[0.9, 0.1], [0.2, 0.8]]), epsilon=0.5, iterations=100) / 2
    torch.testing.assert_close(plan, torch.tensor([[0.401092, 0.098908], [0.098908, 0.401092]]), atol=1e-6, rtol=0)


def test_loads_are_even_at_the_end():
    torch.testing.assert_close(sinkhorn(SCORES, epsilon=0.3, iterations=2000).sum(0), torch.tensor([2.0, 2.0]))


@pytest.mark.parametrize(("scale", "epsilon"), [(1e4, 0.05), (1.0, 1e-5), (-1e4, 1e-5)])
def test_nothing_overflows(scale, epsilon):
    actual = sinkhorn(SCORES * scale, epsilon=epsilon)
    assert actual.isfinite().all()
    torch.testing.assert_close(actual.sum(1), torch.ones(4))


def test_mistakes_are_sentences():
    with pytest.raises(UserError, match=r"floating-point scores \[B, P\]; these are \[4, 2\] of torch.int64"):
        sinkhorn(SCORES.long())
    with pytest.raises(UserError, match=r"scores \[B, P\]; these are \[4\]"):
        sinkhorn(SCORES[:, 0])
    with pytest.raises(UserError, match="epsilon=0 must be above 0"):
        sinkhorn(SCORES, epsilon=0)
