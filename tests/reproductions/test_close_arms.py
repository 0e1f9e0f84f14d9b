"""CLOSE's reproduction at a tiny size: its concepts, its arms, and what is measured."""

import math

import pytest
import torch

from nearfar.reproductions.image_text import close_reproduction as close
from nearfar.reproductions.image_text import described_emojis as setup
from nearfar.reproductions.image_text.described_emojis import WrittenBatches


@pytest.fixture(scope="module")
def concepts():
    """Vectors drawn at random in the place of the starter model's."""
    draw = torch.Generator().manual_seed(0)

    def unit(n):
        return torch.nn.functional.normalize(torch.randn(n, 384, generator=draw), dim=1)

    texts = [[f"number {i}", f"thing, {i % 7}", "tag"][: 1 + i % 3] for i in range(60)]
    subject = [f"subject {i % 2}" for i in range(60)]
    text = [unit(len(own)) for own in texts]
    return setup.Vectors(unit(60), text, texts, subject, [str(i // 2) for i in range(60)])


@pytest.fixture
def small(monkeypatch, concepts):
    def clear():
        for each in (setup.parts, setup.tokenizer):
            each.cache_clear()

    clear()
    monkeypatch.setattr(setup, "vectors", lambda: concepts)
    monkeypatch.setitem(close.CONFIG["training"], "steps", 1)
    monkeypatch.setitem(close.CONFIG, "sweep", [0.25, 10.0])
    monkeypatch.setitem(close.CONFIG, "penalties", [1e-3])
    monkeypatch.setitem(close.CONFIG, "classifier", {"steps": 2})
    yield
    clear()


def test_a_seed_measures_what_the_claims_compare(small):
    arms = close.run(0)
    for claim in close.reproduction.claims:
        for arm in (claim.method, claim.baseline):
            assert math.isfinite(float(arms[arm][claim.metric])), (claim.text, arm)
    assert set(arms["space"]) >= {"paired cosine", "text cosine", "centroid distance"}
    half = (arms[close.PLAIN][close.WRITTEN].values + arms[close.PICTURES][close.WRITTEN].values) / 2
    assert (arms[close.HALF][close.WRITTEN].values == half).all()


def test_variants_of_a_thing_are_on_one_side(small):
    sides = setup.parts(0)
    bases = [set(side.base) for side in sides.values()]
    assert sum(map(len, bases)) == len(set.union(*bases)) == 30
    assert [len(side.texts) for side in sides.values()] == [36, 8, 16]
    assert setup.parts(1)["test"].base != sides["test"].base
    for side in sides.values():
        assert torch.equal(side.names, torch.stack([own[0] for own in side.text]))
        assert all(len(vectors) == len(texts) for vectors, texts in zip(side.text, side.texts, strict=True))
    few = setup.of_large_subjects(sides["test"], sides["train"].take(range(9)))
    assert len(few.texts) == 0
    assert len(setup.of_large_subjects(sides["test"], sides["train"]).texts) == 16


def test_what_is_written_belongs_to_the_vector(small):
    train = setup.parts(0)["train"]
    [batch] = WrittenBatches(train, 1, 36, 0)
    texts = [
        text.removeprefix("[CLS] ").partition("[SEP]")[0]
        for text in setup.tokenizer(0).batch_decode(batch["targets"]["input_ids"])
    ]
    assert sorted(batch["index"].tolist()) == list(range(36))
    for place, row in enumerate(batch["index"].tolist()):
        [which] = [j for j, vector in enumerate(train.text[row]) if torch.equal(batch["stand_in"][place], vector)]
        assert texts[place] == train.texts[row][which]
    [pictured] = WrittenBatches(train, 1, 36, 0, pictures=True)
    assert torch.equal(pictured["index"], batch["index"])
    assert torch.equal(pictured["stand_in"], train.image[batch["index"]])


def test_amounts_of_noise_are_the_paper_s_at_another_width(small):
    arms = close.writers(setup.parts(0)["train"])
    sizes = {arm: adapter.noise * 384**0.5 for arm, adapter in arms.items()}
    assert sizes == {close.PLAIN: 0, close.NOISE: pytest.approx(0.12 * 768**0.5), close.PICTURES: 0}
