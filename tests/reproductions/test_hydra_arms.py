"""Hydra's reproduction at a tiny size: its arms, its pictures, and what is measured."""

import math

import pytest
import torch

from nearfar.reproductions.image import hydra_reproduction as hydra
from nearfar.reproductions.setups import attribute_sprites as setup


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setitem(hydra.CONFIG["training"], "steps", 2)
    monkeypatch.setitem(setup.DATA, "samples", {"train": 8, "test": 8})


def test_a_seed_measures_what_the_claims_compare(small):
    arms = hydra.run(0, {arm: {"lr": 1e-3} for arm in hydra.ARMS})
    for claim in hydra.reproduction.claims:
        for arm in (claim.method, claim.baseline):
            assert math.isfinite(float(arms[arm][claim.metric])), (claim.text, arm)
    assert arms["undecided"]["gate entropy"] == pytest.approx(0.693, abs=1e-3)
    assert "gate entropy" not in arms["arbitrary pairs, no gate"]
    assert arms["arbitrary pairs, fixed gates"]["gate entropy"] < 0.4
    assert 0 <= hydra.validated("SupCon", {"lr": 1e-3}, 1000) <= 1
    assert list(hydra.reproduction.grid.arms) == list(hydra.ARMS)


def test_arms_differ_in_pairs_and_gates_alone(small):
    methods = {arm: hydra.trained(arm, 0, lr=1e-3) for arm in hydra.ARMS}
    assert methods["arbitrary pairs, no gate"].gate.kind == "open"
    fixed = methods["arbitrary pairs, fixed gates"].gate
    assert list(fixed.parameters()) == []
    pair = torch.tensor([3]), torch.tensor([5])
    assert torch.equal(fixed(*pair), fixed(*pair[::-1]))
    assert (methods["Hydra"].form, methods["Hydra, dot"].form) == ("subspace", "dot")
    assert (methods["Hydra"].rule.name, methods["Hydra, distinct"].rule.name) == ("arbitrary", "distinct")
    sizes = {sum(p.numel() for p in method.model.parameters()) for method in methods.values()}
    assert len(sizes) == 1


def test_no_combination_is_in_two_sets_and_every_class_is_drawn_evenly():
    classes = setup.drawn_classes(3)
    assert len(torch.cat(list(classes)).unique(dim=0)) == 72
    data = setup.sprites(classes.train, 5, n_views=2, seed=0)
    assert data.views.shape == (2, 120, 3, 16, 16)
    batch = next(iter(setup.ClassBatches(data, p=6, k=4, count=1)))
    assert torch.bincount(batch["label"]).unique().tolist() == [0, 4]
    assert torch.equal(data.label[batch["index"]], batch["label"])
    assert not torch.equal(*batch["views"])
    assert torch.equal(setup.sprites(classes.train, 5, n_views=2, seed=0).views, data.views)


def test_shared_attributes():
    values = torch.tensor([[0, 1, 2, 3], [0, 1, 0, 0], [3, 2, 1, 0]])
    assert setup.shared_attributes(values).sum(2).tolist() == [[4, 2, 0], [2, 4, 1], [0, 1, 4]]


def test_gates_that_open_what_is_shared_score_one_and_random_ones_next_to_nothing():
    """Four blocks of dimensions, one an attribute; the gate opens the blocks of the shared ones."""
    values = setup.drawn_classes(0).train
    label = torch.arange(24).repeat_interleave(20)
    onehot = torch.nn.functional.one_hot(values[label], 4).flatten(1).float()
    projected = onehot + 0.01 * torch.randn(onehot.shape, generator=torch.Generator().manual_seed(0))
    shared = setup.shared_attributes(values).float().repeat_interleave(4, 2) + 0.01
    assert hydra.opens_what_is_shared(shared, projected, label, values) > 0.7
    noise = torch.rand(24, 24, 16, generator=torch.Generator().manual_seed(1))
    assert abs(hydra.opens_what_is_shared(noise, projected, label, values)) < 0.15


def test_probes():
    label = torch.arange(4).repeat_interleave(10)
    features = torch.eye(4)[label] + 0.01 * torch.randn(40, 4, generator=torch.Generator().manual_seed(0))
    assert setup.ridge_accuracy(features, label, features, label) == 1
    assert setup.few_shot_accuracy(features, label, 5, seed=0) == 1
    assert setup.few_shot_accuracy(torch.randn(40, 4), label, 5, seed=0) < 0.6
