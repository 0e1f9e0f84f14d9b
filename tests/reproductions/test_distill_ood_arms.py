"""The reproduction of distilling for unseen classes at a tiny size: its arms, its splits, and what is measured."""

import pytest
import torch

from nearfar.reproductions.image_text import distill_ood_reproduction as distill

CACHES = (distill.pool, distill.teacher, distill.text_bank, distill.class_texts, distill.class_vectors)


class Letters:
    """A teacher in a few lines: texts by how often they hold each letter, pictures by their mean colours."""

    embed_dim, image_size, temperature = 26, 8, 0.1

    def preprocess(self, images):
        return torch.stack([torch.tensor(list(i.convert("RGB").resize((8, 8)).getdata())).flatten() for i in images])

    def encode_image(self, pixels, normalize=False):
        return pixels.float()[:, :26] / 255 + 0.1

    def tokenize(self, texts):
        return torch.tensor([[text.count(chr(97 + i)) + 0.1 for i in range(26)] for text in texts])

    def encode_text(self, tokens, normalize=False):
        return tokens


@pytest.fixture
def small(monkeypatch):
    for cached in CACHES:
        cached.cache_clear()
    monkeypatch.setitem(distill.CONFIG, "data", distill.CONFIG["data"] | {"classes": 24, "validation": 4})
    monkeypatch.setitem(distill.CONFIG, "student", {"widths": [4, 8], "cells": 1})
    monkeypatch.setitem(distill.CONFIG, "training", distill.CONFIG["training"] | {"steps": 2, "batch_size": 16})
    monkeypatch.setattr("nearfar.load", lambda name: Letters(), raising=False)
    yield
    for cached in CACHES:
        cached.cache_clear()


def test_a_seed_measures_what_the_claims_compare(small):
    arms = distill.run(0, {arm: {"lr": 1e-3} for arm in distill.ARMS})
    for claim in distill.reproduction.claims:
        for arm in (claim.method, claim.baseline):
            assert -1 <= arms[arm][claim.metric] <= 1
    assert arms["chance"] == {"unseen": 1 / 8, "known": 1 / 12}
    assert "cosine" not in arms["teacher"]
    assert 0 <= distill.validated(distill.KEYWORDS, {"lr": 1e-3}, 1000) <= 1
    assert list(distill.reproduction.grid.arms) == list(distill.ARMS)


def test_no_class_is_in_two_sets_and_none_of_validation_in_any_seed(small):
    first, other = distill.drawn(0), distill.drawn(1)
    for split in (first, other):
        whole = torch.cat([split.trained, split.unseen, split.validation])
        assert sorted(whole.tolist()) == list(range(24))
        assert (len(split.trained), len(split.unseen), len(split.validation)) == (12, 8, 4)
    assert torch.equal(first.validation, other.validation)
    assert not torch.equal(first.trained, other.trained)


def test_arms_differ_in_the_terms_and_texts_that_they_name(small, monkeypatch):
    made = {}
    monkeypatch.setattr("nearfar.train", lambda method, *_, **__: made.setdefault(len(made), method))
    for arm in distill.ARMS:
        distill.trained(arm, distill.drawn(0), 0, lr=1e-3)
    terms = [list(method.weights) for method in made.values()]
    whole = ["classification", "distance", "contrast", "alignment"]
    assert terms == [whole[:1], whole[:2], whole[:3], whole, whole, whole, whole]
    assert [method.top_k for method in made.values()][3:] == [2, 8, 256, 256]
    assert all(weight == 1 for method in made.values() for weight in method.weights.values())
    *names, keywords = (method.bank.texts.texts[0] for method in made.values())
    assert set(names) == {f"a photo of {distill.pool().names[distill.drawn(0).trained[0]]}"}
    assert keywords.startswith(f"{names[0]} . ")
    starts = [next(method.model.parameters()) for method in made.values()]
    assert all(torch.equal(start, starts[0]) for start in starts), "all start alike"


def test_batches_hold_the_teacher_s_embedding_of_each_picture_and_its_class(small):
    data, split = distill.pool(), distill.drawn(0)
    assert data.pixels.shape == (24, 5, 3, 24, 24)
    assert data.views.shape == (4, 24, 4, 3, 24, 24)
    batches = distill.Batches(split.trained, 16)
    assert len(batches) == 3
    rows = []
    for batch in batches:
        for i, row in enumerate(batch["index"].tolist()):
            place, style = int(split.trained[row // 4]), row % 4
            assert torch.equal(batch["teacher_image"][i], data.taught[place, style])
            assert batch["label"][i] == row // 4
            assert any(torch.equal(batch["image"][i], view) for view in data.views[:, place, style])
            rows.append(row)
    assert sorted(rows) == list(range(48))


def test_accuracy_counts_each_class_the_same():
    texts = torch.eye(2)
    pictures = torch.stack([texts[[0, 0, 0, 0]], texts[[0, 0, 0, 1]]])
    assert distill.per_class_accuracy(pictures, texts) == pytest.approx((1 + 0.25) / 2)
