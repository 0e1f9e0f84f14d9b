"""DITO's pretraining: random regions, the maximum over them, and a contrast with captions on each level."""

import math

import pytest
import torch
from torch.nn import functional as F

from nearfar.data import train_tokenizer
from nearfar.errors import UserError
from nearfar.losses import InfoNCE
from nearfar.methods import DITO, find
from nearfar.methods.detection import dito as module
from nearfar.methods.detection.dito import pooled
from nearfar.models import create, detector

TEXTS = ["a red car", "two dogs", "an old house", "a boat at sea"]


@pytest.fixture(scope="module")
def pair():
    vit = {"model_type": "vit", "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    vit |= {"intermediate_size": 32, "patch_size": 4, "initializer_range": 0.2}
    bert = {"model_type": "bert", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    bert |= {"intermediate_size": 32, "max_position_embeddings": 32, "initializer_range": 0.2}
    torch.manual_seed(0)
    return create(image=vit, text=bert, tokenizer=train_tokenizer(TEXTS, 300), image_size=32, embed_dim=8)


@pytest.fixture
def model(pair):
    torch.manual_seed(1)
    return detector(pair, window=4, levels=(4, 5), width=8, convolutions=1, hidden=16)


@pytest.fixture
def batch(model):
    return {"image": torch.rand(4, 3, 32, 32), "text": model.tokenize(TEXTS)}


def method(model, **settings):
    return DITO(model, **{"boxes": [5, 3], "temperature": 0.1, **settings}).eval()


def test_it_is_registered():
    assert find("dito") is DITO


def test_a_level_is_info_nce_of_maxima_with_captions(model, batch, monkeypatch):
    boxes = {5: torch.rand(4, 5, 4).sort(-1).values, 3: torch.rand(4, 3, 4).sort(-1).values}
    monkeypatch.setattr(module, "sample_random_boxes", lambda n, count=0, **_: boxes.get(count))
    out = method(model)(batch)
    with torch.no_grad():
        maps, text = model.pyramid_maps(batch["image"]), F.normalize(model.encode_text(batch["text"]), dim=-1)
        expected = 0.0
        for level, count in ((4, 5), (5, 3)):
            regions = model.head.embeddings(model.level_regions(maps[level], 32 * boxes[count], 32))
            v = F.normalize(regions.max(1).values, dim=-1)
            logits, target = v @ text.T / 0.1, torch.arange(4)
            loss = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
            torch.testing.assert_close(out[f"loss_{level}"], loss)
            expected = expected + loss
    torch.testing.assert_close(out["loss"], expected)
    torch.testing.assert_close(method(model, over_levels="mean")(batch)["loss"], expected / 2)


def losses_of(embeddings, tau, text=None):
    return InfoNCE(tau)(embeddings, embeddings if text is None else text)


def test_values_of_the_contrast(model):
    equal = torch.ones(8, 4)
    made = method(model, temperature=1.0)
    out = made.objective({"level_4": equal, "level_5": equal, "text": equal}, {})
    assert out["loss"].item() == pytest.approx(2 * math.log(8), abs=1e-6)
    eye = torch.eye(2)
    assert made.objective({"level_4": eye, "level_5": eye, "text": eye}, {})["loss_4"].item() == pytest.approx(
        0.3132617
    )
    sharp = method(model, temperature=0.01)
    assert sharp.objective({"level_4": eye, "level_5": eye, "text": eye}, {})["loss_4"].item() < 1e-40
    one = torch.randn(1, 4)
    assert sharp.objective({"level_4": one, "level_5": one, "text": one}, {})["loss"].item() == pytest.approx(
        0, abs=1e-6
    )


def test_the_order_and_the_number_of_equal_regions_do_not_matter():
    regions = torch.randn(3, 6, 8)
    v = pooled(regions, "max")
    assert torch.equal(pooled(regions[:, torch.randperm(6)], "max"), v)
    assert torch.equal(pooled(torch.cat([regions, regions[:, :2]], 1), "max"), v)
    assert (pooled(torch.cat([regions, torch.randn(3, 2, 8)], 1), "max") >= v).all()
    # Normalising first is another method.
    assert not torch.allclose(F.normalize(v, dim=-1), F.normalize(pooled(F.normalize(regions, dim=-1), "max"), dim=-1))


def test_levels_are_added_up_and_apart(model, batch, monkeypatch):
    torch.manual_seed(7)
    made = method(model)
    both = made(batch)
    torch.testing.assert_close(both["loss"], both["loss_4"] + both["loss_5"])
    # Without the loss of the last level its stage of the pyramid learns nothing.
    embeddings = made.embed(batch)
    made.loss(embeddings["level_4"], embeddings["text"]).backward()
    first, last = (model.pyramid.stages[i] for i in (0, 1))
    assert all(p.grad.any() for p in first.parameters() if p.ndim > 1)
    assert all(p.grad is None or not p.grad.any() for p in last.parameters())


def test_proposals_and_box_corrections_learn_nothing(model, batch):
    made = method(model)
    made(batch)["loss"].backward()
    for name, p in model.named_parameters():
        trained = p.requires_grad
        assert trained == (p.grad is not None), name
        boxes = name.startswith(("proposals.", "head.boxes.", "class_temperature"))
        unread = "cls_token" in name or "image_projection" in name
        assert trained != (boxes or unread), name


def test_a_frozen_backbone_stays_as_it_is(model, batch):
    made = method(model, freeze_backbone=True)
    made(batch)["loss"].backward()
    assert {name.split(".")[0] for name, p in model.named_parameters() if p.grad is not None} == {"pyramid", "head"}


def test_one_box_of_the_whole_picture_and_an_identity_head_is_clip(model, batch, monkeypatch):
    whole = torch.tensor([0.0, 0.0, 1.0, 1.0])
    monkeypatch.setattr(module, "sample_random_boxes", lambda n, count=0, **_: whole.expand(n, count, 4))
    monkeypatch.setattr(model, "level_regions", lambda grid, boxes, side: one_sample_a_cell(grid, boxes, side))
    monkeypatch.setattr(model.head, "embeddings", lambda regions: regions)
    loss = method(model, boxes=[1, 1])(batch)["loss_4"]
    v, text = model.pyramid_maps(batch["image"])[4].mean((2, 3)), model.encode_text(batch["text"])
    torch.testing.assert_close(loss, losses_of(v, 0.1, text), atol=1e-5, rtol=0)


def one_sample_a_cell(grid, boxes, side):
    from nearfar.ops.regions import roi_align

    cut = roi_align(grid, boxes, 1, stride=side / grid.shape[-1], sampling_ratio=grid.shape[-1])
    return cut.flatten(2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"boxes": [4]}, "for each of the levels 4, 5"),
        ({"boxes": [4, 0]}, "a number from 1 on"),
        ({"pool": "min"}, "choose max or mean"),
        ({"over_levels": "max"}, "choose sum or mean"),
        ({"size": (0.5, 0.1)}, "size is 0.5 to 0.1"),
    ],
)
def test_settings_out_of_range(model, settings, message):
    with pytest.raises(UserError, match=message):
        DITO(model, **settings)


def test_another_model_is_refused(pair):
    with pytest.raises(UserError, match=r"this is a DualEncoder: make one of it with nearfar\.models\.detector"):
        DITO(pair)
