"""Features of frozen towers: they are what the towers give, and training on them is training on the pictures."""

import copy
import io

import pytest
import torch
from PIL import Image

from nearfar import train
from nearfar.data import Loader, PairedOrder, Records, train_tokenizer, world
from nearfar.data.fields.number_field import NumberField
from nearfar.data.fields.vector_field import VectorField
from nearfar.data.scenes import questions as world_questions
from nearfar.data.scenes import scenes as world_scenes
from nearfar.errors import UserError
from nearfar.methods.image_text.albef import ALBEF
from nearfar.methods.image_text.clip import CLIP
from nearfar.models import create
from nearfar.training import precompute

QUIET = {"progress": False, "report": False}


@pytest.fixture(scope="module")
def source():
    return world.emoji("train", styles=["noto", "twemoji"]).select(range(0, 480, 10), name="some emoji")


@pytest.fixture(scope="module")
def tiny(source):
    torch.manual_seed(0)
    tokenizer = train_tokenizer(source.texts(), 300)
    return create("tiny", tokenizer=tokenizer, image_size=32, embed_dim=16, max_length=8).freeze("image", "text")


def pixels_of(model, source, views="none", batch_size=12, **options):
    settings = {"image_size": model.image_size, "mean": model.mean, "std": model.std, "tokenizer": model.tokenizer}
    settings |= {"max_length": model.max_length, "views": views} | options
    return Loader(source, batch_size=batch_size, **settings)


def test_features_are_what_the_towers_give(tiny, source):
    features = precompute(tiny, source, batch_size=12, shuffle=False, tower_batch=7)
    assert len(features) == 4
    for batch, plain in zip(features, pixels_of(tiny, source, shuffle=False), strict=True):
        assert torch.equal(batch["index"], plain["index"])
        assert torch.equal(batch["group"], plain["group"])
        torch.testing.assert_close(tiny.encode_image(batch["image"]), tiny.encode_image(plain["image"]))
        torch.testing.assert_close(tiny.encode_text(batch["text"]), tiny.encode_text(plain["text"]))


def held_against_pixels(model, source, fields=(), **options):
    """Each batch of features has the keys of the batch of pictures, and all of its values but the pictures."""
    read = precompute(model, source, fields, batch_size=4, seed=3, **options)
    plain = pixels_of(model, source, fields=fields, batch_size=4, seed=3, **options)
    assert len(read) == len(plain) > 1
    for features, pixels in zip(read, plain, strict=True):
        assert features.keys() == pixels.keys()
        for name in features.keys() - {"image"}:
            torch.testing.assert_close(features[name], pixels[name], rtol=0, atol=0)
    return features


def test_batches_of_features_hold_all_that_batches_of_pictures_do(tiny):
    """Hard captions, their owners among them, scenes' labels and groups, answers, and fields of one's own."""
    trains = copy.deepcopy(tiny).unfreeze("text")
    scenes = world_scenes("train", n=12, size=32)
    last = held_against_pixels(trains, scenes)
    assert {"negative_text", "has_negative", "label", "domain", "geometry"} < last.keys()
    held_against_pixels(trains, scenes, negatives=3, caption=0.5, max_length=6, pad_to=8)
    held_against_pixels(trains, world_questions("train", n=12, size=32), answers=True)
    rows = [record | {"loudness": i / 3, "seen": [i, i + 1]} for i, record in enumerate(scenes)]
    last = held_against_pixels(trains, Records(rows), [NumberField("loudness", 0.0), VectorField("seen", 2)])
    assert last["seen"].shape == (4, 2)


def test_hard_captions_of_a_frozen_text_tower_are_read_ahead_too(tiny):
    scenes = world_scenes("train", n=12, size=32, vocabulary="shapes")
    mixed = [record | ({} if i % 3 else {"negative_text": []}) for i, record in enumerate(scenes)]
    read = precompute(tiny, Records(mixed), batch_size=4, seed=3, negatives=2)
    for features, pixels in zip(read, pixels_of(tiny, Records(mixed), batch_size=4, seed=3, negatives=2), strict=True):
        assert features["negative_text"].shape == (8, tiny.text.width)
        assert torch.equal(features["has_negative"], pixels["has_negative"])
        for name in ("text", "negative_text"):
            from_features, made = (tiny.encode_text(batch[name]) for batch in (features, pixels))
            torch.testing.assert_close(from_features, made, rtol=1e-4, atol=1e-5)


