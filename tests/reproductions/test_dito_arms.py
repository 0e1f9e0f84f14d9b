"""The reproduction of DITO at a tiny size: every claim finds its figures, and arms begin alike."""

import pytest
import torch

from nearfar.reproductions.detection import captioned_things as setup
from nearfar.reproductions.detection import dito_reproduction as dito


@pytest.fixture
def small(monkeypatch):
    pytest.importorskip("pycocotools", reason="needs pycocotools: pip install 'nearfar[detection]'")
    setup.named_scenes.cache_clear()
    monkeypatch.setitem(setup.DATA, "scenes", {"train": 16, "val": 8, "test": 8})
    monkeypatch.setitem(dito.CONFIG, "steps", {"pictures": 1, "regions": 1, "boxes": 1})
    monkeypatch.setitem(dito.CONFIG, "training", {"batch_size": 4, "lr": 1e-3, "warmup": 0.1})
    yield
    setup.named_scenes.cache_clear()


def test_a_seed_measures_what_the_claims_compare(small):
    arms = dito.run(0)
    for claim in dito.reproduction.claims:
        for arm in (claim.method, claim.baseline):
            assert torch.isfinite(torch.tensor(float(arms[arm][claim.metric])))
    assert "changed names" in arms["CLIP"]


def test_scenes_that_are_moved_keep_their_things():
    scenes = setup.NamedScenes(
        torch.arange(64).view(1, 1, 8, 8).expand(1, 3, 8, 8).byte(),
        torch.tensor([[[0.0, 0.0, 3.0, 3.0], [4.0, 4.0, 7.0, 7.0]]]),
        torch.tensor([[1, 2]]),
    )
    other, whole = setup.moved(scenes, 2)
    assert whole.tolist() == [[True, False]]
    x0, y0, x1, y1 = other.boxes[0, 0].long().tolist()
    assert torch.equal(other.pictures[0, :, y0:y1, x0:x1], scenes.pictures[0, :, 0:3, 0:3])


def test_no_name_of_the_base_is_novel_and_no_seed_was_looked_at():
    assert len(dito.BASE) == len(setup.NAMES) // 2
    assert set(dito.BASE) < set(setup.NAMES)
    assert 1000 not in dito.reproduction.seeds
