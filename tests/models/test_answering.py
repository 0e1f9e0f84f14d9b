from __future__ import annotations

import pytest
import torch

from nearfar.errors import UserError
from nearfar.models import AnswerDecoder, answer_loss, rank_answers

IDS = torch.tensor([[2, 7, 3, 0], [2, 8, 9, 3], [2, 7, 9, 3], [2, 5, 3, 0], [2, 8, 3, 0]])
MASK = (IDS != 0).long()


@pytest.fixture
def decoder():
    return AnswerDecoder(12, 20, layers=2, heads=2, longest=8)


@pytest.fixture
def questions():
    return torch.randn(3, 5, 12), torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 1, 0, 0, 0]])


def log_likelihood(decoder, states, mask, answer):
    """Token by token, each from a prefix of its own, without padding."""
    decoder.eval()
    answer = answer[answer != 0]
    total = 0.0
    with torch.no_grad():
        for i in range(1, len(answer)):
            logits = decoder(states, mask, answer[None, :i])[0, -1]
            total += logits.log_softmax(-1)[answer[i]].item()
    return total


def first_token(decoder, states, mask, answer):
    decoder.eval()
    with torch.no_grad():
        return decoder(states, mask, answer[None, :1])[0, 0].log_softmax(-1)[answer[1]].item()


@pytest.mark.parametrize("exact", [False, True])
def test_ranking_of_all_is_by_the_likelihood_of_each(decoder, questions, exact):
    states, mask = questions
    index, probability = rank_answers(decoder, states, mask, IDS, MASK, k=99, exact=exact, batch_size=4)
    for q in range(3):
        one = states[q : q + 1], mask[q : q + 1]
        scores = torch.tensor([log_likelihood(decoder, *one, a) for a in IDS])
        if exact:
            scores += torch.tensor([first_token(decoder, *one, a) for a in IDS])
        expected = scores.softmax(0)
        torch.testing.assert_close(probability[q], expected[index[q]], atol=1e-5, rtol=1e-4)
        assert sorted(index[q].tolist()) == list(range(5))
        assert (probability[q].diff() <= 0).all()


def test_the_first_token_decides_who_is_kept(decoder, questions):
    states, mask = questions
    index, probability = rank_answers(decoder, states, mask, IDS, MASK, k=2)
    assert index.shape == (3, 2)
    for q in range(3):
        one = states[q : q + 1], mask[q : q + 1]
        first = torch.tensor([first_token(decoder, *one, a) for a in IDS])
        assert first[index[q]].min() >= first.sort(descending=True).values[1] - 1e-5
    torch.testing.assert_close(probability.sum(1), torch.ones(3))


def test_padding_of_the_question_changes_nothing_and_its_states_do(decoder, questions):
    decoder.eval()
    states, mask = questions
    other = torch.where(mask.bool()[..., None], states, torch.randn_like(states))
    with torch.no_grad():
        a, b = decoder(states, mask, IDS[:3], MASK[:3]), decoder(other, mask, IDS[:3], MASK[:3])
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)
        assert not torch.allclose(a, decoder(states + 1, mask, IDS[:3], MASK[:3]), atol=1e-4)


def test_loss_weighs_answers_and_sums_their_tokens(decoder, questions):
    decoder.eval()
    states, mask = questions
    of = torch.tensor([0, 0, 1])
    weights = torch.tensor([0.75, 0.25, 0.5])
    logits = decoder(states[of], mask[of], IDS[:3], MASK[:3])
    loss = answer_loss(logits, IDS[:3], MASK[:3], weights=weights, questions=2)
    likely = [log_likelihood(decoder, states[q : q + 1], mask[q : q + 1], a) for q, a in zip(of, IDS[:3], strict=True)]
    expected = -sum(w * value for w, value in zip(weights.tolist(), likely, strict=True)) / 2
    assert loss.item() == pytest.approx(expected, rel=1e-4)
    loss.backward()
    assert all(p.grad is not None for p in decoder.parameters())


def test_distillation_mixes_in_the_teachers_words(decoder, questions):
    decoder.eval()
    states, mask = questions
    with torch.no_grad():
        logits = decoder(states, mask, IDS[:3], MASK[:3])
    common = {"weights": torch.ones(3), "questions": 3}
    sure = 50.0 * torch.nn.functional.one_hot(IDS[:3].roll(-1, 1), 20).float()
    hard = answer_loss(logits, IDS[:3], MASK[:3], **common)
    same = answer_loss(logits, IDS[:3], MASK[:3], teacher_logits=sure, alpha=0.7, **common)
    torch.testing.assert_close(same, hard, msg="a teacher that is sure of the answer changes nothing")
    own = [answer_loss(logits, IDS[:3], MASK[:3], teacher_logits=logits, alpha=a, **common) for a in (0.0, 0.5, 1.0)]
    torch.testing.assert_close(own[1], (own[0] + own[2]) / 2)
    entropy = -(logits.softmax(-1) * logits.log_softmax(-1)).sum(-1)[:, :-1]
    torch.testing.assert_close(own[2], (entropy * MASK[:3, 1:]).sum() / 3)
    with pytest.raises(ValueError, match="teacher_logits"):
        answer_loss(logits, IDS[:3], MASK[:3], alpha=0.5, **common)


def test_candidates_that_cannot_be_ranked(decoder, questions):
    states, mask = questions
    with pytest.raises(UserError, match="begin with the same token"):
        rank_answers(decoder, states, mask, IDS.clone().fill_diagonal_(4), MASK)
    with pytest.raises(UserError, match="at least one after it"):
        rank_answers(decoder, states, mask, IDS[:, :1], MASK[:, :1])
