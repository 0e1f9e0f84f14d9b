"""Heads side by side: similarities add up, a model with them is saved and loaded, and a file may hold no others."""

import pytest
import torch
from torch import nn
from torch.nn.functional import normalize

from nearfar.data import train_tokenizer
from nearfar.models import create
from nearfar.models.dual.blended import Blend, KernelMap, UnitLinear, about
from nearfar.models.dual.dual_encoder import DualEncoder
from nearfar.models.dual.projection import is_kind, projection

BLEND = {"blend": [[{"heads": 2, "of": "linear"}, 6], [{"kernel": 5}, 4], [{"unit": "linear"}, 3], ["none", 8]]}


def test_the_cosine_of_two_blends_is_the_weighted_mean_of_the_parts_cosines():
    torch.manual_seed(0)
    image = Blend([nn.Linear(8, 6), nn.Linear(8, 4)], [6, 4])
    text = Blend([nn.Linear(5, 6), nn.Linear(5, 4)], [6, 4])
    centres = [torch.randn(6), torch.randn(4)], [torch.randn(6), torch.randn(4)]
    image.centred(centres[0], [0.3, 0.6])
    text.centred(centres[1], [0.3, 0.6])
    x, y = torch.randn(7, 8), torch.randn(7, 5)
    parts = [
        (about(image.parts[i](x), centres[0][i]) * about(text.parts[i](y), centres[1][i])).sum(1) for i in range(2)
    ]
    torch.testing.assert_close((image(x) * text(y)).sum(1), parts[0] / 3 + parts[1] * 2 / 3)
    torch.testing.assert_close(image(x).norm(dim=1), torch.ones(7))


def test_a_map_of_unit_vectors_does_not_see_lengths():
    torch.manual_seed(0)
    near, linear, x = KernelMap(8, 5, 3), UnitLinear(8, 3), torch.randn(4, 8)
    near.centres, near.weight.data = normalize(torch.randn(5, 8), dim=1), torch.randn(5, 3)
    for head in (near, linear):
        torch.testing.assert_close(head(3 * x), head(x))


def test_a_model_with_such_heads_is_saved_and_loaded(tmp_path):
    torch.manual_seed(0)
    tokenizer = train_tokenizer(["a cat", "a dog"], 300)
    base = create("tiny", tokenizer=tokenizer, image_size=32, embed_dim=8)
    width = base.image.width
    kind = {"blend": [*BLEND["blend"][:3], ["none", width]]}
    text = {"blend": [["linear", 13], [{"blend": [["linear", width]]}, width]]}
    model = DualEncoder(
        base.image,
        base.text,
        tokenizer=tokenizer,
        pixels=base.pixels,
        embed_dim=13 + width,
        image_projection=kind,
        text_projection=text,
    ).eval()
    model.image_projection.parts[1].weight.data.normal_()
    model.image_projection.centred([torch.randn(6), torch.randn(4), torch.randn(3), torch.randn(width)], [1, 2, 3, 4])
    again = DualEncoder.from_pretrained(model.save_pretrained(tmp_path))
    pixels, tokens = torch.randn(2, 3, 32, 32), model.tokenize(["a cat", "two dogs"])
    assert torch.equal(again.encode_image(pixels), model.encode_image(pixels))
    assert torch.equal(again.encode_text(tokens), model.encode_text(tokens))
    for side in ("image", "text"):
        assert again.config()[f"{side}_projection"] == model.config()[f"{side}_projection"]


@pytest.mark.parametrize("kind", ["mlp", BLEND, {"blend": [[BLEND, 21]]}, {"unit": "linear"}, {"kernel": 1}])
def test_a_kind(kind):
    assert is_kind(kind)


@pytest.mark.parametrize(
    "value",
    [
        None,
        3,
        [],
        {},
        {"kernel": 0},
        {"kernel": "5"},
        {"kernel": 1 << 40},
        {"kernel": 5, "of": "linear"},
        {"unit": "mlp"},
        {"heads": 2},
        {"heads": 0, "of": "linear"},
        {"heads": 2, "of": 3},
        {"blend": []},
        {"blend": "linear"},
        {"blend": [["linear"]]},
        {"blend": [["linear", 0]]},
        {"blend": [[{"kernel": -1}, 4]]},
        {"blend": [["linear", 4]] * 40},
        {"blend": [[{"blend": [[{"blend": [[{"blend": [[{"blend": [["linear", 4]]}, 4]]}, 4]]}, 4]]}, 4]]},
    ],
    ids=repr,
)
def test_no_kind(value):
    assert not is_kind(value)


def test_parts_that_do_not_add_up_are_refused():
    with pytest.raises(ValueError, match="not 9 wide"):
        projection({"blend": [["linear", 4], ["linear", 4]]}, 8, 9, side="image")
