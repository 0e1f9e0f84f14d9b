"""The detector: an image-text model over regions, its two scores joined, saved and loaded as others are."""

from copy import deepcopy

import pytest
import torch
from torch.nn import functional as F

import nearfar
from nearfar.data import train_tokenizer
from nearfar.errors import UserError
from nearfar.models import create, detector
from nearfar.models.detection.detections import (
    best_detections,
    box_corrections,
    corrected_boxes,
    ensemble_detection_scores,
)
from nearfar.models.detection.feature_pyramid import SimpleFeaturePyramid
from nearfar.models.detection.proposals import best_proposals, places
from nearfar.ops.regions import roi_align

VIT = {"model_type": "vit", "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
VIT |= {"intermediate_size": 32, "patch_size": 4, "initializer_range": 0.2}
BERT = {"model_type": "bert", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
BERT |= {"intermediate_size": 32, "max_position_embeddings": 32}


@pytest.fixture(scope="module")
def pair():
    torch.manual_seed(0)
    return create(image=VIT, text=BERT, tokenizer=train_tokenizer(["a cat"], 300), image_size=32, embed_dim=8)


@pytest.fixture(scope="module")
def model(pair):
    torch.manual_seed(1)
    return detector(pair, window=4, levels=(3, 4, 5), width=8, convolutions=1, hidden=16).eval()


P, Z = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.2, 0.2, 0.6])


def test_two_scores_joined():
    base = torch.tensor([True, False])
    q = ensemble_detection_scores(P, Z, base)
    assert q.tolist() == pytest.approx([0.427797, 0.222719, 0.349484], abs=1e-6)
    assert (0.8**3 * q).tolist() == pytest.approx([0.219032, 0.114032, 0.178936], abs=1e-6)
    assert (q[1:] / q[0] * 0.5).tolist() == pytest.approx([0.260309, 0.408469], abs=1e-6)
    assert torch.allclose(ensemble_detection_scores(P, Z, base, base_weight=0, novel_weight=0), P)
    frozen = ensemble_detection_scores(P, Z, base, base_weight=1, novel_weight=1)
    torch.testing.assert_close(frozen, torch.tensor([0.5, 0.2, 0.6]) / 1.3)
    # Nobody said which classes are base: all count as novel.
    novel = ensemble_detection_scores(P, Z)
    torch.testing.assert_close(novel, ensemble_detection_scores(P, Z, torch.tensor([False, False])))


@pytest.mark.parametrize(
    ("settings", "message"), [({"base_weight": 1.5}, "a share"), ({"is_base": torch.ones(3).bool()}, r"is_base \[K\]")]
)
def test_scores_that_cannot_be_joined(settings, message):
    with pytest.raises(UserError, match=message):
        ensemble_detection_scores(P, Z, **settings)


def test_corrections_of_boxes_go_both_ways():
    boxes = torch.tensor([[1.0, 2.0, 5.0, 4.0], [0.0, 0.0, 3.0, 3.0]])
    targets = torch.tensor([[2.0, 2.0, 4.0, 6.0], [0.0, 0.0, 3.0, 3.0]])
    change = box_corrections(boxes, targets)
    assert change[0].tolist() == pytest.approx([0, 5, -3.4657, 3.4657], abs=1e-3)
    assert change[1].tolist() == [0, 0, 0, 0]
    torch.testing.assert_close(corrected_boxes(boxes, change), targets)


def test_doubles_of_one_class_are_dropped():
    boxes = torch.tensor([[0.0, 0.0, 4.0, 4.0], [0.0, 0.0, 4.0, 3.8], [8.0, 8.0, 9.0, 9.0]])
    scores = torch.tensor([[0.6, 0.1], [0.7, 0.2], [0.05, 0.3]])
    best = best_detections(boxes, scores, most=4)
    assert [round(s, 2) for s in best["scores"].tolist()] == [0.7, 0.3, 0.2, 0.05]
    assert best["labels"].tolist() == [0, 1, 1, 0]
    assert best["boxes"][0].tolist() == boxes[1].tolist()


