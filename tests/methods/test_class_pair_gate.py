"""The gate of a pair of classes: symmetric, blind to names, at 0.5 when it starts, and what its kinds do."""

import json
import math

import pytest
import torch

from nearfar.errors import UserError
from nearfar.methods.class_pairs import ClassPairGate
from nearfar.methods.class_pairs.class_pair_gate import gate_entropy, gate_statistics

A, B = torch.tensor([0, 1, 2, 3, 0]), torch.tensor([4, 4, 1, 3, 1])


def gate(seed=0, **settings):
    torch.manual_seed(seed)
    return ClassPairGate(5, 6, **{"width": 8, "hidden": 16, **settings})


@pytest.mark.parametrize("fuse", [True, False])
@pytest.mark.parametrize("kind", ["sigmoid", "stochastic"])
@pytest.mark.parametrize("training", [True, False])
def test_a_pair_has_no_order(fuse, kind, training):
    model = gate(fuse=fuse, kind=kind).train(training)
    torch.manual_seed(1)
    one = model.draw(A, B).chance
    torch.manual_seed(1)
    torch.testing.assert_close(one, model.draw(B, A).chance, rtol=0, atol=1e-6)


def test_other_numbers_for_the_classes_change_nothing():
    model, other, order = gate(), gate(), torch.tensor([3, 0, 4, 1, 2])
    with torch.no_grad():
        other.embedding.weight[order] = model.embedding.weight
    torch.testing.assert_close(model(A, B), other(order[A], order[B]))


def test_size_and_start_of_the_released_gate():
    torch.manual_seed(0)
    model = ClassPairGate(1000, 256)
    assert sum(p.numel() for p in model.parameters()) == 1_302_784
    a, b = torch.randint(1000, (2, 512))
    gates = model(a, b)
    assert gates.mean().item() == pytest.approx(0.5, abs=0.01)
    assert gates.std().item() == pytest.approx(0.13, abs=0.02)
    assert gate(0).eval().gates(A, B).std().item() < 0.1


@pytest.mark.parametrize("classes", [1, 2, 7])
def test_as_many_pairs_as_there_are(classes):
    """C (C + 1) / 2, each of them with one gate: 1,000 classes have 500,500."""
    model = ClassPairGate(classes, 3, width=4, hidden=4).eval()
    first, second = torch.cartesian_prod(torch.arange(classes), torch.arange(classes)).T
    rows = model.gates(first, second).mul(1e6).round()
    assert len(rows.unique(dim=0)) == classes * (classes + 1) // 2


def test_pairs_with_one_mean_of_embeddings_share_a_gate():
    model = gate().eval()
    with torch.no_grad():
        model.embedding.weight[3] = model.embedding.weight[0] + model.embedding.weight[1] - model.embedding.weight[2]
    one, other = model(torch.tensor([0, 2]), torch.tensor([1, 3]))
    torch.testing.assert_close(one, other)


def test_a_class_with_itself_is_the_class_alone():
    model = gate().eval()
    assert torch.equal(model(A), model(A, A))


def test_the_product_of_both_gates_where_they_are_not_fused():
    model = gate(fuse=False).eval()
    torch.testing.assert_close(model(A, B), torch.sqrt(model(A) * model(B)))


def test_classes_of_no_pair_get_no_gradient():
    model = gate()
    model(A[:3], B[:3]).square().sum().backward()
    used = model.embedding.weight.grad.abs().sum(1) > 0
    assert used.tolist() == [True, True, True, False, True]


@pytest.mark.parametrize("kind", ["gumbel", "stochastic"])
def test_noise_in_training_and_none_in_evaluation(kind):
    model = gate(kind=kind)
    assert not torch.equal(model(A, B), model(A, B))
    model.eval()
    assert torch.equal(model(A, B), model(A, B))
    values = model.train()(A, B)
    assert ((values >= 0) & (values <= 1)).all()


