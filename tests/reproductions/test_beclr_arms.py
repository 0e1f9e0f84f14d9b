"""The arms of BECLR's reproduction on made pictures: who has which memory, and what is measured of whom."""

import pytest
import torch

from nearfar.reproductions.image import beclr_reproduction as beclr

PARTS = {"train": 0, "val": 100, "test": 200}


@pytest.fixture
def small(monkeypatch):
    """Eight emojis a split in five styles, each of its own colour, three steps."""

    def of(split):
        concept = torch.arange(8).repeat_interleave(5)
        draw = torch.Generator().manual_seed(PARTS[split])
        colours = torch.randint(256, (8, 3, 1, 1), generator=draw)[concept].expand(-1, -1, 48, 48)
        return beclr.Emojis(colours.to(torch.uint8).contiguous(), concept + PARTS[split])

    monkeypatch.setattr(beclr.Emojis, "of", staticmethod(of))
    for part, changes in {
        "training": {"batch_size": 8, "steps": 5},
        "data": {"concepts": 6},
        "episodes": {"count": 5},
        "method": {"start_epoch": 0},
    }.items():
        monkeypatch.setitem(beclr.CONFIG, part, {**beclr.CONFIG[part], **changes})
    for name, arm in beclr.ARMS.items():
        memory = {"memory_size": 32, "clusters": 3} if name != "no memory" else {}
        monkeypatch.setitem(beclr.ARMS, name, {**arm, **memory})


def test_each_arm_is_measured_by_each_way_to_classify(small):
    arms = beclr.run(0, {name: {"lr": 1e-3} for name in beclr.ARMS})
    trained = {f"{name}{kind}" for name in beclr.ARMS for kind in beclr.KINDS.values()}
    places = {f"{name}: in {where}" for name in ("official", "live") for where in ("its partition", "the whole memory")}
    assert set(arms) == trained | places
    assert all(set(arms[name]) == {"1 shot", "1 shot, imbalanced"} for name in trained)
    assert all(0 <= value <= 1 for figures in arms.values() for value in figures.values())
    named = {claim.method for claim in beclr.reproduction.claims} | {c.baseline for c in beclr.reproduction.claims}
    assert named <= set(arms)


def test_only_the_memory_differs(small):
    data = beclr.Emojis.of("train")
    methods = {name: beclr.trained(name, data, 0, lr=1e-3) for name in beclr.ARMS}
    assert {name: len(method.memories) for name, method in methods.items()} == {
        "no memory": 0,
        "official": 3,
        "live": 1,
    }
    assert methods["live"].enlarges
    assert methods["official"].enlarges
    counts = {sum(p.numel() for p in method.parameters()) for method in methods.values()}
    assert len(counts) == 1


def test_seeds_draw_other_emojis_with_all_their_pictures(small):
    data = beclr.Emojis.of("train")
    first, again, other = (data.some(6, seed) for seed in (0, 0, 1))
    assert torch.equal(first.concept, again.concept)
    assert first.concept.bincount(minlength=8).tolist().count(5) == 6
    assert not torch.equal(first.concept, other.concept)


def test_a_batch_has_two_views_and_the_rows_that_memories_know(small):
    data = beclr.Emojis.of("train")
    torch.manual_seed(0)
    batches = list(beclr.ViewBatches(data, 16, (0.5,) * 3, (0.5,) * 3))
    assert len(batches) == 2
    assert batches[0]["views"].shape == (2, 16, 3, 32, 32)
    assert not torch.equal(batches[0]["views"][0], batches[0]["views"][1])
    assert torch.cat([b["index"] for b in batches]).unique().numel() == 32


def test_right_neighbours_are_counted_by_hand():
    class Memory:
        features = torch.eye(3)[[0, 0, 1, 2]]
        index = torch.tensor([0, 1, 2, 3])

        def neighbours(self, features, k, index):
            return type("Near", (), {"ids": torch.tensor([[1], [0], [3], [2]])})

    data = beclr.Emojis(torch.zeros(4, 3, 48, 48, dtype=torch.uint8), torch.tensor([7, 7, 8, 9]))

    class Model(torch.nn.Module):
        mean, std = (0.0,) * 3, (1.0,) * 3

        def project_image(self, pixels):
            return torch.eye(3)[[0, 0, 1, 2]]

    model = Model()
    method = type("M", (), {"memories": {"teacher": Memory()}, "model": model})
    method.teacher = type("T", (), {"module": model})
    before = beclr.CONFIG["memory"]["neighbours"]
    beclr.CONFIG["memory"]["neighbours"] = 1
    try:
        shares = beclr.right_neighbours(method, data)
    finally:
        beclr.CONFIG["memory"]["neighbours"] = before
    assert shares["in its partition"] == 0.5
    assert 0.5 <= shares["in the whole memory"] <= 1
