"""Pointing and choosing boxes: by hand, with a model whose map is known."""

import numpy as np
import pytest
import torch
from PIL import Image

import nearfar.models.fusion.fusion_model
from nearfar.data.fields.text import train_tokenizer
from nearfar.data.scenes import scenes
from nearfar.data.sources.source import Records
from nearfar.errors import UserError
from nearfar.evaluation import evaluate, grounding, load_results, save_results
from nearfar.evaluation.protocols.grounding import overlap
from nearfar.evaluation.report import write_report
from nearfar.evaluation.report.examples import overlaid
from nearfar.models import create, ground


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    small = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32}
    return create(
        image={"model_type": "vit", "num_hidden_layers": 1, "patch_size": 8, **small},
        text={"model_type": "bert", "num_hidden_layers": 2, "max_position_embeddings": 32, **small},
        tokenizer=train_tokenizer(["a cat", "a dog on the right"], 300),
        text_layers=1,
        image_size=32,
        embed_dim=8,
    ).eval()


def test_a_text_is_where_its_words_look(model):
    pictures, texts = [picture(), picture((64, 32))], ["a cat", "a dog on the right"]
    maps, windows = model.locate(pictures, texts, batch_size=1)
    words = ground(model, model.preprocess(pictures[:1]), model.tokenize(texts[:1]))[0]
    torch.testing.assert_close(maps[0], words.mean(0))
    assert windows.tolist() == [[0, 0, 32, 32], [16, 0, 48, 32]]
    with pytest.raises(UserError, match="one picture a text"):
        model.locate(pictures, texts[:1])


@pytest.fixture
def looks_left(monkeypatch):
    """A map of 2 x 2 that peaks at the upper left, whatever is asked; padding is left out."""

    def look(model, pixels, tokens, *, layer=None):
        assert pixels.shape[1:] == (3, 32, 32)
        heat = torch.tensor([[4.0, 2.0], [1.0, 0.0]]) * tokens["attention_mask"][:, :, None, None]
        return heat if layer is None else heat.flip(-1)

    monkeypatch.setattr(nearfar.models.fusion.fusion_model, "ground", look)


def picture(size=(32, 32)):
    return Image.new("RGB", size, "white")


LEFT, RIGHT, LOW = (0, 0, 16, 16), (20, 0, 32, 16), (0, 16, 32, 32)


def test_overlap_by_hand():
    heat = np.array([[4.0, 2.0], [1.0, 0.0]])
    assert overlap(heat, (0, 0, 1, 1)) == 7
    assert overlap(heat, (0, 0, 0.5, 0.5)) == 4
    assert overlap(heat, (0.25, 0, 0.75, 0.5)) == 3
    assert overlap(heat, (-1, -1, 0.5, 0.25)) == 2, "what lies beyond the map counts nothing"
    assert overlap(heat, (2, 2, 3, 3)) == 0


def test_points_and_chooses(model, looks_left):
    things = [{"phrase": "a cat", "box": LEFT}, {"phrase": "a dog on the right", "box": RIGHT}]
    source = Records([{"image": picture(), "objects": things, "group": 7}, {"image": picture(), "objects": []}])
    result = grounding(model, source)
    assert result["pointing"] == result["choice"] == 1 / 2
    assert result["centre"] == 1 / 2  # (16, 16) is the left one's corner
    assert result["largest"] == 1 / 2
    assert result.metrics["choice"].chance == 1 / 2
    assert result.metrics["pointing"].chance == pytest.approx((16 * 16 + 12 * 16) / 2 / 32**2)
    assert result.metrics["pointing"].n == 2
    mirrored = grounding(model, source, layer=0)
    assert mirrored["pointing"] == 1 / 2
    only = Records([{"image": picture(), "objects": things[1:]}])
    assert (grounding(model, only)["pointing"], grounding(model, only, layer=0)["pointing"]) == (0, 1)
    assert "choice" not in grounding(model, only).metrics


