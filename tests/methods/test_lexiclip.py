"""LexiCLIP's calibration: its values by hand, what ids and hard negatives do, what leaves it unchanged."""

import math

import pytest
import torch
from torch import nn

from nearfar.data import Loader, Records, train_tokenizer
from nearfar.errors import UserError
from nearfar.losses.infonce import info_nce
from nearfar.methods import LexiCLIP
from nearfar.models.language.text_model import text_encoder
from nearfar.training.loop.gradients import backward


class Rows(nn.Module):
    """An encoder of vectors."""

    embed_dim = 4

    def encode_text(self, rows):
        return rows


def loss(query, description, *, group=None, hard=None, count=None, **settings):
    batch = {"text": query, "text2": description}
    batch |= {} if group is None else {"group": torch.tensor(group)}
    batch |= {} if hard is None else {"negative_text": hard, "negative_count": torch.tensor(count)}
    return LexiCLIP(Rows(), **{"temperature": 1.0, **settings})(batch)["loss"]


def drawn(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_orthonormal_pairs_and_equal_embeddings():
    assert loss(torch.eye(2), torch.eye(2)).item() == pytest.approx(math.log(1 + math.exp(-1)), abs=1e-6)
    for n, value in ((8, 2.079442), (64, 4.158883)):
        same = torch.ones(n, 4)
        assert loss(same, same, temperature=0.02).item() == pytest.approx(value, abs=1e-5)


def test_it_is_the_symmetric_loss_of_rows_by_a_slow_formula():
    q, d = drawn(6, 4), drawn(6, 4, seed=1)
    s = nn.functional.normalize(q, dim=1) @ nn.functional.normalize(d, dim=1).T / 0.02
    rows = torch.arange(6)
    slow = (nn.functional.cross_entropy(s, rows) + nn.functional.cross_entropy(s.T, rows)) / 2
    assert loss(q, d, temperature=0.02).item() == pytest.approx(slow.item(), rel=1e-9)
    assert LexiCLIP(Rows()).loss.temperature().item() == pytest.approx(0.02)


def test_sides_can_be_exchanged_and_pairs_permuted():
    q, d, order = drawn(6, 4), drawn(6, 4, seed=1), torch.randperm(6)
    group = [0, 0, 1, 2, 2, 3]
    for kind in ("mask", "joint", "negatives"):
        value = loss(q, d, group=group, same_picture=kind).item()
        assert loss(d, q, group=group, same_picture=kind).item() == pytest.approx(value, rel=1e-9)
        turned = [group[place] for place in order]
        assert loss(q[order], d[order], group=turned, same_picture=kind).item() == pytest.approx(value, rel=1e-9)


def test_texts_of_one_picture():
    """Of (a, a, b): masked, the rows of a have the loss of a in (a, b); as negatives each has ln 2 at least."""
    a, b = drawn(1, 4), drawn(1, 4, seed=1)
    q = torch.cat([a, a, b])
    d = torch.cat([a + 0.1, a + 0.1, b - 0.2])
    one = nn.functional.normalize(q, dim=1) @ nn.functional.normalize(d, dim=1).T
    first = -one[0, 0] + torch.logsumexp(one[0, [0, 2]], 0)  # of a beside b alone
    first_back = -one[0, 0] + torch.logsumexp(one[[0, 2], 0], 0)
    last = -one[2, 2] + torch.logsumexp(one[2], 0)  # b has two texts of a against it
    last_back = -one[2, 2] + torch.logsumexp(one[:, 2], 0)
    by_hand = ((2 * first + last) + (2 * first_back + last_back)) / 6
    assert loss(q, d, group=[5, 5, 9]).item() == pytest.approx(by_hand.item(), rel=1e-9)
    sharp = loss(q[:2], d[:2], group=[5, 5], same_picture="negatives", temperature=0.01)
    assert sharp.item() >= math.log(2) - 1e-9
    assert loss(q[:2], d[:2], group=[5, 5]).item() == 0


def test_all_texts_of_a_picture_are_positives():
    q, d = drawn(5, 4), drawn(5, 4, seed=1)
    group = torch.tensor([0, 1, 0, 2, 0])
    s = nn.functional.normalize(q, dim=1) @ nn.functional.normalize(d, dim=1).T / 0.5

    def direction(scores):
        own = (group[:, None] == group).double()
        return (torch.logsumexp(scores, 1) - (scores * own).sum(1) / own.sum(1)).mean()

    by_hand = (direction(s) + direction(s.T)) / 2
    value = loss(q, d, group=group.tolist(), same_picture="joint", temperature=0.5).item()
    assert value == pytest.approx(by_hand.item(), rel=1e-9)
    alone = loss(q, d, group=range(5), same_picture="joint").item()
    assert alone == pytest.approx(loss(q, d).item(), rel=1e-9)


def test_a_hard_negative_is_a_column_of_its_own_description():
    """Description 0: its query at 0.8, a hard negative at 0.8, another query at 0; tau 0.1: ln(2 + e^-8)."""
    d = torch.tensor([[1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]], dtype=torch.float64)
    q = torch.tensor([[0.8, 0.6, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]], dtype=torch.float64)
    hard = torch.tensor([[0.8, 0.0, 0.6, 0.0], [0.0, 0.0, 0.0, 0.0]], dtype=torch.float64)
    without = loss(q, d, temperature=0.1)
    own = loss(q, d, hard=hard, count=[1, 0], temperature=0.1)
    row = math.log(2 + math.exp(-8)) - math.log(1 + math.exp(-8))
    assert row == pytest.approx(0.693315 - 0.000335, abs=1e-6)
    assert (own - without).item() == pytest.approx(row / 4, abs=1e-9)  # one of two rows of one of two directions
    empty = loss(q, d, hard=hard, count=[0, 0], temperature=0.1)
    assert empty.item() == pytest.approx(without.item(), rel=1e-9)
    near = hard.clone()
    near[0] = torch.tensor([0.0, 0.0, 0.6, 0.8])  # near to the other description
    assert loss(q, d, hard=near, count=[1, 0], temperature=0.1).item() < without.item() + 0.01
    assert loss(q, d, hard=near, count=[1, 0], temperature=0.1, negatives_for="all").item() > without.item() + 0.02


def test_one_pair_teaches_nothing():
    q = drawn(1, 4).requires_grad_()
    value = loss(q, drawn(1, 4, seed=1))
    value.backward()
    assert value.item() == 0
    assert not q.grad.any()


TEXTS = ["a red car", "two small dogs", "the old house near a tree", "a boat at sea", "one red fish", "a tall tower"]
BERT = {"model_type": "bert", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
BERT |= {"intermediate_size": 32, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


@pytest.fixture
def model():
    torch.manual_seed(0)
    return text_encoder(BERT, tokenizer=train_tokenizer(TEXTS, 300), pooling="cls").train()


def batch_of(model, records):
    source = Records(records, name="pairs")
    options = {"shuffle": False, "tokenizer": model.tokenizer, "text_pairs": True}
    return next(iter(Loader(source, batch_size=len(records), **options)))


def test_queries_and_descriptions_meet_the_same_weights(model):
    records = [{"text": text, "text2": text.upper()} for text in TEXTS]
    data = batch_of(model, records)
    embedded = LexiCLIP(model).embed(data)
    assert embedded.keys() == {"view_0", "view_1"}
    assert torch.equal(embedded["view_0"], model.encode_text(data["text"]))
    turned = LexiCLIP(model).embed({"text": data["text2"], "text2": data["text"]})
    assert torch.equal(turned["view_1"], embedded["view_0"])
    z = nn.functional.normalize(embedded["view_0"], dim=1)
    assert torch.allclose((z * z).sum(1), torch.ones(6))
    scores = (z[:, None] * z).sum(-1)
    assert torch.equal(scores, scores.T)


def test_gradient_caching_gives_the_same_gradient(model):
    records = [
        {"text": text, "text2": text[::-1], "negative_text": [text[2:]] * (n % 3)} for n, text in enumerate(TEXTS)
    ]
    data, gradients = batch_of(model, records), []
    for chunk in (None, 2):
        method = LexiCLIP(model, temperature=0.5)
        method.zero_grad()
        backward(method, data, chunk=chunk)
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    assert torch.allclose(*gradients, atol=1e-6)


def test_a_learning_rate_of_zero_changes_nothing(model):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    method = LexiCLIP(model)
    optimiser = torch.optim.AdamW(method.parameters(), lr=0.0)
    method(batch_of(model, [{"text": text, "text2": text.upper()} for text in TEXTS]))["loss"].backward()
    assert any(p.grad is not None and p.grad.any() for p in model.parameters())
    optimiser.step()
    method.after_step(1)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_what_cannot_be_is_named(model):
    with pytest.raises(UserError, match="these data have no text2"):
        LexiCLIP(model)(batch_of(model, [{"text": text} for text in TEXTS]))
    with pytest.raises(UserError, match="same_picture='drop': choose one of mask, joint, negatives"):
        LexiCLIP(model, same_picture="drop")
    with pytest.raises(UserError, match="negatives_for='none'"):
        LexiCLIP(model, negatives_for="none")


def test_a_learned_temperature_is_trained_and_kept_above_its_bound():
    method = LexiCLIP(Rows(), temperature=0.02, learn_temperature=True)
    assert [name for name, p in method.named_parameters() if p.requires_grad]
    assert not [name for name, p in LexiCLIP(Rows()).named_parameters() if p.requires_grad]
    with torch.no_grad():
        next(method.parameters()).fill_(100.0)
    method.after_step(1)
    assert method.loss.temperature().item() >= 0.01 - 1e-6
    assert info_nce(torch.eye(2), torch.eye(2), temperature=method.loss.temperature).isfinite()