def test_geometry_is_that_of_the_views_that_were_read(tiny, source):
    mirror = next(iter(pixels_of(tiny, source, views="mirror", shuffle=False)))["geometry"][0, 0]
    plain = next(iter(pixels_of(tiny, source, shuffle=False)))["geometry"][0, 0]
    batch = next(iter(precompute(tiny, source, batch_size=12, views=("none", "mirror"), n_views=2, seed=1)))
    for sample in range(12):
        first, second = batch["geometry"][:, sample]
        assert {torch.equal(first, plain), torch.equal(second, plain)} == {True, False}
        assert {torch.equal(first, mirror), torch.equal(second, mirror)} == {True, False}


def test_training_on_features_is_training_on_pictures(tiny, source):
    """Same order, same captions, no augmentation: the same weights."""
    first, second = CLIP(copy.deepcopy(tiny)), CLIP(copy.deepcopy(tiny))
    before = first.model.image_projection.weight.clone()
    train(first, pixels_of(first.model, source, seed=3), epochs=2, lr=1e-2, **QUIET)
    train(second, precompute(second.model, source, batch_size=12, seed=3), epochs=2, lr=1e-2, **QUIET)
    assert not torch.equal(first.model.image_projection.weight, before)
    for name, value in first.state_dict().items():
        torch.testing.assert_close(second.state_dict()[name], value, rtol=1e-3, atol=1e-5)


def test_a_view_a_pass(tiny, source):
    features = precompute(tiny, source, batch_size=12, views=("none", "mirror"))
    assert features.image.shape[:2] == (2, len(source))
    picture = next(iter(pixels_of(tiny, source, shuffle=False)))["image"][:1]
    torch.testing.assert_close(features.image[1, :1], tiny.image_tokens(picture.flip(3))[:, 0], rtol=1e-3, atol=1e-4)
    epochs = [torch.cat([batch["image"] for batch in features]) for _ in range(2)]
    used = {tuple(row[:2].tolist()) for epoch in epochs for row in epoch}
    assert len(used) > len(source)  # both views of some


def test_a_text_tower_that_trains_gets_tokens(tiny, source):
    model = copy.deepcopy(tiny).unfreeze("text")
    method = CLIP(model)
    features = precompute(model, source, batch_size=12)
    assert set(next(iter(features))["text"]) == {"input_ids", "attention_mask"}
    before = copy.deepcopy(model.text.state_dict())
    train(method, features, epochs=1, lr=1e-3, **QUIET)
    assert any(not torch.equal(value, before[name]) for name, value in model.text.state_dict().items())


def test_captions_and_order_depend_on_the_epoch_alone(tiny, source):
    def epoch(number, **options):
        features = precompute(tiny, source, seed=5, **{"batch_size": 12} | options)
        features.set_epoch(number)
        return list(features)

    once, again, other = epoch(1), epoch(1), epoch(2)
    assert all(torch.equal(a["text"], b["text"]) for a, b in zip(once, again, strict=True))
    assert not torch.equal(once[0]["index"], other[0]["index"])
    halves = [epoch(1, batch_size=6, rank=rank, world_size=2) for rank in range(2)]
    for whole, *parts in zip(once, *halves, strict=True):
        assert torch.equal(whole["image"], torch.cat([part["image"] for part in parts]))


def test_the_first_caption_may_be_preferred(tiny, source):
    three = source.map(lambda record: record | {"text": ["one", "two", "three"]})

    def share_of_first(**options):
        features = precompute(tiny, three, batch_size=12, **options)
        one = features.text["one"]
        texts = torch.cat([batch["text"] for _ in range(8) for batch in features])
        return (texts == one).all(1).float().mean().item()

    assert share_of_first() == pytest.approx(1 / 3, abs=0.1)
    assert share_of_first(caption=0.5) == pytest.approx(2 / 3, abs=0.1)
    assert share_of_first(caption="first") == 1
    assert share_of_first(shuffle=False) == 1


def test_it_goes_on_inside_an_epoch(tiny, source):
    features = precompute(tiny, source, batch_size=12)
    features.set_epoch(2)
    batches = iter(features)
    next(batches)
    state = features.state_dict()
    rest = [batch["index"] for batch in batches]
    features.load_state_dict(state)
    assert [batch["index"].tolist() for batch in features] == [index.tolist() for index in rest]
    with pytest.raises(UserError, match="global_batch"):
        features.load_state_dict(state | {"global_batch": 24})


def test_unusable_records_are_left_out_and_listed(tiny):
    good = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(good, "PNG")
    records = [{"image": good.getvalue(), "text": f"number {i}", "label": i} for i in range(20)]
    records[3]["image"], records[5]["text"] = b"no picture", " "
    features = precompute(tiny, Records(records), batch_size=6, shuffle=False, max_skipped=0.2)
    labels = torch.cat([batch["label"] for batch in features]).tolist()
    assert labels == [i for i in range(20) if i not in (3, 5)]
    assert features.skipped.count == 2
    assert "record 5: no caption" in features.skipped.listing()
    with pytest.raises(UserError, match="more than the 1% allowed"):
        precompute(tiny, Records(records), batch_size=6, max_skipped=0.01)


