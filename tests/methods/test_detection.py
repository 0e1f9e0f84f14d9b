"""Fine-tuning of a detector on boxes: targets worked out by hand, and a step that learns what it is to learn."""

import math

import pytest
import torch
from torch.nn import functional as F

from nearfar.data import train_tokenizer
from nearfar.data.batches.data_info import DataInfo
from nearfar.data.boxes.boxes_field import BoxesField
from nearfar.data.pictures.views import Views
from nearfar.errors import UserError
from nearfar.methods import Detection
from nearfar.methods.detection.detection import _proposal_losses, class_loss
from nearfar.methods.detection.detection_targets import centerness, place_targets, sampled_regions, things_in_view
from nearfar.models import create, detector

NAMES = ["cat", "dog", "owl"]


@pytest.fixture(scope="module")
def model():
    vit = {"model_type": "vit", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    vit |= {"intermediate_size": 32, "patch_size": 4, "initializer_range": 0.2}
    bert = {"model_type": "bert", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    bert |= {"intermediate_size": 32, "max_position_embeddings": 32, "initializer_range": 0.2}
    torch.manual_seed(0)
    pair = create(image=vit, text=bert, tokenizer=train_tokenizer(NAMES, 300), image_size=32, embed_dim=8)
    return detector(pair, window=4, levels=(3, 4), width=8, convolutions=1, hidden=16)


def begun(model, **settings):
    method = Detection(model, regions=12, proposals=20, **settings)
    method.begin(DataInfo(classes=NAMES))
    return method


@pytest.fixture
def batch():
    boxes = torch.tensor(
        [[[4.0, 4.0, 20.0, 24.0], [0.0, 0.0, 0.0, 0.0]], [[0.0, 0.0, 12.0, 12.0], [10.0, 10.0, 30.0, 30.0]]]
    )
    return {"image": torch.rand(2, 3, 32, 32), "boxes": boxes, "box_label": torch.tensor([[1, -1], [0, 2]])}


def test_centerness_of_places():
    box = torch.tensor([2.0, 2.0, 10.0, 6.0])
    at = torch.tensor([[6.0, 4.0], [4.0, 3.0], [2.0, 4.0], [11.0, 4.0]])
    assert centerness(at, box).tolist() == pytest.approx([1, math.sqrt(2 / 6 * 1 / 3), 0, 0], abs=1e-6)


def test_each_thing_has_a_place_and_empty_pictures_have_none():
    grid = torch.tensor([[4.0, 4.0], [12.0, 4.0], [4.0, 12.0], [12.0, 12.0]])
    anchors = torch.full((4,), 8.0)
    boxes = torch.tensor([[[0.0, 0.0, 8.0, 8.0], [9.0, 9.0, 13.0, 13.0]], [[0.0, 0.0, 8.0, 8.0], [0.0, 0.0, 0.0, 0.0]]])
    there = torch.tensor([[True, True], [False, False]])
    target = place_targets(grid, anchors, boxes, there)
    # The small thing overlaps its anchor by a quarter, below 0.3, and no other more.
    assert target.positive.tolist() == [[True, False, False, True], [False] * 4]
    assert target.centerness[0].tolist() == pytest.approx([1, 0, 0, 1 / 3])
    assert target.boxes[0, 3].tolist() == [9, 9, 13, 13]
    assert target.counts.tolist() == [[True] * 4, [True] * 4]
    few = place_targets(grid, anchors, boxes, there, count=2)
    assert few.counts.sum(1).tolist() == [2, 2]
    assert few.positive.sum(1).tolist() == [1, 0]


def test_regions_are_of_the_thing_that_they_overlap_most():
    boxes, label = torch.tensor([[[0.0, 0.0, 10.0, 10.0], [20.0, 20.0, 30.0, 30.0]]]), torch.tensor([[4, -1]])
    proposals = torch.tensor([[[0.0, 0.0, 10.0, 8.0], [20.0, 20.0, 30.0, 30.0], [40.0, 40.0, 44.0, 44.0]]])
    regions, target, things = sampled_regions(proposals, boxes, label, count=5, share=0.5)
    of = {tuple(box): int(kind) for box, kind in zip(regions[0].tolist(), target[0], strict=True)}
    # What lies on a thing that is not there is background, and its own box no region.
    assert sorted(target[0].tolist()) == [-1, 0, 0, 5, 5]
    assert of[0.0, 0.0, 10.0, 8.0] == of[0.0, 0.0, 10.0, 10.0] == 5
    assert of[40.0, 40.0, 44.0, 44.0] == 0
    assert all(torch.equal(thing, boxes[0, 0]) for thing, kind in zip(things[0], target[0], strict=True) if kind > 0)
    few = sampled_regions(proposals, boxes, label, count=2, share=0.5)[1]
    assert sorted(few[0].tolist()) == [0, 5]


def test_the_background_counts_less_and_the_rest_as_it_is():
    logits, target = torch.randn(6, 4), torch.tensor([0, 1, 0, 3, 2, 0])
    plain = F.cross_entropy(logits, target)
    torch.testing.assert_close(class_loss(logits, target, 1.0), plain)
    each = F.cross_entropy(logits, target, reduction="none")
    torch.testing.assert_close(class_loss(logits, target, 0.9), plain - 0.1 * each[target == 0].sum() / 6)
    assert class_loss(logits[:0], target[:0], 0.9).item() == 0


@pytest.mark.parametrize("preset", ["none", "mirror", "clip"])
def test_boxes_follow_their_view(preset):
    picture = torch.zeros(1, 3, 40, 40, dtype=torch.uint8)
    picture[:, :, 8:20, 12:32] = 255
    views = Views(preset, size=32, n_views=1)
    canvas = torch.nn.functional.interpolate(picture.float(), (views.canvas, views.canvas), mode="area").byte()
    pixels, geometry = views(canvas, views.draw(1, torch.Generator().manual_seed(0)), sizes=torch.tensor([[40, 40]]))
    box, label = things_in_view(torch.tensor([[[12.0, 8.0, 32.0, 20.0]]]), torch.tensor([[3]]), geometry[0], 32)
    lit = pixels[0, 0, 0] > (pixels.max() + pixels.min()) / 2
    rows, columns = lit.any(1).nonzero()[:, 0], lit.any(0).nonzero()[:, 0]
    drawn = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    assert box[0, 0].tolist() == pytest.approx([float(side) for side in drawn], abs=0.75)
    assert label.item() == 3


def test_what_a_view_cuts_off_is_no_thing():
    shift = torch.eye(3).expand(1, 3, 3).clone()
    shift[0, 0, 2] = -8
    boxes, label = torch.tensor([[[0.0, 0.0, 10.0, 10.0], [4.0, 0.0, 12.0, 8.0]]]), torch.tensor([[1, 2]])
    cut, left = things_in_view(boxes, label, shift, 8)
    assert left.tolist() == [[-1, 2]]
    assert cut[0].tolist() == [[0, 0, 0, 0], [0, 0, 4, 8]]


def test_all_but_texts_learn(model, batch):
    method = begun(model)
    method(batch)["loss"].backward()
    without = {name for name, p in model.named_parameters() if p.grad is None}
    assert all(name.startswith(("pair.text", "pair.image_projection")) or "cls_token" in name for name in without)
    assert model.class_temperature.grad is not None
    groups = method.param_groups(0.1)
    assert [group.get("lr_scale", 1.0) for group in groups] == [0.6, 0.6, 1.0, 1.0]
    trained = {id(p) for p in model.parameters() if p.requires_grad}
    assert {id(p) for group in groups for p in group["params"]} == trained


def test_the_loss_is_the_sum_and_falls(model, batch):
    torch.manual_seed(0)
    method = begun(model)
    optimiser = torch.optim.Adam(method.parameters(), lr=1e-2)
    losses = []
    for _ in range(40):
        out = method(batch)
        total = sum(out[name] for name in ("centerness_loss", "proposal_loss", "class_loss", "box_loss"))
        torch.testing.assert_close(out["loss"].detach(), total)
        optimiser.zero_grad()
        out["loss"].backward()
        optimiser.step()
        losses.append(out["loss"].item())
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])