def test_a_map_without_a_peak_scores_at_chance(model, monkeypatch):
    monkeypatch.setattr(
        model, "locate", lambda pictures, *_, **__: (torch.zeros(2, 8, 8), torch.tensor([[0.0, 0, 32, 32]] * 2))
    )
    things = [{"phrase": "a cat", "box": LEFT}, {"phrase": "a dog", "box": (16, 16, 32, 32)}]
    result = grounding(model, Records([{"image": picture(), "objects": things}]))
    assert result["pointing"] == result.metrics["pointing"].chance == 1 / 4
    assert result["choice"] == result.metrics["choice"].chance == 1 / 2
    assert not any(look["pointing"] for look in result.details["looks"])


def test_pictures_are_located_upright(model):
    turned = picture((64, 32))
    turned.getexif()[0x0112] = 6  # stored on its side
    _, windows = model.locate([turned], ["a cat"])
    assert windows.tolist() == [[0, 16, 32, 48]]


def test_the_root_of_the_size_decides(model, looks_left):
    """The lower half holds 1 on 512 pixels; a small box at the top right a sixteenth of 2 on 16."""
    small = (24, 0, 28, 4)
    source = Records([{"image": picture(), "objects": [{"name": "cat", "box": LOW}, {"name": "dog", "box": small}]}])
    assert 1 / 512**0.5 > (2 / 16) / 16**0.5
    assert grounding(model, source)["choice"] == 1 / 2
    big = [{"name": "cat", "box": LOW}, {"name": "dog", "box": (16, 0, 32, 16)}]
    assert grounding(model, Records([{"image": picture(), "objects": big}]))["largest"] == 1 / 2


def test_boxes_are_found_again_after_the_crop(model, looks_left):
    """Of a wide picture the middle is seen: its upper left quarter begins at a third."""
    wide = [{"image": picture((96, 32)), "text": "a cat", "box": box} for box in ((32, 0, 48, 16), (0, 0, 16, 16))]
    result = grounding(model, Records(wide))
    assert result["pointing"] == 1 / 2
    assert result["centre"] == 1 / 2
    tall = [{"image": picture((64, 128)), "text": "a cat", "box": (0, 32, 32, 64)}]
    assert grounding(model, Records(tall))["pointing"] == 1


def test_scenes_are_measured_by_style(model):
    result = evaluate(model, scenes("test", n=12, size=32), ("grounding",), batch_size=5)["grounding"]
    assert result.metrics["pointing"].n == result.metrics["choice"].n == 24
    assert sum(part["pointing"].n for part in result.by["domain"].values()) == 24
    again = grounding(model, scenes("test", n=12, size=32), batch_size=64)
    assert again["pointing"] == result["pointing"]
    assert again["choice"] == result["choice"]


def test_what_cannot_be_grounded_says_so(model):
    with pytest.raises(UserError, match="gives no maps of phrases: train one with the method albef or tcl"):
        grounding(object(), scenes("test", n=2))
    with pytest.raises(UserError, match="'text' and 'box'"):
        grounding(model, Records([{"image": picture(), "text": "a cat"}], name="pets"))
    with pytest.raises(UserError, match="left, top, right and bottom"):
        grounding(model, Records([{"image": picture(), "text": "a cat", "box": [1, 2, 3]}]))
    broken = Records([{"image": b"junk", "text": "a cat", "box": LEFT}])
    with pytest.raises(UserError, match="no picture that can be read"):
        grounding(model, broken, max_skipped=1.0)


def test_the_report_shows_where_it_looks(model, tmp_path):
    source = scenes("test", n=3, size=32)
    result = grounding(model, source)
    look = result.details["looks"][0]
    assert {"row", "phrase", "box", "window", "map", "pointing"} == set(look)
    assert max(map(max, look["map"])) == 1000
    shown = overlaid(
        source[0]["image"], {**look, "map": [[1000, 0], [0, 0]], "window": (0, 0, 32, 32), "box": (20, 20, 30, 30)}
    )
    assert shown.size == (224, 224)
    plain = overlaid(source[0]["image"], {**look, "map": [[0]], "box": (20, 20, 30, 30)})
    change = np.abs(np.asarray(shown, int) - np.asarray(plain, int)).sum(2)
    assert change[:100, :100].mean() > 20 > change[130:, 130:].mean()
    saved = load_results(save_results({"grounding": result}, tmp_path / "results.json"))
    page = write_report(tmp_path, source=source, results=saved).read_text()
    assert "Where the model points" in page
    assert page.count("data:image/webp") == 6
    assert result.details["looks"][0]["phrase"] in page