def test_places_of_levels_lie_as_their_cells(model):
    maps = model.pyramid_maps(torch.rand(1, 3, 32, 32))
    assert [tuple(grid.shape[2:]) for grid in maps.values()] == [(16, 16), (8, 8), (4, 4)]
    centres, anchors = places(maps, 32)[3]
    assert centres[17].tolist() == [3.0, 3.0]
    assert anchors[0].item() == 16
    scores, boxes = model.proposals(maps, 32)
    assert boxes.shape == (1, 16 * 16 + 8 * 8 + 4 * 4, 4)
    top, centerness = best_proposals(scores, boxes, 10, 32)
    assert torch.equal(centerness, scores.sigmoid().sort(descending=True).values[:, :10])
    assert top.min() >= 0
    assert top.max() <= 32
    assert best_proposals(scores, boxes, 10_000, 32)[0].shape[1] == boxes.shape[1]


def test_a_box_is_read_at_the_level_of_its_size(model):
    boxes = torch.tensor(
        [[0.0, 0.0, 2.0, 2.0], [0.0, 0.0, 30.0, 30.0], [0.0, 0.0, 60.0, 60.0], [0.0, 0.0, 999.0, 999.0]]
    )
    assert model.levels_of(boxes, 32).tolist() == [3, 3, 4, 5]
    pixels = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        maps = model.pyramid_maps(pixels)
        several = model.encode_regions(pixels, boxes[None])
        alone = model.head.embeddings(model.level_regions(maps[4], boxes[None, 2:3], 32))
    torch.testing.assert_close(several[:, 2:3], alone)


def test_the_mean_of_cells_is_the_picture(model):
    pixels = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(model.encode_image_map(pixels).mean((2, 3)), model.encode_image(pixels))
        whole = torch.tensor([[[-7.0, -7.0, 39.0, 39.0]]]).expand(2, 1, 4)
        texts = torch.randn(3, 8)
        scores = model.frozen_scores(pixels, whole, texts, temperature=0.5)
        assert scores.shape == (2, 1, 3)
        torch.testing.assert_close(scores.sum(-1), torch.ones(2, 1))


def test_detections_are_of_the_best_kind_and_follow_the_texts(model):
    pixels, texts = torch.rand(2, 3, 32, 32), torch.randn(4, 8)
    out = model.detect(pixels, texts, most=5)
    assert [sorted(each) for each in out] == [["boxes", "labels", "scores"]] * 2
    for each in out:
        assert each["boxes"].shape == (5, 4)
        assert (each["scores"].diff() <= 0).all()
        assert each["boxes"].min() >= 0
        assert each["boxes"].max() <= 32
    order = torch.tensor([2, 0, 1])
    again = model.detect(pixels, texts[torch.cat([torch.tensor([0]), order + 1])], most=5)
    torch.testing.assert_close(again[0]["scores"], out[0]["scores"])
    assert order[again[0]["labels"]].tolist() == out[0]["labels"].tolist()


def test_a_frozen_model_scores_beside_it_and_is_no_part_of_it(model, tmp_path):
    pixels, texts = torch.rand(1, 3, 32, 32), torch.randn(3, 8)
    own = deepcopy(model)
    plain = own.detect(pixels, texts, most=20)[0]["scores"]
    model.save_pretrained(tmp_path / "before")
    own.keep_frozen(str(tmp_path / "before"))
    joined = own.detect(pixels, texts, most=20)[0]["scores"]
    assert not torch.allclose(plain, joined)
    assert own.state_dict().keys() == model.state_dict().keys()
    assert torch.equal(own.keep_frozen(None).detect(pixels, texts, most=20)[0]["scores"], plain)
    with pytest.raises(UserError, match="the frozen model is a Linear"):
        own.keep_frozen(torch.nn.Linear(2, 2))


def test_it_is_saved_and_loaded(model, tmp_path):
    model.save_pretrained(tmp_path / "d")
    again = nearfar.load(tmp_path / "d")
    pixels, boxes = torch.rand(1, 3, 32, 32), torch.tensor([[[1.0, 2.0, 20.0, 30.0]]])
    with torch.no_grad():
        assert torch.equal(again.encode_regions(pixels, boxes), model.encode_regions(pixels, boxes))
        assert torch.equal(again.encode_image(pixels), model.encode_image(pixels))


