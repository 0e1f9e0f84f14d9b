"""The fitness of class texts, by hand, and a few classes at a time against all."""

import math

import pytest
import torch
from torch.nn.functional import cross_entropy, normalize

from nearfar.errors import UserError
from nearfar.prompting.prompt_fitness import FITNESS, Fitness, ShotScorer, prompt_fitness, text_redundancy


def world(n=40, classes=12, width=8, seed=0):
    draw = torch.Generator().manual_seed(seed)
    features = torch.randn(n, width, generator=draw, dtype=torch.float64)
    labels = torch.randint(classes, (n,), generator=draw)
    w = normalize(torch.randn(classes, width, generator=draw, dtype=torch.float64), dim=1)
    return features, labels, w


def slow(features, labels, w, temperature, fitness):
    """The released code's sum, image by image, in shares."""
    x = features / features.norm(dim=1, keepdim=True)
    top1 = top5 = 0.0
    for row, label in zip(x, labels.tolist(), strict=True):
        order = sorted(range(len(w)), key=lambda c: -float(row @ w[c]))
        top1 += (label == order[0]) / len(x)
        top5 += (label in order[:5]) / len(x)
    entropy = float(cross_entropy(x @ w.T / temperature, labels))
    pairs = [float(w[i] @ w[j]) ** 2 for i in range(len(w)) for j in range(i)]
    return (
        fitness.accuracy * top1
        + fitness.top5 * top5
        + fitness.redundancy * math.sqrt(sum(pairs))
        - fitness.likelihood * entropy
    )


@pytest.mark.parametrize("name", FITNESS)
def test_it_is_the_sum_that_is_stated(name):
    features, labels, w = world()
    value = prompt_fitness(features, labels, w, temperature=0.05, fitness=FITNESS[name])
    assert value == pytest.approx(slow(features, labels, w, 0.05, FITNESS[name]), abs=1e-12)


def test_one_class_a_direction():
    scorer = ShotScorer(torch.eye(5), torch.arange(5), classes=5, temperature=1.0, fitness=FITNESS["released"])
    measured = scorer.measure(torch.eye(5))
    assert (measured.top1, measured.top5, measured.redundancy) == (1.0, 1.0, 0.0)
    assert measured.cross_entropy == pytest.approx(math.log(1 + 4 / math.e), abs=1e-12)
    assert scorer.score(torch.eye(5)) == pytest.approx(10.951676, abs=1e-6)


def test_classes_of_one_text_share_the_hits():
    """All vectors the same: of balanced labels one in five is a hit, whatever the order of the classes."""
    w = torch.tensor([[1.0, 0.0]]).expand(5, 2)
    scorer = ShotScorer(
        torch.tensor([[0.3, 0.4]] * 10),
        torch.arange(5).repeat(2),
        classes=5,
        temperature=1.0,
        fitness=FITNESS["released"],
    )
    measured = scorer.measure(w)
    assert (measured.top1, measured.top5) == pytest.approx((0.2, 1.0))
    assert measured.redundancy == pytest.approx(math.sqrt(10), abs=1e-12)
    assert measured.cross_entropy == pytest.approx(math.log(5), abs=1e-12)
    assert scorer.score(w) == pytest.approx(-3.936265, abs=1e-6)
    assert text_redundancy(torch.ones(10, 1)) == pytest.approx(6.708204, abs=1e-6)


def test_a_tie_of_two_is_half_a_hit():
    scorer = ShotScorer(torch.tensor([[1.0, 0.0, 0.0]]), torch.tensor([0]), classes=6)
    w = torch.eye(3)[[0, 0, 1, 1, 2, 2]]
    assert (scorer.measure(w).top1, scorer.measure(w).top5) == (0.5, 1.0)
    late = ShotScorer(torch.tensor([[1.0, 0.0, 0.0]]), torch.tensor([4]), classes=6)
    # Two are above, and four tie for the places 3 to 6: of the first five, three are theirs.
    assert late.measure(w).top5 == 0.75


def test_accuracy_alone_and_likelihood_alone():
    features, labels, w = world()
    measured = ShotScorer(features, labels, classes=12).measure(w)
    assert prompt_fitness(features, labels, w, fitness=FITNESS["accuracy"]) == measured.top1
    alone = prompt_fitness(features, labels, w, fitness=Fitness(0.0, 1.0))
    assert alone == -measured.cross_entropy
    assert Fitness()(measured) == pytest.approx(measured.top1 - measured.cross_entropy)


@pytest.mark.parametrize("name", FITNESS)
@pytest.mark.parametrize("group", [[3], [0, 7, 11], [11, 2], list(range(12))], ids=["one", "three", "turned", "all"])
def test_a_group_is_scored_as_the_whole(name, group):
    features, labels, w = world(seed=1)
    scorer = ShotScorer(features, labels, classes=12, temperature=0.07, fitness=FITNESS[name])
    part = scorer.within(w, group)
    for seed in range(4):
        new = world(classes=len(group), seed=10 + seed)[2]
        whole = w.clone()
        whole[group] = new
        assert part.score(new) == pytest.approx(scorer.score(whole), abs=1e-12)
    # A text of a class outside, word for word: ties cross the border of the group.
    whole = w.clone()
    whole[group] = w[[(group[0] + 1) % 12] * len(group)]
    assert part.score(whole[group]) == pytest.approx(scorer.score(whole), abs=1e-12)


def test_the_cross_entropy_of_each_class():
    features, labels, w = world(n=6, classes=4, width=3)
    labels = torch.tensor([0, 0, 1, 3, 3, 3])
    scorer = ShotScorer(features, labels, classes=4, temperature=0.5)
    each = scorer.cross_entropies(w)
    x = normalize(features, dim=1)
    for c, rows in ((0, [0, 1]), (1, [2]), (3, [3, 4, 5])):
        assert float(each[c]) == pytest.approx(float(cross_entropy(x[rows] @ w.T / 0.5, labels[rows])), abs=1e-12)
    assert each[2] == -torch.inf


@pytest.mark.parametrize(
    ("features", "labels", "message"),
    [
        (torch.zeros(0, 3), torch.zeros(0, dtype=torch.long), "of one image at least"),
        (torch.ones(2, 3), torch.tensor([0]), r"features \[2, 3\] and labels \[1\]"),
        (torch.tensor([[float("nan")]]), torch.tensor([0]), "NaN"),
        (torch.ones(1, 3), torch.tensor([4]), "from 0 to 3"),
        (torch.ones(1, 3), torch.tensor([-1]), "from 0 to 3"),
    ],
    ids=["none", "shapes", "nan", "above", "below"],
)
def test_wrong_images_are_named(features, labels, message):
    with pytest.raises(UserError, match=message):
        ShotScorer(features, labels, classes=4)
    with pytest.raises(UserError, match="temperature=0"):
        ShotScorer(torch.ones(1, 3), torch.tensor([0]), classes=4, temperature=0.0)
