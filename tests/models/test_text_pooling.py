"""Poolings of texts by name: which layers they average, and that padding never enters."""

import pytest
import torch

from nearfar.data import train_tokenizer
from nearfar.errors import UserError
from nearfar.models import load
from nearfar.models.language.text_model import text_encoder
from nearfar.models.towers.tower import TextTower

TEXTS = ["a red fox", "the ship at sea runs far away from the old town", "cat"]
BERT = {"model_type": "bert", "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32}  # fmt: skip  # noqa: E501


class Layers(torch.nn.Module):
    """A backbone whose states after the input, the first and the last layer are 0, 1 and 3."""

    class Output:
        def __init__(self, ids):
            like = torch.ones(*ids.shape, 4)
            self.hidden_states = (0 * like, like, 3 * like)
            self.last_hidden_state = 3 * like

    class Config:
        vocab_size, model_type, max_position_embeddings, pad_token_id = 10, "toy", 8, 0

    config = Config()

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))

    def forward(self, input_ids, attention_mask=None, **options):
        return self.Output(input_ids)


@pytest.mark.parametrize(("pooling", "expected"), [("embedding_last", 1.5), ("first_last", 2.0), ("mean", 3.0)])
def test_the_name_says_which_layers(pooling, expected):
    tower = TextTower(Layers(), {"library": "toy"}, pooling=pooling)
    assert tower({"input_ids": torch.ones(2, 3, dtype=torch.long)})[:, 0].tolist() == [[expected] * 4] * 2


@pytest.mark.parametrize("pooling", ["embedding_last", "first_last", "mean", "cls"])
def test_padding_never_enters(pooling, tmp_path):
    torch.manual_seed(0)
    model = text_encoder(BERT, tokenizer=train_tokenizer(TEXTS, 300), pooling=pooling).eval()
    with torch.no_grad():
        together = model.encode_text(model.tokenize(TEXTS))
        alone = torch.cat([model.encode_text(model.tokenize([text])) for text in TEXTS])
        torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)
        again = load(model.save_pretrained(tmp_path))
        assert again.text.pooling == pooling
        assert torch.equal(again.encode_text(again.tokenize(TEXTS)), together)


def test_a_dense_layer_stays_in_the_model(tmp_path):
    """The head that supervised SimCSE keeps: after the pooling, with tanh, saved and loaded with the rest."""
    torch.manual_seed(0)
    model = text_encoder(BERT, tokenizer=train_tokenizer(TEXTS, 300), pooling="cls", dense="Tanh").eval()
    with torch.no_grad():
        tokens = model.tokenize(TEXTS)
        layer = model.layers[0].linear
        expected = torch.tanh(layer(model.text_tokens(tokens)[:, 0]))
        torch.testing.assert_close(model.encode_text(tokens), expected)
        again = load(model.save_pretrained(tmp_path))
        assert torch.equal(again.encode_text(again.tokenize(TEXTS)), model.encode_text(tokens))
    with pytest.raises(UserError, match="has the activation 'Wave'"):
        text_encoder(BERT, tokenizer=train_tokenizer(TEXTS, 300), dense="Wave")


def test_the_packaged_encoder_takes_a_dense_layer_on_top():
    model = text_encoder("minilm", dense="Tanh")
    assert model.embed_dim == 384
    assert len(model.layers) == 1
