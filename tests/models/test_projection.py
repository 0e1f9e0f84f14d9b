"""Projection heads: shapes, dropout while training only, and what is refused."""

import pytest
import torch

from nearfar.data import train_tokenizer
from nearfar.errors import UserError
from nearfar.models import create, load
from nearfar.models.dual.projection import projection


@pytest.mark.parametrize("kind", ["linear", "linear-no-bias", "mlp"])
@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_dropout_acts_in_training_only(kind, dropout):
    torch.manual_seed(0)
    head, x = projection(kind, 8, 4, side="image", dropout=dropout), torch.randn(3, 8)
    assert head(x).shape == (3, 4)
    assert torch.equal(head(x), head(x)) == (dropout == 0)
    head.eval()
    assert torch.equal(head(x), head(x))


def test_a_model_with_dropout_is_saved_and_loaded(tmp_path):
    torch.manual_seed(0)
    tokenizer = train_tokenizer(["a cat", "a dog"], 300)
    model = create("tiny", tokenizer=tokenizer, image_size=32, embed_dim=8, projection="mlp", projection_dropout=0.3)
    pixels = torch.randn(2, 3, 32, 32)
    again = load(model.eval().save_pretrained(tmp_path))
    assert torch.equal(again.encode_image(pixels), model.encode_image(pixels))
    assert not torch.equal(again.train().encode_image(pixels), model.encode_image(pixels))


def test_no_projection_has_nothing_to_drop():
    assert isinstance(projection("none", 4, 4, side="text", dropout=0.5), torch.nn.Identity)


@pytest.mark.parametrize("dropout", [1.0, -0.1])
def test_a_share_of_one_is_refused(dropout):
    with pytest.raises(UserError, match="projection_dropout"):
        projection("linear", 4, 4, side="text", dropout=dropout)
