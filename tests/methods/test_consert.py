"""ConSERT: what each view does to token embeddings, what is contrasted, and what stays apart."""

import pytest
import torch
from torch.nn import functional as F

from nearfar.data import train_tokenizer
from nearfar.errors import UserError
from nearfar.losses.functional import nt_xent
from nearfar.methods.text import token_views
from nearfar.methods.text.consert import ConSERT
from nearfar.models.language.text_model import text_encoder
from nearfar.training.loop.gradients import backward

TEXTS = ["a red car", "two small dogs", "the old house near a tree", "a boat at sea", "one red fish", "a tall tower"]
BERT = {
    "model_type": "bert",
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "initializer_range": 0.3,
}


@pytest.fixture(scope="module")
def model():
    """With dropout, which ConSERT leaves out."""
    torch.manual_seed(0)
    return text_encoder(BERT, tokenizer=train_tokenizer(TEXTS, 300), pooling="mean").train()


@pytest.fixture(scope="module")
def tokens(model):
    return model.tokenize(TEXTS)


def read(model, change, tokens):
    """The token embeddings that the encoder reads, and what it makes of them."""
    kept = []
    with token_views.changed(model, lambda e: kept.append(change(e)) or kept[-1]), torch.no_grad():
        z = model.eval().encode_text(tokens)
    return kept[0], z


def test_the_encoder_reads_the_changed_embeddings_and_its_own_afterwards(model, tokens):
    plain, z = read(model, lambda e: e, tokens)
    assert plain.shape == (6, tokens["input_ids"].shape[1], 16)
    changed, other = read(model, torch.zeros_like, tokens)
    assert changed.abs().max() == 0
    assert not torch.allclose(other, z)
    with torch.no_grad():
        torch.testing.assert_close(model.encode_text(tokens), z)


def test_cutoff_erases_whole_tokens_or_whole_features_of_each_text():
    mask = torch.tensor([[1, 1, 1, 1, 1, 0], [1, 1, 1, 0, 0, 0]])
    cut = token_views.cut_tokens(torch.ones(2, 6, 4), mask, 0.4)
    gone = (cut == 0).all(2)
    assert (cut == 0).sum() == 4 * gone.sum()
    assert gone.sum(1).tolist() == [2, 1]  # of five, and of three: rounded down
    assert not (gone & (mask == 0)).any()
    features = token_views.cut_features(torch.ones(50, 3, 8), 0.3)
    assert (features == 0).sum(2).unique().tolist() == [2]
    assert torch.equal(features[:, 0], features[:, 2])
    assert len(features[:, 0].unique(dim=0)) > 10  # each text its own


def test_dropped_numbers_are_zero_and_the_others_as_they_were():
    torch.manual_seed(0)
    dropped = token_views.drop_numbers(torch.full((50, 10, 8), 3.0), 0.2)
    assert set(dropped.unique().tolist()) == {0.0, 3.0}
    assert (dropped == 0).float().mean().item() == pytest.approx(0.2, abs=0.02)


def test_shuffled_tokens_are_those_of_the_text_and_special_ones_stay(model, tokens):
    torch.manual_seed(0)
    ids, moved = tokens["input_ids"], token_views.shuffled(tokens, model.tokenizer)["input_ids"]
    assert torch.equal(moved.sort(1).values, ids.sort(1).values)
    assert (moved != ids).any()
    special = torch.isin(ids, torch.tensor(model.tokenizer.all_special_ids))
    assert torch.equal(moved[special], ids[special])


def test_another_order_of_tokens_is_another_order_of_positions(model, tokens):
    """What the released code does; the mean over a text's tokens is the same."""
    torch.manual_seed(3)
    order = torch.arange(tokens["input_ids"].shape[1])
    order[1:4] = torch.tensor([3, 1, 2])
    longest = {name: value[2:3] for name, value in tokens.items()}
    by_tokens = {**longest, "input_ids": longest["input_ids"][:, order]}
    with torch.no_grad():
        states = model.eval().text.backbone(**longest, position_ids=order.argsort()[None]).last_hidden_state
        torch.testing.assert_close(model.encode_text(by_tokens), states.mean(1), rtol=1e-4, atol=1e-5)