def test_things_of_other_classes_are_background(model, batch):
    method = begun(model, base=["owl", "cat"])
    assert method.number.tolist() == [1, -1, 0, -1]
    assert len(method.tokens["input_ids"]) == 3
    nothing = {**batch, "box_label": torch.full((2, 2), -1)}
    out = method(nothing)
    assert out["box_loss"].item() == 0
    assert out["proposal_loss"].item() == 0
    assert math.isfinite(out["loss"].item())


def test_boxes_of_a_record_in_a_batch():
    field = BoxesField(NAMES)
    some = {
        "objects": [{"name": "owl", "box": (1, 1, 9, 3)}, {"name": "bat", "box": (0, 0, 1, 1)}],
        "width": 8,
        "height": 8,
    }
    crowd = {"objects": [{"name": "cat", "box": (0, 0, 4, 4), "crowd": True}], "width": 8, "height": 8}
    batch = field.collate([field.prepare(record, None) for record in (some, crowd)], None)
    assert batch["boxes"].tolist() == [[[1, 1, 8, 3]], [[0, 0, 0, 0]]]
    assert batch["box_label"].tolist() == [[2], [-1]]
    with pytest.raises(UserError, match="boxes need the names of their classes"):
        BoxesField(None)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"template": "a"}, "it has no {} for the name"),
        ({"background_weight": -1}, "numbers from 0 on"),
        ({"regions": 0}, "whole numbers from 1 on"),
    ],
)
def test_settings_out_of_range(model, settings, message):
    with pytest.raises(UserError, match=message):
        Detection(model, **settings)


def test_classes_that_are_not_there(model, batch):
    with pytest.raises(UserError, match="knows no class names yet"):
        Detection(model)(batch)
    with pytest.raises(UserError, match="names no classes"):
        Detection(model).begin(DataInfo())
    with pytest.raises(UserError, match="base has 'bat', which is none of the classes"):
        Detection(model, base=["bat"]).begin(DataInfo(classes=NAMES))
    with pytest.raises(UserError, match="detection trains a detector"):
        Detection(torch.nn.Linear(2, 2))


def test_the_overlap_of_proposals_counts_eight_times():
    # Four places with anchors of 64 pixels; the thing is the first one's, and its proposal covers half of it.
    proposed = torch.tensor([[[0.0, 0.0, 8.0, 4.0]]]).expand(1, 4, 4)
    thing, label = torch.tensor([[[0.0, 0.0, 8.0, 8.0]]]), torch.tensor([[1]])
    maps = {4: torch.zeros(1, 1, 2, 2)}
    counted, losses = _proposal_losses(maps, torch.zeros(1, 4), proposed, thing, label, 16)
    assert counted.item() == 4
    assert losses["centerness_loss"].item() == pytest.approx(4 * 0.5 / 4)
    assert losses["proposal_loss"].item() == pytest.approx(8 * 0.5 / 4)
