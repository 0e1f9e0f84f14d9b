"""Retrieval among texts: both ways, with texts that stand in several pairs."""

import pytest
import torch

from nearfar.data import Records
from nearfar.errors import UserError
from nearfar.evaluation import evaluate
from nearfar.evaluation.language.pair_retrieval import pair_retrieval


class Angles:
    def tokenize(self, texts):
        return torch.tensor([float(text) for text in texts])

    def encode_text(self, tokens):
        return torch.stack([tokens.deg2rad().cos(), tokens.deg2rad().sin()], 1)


def pairs(*of):
    return Records([{"text": a, "text2": b} for a, b in of], name="pairs")


def test_both_ways():
    """0 finds 10; 90 is nearest to 60, which is 40's; 40 is nearest to 60. Back, 10 finds 0, 150 finds 90, 60 40."""
    result = pair_retrieval(Angles(), pairs(("0", "10"), ("90", "150"), ("40", "60")))
    assert result["first_to_second_R@1"] == pytest.approx(2 / 3)
    assert result["second_to_first_R@1"] == pytest.approx(1)
    assert result["first_to_second_MRR"] == pytest.approx((1 + 0.5 + 1) / 3)
    assert result.metrics["first_to_second_R@1"].chance == pytest.approx(1 / 3)


def test_a_text_that_stands_in_several_pairs_fits_all_of_them():
    result = pair_retrieval(Angles(), pairs(("0", "10"), ("0", "150"), ("90", "80")))
    assert result["first_to_second_R@1"] == pytest.approx(1)
    assert result.details["texts"] == 2
    several = Records([{"text": "0", "text2": ["10", "150"]}, {"text": "90", "text2": "80"}])
    assert pair_retrieval(Angles(), several)["first_to_second_R@1"] == pytest.approx(1)


def test_a_collapsed_model_is_at_chance():
    class Same(Angles):
        def encode_text(self, tokens):
            return torch.ones(len(tokens), 2)

    result = pair_retrieval(Same(), pairs(*((str(i), str(i + 100)) for i in range(20))))
    assert result["first_to_second_R@1"] == pytest.approx(0.05)


def test_without_pairs_it_is_a_sentence():
    with pytest.raises(UserError, match="holds no pairs"):
        pair_retrieval(Angles(), Records([{"text": "0"}], name="lines"))
    words = evaluate(Angles(), pairs(("0", "10"), ("90", "80")), ["pair_retrieval"])
    assert words["pair_retrieval"]["second_to_first_R@1"] == 1.0
