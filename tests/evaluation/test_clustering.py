"""Clustering: its figures against scikit-learn's, its chance, its interval, and what it cannot do."""

import numpy as np
import pytest
import torch
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

from nearfar.embedding.embeddings import Embeddings
from nearfar.errors import UserError
from nearfar.evaluation import PROTOCOLS
from nearfar.evaluation.protocols.clustering import ari, clustering, nmi


def made(noise, classes=4, each=25, seed=0, **columns):
    g = torch.Generator().manual_seed(seed)
    label = torch.arange(classes).repeat_interleave(each)
    image = torch.eye(8)[label] + noise * torch.randn(len(label), 8, generator=g)
    return Embeddings(image, image[:0], torch.arange(0), label=label, **columns)


@pytest.mark.parametrize("seed", range(4))
def test_figures_are_scikit_learn_s(seed):
    rng = np.random.default_rng(seed)
    label = rng.integers(3, size=60)
    cluster = np.where(rng.random(60) < 0.6, label, rng.integers(5, size=60))
    table = np.bincount(label * 5 + cluster, minlength=15).reshape(3, 5).astype(float)
    assert nmi(table) == pytest.approx(normalized_mutual_info_score(label, cluster))
    assert ari(table) == pytest.approx(adjusted_rand_score(label, cluster))


def test_one_part_agrees_with_itself():
    assert nmi(np.array([[5.0]])) == ari(np.array([[5.0]])) == 1


def test_clear_classes_are_found_again_and_noise_is_chance():
    clear, noise = clustering(made(0.02)), clustering(made(50.0))
    assert (clear["nmi"], clear["ari"]) == (1, 1)
    assert clear.details == {"clusters": 4, "classes": 4, "restarts": 10, "inertia": clear.details["inertia"]}
    for name in ("nmi", "ari"):
        metric = noise.metrics[name]
        assert metric.low <= metric.value <= metric.high
        assert metric.low - 0.02 <= metric.chance <= metric.high + 0.02
        assert metric.n == 100
    assert noise.metrics["ari"].chance == 0


def test_chance_of_many_small_classes_is_far_above_0():
    """Fifty classes of two: any clusters share information with them, and chance says how much."""
    label = torch.arange(50).repeat_interleave(2)
    image = torch.randn(100, 8, generator=torch.Generator().manual_seed(0))
    metric = clustering(Embeddings(image, image[:0], torch.arange(0), label=label)).metrics["nmi"]
    assert metric.chance > 0.8
    assert abs(metric.value - metric.chance) < 0.03


def test_images_of_one_group_are_drawn_together():
    """Ten groups of ten nearly equal pictures: as ten things they say less than as a hundred."""
    label, group = torch.arange(4).repeat_interleave(25)[torch.arange(100) // 10 * 10], torch.arange(100) // 10
    image = torch.randn(10, 8, generator=torch.Generator().manual_seed(0))[group]
    widths = []
    for each in (group, torch.arange(100)):
        metric = clustering(Embeddings(image, image[:0], torch.arange(0), label=label, group=each)).metrics["ari"]
        widths.append(metric.high - metric.low)
    assert widths[0] > 1.5 * widths[1]


def test_settings_and_unlabelled_images():
    data = made(0.02)
    data.label[::25] = -1
    result = clustering(data, clusters=2, restarts=1)
    assert result.details["clusters"] == 2
    assert result.metrics["nmi"].n == 96
    assert 0.4 < result["nmi"] < 1
    assert clustering(made(0.3), limit=40).metrics["ari"].n == 40
    assert clustering(made(0.3), seed=1).to_dict() == clustering(made(0.3), seed=1).to_dict()


@pytest.mark.parametrize(
    ("data", "settings", "message"),
    [
        (made(0.1, classes=1), {}, "needs images of two classes at least"),
        (made(0.1), {"clusters": 101}, "has 100 labelled images, so name 2 to as many"),
        (made(0.1), {"clusters": 1}, "clusters=1"),
    ],
)
def test_what_cannot_be_measured_is_a_sentence(data, settings, message):
    with pytest.raises(UserError, match=message):
        clustering(data, **settings)


def test_it_is_a_protocol():
    row = PROTOCOLS["clustering"]
    assert row.needed_columns == ("image", "label")
    assert [option.name for option in row.options] == ["clusters", "restarts", "limit"]
