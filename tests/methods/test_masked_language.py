"""Hidden words: the loss of a slow loop, alone and beside a contrast; the same places outside training."""

import pytest
import torch
from torch.nn import functional as F

from nearfar.data import Loader, Records, train_tokenizer
from nearfar.errors import UserError
from nearfar.methods import MaskedLanguage, SimCSE
from nearfar.methods.parts.token_masking import mask_tokens
from nearfar.methods.text.masked_words import masked_loss
from nearfar.models import label_matcher, text_encoder
from nearfar.training.loop.gradients import backward

TEXTS = ["a red car", "two small dogs", "the old house near a tree", "a boat at sea", "one red fish", "a tall tower"]
BERT = {"model_type": "bert", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
BERT |= {"intermediate_size": 32}


def encoder(dropout=0.0, make=text_encoder):
    torch.manual_seed(0)
    config = BERT | {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    return make(config, tokenizer=train_tokenizer(TEXTS, 300), pooling="mean").train()


def test_the_loss_is_the_mean_over_all_hidden_tokens():
    method = MaskedLanguage(encoder(), probability=0.4)
    tokens = method.model.tokenize(TEXTS)
    torch.manual_seed(3)
    out = method({"text": tokens})["loss"]
    torch.manual_seed(3)
    ids, labels = mask_tokens(tokens["input_ids"], method.model.tokenizer, probability=0.4)
    states = method.model.text.backbone(input_ids=ids, attention_mask=tokens["attention_mask"]).last_hidden_state
    logits = method.masked.head(states, method.model.text.backbone.get_input_embeddings().weight)
    assert (labels != -100).sum() > 3
    assert out.item() == pytest.approx(F.cross_entropy(logits.flatten(0, 1), labels.flatten()).item(), rel=1e-5)


def test_it_learns_and_chunks_change_nothing():
    method = MaskedLanguage(encoder(), probability=0.3)
    batch = {"text": method.model.tokenize(TEXTS)}
    method.eval()  # the same places each time
    whole = method(batch)["loss"]
    backward(method, batch)
    gradient = method.model.text.backbone.get_input_embeddings().weight.grad.clone()
    assert torch.equal(whole, method(batch)["loss"])
    assert gradient.abs().sum() > 0
    optimizer = torch.optim.Adam(method.parameters(), 0.02)
    for _ in range(40):
        optimizer.zero_grad()
        backward(method, batch)
        optimizer.step()
    assert method(batch)["loss"] < whole / 4


def test_no_hidden_token_is_a_loss_of_zero():
    assert masked_loss(torch.zeros(3, 2)).item() == 0.0
    assert masked_loss(torch.tensor([[6.0, 2.0], [0.0, 0.0], [3.0, 1.0]])).item() == 3.0


def test_a_label_matcher_is_trained_inside():
    method = MaskedLanguage(encoder(make=label_matcher))
    method({"text": method.model.tokenize(TEXTS)})["loss"].backward()
    assert method.model.encoder.text.backbone.get_input_embeddings().weight.grad.abs().sum() > 0


def test_beside_the_contrast_of_simcse():
    method = SimCSE(encoder(dropout=0.2), masked_language=0.5).train()
    records = Records([{"text": text} for text in TEXTS])
    batch = next(
        iter(
            Loader(
                records,
                batch_size=6,
                tokenizer=method.model.tokenizer,
                text_pairs=True,
                text_views="deletion",
            )
        )
    )
    out = method(batch)
    assert out["loss"].item() == pytest.approx((out["contrastive"] + 0.5 * out["masked_language"]).item(), rel=1e-6)
    assert out["masked_language"] > 1
    assert "masked_language" not in SimCSE(encoder(dropout=0.2)).train()(batch)


def test_what_cannot_be_is_named():
    with pytest.raises(UserError, match="needs the states of a text's tokens, and a Linear gives none"):
        MaskedLanguage(torch.nn.Linear(2, 2))
    with pytest.raises(UserError, match="a weight is 0 or above"):
        SimCSE(encoder(), masked_language=-1.0)
    model = encoder()
    model.tokenizer.mask_token = None
    with pytest.raises(UserError, match="needs a mask token"):
        MaskedLanguage(model)
