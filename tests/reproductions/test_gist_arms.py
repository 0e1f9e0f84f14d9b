"""The reproduction of GIST at a tiny size: every claim finds its figures, arms differ in their texts alone."""

import pytest
import torch
from torch import nn

from nearfar.data import world
from nearfar.reproductions.image_text import gist_reproduction as gist

CACHES = (gist.world, gist.starter, gist.summaries, gist.embedded_texts, gist.bank)
QUICK = {"lr": 1e-3, "steps": 2}


class Letters(nn.Module):
    """A model in a few lines: texts by how often they hold each letter, pictures by their first pixels."""

    embed_dim, image_size, temperature = 26, 8, 0.1

    def __init__(self):
        super().__init__()
        self.image_projection = nn.Linear(26, 26)
        self.requires_grad_(False)

    def preprocess(self, images):
        return torch.stack([torch.tensor(list(i.convert("RGB").resize((8, 8)).getdata())).flatten() for i in images])

    def image_summary(self, pixels):
        return pixels.float()[:, :26] / 255 + 0.1

    def encode_image(self, summary, normalize=False):
        return self.image_projection(summary)

    def tokenize(self, texts):
        return torch.tensor([[text.count(chr(97 + i)) + 0.1 for i in range(26)] for text in texts])

    def encode_text(self, tokens, normalize=False):
        return tokens


@pytest.fixture
def small(monkeypatch):
    for cached in CACHES:
        cached.cache_clear()
    monkeypatch.setitem(gist.CONFIG, "data", {**gist.CONFIG["data"], "looks_of_a_class": [14, 14]})
    torch.manual_seed(0)
    made = Letters()
    monkeypatch.setattr("nearfar.load", lambda name: made, raising=False)
    yield
    for cached in CACHES:
        cached.cache_clear()


def test_a_seed_measures_what_the_claims_compare(small):
    chosen = dict.fromkeys(gist.reproduction.grid.arms, QUICK)
    arms = gist.run(0, chosen)
    for claim in gist.reproduction.claims:
        for arm in (claim.method, claim.baseline):
            assert 0 <= float(arms[arm][claim.metric]) <= 1
    for arm, metrics in arms.items():
        if "top1" in metrics and arm != "chance":
            assert len(metrics["top1"].values) == len(gist.world().looks)
            assert (metrics["top3"].values >= metrics["top1"].values).all()
    assert 0 <= gist.validated("GIST, 5 shots", QUICK, 1000) <= 1


def test_what_is_drawn(small):
    classes = gist.world()
    assert len(set(classes.looks)) == len(classes.looks) == len(classes.label)
    assert classes.label.bincount().tolist() == [14] * len(classes.names)
    every, few, one = (gist.drawn(shots, 3) for shots in (None, 5, 1))
    assert len(every.look) == 3 * len(classes.looks)
    assert few.label.bincount().tolist() == [5] * len(classes.names)
    assert sorted(one.label.tolist()) == list(range(len(classes.names)))
    assert not torch.equal(gist.drawn(5, 4).look, few.look)


def test_texts_of_the_arms(small):
    classes, rows = gist.world(), gist.drawn(1, 0)
    texts = {arm: gist.texts_for(arm, rows, 4, 0) for arm in gist.TUNED}
    assert {tuple(each.shape) for each in texts.values()} == {(len(classes.names), 4, 26)}
    bank, own = gist.bank(), classes.texts
    for row, (look, label) in enumerate(zip(rows.look.tolist(), rows.label.tolist(), strict=True)):
        torch.testing.assert_close(texts[gist.NAME][row], bank([classes.names[label]]).expand(4, -1))
        torch.testing.assert_close(texts[gist.ONE][row], bank([own.captions(label)[0]]).expand(4, -1))
        mine = [own.captions(label)[n] for n in classes.own[look]]
        torch.testing.assert_close(texts[gist.OWN][row], bank([mine[i % len(mine)] for i in range(4)]))
        every = bank(list(own.captions(label)))
        for arm in (gist.ANY, gist.GIST):
            apart = (texts[arm][row][:, None] - every).abs().amax(2)
            assert apart.amin(1).max() < 1e-6
            assert len(texts[arm][row].unique(dim=0)) > 1
    names = world.names()
    assert all(names[look] in own.texts[int(label)] for look, label in zip(classes.looks, classes.label, strict=True))


def test_a_pass_shows_each_picture_once_and_all_passes_all_captions():
    rows = gist.Rows(torch.arange(7.0)[:, None], torch.arange(7))
    texts = torch.arange(7 * 4.0).view(7, 4, 1)
    batches = gist.CaptionedBatches(rows, texts, 7)
    shown = []
    for _ in range(4):
        (batch,) = batches
        assert sorted(batch["index"].tolist()) == list(range(7))
        torch.testing.assert_close((batch["text"][:, 0] // 4), batch["image"][:, 0])
        shown += batch["text"].flatten().tolist()
    assert sorted(shown) == list(range(28))


def test_classes_are_none_that_the_model_learned_from():
    gist.world.cache_clear()
    trained = set(world.emoji("train", styles=["noto"]).column("group"))
    assert not trained & set(gist.world().looks)
    assert gist.CONFIG["data"]["test"] not in [*gist.CONFIG["data"]["train"], gist.CONFIG["data"]["validation"]]
