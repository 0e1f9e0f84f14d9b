"""A space of words: what does not depend on its sign or rotation, what is told of words that were not fitted on, and
what is said where nothing can be."""

import numpy as np
import pytest
import torch

from nearfar.data import train_tokenizer
from nearfar.errors import UserError
from nearfar.evaluation.words.semantic_space import SemanticSpace, pearson
from nearfar.models import create, grounded_encoder


@pytest.fixture(scope="module")
def made():
    """120 words; a rating along a direction of large variance, another along one of small variance; four groups."""
    generator = torch.Generator().manual_seed(0)
    words = [f"word{i}" for i in range(120)]
    vectors = torch.randn(120, 12, generator=generator, dtype=torch.float64)
    vectors[:, 0] *= 6
    vectors[:, 5] *= 0.3
    group = torch.arange(120) % 4
    vectors[:, 1:5] += 4 * torch.nn.functional.one_hot(group, 4)
    ratings = {
        "main": dict(zip(words, (vectors[:, 0] + torch.randn(120, generator=generator)).tolist(), strict=True)),
        "hidden": dict(zip(words, vectors[:, 5].tolist(), strict=True)),
        "noise": dict(zip(words, torch.randn(120, generator=generator).tolist(), strict=True)),
    }
    return SemanticSpace(words, vectors), ratings, dict(zip(words, group.tolist(), strict=True))


def test_the_axis_is_the_same_whatever_its_sign_and_however_the_space_is_turned(made):
    space, ratings, _ = made
    turn, _ = torch.linalg.qr(torch.randn(12, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(1)))
    figures = space.axis_correlation(ratings["main"])
    assert 0.9 < figures.first < 1
    for vectors in (-space.vectors, torch.from_numpy(space.vectors) @ turn, 3 * space.vectors + 7):
        other = SemanticSpace(space.words, torch.as_tensor(vectors))
        again = other.axis_correlation(ratings["main"])
        assert (again.first, again.best) == pytest.approx((figures.first, figures.best))
    # The sign of an axis is arbitrary: the figure has none.
    assert space.axis_correlation({word: -value for word, value in ratings["main"].items()}).first == pytest.approx(
        figures.first
    )


def test_the_first_axis_is_that_of_numpy(made):
    space, ratings, _ = made
    values = np.array([ratings["main"][word] for word in space.words])
    _, basis = np.linalg.eigh(np.cov(space.vectors.T))
    expected = abs(np.corrcoef(space.vectors @ basis[:, -1], values)[0, 1])
    assert space.axis_correlation(ratings["main"]).first == pytest.approx(expected)


def test_what_lies_in_no_first_axis_is_found_by_the_others(made):
    space, ratings, _ = made
    figures = space.axis_correlation(ratings["hidden"])
    assert figures.first < 0.3
    assert figures.best > 0.8
    assert figures.component == 12
    assert figures.probe > 0.99


def test_of_noise_nothing_is_told_of_other_words(made):
    """Chosen and measured on the same words, the best axis would look good."""
    space, ratings, _ = made
    figures = space.axis_correlation(ratings["noise"])
    assert figures.best < 0.3
    assert abs(figures.probe) < 0.3
    generator = torch.Generator().manual_seed(5)
    drawn = [dict(zip(space.words, torch.randn(120, generator=generator).tolist(), strict=True)) for _ in range(20)]
    assert np.mean([space.axis_correlation(each).best for each in drawn]) < 0.18
    predicted = space.predict_norms(ratings)
    assert predicted["main"] > 0.9 > 0.3 > abs(predicted["noise"])


def test_categories(made):
    space, _, group = made
    figures = space.category_separation(group)
    assert figures.neighbours > 0.5 > 0.3 > figures.by_chance == pytest.approx(29 / 119)
    shuffled = dict(zip(group, np.random.default_rng(0).permutation(list(group.values())), strict=True))
    others = space.category_separation(shuffled)
    assert others.neighbours == pytest.approx(figures.by_chance, abs=0.08)
    assert others.silhouette < figures.silhouette
    assert others.clusters < figures.clusters
    alone = space.category_separation(group | {"word0": "alone"})
    assert alone.words == 119


def test_groups_that_are_points_are_wholly_apart():
    words, corner = [f"w{i}" for i in range(9)], torch.eye(3).repeat_interleave(3, 0)
    figures = SemanticSpace(words, corner).category_separation({w: i // 3 for i, w in enumerate(words)})
    assert figures == pytest.approx((1.0, 1.0, 0.25, 1.0, 9))


def test_similarities_by_rank(made):
    space, *_ = made
    unit = space.vectors / np.linalg.norm(space.vectors, axis=1, keepdims=True)
    pairs = [(f"word{i}", f"word{i + 1}", float(unit[i] @ unit[i + 1]) ** 3) for i in range(40)]
    correlation, count = space.similarity_correlation([*pairs, ("word0", "nowhere", 1.0)])
    assert (correlation, count) == (pytest.approx(1.0), 40)
    assert space.similarity_correlation([(a, b, -s) for a, b, s in pairs])[0] == pytest.approx(-1.0)


def test_words_of_a_model_are_those_of_its_language():
    torch.manual_seed(0)
    words = ["fox", "ship", "dogs", "fox"]
    model = grounded_encoder("tiny", tokenizer=train_tokenizer(words, 300)).eval()
    space = SemanticSpace.of(model, words)
    assert space.words == ["fox", "ship", "dogs"]
    alone = model.text_summary(model.tokenize(["ship"]))[0].detach().double().numpy()
    assert np.allclose(space.vectors[1], alone, atol=1e-5)
    shared = SemanticSpace.of(model, words, space="shared")
    assert shared.vectors.shape == (3, model.embed_dim)
    assert np.allclose(np.linalg.norm(shared.vectors, axis=1), 1)
    assert SemanticSpace.of(create("tiny", tokenizer=train_tokenizer(words, 300)), words).vectors.shape[0] == 3
    with pytest.raises(UserError, match="language or shared"):
        SemanticSpace.of(model, words, space="other")


def test_what_cannot_be_said(made):
    space, *_ = made
    for bad, message in (
        (lambda: SemanticSpace(["a", "a"], torch.eye(2)), "there twice"),
        (lambda: SemanticSpace(["a"], torch.eye(1)), "two words"),
        (lambda: SemanticSpace(["a", "b"], torch.tensor([[1.0], [torch.nan]])), "finite"),
        (lambda: space.axis_correlation({"word1": 1.0}), "1 of these words"),
        (lambda: space.predict_norms({"taste": dict.fromkeys(space.words, 2.0)}), "taste: 120"),
        (lambda: space.category_separation({"word1": "a", "word2": "b"}), "two of them"),
        (lambda: space.similarity_correlation([("word1", "word2", 1.0)]), "1 pairs"),
    ):
        with pytest.raises(UserError, match=message):
            bad()


def test_a_row_that_does_not_vary_goes_with_nothing():
    assert pearson([1, 1, 1], [1, 2, 3]) == 0
