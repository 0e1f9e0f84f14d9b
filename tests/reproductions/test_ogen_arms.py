"""The reproduction of OGEN at a tiny size: its arms, its splits, and what is measured."""

import pytest
import torch

from nearfar.reproductions.image_text import ogen_reproduction as ogen

CACHES = (ogen.pool, ogen.pair, ogen.starter)


class Colours:
    """Embeds pictures by their mean colours."""

    embed_dim, image_size, temperature = 12, 8, 0.1
    mean = std = (0.5,) * 3

    def preprocess(self, images):
        sizes = [torch.tensor(list(i.convert("RGB").resize((8, 8)).getdata())) for i in images]
        return torch.stack(sizes).float().view(-1, 8, 8, 3).movedim(3, 1) / 127.5 - 1

    def encode_image(self, pixels, normalize=False):
        cells = torch.nn.functional.avg_pool2d(pixels, 4).flatten(1) + 0.01
        return torch.nn.functional.normalize(cells, dim=1)


@pytest.fixture
def small(monkeypatch):
    for cached in CACHES:
        cached.cache_clear()
    monkeypatch.setitem(ogen.CONFIG, "classes", {"pool": 30, "each": 16, "base": 0.5})
    monkeypatch.setitem(ogen.CONFIG, "steps", {"long": 4, "short": 2})
    text = {"width": 16, "layers": 1, "steps": 2, "batch_size": 16, "lr": 1e-3, "vocabulary": 300}
    monkeypatch.setitem(ogen.CONFIG, "text_tower", text)
    monkeypatch.setitem(ogen.CONFIG, "styles", {"model": ["noto"], "prompt": ["openmoji"]})
    monkeypatch.setattr("nearfar.load", lambda name: Colours(), raising=False)
    monkeypatch.setattr("nearfar.data.world.emoji", short_emoji(ogen))
    yield
    for cached in CACHES:
        cached.cache_clear()


def short_emoji(module):
    """The world's emojis, a part of them: all are many pictures to read."""
    from nearfar.data import world

    whole = world.emoji
    return lambda split, styles: whole("test", styles=styles)


def test_a_seed_measures_what_the_claims_compare(small):
    arms = ogen.run(0)
    assert set(arms) == {*ogen.ARMS, "zero-shot", "chance"}
    for claim in ogen.reproduction.claims:
        for arm in (claim.method, claim.baseline):
            assert 0 <= arms[arm][claim.metric] <= 1
    assert arms["chance"] == {"base": 1 / 8, "new": 1 / 8, "harmonic": 1 / 8}


def test_no_class_is_base_new_and_other_at_once(small):
    first, second = ogen.drawn(0), ogen.drawn(1)
    for split in (first, second):
        whole = torch.cat([split.base, split.new, split.other])
        assert len(whole.unique()) == len(whole) == 24
    assert not torch.equal(first.base, second.base)
    assert len(set(ogen.pool().names)) == 30


def test_arms_differ_in_the_terms_that_they_name(small, monkeypatch):
    made = {}
    monkeypatch.setattr("nearfar.train", lambda method, *_, **options: made.setdefault(len(made), (method, options)))
    ogen.pair.cache_clear()
    ogen.pair()
    made.clear()
    split = ogen.drawn(0)
    for arm in ogen.ARMS:
        ogen.trained(arm, split, 0)
    methods = dict(zip(ogen.ARMS, (method for method, _ in made.values()), strict=True))
    assert [options["steps"] for _, options in made.values()] == [2, *[4] * (len(made) - 1)]
    starts = [method.model.context for method in methods.values()]
    assert all(torch.equal(start, starts[0]) for start in starts), "all start alike"
    for arm in (ogen.GENTLE, ogen.ALONE, ogen.OGEN, ogen.MEAN, ogen.NOISE, ogen.RELEASED):
        assert methods[arm].others == tuple(ogen.named(split.new))
        assert methods[arm].weights["known"] == 0.25
    assert methods[ogen.OTHER].others == tuple(ogen.named(split.other))
    assert {name for name, weight in methods[ogen.GENTLE].weights.items() if weight} == {"known"}
    assert type(methods[ogen.NOISE].generator) is ogen.NoiseAroundNames
    assert [type(methods[arm].teacher).__name__ for arm in (ogen.ALONE, ogen.OGEN, ogen.MEAN)] == [
        "NoneType",
        "AdaptiveLocalMeanTeacher",
        "MomentumEncoder",
    ]


def test_noise_lies_around_names():
    torch.manual_seed(0)
    names = torch.nn.functional.normalize(torch.randn(200, 1, 64), dim=-1).requires_grad_()
    made = ogen.NoiseAroundNames(0.5)(names, names, names)
    assert not made.requires_grad
    cosine = (made * names).sum(-1).mean().item()
    assert cosine == pytest.approx(1 / (1 + 0.25) ** 0.5, abs=0.01)


def test_batches_hold_each_picture_of_base_classes_once(small):
    data, split = ogen.pool(), ogen.drawn(0)
    assert data.views.shape == (30, 8, 12)
    batches = ogen.Batches(split.base, 16)
    assert len(batches) == 4
    rows = []
    for batch in batches:
        for row, image, label in zip(batch["index"].tolist(), batch["image"], batch["label"].tolist(), strict=True):
            assert label == row // 8
            assert torch.equal(image, data.views[split.base[label], row % 8])
            rows.append(row)
    assert sorted(rows) == list(range(64))
