"""The score of MMVP-VLM: a pair counts where both statements pick their own picture."""

import pytest
import torch

from nearfar.errors import UserError
from nearfar.evaluation import paired_images


def pairs(n=135, d=32, *, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, n, 2, d, generator=generator)


def test_features_that_know_and_features_that_do_not():
    images, texts = pairs()
    assert paired_images(images, images)["accuracy"] == 1
    same = torch.ones(9, 2, 4)
    assert paired_images(same, texts[:9, :, :4])["accuracy"] == 0, "ties pick the second: one statement is always wrong"
    assert paired_images(same, texts[:9, :, :4])["statements"] == 0.5
    between = torch.tensor([[[1.0, 1.0], [0.0, 1.0]]])
    assert paired_images(torch.eye(2)[None], between)["statements"] == 0.5, "the first statement's tie, too"
    scores = [paired_images(*pairs(seed=seed))["accuracy"] for seed in range(8)]
    assert sum(scores) / 8 == pytest.approx(0.25, abs=3 * 0.037 / 8**0.5)


def test_swapping_pictures_and_statements_together_changes_nothing():
    images, texts = pairs()
    assert paired_images(images, texts).metrics == paired_images(images.flip(1), texts.flip(1)).metrics


def test_the_average_is_over_categories():
    images, texts = pairs(4)
    texts = images.clone()
    texts[3] = texts[3].flip(0)
    result = paired_images(images, texts, ["count", "count", "count", "colour"])
    assert result["accuracy"] == 0.5
    assert result.by["category"]["count"]["accuracy"].value == 1
    assert result["statements"] == 0.75


def test_half_precision_does_not_round_near_ties():
    """Softmax of 100 cosines in float16 takes 0.50001 for a half."""
    images = torch.tensor([[[1.0, 0.0], [1.0, 1e-4]]])
    texts = torch.tensor([[[1.0, -1e-3], [1.0, 1e-3]]])
    assert paired_images(images, texts)["accuracy"] == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": torch.ones(3, 2)}, r"both must be \[N, 2, D\]"),
        ({"images": torch.ones(0, 2, 4), "texts": torch.ones(0, 2, 4)}, r"both must be \[N, 2, D\]"),
        ({"categories": ["a"]}, "1 categories for 3 pairs"),
    ],
)
def test_what_does_not_fit(change, message):
    with pytest.raises(UserError, match=message):
        paired_images(**{"images": torch.ones(3, 2, 4), "texts": torch.ones(3, 2, 4)} | change)
