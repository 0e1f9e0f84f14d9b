"""SimCSE: what is a view, what is a negative, what is trained and what is left out again."""

import math

import pytest
import torch
from torch import nn

from nearfar.data import Loader, Records, train_tokenizer
from nearfar.errors import UserError
from nearfar.losses.functional import first_view_info_nce
from nearfar.methods.text.simcse import SimCSE
from nearfar.models.language.text_model import text_encoder
from nearfar.training.loop.gradients import backward

TEXTS = ["a red car", "two small dogs", "the old house near a tree", "a boat at sea", "one red fish", "a tall tower"]
BERT = {
    "model_type": "bert",
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}
CALM = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def encoder(**config):
    torch.manual_seed(0)
    return text_encoder(BERT | config, tokenizer=train_tokenizer(TEXTS, 300), pooling="cls").train()


def batch(model, records=None, **options):
    source = Records(records or [{"text": text} for text in TEXTS])
    loader = Loader(
        source, batch_size=len(source), shuffle=False, tokenizer=model.tokenizer, text_pairs=True, **options
    )
    return next(iter(loader))


class Rows(nn.Module):
    """An encoder of vectors."""

    embed_dim = 8

    def encode_text(self, rows):
        return rows


def test_two_passes_with_dropout_are_the_views():
    model = encoder()
    method = SimCSE(model, head="none").train()
    data = batch(model)
    torch.manual_seed(1)
    out = method(data)
    torch.manual_seed(1)
    tokens = {name: torch.cat([value, value]) for name, value in data["text"].items()}  # all of view 1, then of view 2
    first, second = model.encode_text(tokens).chunk(2)
    assert out["loss"].item() == pytest.approx(first_view_info_nce([first, second]).item(), rel=1e-6)
    assert 0 < out["alignment"] < 2


def test_without_dropout_there_is_nothing_to_learn_from():
    model = encoder(**CALM)
    with pytest.raises(UserError, match="the model has no dropout"):
        SimCSE(model).train()(batch(model))
    pairs = [{"text": text, "text2": text.upper()} for text in TEXTS]
    SimCSE(model).train()(batch(model, pairs))  # pairs are views by themselves


def test_the_head_is_of_training_alone():
    model = encoder()
    method = SimCSE(model)
    data = batch(model)
    assert {name.split(".")[0] for name, p in method.named_parameters() if p.requires_grad} == {"model", "head"}
    assert not [name for name in model.state_dict() if "head" in name]
    with torch.no_grad():
        method.eval()
        z = model.encode_text(data["text"])
        assert method(data)["loss"].item() == pytest.approx(first_view_info_nce([z, z]).item(), rel=1e-5)
        method.train()
        torch.manual_seed(2)
        trained = method(data)["loss"]
        torch.manual_seed(2)
        tokens = {name: value.repeat(2, 1) for name, value in data["text"].items()}
        views = method.head(model.encode_text(tokens)).chunk(2)
        assert trained.item() == pytest.approx(first_view_info_nce(list(views)).item(), rel=1e-6)


def test_any_number_of_hard_negatives_a_record():
    """Three, none and one: those that fill up are no negatives, and do not go through the model."""
    model = encoder(**CALM)
    wrong = [["a blue car", "a red cat", "no car"], [], ["a cottage"], [], [], []]
    records = [{"text": t, "text2": t + " there", "negative_text": w} for t, w in zip(TEXTS, wrong, strict=True)]
    data = batch(model, records)
    assert data["negative_count"].tolist() == [3, 0, 1, 0, 0, 0]
    assert len(data["negative_text"]["input_ids"]) == 18
    method = SimCSE(model, head="none", hard_negative_weight=0.5).train()
    encode = lambda texts: model.encode_text(model.tokenize(texts))  # noqa: E731
    hard = [text for texts in wrong for text in sorted(texts)]
    owner = [row for row, texts in enumerate(wrong) for _ in texts]
    expected = first_view_info_nce(
        [encode(TEXTS), encode([text + " there" for text in TEXTS])],
        negatives=encode(hard),
        negative_of=torch.tensor(owner),
        negative_weight=0.5,
    )
    torch.testing.assert_close(method(data)["loss"], expected)


def test_chunks_give_the_gradient_of_the_whole_batch():
    """A chunk without any hard negative stands last, where the graph is made."""
    model = encoder(**CALM)
    wrong = [["a blue car", "a red cat"], [], ["a cottage"], [], [], []]
    records = [{"text": t, "text2": t + " there", "negative_text": w} for t, w in zip(TEXTS, wrong, strict=True)]
    method = SimCSE(model).double().train()
    gradients = []
    for chunk in (None, 2):
        method.zero_grad()
        backward(method, batch(model, records), chunk=chunk)
        gradients.append({name: p.grad.clone() for name, p in method.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-9, atol=1e-12)


def test_other_first_views_are_no_negatives():
    z = torch.eye(8).double()
    pairs = {"text": z[:4], "text2": z[4:]}
    out = SimCSE(Rows(), head="none", temperature=1.0)(pairs)
    assert out["loss"].item() == pytest.approx(math.log(4))  # four equal columns, where NT-Xent would have seven


def test_negatives_without_their_number_are_an_error():
    z = torch.eye(8)
    with pytest.raises(UserError, match="negative_count"):
        SimCSE(Rows())({"text": z, "text2": z, "negative_text": z})


@pytest.mark.parametrize(
    ("settings", "words"), [({"copies": 1}, "two passes at least"), ({"head": "linear"}, "choose mlp")]
)
def test_wrong_settings_are_named(settings, words):
    with pytest.raises(UserError, match=words):
        SimCSE(Rows(), **settings)


def test_hard_negatives_go_through_the_head_and_duplicates_may_be_left_out():
    torch.manual_seed(0)
    z, hard = torch.randn(8, 8), torch.randn(4, 8)
    rows = {"text": z[:4], "text2": z[4:], "negative_text": hard, "negative_count": torch.ones(4, dtype=torch.long)}
    group = torch.tensor([0, 1, 0, 2])
    for exclude in (False, True):
        method = SimCSE(Rows(), temperature=0.5, exclude_duplicates=exclude).train()
        expected = first_view_info_nce(
            [method.head(z[:4]), method.head(z[4:])],
            negatives=method.head(hard),
            temperature=0.5,
            group=group if exclude else None,
        )
        torch.testing.assert_close(method({**rows, "group": group})["loss"], expected)
