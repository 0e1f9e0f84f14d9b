"""RITUAL's reproduction at a tiny size: its scenes, questions and lessons, its arms, and what is measured."""

import math
from collections import Counter

import pytest
import torch

from nearfar.reproductions.decoding import ritual_reproduction as ritual
from nearfar.reproductions.decoding import usual_company as setup

CACHED = (setup.company, setup.questions, setup.lessons, setup.tokenizer, setup.training_cells)


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setitem(setup.DATA, "scenes", {"train": 30, "val": 4, "test": 6})
    monkeypatch.setitem(ritual.CONFIG, "training", ritual.CONFIG["training"] | {"steps": 2, "batch_size": 8})
    monkeypatch.setitem(ritual.CONFIG["tokens"], "caption", 8)
    for each in CACHED:
        each.cache_clear()
    yield
    setup.KNOWN.clear()
    for each in CACHED:
        each.cache_clear()


def test_a_seed_measures_what_the_claims_compare(small):
    arms = ritual.run(0)
    for claim in ritual.reproduction.claims:
        for arm in (claim.method, claim.baseline):
            assert math.isfinite(float(arms[arm][claim.metric])), (claim.text, arm)
    # At the first token M3ID counts nothing: with answers of one token it samples plausible tokens alone.
    assert set(arms["M3ID"]) == set(arms["plausible tokens alone"])


def test_what_reads_the_same_picture_twice_is_as_sharp_and_no_more(small):
    model = ritual.trained(0)
    same = ritual.conditions(0)[ritual.SAME].on(model)
    plain = ritual.answered(ritual.Plain(model))
    assert float(ritual.answered(same)[ritual.ACCURACY]) == float(plain[ritual.ACCURACY])


def test_scenes_are_of_things_that_usually_come_in_twos():
    scenes = setup.company("train")[:300]
    alone = Counter(setup.PARTNER[thing] in scene.places for scene in scenes for thing in scene.places)
    assert 0.87 < alone[True] / alone.total() < 0.96
    tested = Counter(setup.PARTNER[thing] in scene.places for scene in setup.company("test") for thing in scene.places)
    assert 0.55 < tested[True] / tested.total() < 0.78
    assert all(len(set(scene.places.values())) == len(scene.places) for scene in scenes)


def test_questions_have_the_answers_that_the_scenes_have():
    scenes, kinds = setup.company("test"), Counter()
    for each in setup.questions("test"):
        places = scenes[each.scene].places
        kinds[each.kind, each.yes] += 1
        noun = each.text.split()[-1]
        assert each.yes == (noun in places)
        if not each.yes:
            assert (setup.PARTNER[noun] in places) == (each.kind == "adversarial")
    for kind in ("random", "popular", "adversarial"):
        assert kinds[kind, True] == kinds[kind, False] > 25


def test_lessons_teach_answers_and_not_questions(small):
    pairs = [("is there a key", "yes"), ("", "there is a key and a door"), ("is there a cat", "no")]
    batch = setup.encoded(pairs)
    targets = batch["text"]["input_ids"][:, 1:]
    for (_, text), ids, mask, written in zip(
        pairs, targets, batch["text"]["attention_mask"][:, 1:], batch["written"], strict=True
    ):
        assert setup.tokenizer().decode(ids[written & (mask > 0)], skip_special_tokens=True).split() == text.split()
    # A prompt goes on as the lesson did.
    model = setup.reader(0)
    prompt = model.tokenizer("is there a key", add_special_tokens=False)["input_ids"]
    assert batch["text"]["input_ids"][0, 1 : 1 + len(prompt)].tolist() == prompt


def test_cells_are_read_once(small):
    scenes = setup.company("test")
    model = setup.reader(0)
    pixels = model.preprocess([scene.picture for scene in scenes])
    first = model.picture_tokens(pixels)
    assert len(setup.KNOWN) == len(scenes)
    whole = super(setup.CellsReader, model).picture_tokens(pixels)
    torch.testing.assert_close(first, whole, rtol=1e-4, atol=1e-4)
    assert torch.equal(model.picture_tokens(pixels.flip(0)), first.flip(0))
    assert len(setup.KNOWN) == len(scenes)
