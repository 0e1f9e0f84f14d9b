"""LexiCLIP's reproduction at a tiny size: its scenes, its queries and their truth, its arms."""

import math

import pytest
import torch

from nearfar.data.descriptions.sub_queries import Part, holds
from nearfar.reproductions.image_text import lexiclip_reproduction as lexiclip
from nearfar.reproductions.image_text import written_scenes as setup


def forget():
    for cached in (setup.drawn, setup.short_queries, setup.long_queries, setup.swaps, lexiclip.zero_shot):
        cached.cache_clear()


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setitem(setup.DATA, "scenes", {"train": 40, "test": 24})
    monkeypatch.setitem(setup.CAPTIONER, "steps", 3)
    monkeypatch.setitem(lexiclip.CONFIG, "calibration", lexiclip.CONFIG["calibration"] | {"steps": 1, "batch_size": 4})
    monkeypatch.setitem(lexiclip.CONFIG, "two_towers", lexiclip.CONFIG["two_towers"] | {"steps": 1, "batch_size": 4})
    forget()
    yield
    forget()


def test_a_seed_measures_what_the_claims_compare(small):
    arms = lexiclip.run(0)
    for claim in lexiclip.reproduction.claims:
        for arm in (claim.method, claim.baseline):
            assert math.isfinite(float(arms[arm][claim.metric])), (claim.text, arm)
    for arm in ("zero-shot", "TF-IDF", "CLIP"):
        assert 0 <= float(arms[arm]["gap"]) <= 2
    assert 0 <= arms["captioner"]["objects right"] <= 1


def test_scenes_are_what_their_descriptions_say(small):
    train, test = setup.drawn("train", 3), setup.drawn("test", 0)
    assert train.pictures.shape == (40, 3, 32, 32)
    assert not any(thing.is_unseen for scene in train.scenes for thing in scene.values())
    assert any(thing.is_unseen for scene in test.scenes for thing in scene.values())
    for scene, gold, picture in zip(test.scenes, test.gold, test.pictures, strict=True):
        assert len(scene) == len(gold.objects) in (2, 3)
        for place, thing in scene.items():
            (own,) = [each for each in gold.objects if each.position == setup.PLACES[place]]
            assert (own.name, own.attributes[1]) == (setup.SHAPES[thing.shape], setup.COLOURS[thing.colour])
            row, column = divmod(place, 2)
            part = picture[:, 16 * row : 16 * row + 16, 16 * column : 16 * column + 16]
            assert part.std() > 0.085  # something is there: the ground has 0.08
    assert setup.drawn("train", 4).scenes != train.scenes


def test_a_captioner_that_sees_all_writes_the_truth_and_one_that_drops_loses_its_share(small, monkeypatch):
    test = setup.drawn("test", 0)
    assert setup.objects_right(test.gold, test.gold) == 1
    model = setup.Captioner()
    logits = [torch.zeros(24, 4, size) for size in model.sizes]
    for row, scene in enumerate(test.scenes):
        for place in range(4):
            values = (1, *scene[place][:4]) if place in scene else (0, 0, 0, 0, 0)
            for each, value in zip(logits, values, strict=True):
                each[row, place, value] = 9.0
    monkeypatch.setattr(model, "forward", lambda pictures: logits)
    assert model.read(test.pictures) == test.gold
    many = [scene for _ in range(100) for scene in test.gold]
    kept = sum(len(scene.objects) for scene in setup.dropped(many, 1)) / sum(len(scene.objects) for scene in many)
    assert kept == pytest.approx(1 - setup.LEFT_OUT, abs=0.03)


def test_a_query_of_k_objects_is_covered_with_r_to_the_k():
    """Each of k different objects is named with the share 0.69, by itself."""
    scene = setup.described({place: setup.Thing(place, place, 0, 0) for place in range(3)})
    left = setup.dropped([scene] * 20_000, 0)
    for count, share in ((1, 0.69), (2, 0.476), (3, 0.329)):
        parts = [Part(each.name) for each in scene.objects[:count]]
        assert sum(holds(parts, each) for each in left) / 20_000 == pytest.approx(share, abs=0.012)


def test_queries_and_their_truth(small):
    gold = setup.drawn("test", 0).gold
    for query in setup.short_queries():
        assert query.positives == tuple(n for n, scene in enumerate(gold) if holds(query.parts, scene))
        assert query.positives
    unseen = [query for query in setup.short_queries() if setup.is_unseen(query)]
    assert 0 < len(unseen) < len(setup.short_queries())
    assert all(any(word in setup.COLOURS for word in query.text.split()) for query in unseen)
    assert len(setup.long_queries()) == len(gold)
    for swap in setup.swaps():
        assert sorted(swap.true.split()) == sorted(swap.false.split())
        assert swap.true != swap.false


def test_batches_hold_other_scenes_with_their_own_texts(small):
    data = setup.drawn("train", 1)
    texts = tuple(lexiclip.text_of(each) for each in data.gold)

    def words(queries):
        return list(queries)

    (batch,) = lexiclip.QueryBatches(words, 1, 30, 1, 1.0, descriptions=texts)
    rows = batch["group"].tolist()
    assert len(set(rows)) == 30
    assert batch["text2"] == [texts[row] for row in rows]
    captions = next(iter(lexiclip.QueryBatches(words, 1, 30, 1, 0.0)))
    assert captions["image"].shape == (30, 3, 32, 32)
    for query, row in zip(captions["text"], captions["group"].tolist(), strict=True):
        assert sorted(word for word in query.split() if word in setup.SHAPES) == sorted(
            each.name for each in data.gold[row].objects
        )


def test_figures_by_hand(small, monkeypatch):
    """Items that lie at the true queries' own places, and one query that ties."""
    axes = torch.eye(64)
    items = torch.nn.functional.normalize(torch.randn(24, 64, generator=torch.Generator().manual_seed(0)), dim=1)
    place = {text: n for n, text in enumerate(setup.long_queries())}
    figures = lexiclip.measured(lambda texts: torch.stack([items[place.get(t, 0)] for t in texts]), items)
    assert float(figures["long R@1"]) == 1
    assert float(figures["swaps"]) == 0.5, "true and false ones are the same point"
    first = sum(0 in query.positives for query in setup.short_queries()) / len(setup.short_queries())
    assert float(figures["short R@1"]) == pytest.approx(first)
    same = lexiclip.measured(lambda texts: axes[:1].expand(len(texts), -1), axes[:1].expand(24, -1))
    assert float(same["long R@1"]) == 0
    assert same["gap"] == pytest.approx(0, abs=1e-12)
