"""CG-VLM's reproduction at a tiny size: its scenes, its arms, and what is measured."""

import math

import pytest
import torch

from nearfar.errors import UserError
from nearfar.reproductions.vision_language_models import cg_vlm_reproduction as cg_vlm
from nearfar.reproductions.vision_language_models import questioned_scenes as setup

CACHES = (setup.scenes, setup.tower, setup.scale, setup.tokenizer, setup._texts, cg_vlm.words)


@pytest.fixture(scope="module")
def small():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(setup.DATA, "captions", {"train": 24, "test": 6})
        patch.setitem(setup.DATA, "questions", {"train": 40, "val": 6, "test": 8})
        patch.setitem(setup.DATA, "size", 64)
        for stage in ("words", "align", "answer"):
            patch.setitem(cg_vlm.CONFIG, stage, {**cg_vlm.CONFIG[stage], "steps": 2, "batch_size": 8})
        for cached in CACHES:
            cached.cache_clear()
        yield
    for cached in CACHES:
        cached.cache_clear()


def test_a_seed_measures_what_the_claims_compare(small):
    arms = cg_vlm.run(0, {arm: {"lr": 1e-3} for arm in cg_vlm.ALIGNED})
    for claim in cg_vlm.reproduction.claims:
        for arm in (claim.method, claim.baseline, claim.floor):
            if arm is not None:
                assert math.isfinite(float(arms[arm][claim.metric])), (claim.text, arm)
    assert 0 <= cg_vlm.validated("both", {"lr": 1e-3}, 1000) <= 1


def test_arms_differ_in_the_projector_alone_and_see_the_same_batches(small):
    models = {arm: cg_vlm.aligned(arm, 1, lr=1e-2) for arm in ("no alignment", *cg_vlm.ALIGNED)}
    weights = [model.projector.weight for model in models.values()]
    assert all(not torch.equal(one, other) for i, one in enumerate(weights) for other in weights[:i])
    first, *others = (model.lm.state_dict() for model in models.values())
    assert all(torch.equal(value, other[name]) for other in others for name, value in first.items())
    one, other = (list(setup.Batches("captions", list(range(24)), 3, 8, 1)) for _ in range(2))
    assert all(torch.equal(a["index"], b["index"]) for a, b in zip(one, other, strict=True))
    assert sorted(torch.cat([batch["index"] for batch in one]).tolist()) == list(range(24))


def test_a_larger_share_holds_the_smaller(small, monkeypatch):
    rows_used, model = [], setup.reader(cg_vlm.words(1), 1)
    monkeypatch.setattr(setup, "Batches", lambda kind, rows, *rest: rows_used.append(rows) or [])
    for share in (0.1, 1.0):
        with pytest.raises(UserError, match="no batch"):
            cg_vlm.answering(model, 1, share)
    assert (len(rows_used[-2]), len(rows_used[-1])) == (4, 40)
    assert rows_used[-1][:4] == rows_used[-2]


def test_words_are_one_token_and_things_have_boxes(small):
    own = setup.scenes("questions", "test")
    for text, answer, things in zip(own.texts, own.answers, own.things, strict=True):
        assert len(setup.tokens([answer])["input_ids"][0]) == 3
        assert text.endswith("?")
        for phrase, (left, top, right, bottom) in things:
            assert len(phrase.split()) == 2
            assert 0 <= left < right <= 1
            assert 0 <= top < bottom <= 1
    cells = setup.cells_of(setup.scenes("captions", "train"), list(range(24)))
    torch.testing.assert_close(cells.flatten(0, 1).mean(0), torch.zeros(cells.shape[2]), atol=1e-2, rtol=0)