def test_the_stochastic_gate_is_a_clamped_gaussian():
    """Its chance to be open is that of a Gaussian with spread 0.5 around the logit plus 0.5 to be above 0."""
    model = gate(kind="stochastic").eval()
    with torch.no_grad():
        model.network[-1].weight.zero_()
        model.network[-1].bias.copy_(torch.tensor([-1.0, -0.5, 0.0, 0.25, 0.5, 2.0]))
    drawn = model.draw(A, B)
    assert drawn.gate[0].tolist() == [0.0, 0.0, 0.5, 0.75, 1.0, 1.0]
    normal = torch.distributions.Normal(0.0, 1.0)
    torch.testing.assert_close(drawn.chance[0], normal.cdf((model.network[-1].bias.detach() + 0.5) / 0.5))
    torch.manual_seed(0)
    model.network.eval()
    model.training = True
    open_share = torch.stack([model(A, B)[0] > 0 for _ in range(4000)]).float().mean(0)
    torch.testing.assert_close(open_share, drawn.chance[0], atol=0.03, rtol=0)


def test_the_open_gate_learns_nothing():
    model = gate(kind="open")
    assert list(model.parameters()) == []
    assert torch.equal(model(A, B), torch.ones(5, 6))
    assert model.gates(A).shape == (5, 6)


def test_evaluation_leaves_modes_and_running_statistics_as_they_are():
    model = gate().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    rows = model.gates(A, B)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    torch.testing.assert_close(model.gates(A[:1], B[:1]), rows[:1])


def test_figures_of_gates():
    gates = torch.tensor([[0.0, 1.0, 0.5, 0.05], [0.95, 0.5, 0.5, 0.5]])
    figures = gate_statistics(gates)
    assert figures["activation"] == pytest.approx(2.0)
    assert figures["closed"] == 2 / 8
    assert figures["open"] == 2 / 8
    binary = -2 * sum(p * math.log(p) for p in (0.05, 0.95))
    assert figures["entropy"] == pytest.approx((4 * math.log(2) + binary) / 8)
    assert gate_entropy(torch.full((2, 2), 0.5)).item() == pytest.approx(math.log(2))
    chance = torch.tensor([[0.0, 1.0, 0.3]], requires_grad=True)
    gate_entropy(chance).backward()
    assert chance.grad[0].tolist() == pytest.approx([0, 0, math.log(0.7 / 0.3) / 3])


def test_gates_that_are_decided_for_good_do_not_make_the_penalty_nan():
    """A sigmoid of 20 is 1 in float32, and one of -200 is 0: the others still get their gradient."""
    logit = torch.tensor([[20.0, -200.0, 1.0]], requires_grad=True)
    value = gate_entropy(logit.sigmoid())
    value.backward()
    p = 1 / (1 + math.exp(-1))
    assert value.item() == pytest.approx(-(p * math.log(p) + (1 - p) * math.log(1 - p)) / 3)
    assert logit.grad[0].tolist() == pytest.approx([0, 0, -p * (1 - p) / 3], rel=1e-5)  # d/dx of H(sigmoid(x)) at x = 1
    assert gate_entropy(torch.tensor([[0.5, math.nan]])).isnan()


@pytest.mark.parametrize("kind", ["sigmoid", "open"])
def test_saved_and_read_again(tmp_path, kind):
    model = gate(kind=kind).eval()
    again = ClassPairGate.load(model.save(tmp_path / "gate.safetensors"))
    assert torch.equal(again(A, B), model(A, B))
    assert not again.training


def test_a_file_that_holds_no_gate(tmp_path):
    from safetensors.torch import save_file

    (tmp_path / "text.safetensors").write_text("no")
    save_file({"x": torch.zeros(1)}, tmp_path / "other.safetensors")
    settings = {"classes": 10**9, "dim": 6, "kind": "sigmoid", "fuse": True, "width": 8, "hidden": 16}
    save_file({"x": torch.zeros(1)}, tmp_path / "large.safetensors", {"gate": json.dumps(settings)})
    for name in ("text", "other", "large", "absent"):
        with pytest.raises(UserError, match=rf"{name}.safetensors holds no gate"):
            ClassPairGate.load(tmp_path / f"{name}.safetensors")


def test_what_does_not_fit_is_named():
    with pytest.raises(UserError, match="gate='hard': choose sigmoid, gumbel"):
        gate(kind="hard")
    with pytest.raises(UserError, match="classes=0"):
        ClassPairGate(0, 4)
    with pytest.raises(UserError, match="two pairs at least"):
        gate()(A[:1], B[:1])
    with pytest.raises(UserError, match="labels run from 0 to 5, and the gate knows 5 classes"):
        gate()(A, A + 2)
    with pytest.raises(UserError, match="labels run from -1 to 4, and the gate knows 5 classes, from 0"):
        gate()(A - 1, B)
