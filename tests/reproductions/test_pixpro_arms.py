"""The arms of PixPro's reproduction: the same views for all, and places that are wrong for one."""

import torch

from nearfar.reproductions.setups.scene_views import CONFIG, misplaced, painted, view_batches

STATISTICS = (0.5,) * 3


def test_all_arms_of_a_seed_learn_from_the_same_views_and_one_from_the_wrong_places(monkeypatch):
    monkeypatch.setitem(CONFIG, "pictures", {"train": 6, "val": 4, "test": 4})
    painted.cache_clear()
    batches = view_batches(3, 4, 2, STATISTICS, STATISTICS)
    assert [each["views"].shape for each in batches] == [(2, 4, 3, 64, 64)] * 2, "an epoch of 6 is one batch of 4"
    view_batches.cache_clear()
    again = view_batches(3, 4, 2, STATISTICS, STATISTICS)
    assert all(torch.equal(one["views"], other["views"]) for one, other in zip(batches, again, strict=True))
    assert not torch.equal(batches[0]["views"], view_batches(4, 4, 2, STATISTICS, STATISTICS)[0]["views"])
    wrong = misplaced(batches[0])
    assert torch.equal(wrong["views"], batches[0]["views"])
    assert torch.equal(wrong["geometry"][0], batches[0]["geometry"][0])
    assert torch.equal(wrong["geometry"][1, 1:], batches[0]["geometry"][1, :-1])
    scenes = {split: painted(split) for split in ("train", "val", "test")}
    assert [int(each.masks.max()) <= each.classes - 1 for each in scenes.values()] == [True] * 3
    painted.cache_clear()
    view_batches.cache_clear()