def test_a_tower_that_changes_has_no_features(tiny, source):
    with pytest.raises(UserError, match=r"model.freeze\('image'\)"):
        precompute(copy.deepcopy(tiny).unfreeze(), source, batch_size=12)


def test_views_of_one_batch_differ_and_the_first_is_the_image(tiny, source):
    features = precompute(tiny, source, batch_size=12, views=("none", "mirror", "moco"), n_views=2)
    for batch in features:
        assert batch["views"].shape == (2, 12, tiny.image.width)
        assert torch.equal(batch["views"][0], batch["image"])
        assert bool((batch["views"][0] != batch["views"][1]).any(dim=1).all())
    with pytest.raises(UserError, match="n_views=3 of 2 views"):
        precompute(tiny, source, batch_size=12, views=("none", "mirror"), n_views=3)


def test_a_preset_that_comes_twice_is_drawn_anew(tiny, source):
    one, two, again = precompute(tiny, source.first(4), batch_size=4, views=("moco", "moco", "none")).image
    assert bool((one != two).any(dim=1).all())
    assert bool((two != again).any(dim=1).all())


def test_features_keep_the_records_ids(tiny, source):
    """Of a filtered source, shuffled, gone on with, and with neighbours: the ids that the pictures' loader gives."""
    part = source.filter(lambda record: record["index"] % 3 == 1).first(8)
    ids = set(part.column("index"))
    assert ids.isdisjoint(range(8))
    for options in ({}, {"order": PairedOrder((torch.arange(8)[:, None] + 1) % 8)}):
        features = precompute(tiny, part, batch_size=4, seed=3, **options)
        plain = list(pixels_of(tiny, part, seed=3, batch_size=4, **options))
        assert [batch["index"].tolist() for batch in features] == [batch["index"].tolist() for batch in plain]
        assert {i for batch in plain for i in batch["index"].tolist()} == ids
        features.set_epoch(0)
        next(iter(features))
        features.load_state_dict(features.state_dict())
        assert [batch["index"].tolist() for batch in features] == [batch["index"].tolist() for batch in plain[1:]]
        assert "place" not in next(iter(features))
    with pytest.raises(UserError, match=r"neighbours \(8, 1\) do not fit"):
        precompute(tiny, part.first(5), batch_size=4, order=options["order"])


@pytest.fixture(scope="module")
def fusing(source):
    torch.manual_seed(0)
    tokenizer = train_tokenizer(source.texts(), 300)
    image = {"model_type": "vit", "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {"model_type": "bert", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    small = {"intermediate_size": 64}
    model = create(
        image=image | small | {"patch_size": 8},
        text=text | small | {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},
        text_layers=1,
        tokenizer=tokenizer,
        image_size=32,
        embed_dim=16,
        max_length=8,
    )
    return model.freeze("image")


def test_a_model_that_fuses_gets_all_tokens_and_trains_as_on_pictures(fusing, source):
    once = source.map(lambda record: record | {"text": record["text"][0]})
    features = precompute(fusing, once, batch_size=12, seed=3)
    assert features.image.shape == (1, len(source), 17, 32)
    weights = []
    for on_features in (True, False):
        model = copy.deepcopy(fusing)
        torch.manual_seed(1)  # the queues begin at random
        method = ALBEF(model, queue_size=24, share_duplicates=False)
        data = precompute(model, once, batch_size=12, seed=3) if on_features else pixels_of(model, once, seed=3)
        train(method, data, epochs=2, lr=1e-3, seed=5, **QUIET)
        weights.append(model.state_dict())
    for name, value in weights[1].items():
        torch.testing.assert_close(weights[0][name], value, rtol=1e-3, atol=1e-5)


def test_many_trainings_on_one_reading(fusing, source):
    read = precompute(fusing, source, batch_size=1, shuffle=False)
    texts = [[f"{own[0]} again"] for own in read.texts]
    batches = read.again(fusing, texts, batch_size=12, seed=7)
    batch = next(iter(batches))
    assert batch["image"].shape == (12, 17, 32)
    rows = [read.numbers["index"].tolist().index(i) for i in batch["index"].tolist()]
    assert torch.equal(batch["image"], read.image[0, rows])
    assert torch.equal(batch["text"]["input_ids"], fusing.tokenize([texts[row][0] for row in rows])["input_ids"])