def test_parts_are_trained_by_name(model):
    own = deepcopy(model)
    own.train_parts("regions", "boxes")
    trained = {name.split(".")[0] for name, p in own.named_parameters() if p.requires_grad}
    assert trained == {"pyramid", "head", "proposals", "class_temperature"}
    own.train_parts("image")
    assert not next(p for name, p in own.named_parameters() if "cls_token" in name).requires_grad
    with pytest.raises(UserError, match="no part 'heads'"):
        own.train_parts("heads")


def test_what_is_refused(pair, model):
    with pytest.raises(UserError, match=r"pixels are \[B, 3, S, S\]"):
        model.encode_image(torch.rand(1, 3, 32, 16))
    convnext = {"model_type": "convnext", "num_stages": 2, "hidden_sizes": [8, 16], "depths": [1, 1]}
    other = create(image=convnext, text=BERT, tokenizer=pair.tokenizer, image_size=16, embed_dim=8)
    with pytest.raises(UserError, match="no vision transformer"):
        detector(other)
    with pytest.raises(UserError, match="made of a DualEncoder"):
        detector("minilm")


def test_texts_of_any_length_are_classes(model):
    regions = F.normalize(torch.randn(2, 8), dim=-1)
    assert (regions @ model.encode_text(model.tokenize(["", "a cat"]), normalize=True).T).shape == (2, 2)


def test_the_frozen_scores_are_of_the_mean_within_smaller_boxes(model):
    pixels, texts = torch.rand(1, 3, 32, 32), torch.randn(3, 8)
    box, shrunk = torch.tensor([[[2.0, 4.0, 22.0, 24.0]]]), torch.tensor([[[5.0, 7.0, 19.0, 21.0]]])
    with torch.no_grad():
        cells = model.encode_image_map(pixels)
        mean = roi_align(cells, shrunk, 14, stride=4).mean((3, 4))
        cosines = F.normalize(mean, dim=-1) @ F.normalize(texts, dim=-1).T
        torch.testing.assert_close(model.frozen_scores(pixels, box, texts, 0.5), (cosines / 0.5).softmax(-1))


def test_a_score_is_the_class_times_centerness_cubed_and_boxes_stay_whole(model):
    pixels, texts = torch.rand(1, 3, 32, 32), torch.randn(3, 8)
    out = model.detect(pixels, texts, proposals=6, overlap=1.0)[0]
    with torch.no_grad():
        maps = model.pyramid_maps(pixels)
        boxes, central = best_proposals(*model.proposals(maps, 32), 6, 32)
        features = model.region_features(maps, boxes, 32)
        cosines = F.normalize(model.head.embeddings(features), dim=-1) @ F.normalize(texts, dim=-1).T
        scores = central[0, :, None] ** 3 * (100 * cosines[0]).softmax(-1)[:, 1:]
        whole = corrected_boxes(boxes, model.head.boxes(features))[0].clamp(0, 32)
    torch.testing.assert_close(out["scores"], scores.flatten().sort(descending=True).values)
    torch.testing.assert_close(out["boxes"][0], whole[scores.amax(1).argmax()])


def test_a_class_vector_is_of_cosines_with_rows(model):
    features = torch.rand(3, 16)
    rows = model.head.classes.weight
    cosines = (features @ rows.T) / features.norm(dim=1)[:, None] / rows.norm(dim=1)
    torch.testing.assert_close(model.head.embeddings(features), cosines)


def test_the_pyramid_has_the_layers_that_were_released():
    pyramid = SimpleFeaturePyramid(4, out=2)
    assert pyramid.stages[0][2].approximate == "none", "the exact GELU; tanh belongs to the backbone"
    norms = [layer for layer in pyramid.modules() if isinstance(layer, torch.nn.LayerNorm)]
    assert {norm.eps for norm in norms} == {1e-6}
    grid = torch.tensor([[[[1.0, 2.0], [3.0, 8.0]]]]).expand(1, 4, 2, 2)
    assert pyramid.stages[3][0](grid).flatten().tolist() == [8.0] * 4
