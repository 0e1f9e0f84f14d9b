"""Features of frozen towers: they are what the towers give, and training on them is training on the pictures."""

import copy
import io

import pytest
import torch
from PIL import Image

from nearfar import train
from nearfar.data import Loader, Records, train_tokenizer, world
from nearfar.errors import UserError
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


def pixels_of(model, source, views="none", **options):
    settings = {"image_size": model.image_size, "mean": model.mean, "std": model.std, "tokenizer": model.tokenizer}
    return Loader(source, batch_size=12, max_length=model.max_length, views=views, **settings, **options)


def test_features_are_what_the_towers_give(tiny, source):
    features = precompute(tiny, source, batch_size=12, shuffle=False, chunk=7)
    assert len(features) == 4
    for batch, plain in zip(features, pixels_of(tiny, source, shuffle=False), strict=True):
        assert torch.equal(batch["index"], plain["index"])
        assert torch.equal(batch["group"], plain["group"])
        torch.testing.assert_close(tiny.encode_image(batch["image"]), tiny.encode_image(plain["image"]))
        torch.testing.assert_close(tiny.encode_text(batch["text"]), tiny.encode_text(plain["text"]))


def test_training_on_features_is_training_on_pictures(tiny, source):
    """Same order, same captions, no augmentation: the same weights."""
    once = source.map(lambda record: record | {"text": record["text"][0]})
    first, second = CLIP(copy.deepcopy(tiny)), CLIP(copy.deepcopy(tiny))
    before = first.model.image_projection.weight.clone()
    train(first, pixels_of(first.model, once, seed=3), epochs=2, lr=1e-2, **QUIET)
    train(second, precompute(second.model, once, batch_size=12, seed=3), epochs=2, lr=1e-2, **QUIET)
    assert not torch.equal(first.model.image_projection.weight, before)
    for name, value in first.state_dict().items():
        torch.testing.assert_close(second.state_dict()[name], value, rtol=1e-3, atol=1e-5)


def test_a_view_a_pass(tiny, source):
    features = precompute(tiny, source, batch_size=12, views=("none", "mirror"))
    assert features.image.shape[:2] == (2, len(source))
    picture = next(iter(pixels_of(tiny, source, shuffle=False)))["image"][:1]
    torch.testing.assert_close(features.image[1, :1], tiny.image_tokens(picture.flip(3))[:, 0], rtol=1e-3, atol=1e-4)
    seen = [torch.cat([batch["image"] for batch in features]) for _ in range(2)]
    used = {tuple(row[:2].tolist()) for epoch in seen for row in epoch}
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
    with pytest.raises(UserError, match=r'model.freeze\("image"\)'):
        precompute(copy.deepcopy(tiny).unfreeze(), source, batch_size=12)
