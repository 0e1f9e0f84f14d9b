"""CG-VLM's reproduction at a tiny size: its scenes, its arms, and what is measured."""

import math

import pytest
import torch

from nearfar.errors import UserError
from nearfar.reproductions.vision_language_models import cg_vlm_reproduction as cg_vlm
from nearfar.reproductions.vision_language_models import questioned_scenes as setup

CACHES = (setup.scenes, setup.tower, setup.directions, setup.tokenizer, cg_vlm.words, cg_vlm.probed)


@pytest.fixture(scope="module")
def small():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(setup.DATA, "captions", {"train": 24, "test": 6})
        patch.setitem(setup.DATA, "questions", {"train": 20, "val": 3, "test": 4})
        patch.setitem(setup.DATA, "size", 64)
        patch.setitem(setup.DATA, "directions", 16)
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
    assert 0 <= cg_vlm.validated("both", {"lr": 1e-3}, 2000) <= 1


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


def test_a_fresh_projector_writes_tokens_as_long_as_words(small):
    model = setup.reader(cg_vlm.words(1), 3)
    own = setup.scenes("captions", "train")
    made = model.picture_tokens(setup.cells_of(own, list(range(24))))
    ids = setup.tokenizer()([captions[0] for captions in own.captions], add_special_tokens=False)["input_ids"]
    rows = model.lm.get_input_embeddings().weight[torch.tensor([each for row in ids for each in row])]
    torch.testing.assert_close(made.norm(dim=-1).mean(), rows.norm(dim=-1).mean())


def test_questions_are_of_the_scene_and_both_kinds_take_turns(small):
    own = setup.scenes("questions", "test")
    assert len(own.questions) == 2 * len(own.things) == 8
    for number, pair in enumerate(own.questions):
        assert pair in [setup.questions_about(thing)[number % 2] for thing in own.things[number // 2]]
        assert len(setup.tokens([pair[1]])["input_ids"][0]) == 3
    batch = next(iter(setup.Batches("questions", [5, 2], 1, 2, 0)))
    train = setup.scenes("questions", "train")
    for row, number in enumerate(batch["index"].tolist()):
        torch.testing.assert_close(batch["image"][row], setup.cells_of(train, [number // 2])[0])
        assert setup.tokenizer().decode(batch["answers"]["input_ids"][row][1:2]).strip() == train.questions[number][1]


def test_texts_stand_in_the_place_of_pictures(small):
    batch = next(iter(setup.Batches("texts", list(range(24)), 1, 24, 0)))
    assert batch["image"].shape == (24, 4)
    assert not batch["image"].is_floating_point()
    model = cg_vlm.words(1)
    torch.testing.assert_close(model.picture_tokens(batch["image"]), model.lm.get_input_embeddings()(batch["image"]))
    captions = ["a red star"]
    ids = setup.words_for_cells(captions)
    assert setup.tokenizer().decode(ids).strip() == "a red star a"


def test_cells_are_whitened_and_things_lie_in_them(small):
    own = setup.scenes("captions", "train")
    cells = setup.cells_of(own, list(range(24))).flatten(0, 1)
    torch.testing.assert_close(cells.mean(0), torch.zeros(16), atol=1e-2, rtol=0)
    torch.testing.assert_close(cells.T.cov(), torch.eye(16), atol=2e-2, rtol=0)
    assert setup.cell_at({"box": (0, 0, 20, 20)}, 16) == 0
    assert setup.cell_at({"box": (34, 2, 44, 12)}, 16) == 2
    assert setup.cell_at({"box": (50, 50, 64, 64)}, 16) == 15
    assert setup.cell_at({"box": (2, 34, 12, 44)}, 16) == 8


def test_the_commonest_answer_is_that_of_training(small, monkeypatch):
    pairs = {"train": [("c?", "red"), ("n?", "star"), ("c?", "red"), ("n?", "ring"), ("c?", "blue"), ("n?", "ring")]}
    pairs["test"] = [("c?", "red"), ("n?", "star"), ("c?", "blue"), ("n?", "ring"), ("c?", "red"), ("n?", "star")]
    made = {split: setup.Scenes(torch.zeros(0), [], questions, []) for split, questions in pairs.items()}
    monkeypatch.setattr(setup, "scenes", lambda kind, split: made[split])
    assert cg_vlm.commonest("test") == 0.5
