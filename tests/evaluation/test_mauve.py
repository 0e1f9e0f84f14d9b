import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nearfar.errors import UserError
from nearfar.evaluation.language.mauve import area, divergence_curve, last_states, mauve

# Of mauve-text 0.4.0, from these histograms (its get_divergence_curve_for_multinomials, 25 points, c = 5).
RELEASED = [
    ([0.5, 0.3, 0.2], [0.2, 0.3, 0.5], 0.8214099836116461),
    ([1.0, 0.0, 0.0], [0.0, 0.5, 0.5], 0.0040720962619612555),
    ([0.25, 0.25, 0.25, 0.25], [0.1, 0.2, 0.3, 0.4], 0.9579019525489152),
    ([0.6, 0.4, 0.0, 0.0], [0.5, 0.3, 0.1, 0.1], 0.7497487673665997),
]


@pytest.mark.parametrize(("p", "q", "expected"), RELEASED)
def test_area_of_histograms_is_the_released_one(p, q, expected):
    assert area(divergence_curve(p, q)) == pytest.approx(expected, rel=1e-9)


def test_one_point_of_the_curve_by_hand():
    p, q = [1.0, 0.0], [0.5, 0.5]
    x, y = divergence_curve(p, q, scale=1.0, points=3)[2]  # w = 1/2: r = (3/4, 1/4)
    assert x == pytest.approx(math.exp(-(0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25))))
    assert y == pytest.approx(0.75)


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)), min_size=2, max_size=8))
def test_area_is_a_share_and_the_same_from_either_side(counts):
    p, q = (np.array(side, float) for side in zip(*counts, strict=True))
    if not (p.sum() and q.sum()):
        return
    p, q = p / p.sum(), q / q.sum()
    value = area(divergence_curve(p, q))
    assert 0 < value <= 1 + 1e-9
    assert value == pytest.approx(area(divergence_curve(q, p)), rel=1e-6)


def test_sets_farther_apart_score_lower():
    draw = torch.Generator().manual_seed(0)
    human, other = torch.randn(2, 200, 8, generator=draw)
    scores = [mauve(other + shift, human) for shift in (0.0, 0.5, 1.5)]
    assert scores[0] > 0.8 > scores[1] > scores[2]
    assert mauve(human, human) == pytest.approx(1.0)
    assert scores[1] == mauve(other + 0.5, human)  # the seed decides


def test_states_are_those_of_the_last_token_whatever_the_padding():
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=50, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    lm = LlamaForCausalLM(config).eval()
    texts = [[3, 4, 5], [6], [7, 8]]
    actual = last_states(lm, texts, batch_size=3)
    for state, text in zip(actual, texts, strict=True):
        alone = lm(input_ids=torch.tensor([text]), output_hidden_states=True).hidden_states[-1][0, -1]
        torch.testing.assert_close(state, alone)


def test_bad_input():
    with pytest.raises(UserError, match="do not fill 30 buckets"):
        mauve(torch.randn(20, 4), torch.randn(40, 4), buckets=30)
    with pytest.raises(UserError, match=r"features are \[N, D\]"):
        mauve(torch.randn(20, 4), torch.randn(20, 5))
    with pytest.raises(UserError, match=r"texts \[1\] hold no token"):
        last_states(None, [[1], []])
