import math

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from nearfar.evaluation import Embeddings, geometry
from nearfar.evaluation.protocols.geometry import (
    effective_rank,
    hubness,
    mean_cosine,
    spread,
    uniformity,
    uniformity_of_sphere,
)


def unit(n, dim, seed=0):
    return normalize(torch.randn(n, dim, generator=torch.Generator().manual_seed(seed)), dim=1)


@pytest.mark.parametrize("t", [0.5, 2.0, 5.0])
def test_uniformity_is_that_of_pdist(t):
    x = unit(70, 9).double()
    expected = torch.pdist(x).square().mul(-t).exp().mean().log()
    assert uniformity(x.float(), t=t) == pytest.approx(float(expected), rel=1e-5)


def test_uniformity_of_a_point_and_of_the_sphere():
    assert uniformity(torch.ones(9, 4)) == pytest.approx(0, abs=1e-5)
    assert math.isnan(uniformity(torch.ones(1, 4)))
    assert uniformity(unit(3000, 16)) == pytest.approx(uniformity_of_sphere(16), abs=0.01)
    # On the circle the mean of exp(2t cos) is the Bessel function I0(2t).
    assert uniformity_of_sphere(2, t=1.5) == pytest.approx(math.log(np.i0(3.0)) - 3.0, rel=1e-9)


def test_alignment_is_the_mean_squared_distance_of_pairs():
    image, text, owner = unit(20, 6), unit(60, 6, 1), torch.arange(20).repeat(3)
    for alpha in (1.0, 2.0):
        metric = geometry(Embeddings(image, text, owner), alpha=alpha).metrics["alignment"]
        distance = (image.double()[owner] - text.double()).norm(dim=1) ** alpha
        assert metric.value == pytest.approx(float(distance.mean()), rel=1e-6)
        assert metric.low < metric.value < metric.high
        assert metric.chance == pytest.approx(float((torch.cdist(image, text) ** alpha).mean()), rel=1e-4)


def test_effective_rank():
    x = torch.randn(50, 6, generator=torch.Generator().manual_seed(2)).double()
    share = torch.linalg.svdvals(x)
    share = share / share.sum()
    assert effective_rank(x) == pytest.approx(float((-(share * share.log()).sum()).exp()), rel=1e-9)
    assert effective_rank(torch.ones(50, 6)) == pytest.approx(1)
    assert effective_rank(torch.eye(6).repeat(3, 1)) == pytest.approx(6)
    line = torch.randn(50, 1) @ torch.randn(1, 600)
    assert effective_rank(line) == pytest.approx(1, abs=1e-3)


def test_signs_of_collapse():
    x = unit(40, 5)
    gram = (x.double() @ x.double().T).numpy()
    assert mean_cosine(x) == pytest.approx(gram[~np.eye(40, dtype=bool)].mean(), rel=1e-6)
    point = normalize(torch.ones(40, 5), dim=1)
    assert mean_cosine(point) == pytest.approx(1, rel=1e-6)
    assert spread(point) == pytest.approx(0, abs=1e-6)
    assert spread(unit(4000, 16)) == pytest.approx(1, abs=0.02)


def test_hubness_is_the_skewness_of_counts():
    query, candidate = unit(80, 5), unit(30, 5, 1)
    order = (query @ candidate.T).argsort(dim=1, descending=True)[:, :4].flatten()
    count = np.bincount(order.numpy(), minlength=30).astype(float)
    centred = count - count.mean()
    assert hubness(query, candidate, 4) == pytest.approx((centred**3).mean() / (centred**2).mean() ** 1.5)


def test_modality_gap_and_its_interval():
    image = unit(200, 6)
    text = normalize(image + torch.tensor([2.0, 0, 0, 0, 0, 0]), dim=1)
    metric = geometry(Embeddings(image, text, torch.arange(200))).metrics["modality_gap"]
    assert metric.value == pytest.approx(float((image.mean(0) - text.mean(0)).norm()), rel=1e-5)
    assert metric.low < metric.value < metric.high
    # Many dimensions and a small gap: the noise of a resample is larger than the gap itself.
    noise = Embeddings(unit(100, 256), normalize(unit(100, 256, 1) + 0.02, dim=1), torch.arange(100))
    metric = geometry(noise).metrics["modality_gap"]
    assert metric.low < metric.value < metric.high


def test_interval_of_uniformity_covers_the_sphere():
    covered = 0
    for seed in range(40):
        metric = geometry(Embeddings(unit(150, 4, seed), torch.zeros(0, 4), torch.zeros(0, dtype=torch.long))).metrics
        covered += metric["image_uniformity"].low <= uniformity_of_sphere(4) <= metric["image_uniformity"].high
    assert covered >= 34


def test_images_alone_and_a_sample_of_many():
    alone = geometry(Embeddings(unit(30, 4), torch.zeros(0, 4), torch.zeros(0, dtype=torch.long)), limit=20)
    assert "alignment" not in alone.metrics
    assert alone.metrics["image_spread"].n == 20


def test_from_encoder_and_source(encoder, colours):
    result = geometry(encoder, colours)
    assert result["alignment"] < result.metrics["alignment"].chance
