"""COSMO's reproduction at a tiny size: its documents, its arms, and what is measured."""

import math
from random import Random

import pytest
import torch

from nearfar.reproductions.vision_language_models import cosmo_reproduction as cosmo
from nearfar.reproductions.vision_language_models import described_sprites as setup
from nearfar.reproductions.vision_language_models import shown_documents as shown

CACHED = (setup.pairs, shown.words_alone, shown.tower)


@pytest.fixture(scope="module")
def small():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(setup.DATA, "pairs", {"train": 40, "val": 6, "test": 8})
        for settings in (shown.WORDS, shown.TOWER, cosmo.CONFIG["training"]):
            patch.setitem(settings, "steps", 2)
        for settings in (shown.WORDS, shown.TOWER):
            patch.setitem(settings, "batch_size", 8)
        patch.setitem(cosmo.CONFIG, "batch", {"singles": 4, "documents": 3})
        for cached in CACHED:
            cached.cache_clear()
        yield
    for cached in CACHED:
        cached.cache_clear()


def test_a_seed_measures_what_the_claims_compare(small):
    arms = cosmo.run(0)
    for claim in cosmo.reproduction.claims:
        for arm in (claim.method, claim.baseline):
            assert math.isfinite(float(arms[arm][claim.metric])), (claim.text, arm)
    for arm in cosmo.SHAPES:
        assert set(arms[arm]) == {cosmo.RECALL, cosmo.RANKED, cosmo.WRITTEN, cosmo.SHOTS, cosmo.STYLE, cosmo.SIZE}
    assert arms[cosmo.NO_CONTRAST][cosmo.SIZE] == arms[cosmo.METHOD][cosmo.SIZE] < arms[cosmo.FLAMINGO][cosmo.SIZE]


def test_arms_share_tower_and_language_model_and_leave_them_as_they_are(small):
    parts = {"image": shown.tower().image.state_dict(), "lm": shown.words_alone().lm.state_dict()}
    models = [cosmo.trained(arm, 1) for arm in (cosmo.FLAMINGO, cosmo.METHOD)]
    for model in models:
        for part, state in parts.items():
            own = getattr(model, part).state_dict()
            assert all(torch.equal(value, own[name]) for name, value in state.items() if name in own)
    assert [len(model.blocks) for model in models] == [4, 2]


def test_batches_hold_titled_pictures_and_documents_of_one_style(small):
    model = shown.model_of(1)
    (batch,) = shown.MixedBatches(model, 1, 5, 40, 3)
    again = next(iter(shown.MixedBatches(model, 1, 5, 40, 3)))
    assert torch.equal(batch["images"], again["images"])
    assert batch["paired"].tolist() == [1] * 5 + [0] * 40
    assert batch["image_count"].tolist() == [1] * 5 + [3] * 40
    texts = model.tokenizer.batch_decode(batch["text"]["input_ids"])
    styles = []
    for text, count in zip(texts, batch["image_count"].tolist(), strict=True):
        chunks = text.replace("[PAD]", "").replace("[SEP]", "").split("<visual>")[1:]
        assert len(chunks) == count
        (style,) = {shown.style_of(chunk) for chunk in chunks}
        styles.append(style)
    assert set(styles[:5]) == {"title"}
    assert set(styles[5:]) == {"title", "placed"}
    assert batch["text"]["input_ids"].shape[1] < shown.PARTS["max_length"]


def test_each_word_of_what_is_said_is_a_token():
    pair = setup.pairs("test")[0]
    for style in shown.STYLES:
        text = shown.said(pair, style)
        assert len(setup.tokenizer()(f"{text} .")["input_ids"]) == len(text.split()) + 3
        assert cosmo.share_right(text, pair) == 1.0
        assert shown.style_of(text) == style


def test_a_text_whose_picture_ties_with_another_does_not_find_it():
    scores = torch.tensor([[3.0, 1.0, 2.0], [2.0, 2.0, 0.0], [5.0, 0.0, 1.0]])
    assert cosmo._ranks_first(scores).values.tolist() == [1.0, 0.0, 0.0]


def test_pictures_of_others_are_those_of_other_pairs(small):
    class Writes:
        """It reads the colours and shapes off the pictures that it knows."""

        pairs = setup.pairs("test")

        def caption(self, pixels, shots=None, max_tokens=0):
            known = setup.pixels([setup.picture(p, Random(f"picture test {n}")) for n, p in enumerate(self.pairs)])
            style = "title" if shots is None else shown.style_of(shots[1][0])
            rows = [int((known == each).flatten(1).all(1).nonzero()[0]) for each in pixels]
            return [shown.said(self.pairs[row], style) for row in rows]

    figures = cosmo.written(Writes(), "test")
    assert {float(value) for value in figures.values()} == {1.0}
    assert float(cosmo.written(Writes(), "test", shift=1)[cosmo.WRITTEN]) < 0.5
