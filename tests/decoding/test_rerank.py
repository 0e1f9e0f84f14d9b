import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nearfar.decoding import contrastive_rerank, degeneration_penalty
from nearfar.decoding.contrastive.growing import GrowingTensor


def states_with_penalties(penalties):
    """Candidates whose cosine to the one context vector is as given."""
    p = torch.tensor(penalties, dtype=torch.float64)
    return torch.stack([p, (1 - p**2).sqrt()], -1)[None], torch.tensor([[[1.0, 0.0]]], dtype=torch.float64)


@pytest.mark.parametrize(
    ("alpha", "best", "scores"),
    [(0.1, 0, [0.36, 0.25, 0.17]), (0.4, 1, [-0.06, 0.10, 0.08]), (0.6, 2, [-0.34, 0.00, 0.02])],
)
def test_ranking_by_hand(alpha, best, scores):
    probs = torch.tensor([[0.5, 0.3, 0.2]], dtype=torch.float64)
    hidden, context = states_with_penalties([0.9, 0.2, 0.1])
    ranking = contrastive_rerank(probs, hidden, context, alpha=alpha)
    assert ranking.choice.tolist() == [best]
    torch.testing.assert_close(ranking.score[0], torch.tensor(scores, dtype=torch.float64), atol=1e-12, rtol=0)
    torch.testing.assert_close(ranking.penalty[0], torch.tensor([0.9, 0.2, 0.1], dtype=torch.float64))


def test_alpha_1_takes_the_least_alike_whatever_its_probability():
    hidden, context = states_with_penalties([0.5, 0.7, 0.3, 0.9])
    for probs in ([[0.9, 0.05, 0.03, 0.02]], [[0.1, 0.2, 0.3, 0.4]]):
        ranking = contrastive_rerank(torch.tensor(probs, dtype=torch.float64), hidden, context, alpha=1.0)
        assert ranking.choice.item() == 2


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.floats(1e-3, 1e3), st.floats(0, 1))
def test_lengths_of_states_do_not_matter(seed, factor, alpha):
    generator = torch.Generator().manual_seed(seed)
    probs = torch.rand(2, 5, generator=generator, dtype=torch.float64)
    hidden = torch.randn(2, 5, 7, generator=generator, dtype=torch.float64)
    context = torch.randn(2, 9, 7, generator=generator, dtype=torch.float64)
    first = contrastive_rerank(probs, hidden, context, alpha=alpha)
    scaled = contrastive_rerank(probs, hidden * factor, context * (factor + 1), alpha=alpha)
    torch.testing.assert_close(first.score, scaled.score)


def test_padding_never_enters_the_maximum():
    context = torch.randn(1, 4, 6)
    hidden = context[:, :1]  # exactly the first context vector, which is padding
    mask = torch.tensor([[0, 1, 1, 1]])
    expected = degeneration_penalty(hidden, context[:, 1:])
    torch.testing.assert_close(degeneration_penalty(hidden, context, mask=mask), expected)
    assert degeneration_penalty(hidden, context).item() == pytest.approx(1.0)


def test_a_ruled_out_candidate_is_never_chosen():
    hidden, context = states_with_penalties([0.99, -1.0])
    probs = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    assert contrastive_rerank(probs, hidden, context, alpha=1.0).choice.item() == 0


def test_half_precision_is_compared_in_float32():
    hidden, context = torch.randn(1, 3, 64).bfloat16(), torch.randn(1, 5, 64).bfloat16()
    penalty = degeneration_penalty(hidden, context)
    assert penalty.dtype == torch.float32
    torch.testing.assert_close(penalty, degeneration_penalty(hidden.float(), context.float()))


def test_a_zero_state_is_like_nothing():
    assert degeneration_penalty(torch.zeros(1, 1, 4), torch.ones(1, 2, 4)).item() == 0


def test_growing_keeps_one_of_many():
    store, kept = GrowingTensor(dim=2), []
    for step in range(300):
        leaves = torch.randn(2, 3, 4, 5)  # [batch, heads, leaves, dim]
        choice = torch.randint(4, (2,))
        alike = step % 2 == 0  # then one number says it for both
        choice = choice[:1].expand(2) if alike else choice
        store.write(leaves)
        assert torch.equal(store.read(start=step, extra=4), leaves)
        store.keep(int(choice[0]) if alike else choice, among=4)
        kept.append(torch.stack([leaves[b, :, choice[b]] for b in range(2)]))
    assert torch.equal(store.read(), torch.stack(kept, dim=2))
