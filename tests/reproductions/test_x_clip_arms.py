"""X-CLIP's reproduction at a tiny size: its clips, its classes, its arms, and what is measured."""

import pytest
import torch

from nearfar.reproductions.video import moving_things as setup
from nearfar.reproductions.video import x_clip_reproduction as xclip


@pytest.fixture
def small(monkeypatch):
    forget()
    monkeypatch.setitem(setup.DATA, "clips", {"train": 60, "val": 40, "test": 40})
    monkeypatch.setitem(setup.DATA, "events_clips", {"train": 30, "test": 20})
    monkeypatch.setitem(setup.STILLS, "steps", 2)
    monkeypatch.setitem(xclip.CONFIG["training"], "steps", 2)
    monkeypatch.setitem(xclip.CONFIG, "few_shot", {"shots": [2, 16], "steps": 2, "batch_size": 4})
    yield
    forget()


def forget():
    setup.clips.cache_clear()
    setup.start.cache_clear()


def test_a_seed_measures_what_the_claims_compare(small):
    arms = xclip.run(0, {arm: {"lr": 1e-3} for arm in xclip.PARTS})
    for claim in xclip.reproduction.claims:
        for arm in (claim.method, claim.baseline):
            assert 0 <= float(arms[arm][claim.metric]) <= 1, (claim.text, arm)
    assert "16-shot" not in arms["without messages"]
    assert 0 <= xclip.validated("single frame", {"lr": 1e-3}, 1000) <= 1
    assert list(xclip.reproduction.grid.arms) == list(xclip.PARTS)


def test_arms_differ_in_what_is_added_alone(small):
    models = {arm: xclip.fresh(arm, 0) for arm in xclip.PARTS}
    added = {arm: {name.split(".")[0] for name, _ in model.added()} for arm, model in models.items()}
    assert added["mean of frames"] == added["single frame"] == set()
    assert added["X-CLIP"] == {"pair", "integration", "prompts"}
    assert added["without messages"] == {"integration", "prompts"}
    assert added["without integration"] == {"pair", "prompts"}
    assert added["without prompts"] == {"pair", "integration"}
    time = models["without the embedding of time"].integration.time
    assert not time.any()
    assert not time.requires_grad
    start = list(setup.start(0).parameters())
    for model in models.values():
        kept = [parameter for name, parameter in model.pair.named_parameters() if "message_" not in name]
        assert all(torch.equal(mine, own) for mine, own in zip(kept, start, strict=True))


def test_order_is_unknown_to_arms_without_time_and_known_to_the_whole(small):
    clips = setup.clips("val", 12, tuple(setup.DATA["motions"]))
    back = setup.Clips(clips.frames.flip(1), clips.colour, clips.motion, clips.captions)
    names = setup.classes(trained=True).names
    for arm, same in {"mean of frames": True, "without the embedding of time": True, "X-CLIP": False}.items():
        model = xclip.fresh(arm, 0)
        if model.integration.time is not None and model.integration.time.requires_grad:
            torch.nn.init.normal_(model.integration.time)
        forth, reverse = (xclip.scores(arm, model, each, names) for each in (clips, back))
        assert torch.allclose(forth, reverse, rtol=0, atol=1e-5) is same, arm


def test_each_trained_class_and_each_other_one_has_its_opposite_beside_it():
    trained, others = setup.classes(trained=True), setup.classes(trained=False)
    assert (len(trained.names), len(others.names)) == (32, 16)
    assert not set(trained.names) & set(others.names)
    for classes in (trained, others):
        of_pairs = (classes.number >= 0).view(8, 3, 2)
        assert torch.equal(of_pairs[..., 0], of_pairs[..., 1])
        assert of_pairs.any(2).any(0).all(), "every motion is in both"
        assert classes.names[int(classes.number[classes.number >= 0][3])] == classes.names[3]
    assert trained.names[int(trained.number[0, 2])] == "something red moving up"


def test_clips_are_said_in_words_and_drawn_by_the_class(small):
    data = setup.clips("val", 30, tuple(setup.DATA["motions"]))
    assert data.frames.shape == (30, 6, 3, 32, 32)
    right = int((data.motion == 1).nonzero()[0])
    assert "on the left" in data.captions[right][0]
    assert "on the right" in data.captions[right][-1]
    assert setup.COLOURS[data.colour[right]] in data.captions[right][0]
    clips, label = setup.classes(trained=True).among(data)
    batch = next(iter(setup.ClipBatches(clips.frames, label, 8, 1)))
    assert torch.equal(batch["label"], label[batch["index"]])
    torch.testing.assert_close(batch["video"], setup.pixels(clips.frames[batch["index"]]))


def test_the_single_frame_is_one_of_the_clip_and_not_always_the_same(small):
    data = setup.clips("val", 30, tuple(setup.DATA["motions"]))
    one = xclip.frames_of("single frame", data)
    assert one.shape == (30, 1, 3, 32, 32)
    places = [[torch.equal(one[row, 0], frame) for frame in data.frames[row]].index(True) for row in range(30)]
    assert len(set(places)) > 3
    assert xclip.frames_of("X-CLIP", data) is data.frames
