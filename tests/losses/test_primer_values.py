"""Values that the primer on contrastive pretraining of texts (arXiv 2102.12982) implies for ranking losses; those of
the binary loss and of margins stand in their own files."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy, softplus

from nearfar.losses import functional as F


def rows(*values):
    return torch.tensor(values, dtype=torch.float64)


def test_two_pairs_of_orthonormal_rows():
    pairs = torch.eye(2, dtype=torch.float64)
    loss = F.nt_xent(pairs, pairs, temperature=1.0)
    assert loss.item() == pytest.approx(math.log(math.e + 2) - 1, abs=1e-12) == pytest.approx(0.551445, abs=1e-6)


def test_both_directions_summed_are_twice_their_mean():
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 6, 4, generator=generator, dtype=torch.float64)
    settings = {"temperature": 0.1}
    summed, mean = (F.info_nce(a, b, directions=word, **settings) for word in ("sum", "mean"))
    assert summed.item() == pytest.approx(2 * mean.item(), rel=1e-12)


@pytest.mark.parametrize(("positive", "negative", "value"), [(1.0, 0.3, 0.403186), (0.2, 0.9, None)])
def test_one_negative_is_a_softplus_of_the_difference(positive, negative, value):
    def at(cosine):
        return [cosine, math.sqrt(1 - cosine**2)]

    query, keys = rows([1.0, 0.0], [0.0, 1.0]), rows(at(positive), at(negative))
    scores = query @ keys.T
    right = softplus(scores[0, 1] - scores[0, 0]) + softplus(scores[1, 0] - scores[1, 1])
    loss = F.info_nce(query, keys, temperature=1.0, symmetric=False)
    assert loss.item() == pytest.approx(right.item() / 2, abs=1e-12)
    if value is not None:
        assert softplus(scores[0, 1] - scores[0, 0]).item() == pytest.approx(value, abs=1e-6)


def test_all_other_labels_as_negatives_is_softmax_cross_entropy():
    """Logits (0.2, -1, 0.7) of a text to three labels of unit length, the third its own."""
    logits = rows(0.2, -1.0, 0.7)
    labels = torch.eye(3, dtype=torch.float64)
    scale = logits.norm()
    text = (logits / scale)[None].expand(3, -1)  # the same text for each label: row 2 is the one that is asked about
    pairs = F.info_nce(text, labels, temperature=1 / scale.item(), symmetric=False)
    each = [cross_entropy(logits[None], torch.tensor([target])) for target in range(3)]
    assert each[2].item() == pytest.approx(0.581777, abs=1e-6)
    assert pairs.item() == pytest.approx(sum(each).item() / 3, abs=1e-12)


@pytest.mark.parametrize("count", [2, 5, 9])
def test_equal_embeddings_of_one_class(count):
    z = torch.ones(count, 3, dtype=torch.float64)
    loss = F.supcon(z, torch.zeros(count, dtype=torch.long), temperature=0.3)
    assert loss.item() == pytest.approx(math.log(count - 1), abs=1e-12)


def test_one_positive_for_each_anchor_is_nt_xent():
    a, b = torch.randn(2, 7, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    label = torch.arange(7).repeat(2)
    supervised = F.supcon(torch.cat([a, b]), label, temperature=0.2)
    assert supervised.item() == pytest.approx(F.nt_xent(a, b, temperature=0.2).item(), rel=1e-12)


@given(seed=st.integers(0, 2**31), count=st.integers(1, 12), temperature=st.floats(0.05, 5))
def test_the_loss_is_no_less_than_nothing_and_bounds_information_by_the_candidates(seed, count, temperature):
    a, b = torch.randn(2, count, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    loss = F.info_nce(a, b, temperature=temperature, symmetric=False).item()
    assert loss >= 0, "log K - L never claims more than log K"
    least = math.log1p((count - 1) * math.exp(-2 / temperature))  # a cosine of 1 with the own key, -1 with all others
    assert loss >= least * (1 - 1e-12)
    if count == 1:
        assert loss == pytest.approx(0, abs=1e-12)
