"""CLESS against a slow loop, its negatives, its objectives, and the same head on words and on labels."""

import math

import pytest
import torch
from torch import nn

from nearfar.data import Loader, Records, train_tokenizer
from nearfar.errors import UserError
from nearfar.methods import CLESS, find
from nearfar.methods.text.cless import draw_negatives
from nearfar.models import LabelMatcher, label_matcher, text_encoder
from nearfar.training.loop.gradients import backward

TEXTS = ["a red car", "two small dogs", "the old house near a tree", "a boat at sea", "one red fish", "a tall tower"]
BERT = {"model_type": "bert", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
BERT |= {"intermediate_size": 32, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def matcher():
    torch.manual_seed(0)
    return label_matcher(BERT, tokenizer=train_tokenizer(TEXTS, 400), pooling="mean", hidden=8).train()


def batch(method, records=None, **options):
    source = Records(records or [{"text": text} for text in TEXTS], **options)
    return next(
        iter(
            Loader(
                source,
                batch_size=len(source),
                shuffle=False,
                tokenizer=method.model.tokenizer,
                label_texts=method.label_texts,
            )
        )
    )


class Fixed(nn.Module):
    """A matcher whose logits are sums: of the text's number and the label's."""

    embed_dim = 1

    def encode_text(self, rows):
        return rows

    encode_label = encode_text

    def match(self, text, label):
        return (text + label).squeeze(-1)


def fixed(logits_near, logits_far, **settings):
    """The loss where one text has labels of these logits, and the other text's are its negatives."""
    count = len(logits_near)
    other = [*logits_far, *[0.0] * (count - len(logits_far))]
    keys = torch.zeros(2, 64, dtype=torch.long)
    keys[0, :count] = torch.arange(1, count + 1)
    keys[1, : len(logits_far)] = torch.arange(100, 100 + len(logits_far))
    data = {
        "text": torch.zeros(2, 1),
        "label_text": torch.tensor([*logits_near, *other])[:, None],
        "label_key": keys,
    }
    method = CLESS(Fixed(), positives=count, **settings)
    return method, data


@pytest.mark.parametrize("objective", ["binary", "ranking"])
def test_the_loss_is_that_of_a_slow_loop(objective):
    method = CLESS(matcher(), positives=3, negatives=5, objective=objective)
    data = batch(method)
    model, own = method.model, data["label_key"]
    t, label = model.encode_text(data["text"]), model.encode_label(data["label_text"])
    drawn, valid = draw_negatives(own, 3, 5)
    each = []
    for row in range(len(TEXTS)):
        near = [model.match(t[row], label[3 * row + i]) for i in range(3) if own[row, i] > 0]
        far = [model.match(t[row], label[n]) for n, real in zip(drawn[row], valid[row], strict=True) if real]
        if objective == "binary":
            terms = [torch.sigmoid(m).log() for m in near] + [(1 - torch.sigmoid(m)).log() for m in far]
            each.append(-sum(terms) / (len(near) + len(far)))
        else:
            parts = [-(m.exp() / (m.exp() + sum(n.exp() for n in far))).log() for m in near]
            each.append(sum(parts) / len(near))
    assert method(data)["loss"].item() == pytest.approx((sum(each) / len(each)).item(), rel=1e-5)


def test_all_logits_zero_is_log_two():
    """Invariant 1 of the survey's families: binary NCE of zeros, any g and b."""
    method, data = fixed([0.0, 0.0], [0.0, 0.0], negatives=7)
    assert method(data)["loss"].item() == pytest.approx(0.693147, abs=1e-6)


def test_the_binary_objective_has_a_zero_and_the_ranking_one_has_none():
    """A number added to all logits changes the binary loss alone."""
    for objective, same in (("binary", False), ("ranking", True)):
        method, data = fixed([1.0, 1.0], [0.0, 0.0], negatives=2, objective=objective)
        before = method(data)["loss"].item()
        after = method(data | {"text": data["text"] + 5})["loss"].item()
        assert math.isclose(before, after, rel_tol=1e-6) is same


def test_one_positive_of_1_above_two_negatives_of_0():
    """log(e + 2) - 1 = 0.551445, by ranking; of the other text it is log(1 + 2e), since its negatives have 1."""
    method, data = fixed([1.0], [0.0], negatives=2, objective="ranking")
    expected = (math.log(math.e + 2) - 1 + math.log(1 + 2 * math.e)) / 2
    assert method(data)["loss"].item() == pytest.approx(expected, abs=1e-6)


def test_negatives_are_never_the_text_s_own_and_come_as_often_as_in_the_batch():
    own = torch.zeros(3, 64, dtype=torch.long)
    own[0, :3] = torch.tensor([5, 6, 9])
    own[1, :3] = torch.tensor([5, 7, 7000])  # the third is known, and not drawn
    own[2, :2] = torch.tensor([7000, 8])
    drawn, valid = draw_negatives(own, 2, 3000)
    assert 0.97 < valid.float().mean() <= 1, "few are left out, although half of the labels are a text's own"
    keys = [labels[real] for labels, real in zip(own[:, :2].flatten()[drawn], valid, strict=True)]
    assert set(keys[0].tolist()) == {7, 7000, 8}
    assert set(keys[1].tolist()) == {6, 8}, "7000 is a label of text 1 although it is not among those drawn"
    assert set(keys[2].tolist()) == {5, 6, 7}
    share = (keys[2] == 5).float().mean().item()
    assert share == pytest.approx(0.5, abs=0.03), "two of the four labels of other texts are 5"


def test_a_draw_is_of_the_batch_alone():
    """It is the same on every process, other in another batch, and leaves the random state as it was."""
    own = torch.arange(1, 65).repeat(4, 1) + 100 * torch.arange(4)[:, None]
    state = torch.random.get_rng_state()
    first, second = draw_negatives(own, 4, 8), draw_negatives(own, 4, 8)
    assert torch.equal(state, torch.random.get_rng_state())
    assert torch.equal(first[0], second[0])
    assert not torch.equal(first[0], draw_negatives(own.roll(1, 1), 4, 8)[0])


def test_texts_of_one_label_only_have_nothing_to_be_told_from():
    own = torch.zeros(4, 64, dtype=torch.long)
    own[:, 0] = 3
    assert not draw_negatives(own, 1, 5)[1].any()
    for objective in ("binary", "ranking"):
        method = CLESS(matcher(), labels="tag", positives=1, objective=objective)
        data = batch(method, [{"text": text, "tag": "same"} for text in TEXTS])
        with pytest.raises(UserError, match="no text of a batch has a label that another has not"):
            method(data)
        out = method.eval()(data)  # batches of validation come in order, and may be of one class
        near = method.model.match(*[each.squeeze() for each in method.embed(data).values()])
        expected = torch.nn.functional.softplus(-near).mean().item() if objective == "binary" else 0.0
        assert out["loss"].item() == pytest.approx(expected, abs=1e-6)
        out["loss"].backward()
        assert all(p.grad is None or p.grad.isfinite().all() for p in method.parameters())


def test_a_text_without_labels_counts_for_nothing():
    method = CLESS(matcher(), labels="tag", positives=2, negatives=3)
    records = [{"text": text, "tag": tag} for text, tag in zip(TEXTS, ["x", "y", [], "x", "z", []], strict=True)]
    with_empty = method(batch(method, records))["loss"].item()
    # what the texts without labels say changes nothing
    records = [record if record["tag"] else record | {"text": "a tall red boat"} for record in records]
    assert method(batch(method, records))["loss"].item() == pytest.approx(with_empty, rel=1e-6)


def test_the_same_head_goes_from_words_to_labels_and_learns_both():
    method = CLESS(matcher(), positives=3, negatives=12)
    optimizer = torch.optim.Adam(method.parameters(), 0.01)
    data = batch(method)
    for _ in range(150):
        optimizer.zero_grad()
        backward(method, data, chunk=2)
        optimizer.step()
    out = method(data)
    assert out["ahead"] > 0.95
    scores = method.model.match_labels(["a red car", "two small dogs"], ["red", "dogs"])
    assert scores[0, 0] > scores[0, 1]
    assert scores[1, 1] > scores[1, 0]
    labelled = CLESS(method.model, labels="classes", positives=1, negatives=4)
    records = [{"text": text, "label": i % 2} for i, text in enumerate(TEXTS)]
    assert labelled.model is method.model
    assert labelled(batch(labelled, records, classes=["red", "dogs"]))["loss"].isfinite()


def test_a_text_encoder_gets_a_head_and_other_models_are_named():
    encoder = text_encoder(BERT, tokenizer=train_tokenizer(TEXTS, 300))
    method = CLESS(encoder)
    assert isinstance(method.model, LabelMatcher)
    assert method.model.encoder is encoder
    with pytest.raises(UserError, match="cless needs a model that matches texts with labels, and a Linear does not"):
        CLESS(nn.Linear(2, 2))
    assert find("cless") is CLESS


@pytest.mark.parametrize(
    ("settings", "words"),
    [({"objective": "margin"}, "choose 'binary' or 'ranking'"), ({"negatives": 0}, "negatives is 0"),
     ({"positives": 65}, "choose 1 to 64")],
)  # fmt: skip
def test_settings_that_cannot_be_are_named(settings, words):
    with pytest.raises(UserError, match=words):
        CLESS(matcher(), **settings)


def test_negatives_that_are_none_are_not_counted_as_behind():
    """Both texts have one label, so that no negative is left: nothing is ahead of anything."""
    keys = torch.zeros(2, 64, dtype=torch.long)
    keys[:, 0] = 3
    data = {"text": torch.zeros(2, 1), "label_text": torch.tensor([[5.0], [1.0]]), "label_key": keys}
    out = CLESS(Fixed(), positives=1, negatives=4).eval()(data)
    assert out["ahead"].item() == out["negative"].item() == 0
