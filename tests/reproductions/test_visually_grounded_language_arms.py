"""The reproduction of visually grounded language at a tiny size: its data, its arms, and what is measured."""

import pytest
import torch

from nearfar.reproductions.setups import grounded_words, related_shapes
from nearfar.reproductions.text import visually_grounded_language_reproduction as vg

TINY = {
    "pair": {
        "preset": "tiny",
        "image_size": 32,
        "text": {
            "model_type": "bert",
            "hidden_size": 16,
            "num_hidden_layers": 4,
            "num_attention_heads": 2,
            "intermediate_size": 16,
            "max_position_embeddings": 16,
        },
        "max_length": 16,
    },
    "image_size": 32,
}


@pytest.fixture(scope="module")
def small():
    from nearfar.data import train_tokenizer

    with pytest.MonkeyPatch.context() as patch:
        forget()
        tokenizer = train_tokenizer(["red apple", "green heart", "blue circle"] * 9, 300)
        patch.setattr(grounded_words, "MODEL", TINY | {"tokenizer": tokenizer})
        patch.setitem(grounded_words.DATA, "size", 32)
        patch.setitem(grounded_words.DATA, "most", 40)
        patch.setitem(related_shapes.DATA, "scenes", {"train": 40, "val": 20, "test": 20})
        patch.setitem(related_shapes.DATA, "size", 32)
        for name in ("grounding", "relating"):
            patch.setitem(vg.CONFIG, name, vg.CONFIG[name] | {"steps": 2, "batch_size": 8})
        yield
    forget()


def forget():
    for cached in (grounded_words.concepts, grounded_words.features, related_shapes.scenes_of):
        cached.cache_clear()


def test_a_seed_measures_what_the_claims_compare(small):
    arms = vg.run(0)
    for claim in vg.reproduction.claims:
        for arm in (claim.method, claim.baseline):
            assert -1 <= float(arms[arm][claim.metric]) <= 1, (claim.text, arm)
    assert {claim.method for claim in vg.reproduction.claims} == {vg.CELLS, vg.BILINEAR}


def test_concepts_of_test_are_none_of_training(small):
    train, test = (grounded_words.concepts(split) for split in ("train", "test"))
    assert not {each[0] for each in train.captions} & {each[0] for each in test.captions}
    assert train.pictures.shape == (40, 2, 3, 32, 32)
    assert train.colour.min() >= 0
    assert train.colour.max() <= 255
    assert grounded_words.features("test").shape[:2] == (40, 2)


def test_shuffled_pairs_are_those_of_other_concepts_and_texts_are_the_same(small):
    model = grounded_words.fresh(0)
    plain, shuffled = (next(iter(grounded_words.PairBatches(8, 1, model, 3, each))) for each in (False, True))
    assert torch.equal(plain["text"]["input_ids"], shuffled["text"]["input_ids"])
    assert not torch.equal(plain["image"], shuffled["image"])
    again = next(iter(grounded_words.PairBatches(8, 1, model, 3)))
    assert torch.equal(again["image"], plain["image"])


def test_what_is_frozen_is_the_same_in_every_arm(small):
    start = {name: value.clone() for name, value in grounded_words.fresh(0).named_parameters()}
    for arm in (vg.TEXT, vg.CELLS, vg.POOLED, vg.SHUFFLED):
        after = dict(vg.read(arm, 0).named_parameters())
        for name in ("text.backbone.encoder.layer.3.attention.self.query.weight", "image.backbone.embedder"):
            same = [torch.equal(after[n], value) for n, value in start.items() if n.startswith(name)]
            assert all(same), (arm, name)
        assert torch.equal(*(each["text.backbone.embeddings.word_embeddings.weight"] for each in (after, start)))


def test_pairs_of_shapes_of_the_test_are_none_of_training(small):
    pairs = [
        {tuple(sorted(row)) for row in related_shapes.scenes_of(split).annotation["object_label"].tolist()}
        for split in ("train", "test")
    ]
    assert pairs[0]
    assert not pairs[0] & pairs[1]
    label = related_shapes.scenes_of("test").annotation["relation_label"]
    assert (label[:, [0, 1], [1, 0]] > 0).all()
    assert label.amax() <= 8
