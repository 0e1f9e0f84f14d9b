"""Clusters of words against categories: clear ones are found again, noise is chance, and the report draws them."""

import numpy as np
import pytest
import torch

from nearfar.data.sources.source import Records
from nearfar.errors import UserError
from nearfar.evaluation import evaluate
from nearfar.evaluation.protocols.clustering import agreement_metrics, purity
from nearfar.evaluation.words.category_figure import category_figure, ordered
from nearfar.evaluation.words.semantic_space import SemanticSpace
from nearfar.evaluation.words.word_categories import word_categories

WORDS = {f"{name} {i}": name for name in ("bird", "tool", "idea") for i in range(6)}


class Spots:
    """Words of a category lie around one of its own corners, `noise` apart; of one category around two of them."""

    def __init__(self, noise):
        self.noise = noise

    def tokenize(self, texts):
        return texts

    def encode_text(self, texts):
        corner = {"bird": 0, "tool": 1, "idea": 2}
        rows = []
        for text in texts:
            g = torch.Generator().manual_seed(list(WORDS).index(text))
            rows.append(torch.eye(4)[corner[WORDS[text]]] + self.noise * torch.randn(4, generator=g))
        return torch.stack(rows)


def source():
    classes = ["bird", "idea", "tool"]
    return Records([{"text": word, "label": classes.index(name)} for word, name in WORDS.items()], classes=classes)


def test_clear_categories_are_found_again_and_noise_is_near_chance():
    clear = evaluate(Spots(0.05), source(), ["word_categories"], progress=False)["word_categories"]
    ways = [f"{way}_{name}" for way in ("kmeans", "hierarchy") for name in ("nmi", "ari", "purity")]
    assert list(clear.metrics) == ways
    assert [clear[name] for name in ways] == [pytest.approx(1)] * 6
    assert clear.details["tables"]["kmeans"] != [[6, 6, 6]] * 3
    noise = word_categories(Spots(50.0), source())
    for name in ways:
        metric = noise.metrics[name]
        assert metric.n == 18
        assert metric.low <= metric.value <= metric.high
        assert metric.value < 0.75
        assert metric.chance > 0.05 or name.endswith("ari")


def test_a_hierarchy_joins_what_is_nearest_on_average():
    """A chain: the ends are joined last, wherever k-means would cut."""
    angle = torch.tensor([0.0, 0.1, 0.2, 1.5, 1.6, 3.0, 3.1, 4.5, 4.6, 4.7])
    space = SemanticSpace([f"w{i}" for i in range(10)], torch.stack([angle.cos(), angle.sin()], 1))
    cluster = space.clusters(4, by="hierarchy")
    assert len(set(cluster[:3])) == len(set(cluster[3:5])) == len(set(cluster[5:7])) == len(set(cluster[7:])) == 1
    assert len(set(cluster.tolist())) == 4


def test_purity_counts_the_commonest_of_each_cluster_and_grows_with_their_number():
    assert purity(np.array([[2.0, 1.0], [0.0, 3.0]])) == pytest.approx(5 / 6)
    label = np.repeat([0, 1], 10)
    alone = agreement_metrics(label, np.arange(20))["purity"]
    assert alone.value == alone.chance == 1


def test_what_is_left_out_is_counted():
    rows = [*source()]
    rows += [rows[0] | {"label": 2}, {"text": " ", "label": 1}, {"text": "new", "label": None}]
    result = word_categories(Spots(0.05), Records(rows, classes=["bird", "idea", "tool"]))
    assert result.details["left_out"] == {"a word that was there before": 1, "no word": 1, "without a category": 1}
    assert result.details["words"] == 18
    assert word_categories(Spots(0.05), source(), limit=12).details["words"] == 12


def test_what_cannot_be_clustered_is_said():
    with pytest.raises(UserError, match="3 words of 1 categories: two categories are needed"):
        word_categories(Spots(0.05), Records([*source()][:3], classes=["bird", "idea", "tool"]))
    with pytest.raises(UserError, match=r"clusters=19: .* has 18 words"):
        word_categories(Spots(0.05), source(), clusters=19)


def test_the_report_draws_which_categories_a_cluster_holds():
    blocks = category_figure({"word_categories": word_categories(Spots(0.05), source())}, None)
    assert "18 words of 3 categories, in 3 clusters" in blocks[0].text
    first, second = (str(each.svg) for each in blocks[1].figures)
    assert "Clusters of k-means: 3 of 3 categories have more than half" in first
    assert "Clusters of the hierarchy" in second
    assert ordered(np.array([[0, 4, 1], [3, 0, 1], [0, 1, 0]])) == ([0, 1, 2], [1, 2, 0])