def test_both_views_go_to_nt_xent_without_the_models_dropout(model, tokens):
    for directions, times in (("sum", 2), ("mean", 1)):
        method = ConSERT(model, second="none", directions=directions).train()
        torch.manual_seed(5)
        out = method({"text": tokens})
        assert model.training  # its mode is given back
        torch.manual_seed(5)
        _, first = read(model, lambda e: token_views.cut_features(e, 0.2), tokens)
        _, second = read(model, lambda e: e, tokens)
        expected = times * nt_xent(first, second, temperature=0.1)
        assert out["loss"].item() == pytest.approx(expected.item(), rel=1e-5)
    torch.manual_seed(5)
    noisy = ConSERT(model, first="none", second="none", model_dropout=True).train()({"text": tokens})
    assert noisy["alignment"] > 0


def test_the_adversarial_view_is_further_from_the_other_than_a_step_at_random(model, tokens):
    method = ConSERT(model, first="token_cutoff", token_rate=0.4, second="adversarial", noise=0.5).train()
    torch.manual_seed(5)
    views = method.embed({"text": tokens})
    torch.manual_seed(5)
    length = lambda e: F.normalize(torch.randn_like(e), dim=-1) * 0.5  # noqa: E731
    _, other = read(model, lambda e: token_views.cut_tokens(e, tokens["attention_mask"], 0.4), tokens)
    torch.testing.assert_close(views["view_0"], other)
    _, moved = read(model, lambda e: e + length(e), tokens)
    cosine = lambda z: F.cosine_similarity(z, other, dim=1)  # noqa: E731
    assert (cosine(views["view_1"]) < cosine(moved)).all()
    swapped = ConSERT(model, first="adversarial", second="token_cutoff", token_rate=0.4, noise=0.5).train()
    torch.manual_seed(5)
    assert torch.equal(swapped.embed({"text": tokens})["view_0"], views["view_1"])


def test_chunks_give_the_gradient_of_the_whole_batch(model, tokens, monkeypatch):
    """An adversarial view takes the gradient of a text's own embeddings alone, also where none is kept."""
    method = ConSERT(model, first="shuffle", second="adversarial").double().train()
    monkeypatch.setattr(token_views, "_uniform", lambda shape, like: torch.linspace(1, 0, shape[1]).expand(shape))
    gradients = []
    for chunk in (None, 2):
        method.zero_grad()
        backward(method, {"text": tokens}, chunk=chunk)
        gradients.append({name: p.grad.clone() for name, p in method.named_parameters() if p.grad is not None})
    model.float()
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-8, atol=1e-11)


def test_validation_changes_nothing(model, tokens):
    out = ConSERT(model).eval()({"text": tokens})
    assert out["alignment"].item() == pytest.approx(0, abs=1e-6)
    assert torch.equal(out["loss"], ConSERT(model).eval()({"text": tokens})["loss"])


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"first": "cutoff"}, "first='cutoff': choose one of"),
        ({"first": "none", "second": "none"}, "two equal views"),
        ({"first": "none", "second": "adversarial"}, "against another that is changed"),
        ({"first": "adversarial", "second": "adversarial"}, "against another that is changed"),
        ({"feature_rate": 1.0}, "feature_rate=1.0"),
        ({"noise": 0.0}, "noise=0.0"),
        ({"directions": "both"}, "choose sum or mean"),
    ],
)
def test_wrong_settings_are_named(model, settings, words):
    with pytest.raises(UserError, match=words):
        ConSERT(model, **settings)


def test_a_model_without_a_text_tower_is_named():
    class Rows(torch.nn.Module):
        def encode_text(self, rows):
            return rows

    with pytest.raises(UserError, match="a Rows has none"):
        ConSERT(Rows()).train()({"text": torch.eye(4)})
