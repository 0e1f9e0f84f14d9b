"""Hydra's loss: the numbers worked out for it, what reduces to known losses, where gradients go and where not."""

import json
import math
from pathlib import Path

import pytest
import torch

from losses.hydra_work import loss_and_gradient
from nearfar import losses
from nearfar.errors import UserError
from nearfar.losses.functional import gated_pairs, info_nce, supcon
from nearfar.losses.gated_pairs import gated_pair_sums
from training.ranks import run

SIX = torch.tensor([0, 0, 1, 1, 2, 2])
THREE = torch.arange(3)
Z = torch.tensor([[1, 0, 0], [0.6, 0.8, 0], [0, 0.6, 0.8]], dtype=torch.float64)


def random(rows, d=5, seed=0):
    g = torch.Generator().manual_seed(seed)
    return [torch.randn(rows, d, generator=g, dtype=torch.float64) for _ in range(2)]


def of_rows(z, gate, partner, scale, **more):
    """The loss of each row by itself."""
    label, gates = torch.arange(len(z)), gate.expand_as(z)
    return [
        gated_pairs(
            z[i : i + 1],
            z,
            gates[i : i + 1],
            label[i : i + 1],
            partner[i : i + 1],
            label,
            temperature=1 / scale,
            **more,
        ).item()
        for i in range(len(z))
    ]


@pytest.mark.parametrize(
    ("gate", "scale", "more", "rows", "mean"),
    [
        ((1, 1, 1), 1, {}, (0.437488, 0.754946, 0.961675), 0.718036),
        ((1, 1, 1), 1, {"form": "dot"}, (0.437488, 0.754946, 0.961675), 0.718036),
        ((1, 1, 1), 10, {}, None, 2.091318),
        ((1, 0.5, 0), 1, {}, (0.361274, 0.841407, 1.008476), 0.737052),
        ((1, 0.5, 0), 10, {}, None, 2.795070),
        ((1, 0.5, 0), 1, {"form": "dot"}, (0.437488, 0.961675, 0.754946), 0.718036),
        ((1, 0.5, 0), 1, {"form": "dot", "alpha": 0.5}, (0.554355, 0.925037, 0.634946), 0.704779),
        ((0.5, 0.5, 0.5), 1, {}, None, 0.718036),
        ((0.5, 0.5, 0.5), 1, {"form": "dot"}, None, 0.694721),
    ],
)
def test_numbers_worked_out_by_hand(gate, scale, more, rows, mean):
    gate, partner = torch.tensor(gate, dtype=torch.float64), torch.tensor([1, 2, 0])
    values = of_rows(Z, gate, partner, scale, **more)
    if rows:
        assert values == pytest.approx(rows, abs=1e-6)
    whole = gated_pairs(Z, Z, gate.expand(3, 3), THREE, partner, THREE, temperature=1 / scale, **more)
    assert whole.item() == pytest.approx(mean, abs=1e-6) == pytest.approx(sum(values) / 3, abs=1e-6)


def test_open_gates_are_plain_cosines_in_either_form():
    z, k = random(6)
    one = torch.ones_like(z)
    values = [
        gated_pairs(z, k, gate, SIX, SIX.roll(2), SIX, form=form)
        for gate in (one, None)
        for form in ("subspace", "dot")
    ]
    s = torch.nn.functional.normalize(z) @ torch.nn.functional.normalize(k).T * 10
    by_hand = []
    for i in range(6):
        far = s[i, (SIX[i] != SIX) & (SIX.roll(2)[i] != SIX)]
        near = s[i, SIX.roll(2)[i] == SIX]
        by_hand.append(torch.stack([torch.cat([x[None], far]).logsumexp(0) - x for x in near]).mean())
    for value in values:
        torch.testing.assert_close(value, torch.stack(by_hand).mean())


def test_each_sample_its_own_class_is_infonce_in_one_direction():
    z, k = random(7)
    ids = torch.arange(7)
    loss = gated_pairs(z, k, torch.ones_like(z), ids, ids, ids, temperature=0.3)
    torch.testing.assert_close(loss, info_nce(z, k, temperature=0.3, symmetric=False))


def test_identical_pairs_are_supervised_contrast_with_a_denominator_for_each_positive():
    z, k = random(6)
    s = torch.nn.functional.normalize(z) @ torch.nn.functional.normalize(k).T / 0.3
    own, far = SIX[:, None] == SIX, SIX[:, None] != SIX
    by_hand = [
        torch.stack([torch.cat([s[i, j : j + 1], s[i, far[i]]]).logsumexp(0) - s[i, j] for j in own[i].nonzero()[:, 0]])
        for i in range(6)
    ]
    loss = gated_pairs(z, k, None, SIX, SIX, SIX, temperature=0.3)
    torch.testing.assert_close(loss, torch.stack(by_hand).mean())
    other = supcon(torch.cat([z, k]), SIX.repeat(2), temperature=0.3)
    assert abs(loss - other) > 0.1  # several samples a class: the others stand in SupCon's denominators


def test_supcon_where_each_class_has_one_sample():
    """Of two views, as anchors and keys both: each row has one positive, and all else is negative."""
    z, k = random(5)
    both, label = torch.cat([z, k]), torch.arange(5).repeat(2)
    ours = gated_pairs(both, both, None, label, label, label, temperature=0.3, exclude_self=True)
    torch.testing.assert_close(ours, supcon(both, label, temperature=0.3))


@pytest.mark.parametrize("c", [0.1, 0.5, 1.0])
def test_a_constant_gate_cancels_in_the_subspace_and_is_a_temperature_in_the_product(c):
    z, k = random(6)
    gate = torch.full_like(z, c)
    args = (SIX, SIX.roll(2), SIX)
    plain = gated_pairs(z, k, None, *args, temperature=0.1)
    torch.testing.assert_close(gated_pairs(z, k, gate, *args, temperature=0.1), plain)
    dot = gated_pairs(z, k, gate, *args, temperature=0.1, form="dot")
    torch.testing.assert_close(dot, gated_pairs(z, k, None, *args, temperature=0.1 / c**2))


def test_all_features_equal():
    x = torch.ones(6, 4)
    other, own = (gated_pairs(x, x, torch.rand(6, 4), SIX, partner, SIX).item() for partner in (SIX.roll(-2), SIX))
    assert other == pytest.approx(math.log(3), abs=1e-5)
    assert own == pytest.approx(math.log(5), abs=1e-5)


def test_why_a_filter():
    """Three classes of two attributes each. Without a gate each pair sits at chance, whatever the scale; a gate on the
    attribute that both share takes the loss to 0."""
    z = torch.tensor([[1, 1, 0], [1, 0, 1], [0, 1, 1]], dtype=torch.float64)
    partner = torch.tensor([1, 2, 0])
    shared = torch.tensor([[1, 0, 0], [0, 0, 1], [0, 1, 0]], dtype=torch.float64)
    for scale in (0.1, 1, 10):
        none = gated_pairs(z, z, None, THREE, partner, THREE, temperature=1 / scale)
        assert none.item() == pytest.approx(math.log(2), abs=1e-6)
        opened = gated_pairs(z, z, shared, THREE, partner, THREE, temperature=1 / scale)
        assert opened.item() == pytest.approx(math.log1p(math.exp(-scale)), rel=1e-5)
    for scale, value in ((1, 0.474077), (10, 0.006715)):
        dot = gated_pairs(z, z, shared, THREE, partner, THREE, temperature=1 / scale, form="dot")
        assert dot.item() == pytest.approx(value, abs=1e-6)


@pytest.mark.parametrize(("scale", "identical"), [(1, 0.904832), (10, 1.8e-4)])
def test_ideal_clusters_are_at_chance_for_pairs_of_other_classes(scale, identical):
    z = torch.eye(3, dtype=torch.float64)[SIX]
    other, own = (
        gated_pairs(z, z, None, SIX, partner, SIX, temperature=1 / scale).item() for partner in (SIX.roll(2), SIX)
    )
    assert other == pytest.approx(math.log(3), abs=1e-6)
    assert own == pytest.approx(identical, rel=0.01)


@pytest.mark.parametrize("form", ["subspace", "dot"])
def test_the_order_of_the_keys_says_nothing(form):
    z, k = random(6)
    gate, order = torch.rand(6, 5, dtype=torch.float64), torch.tensor([3, 1, 5, 0, 2, 4])
    values = [
        gated_pairs(z, keys, gate, SIX, SIX.roll(2), label, form=form)
        for keys, label in ((k, SIX), (k[order], SIX[order]))
    ]
    torch.testing.assert_close(*values)


@pytest.mark.parametrize("form", ["subspace", "dot"])
def test_keys_of_the_anchor_s_own_class_get_no_gradient(form):
    """They are neither positives nor negatives: else the anchor's class would repel while its partner's attracts."""
    z, k = random(6)
    k.requires_grad_()
    row = slice(0, 1)
    loss = gated_pairs(z[row], k, torch.rand(1, 5).double(), SIX[row], SIX[2:3], SIX, form=form)
    (gradient,) = torch.autograd.grad(loss, k)
    assert gradient[:2].abs().max() == 0
    assert (gradient[2:].abs().sum(1) > 0).all()


@pytest.mark.parametrize("backend", ["tiled", "dense"])
def test_a_closed_dimension_has_no_gradient_in_the_subspace_and_one_in_the_product(backend):
    z, k = random(6)
    z.requires_grad_()
    gate = torch.rand(6, 5, dtype=torch.float64)
    gate[:, 2] = 0
    leaks = {}
    for form in ("subspace", "dot"):
        loss = gated_pairs(z, k, gate, SIX, SIX.roll(2), SIX, form=form, backend=backend)
        leaks[form] = torch.autograd.grad(loss, z)[0][:, 2].abs().max()
    assert leaks["subspace"] == 0
    assert leaks["dot"] > 1e-3


def test_rows_without_positives_do_not_count_and_rows_without_negatives_give_zero():
    z, k = random(6)
    gate = torch.rand(6, 5, dtype=torch.float64)
    some = SIX.roll(2).clone()
    some[:4] = 9  # a class that the batch does not have
    alone = gated_pairs(z[4:], k, gate[4:], SIX[4:], some[4:], SIX)
    torch.testing.assert_close(gated_pairs(z, k, gate, SIX, some, SIX), alone)
    two = torch.tensor([0, 0, 0, 1, 1, 1])
    z.requires_grad_()
    for reduction in ("row", "pair"):
        for label, partner in ((two, 1 - two), (SIX, SIX + 9)):
            loss = gated_pairs(z, k, gate, label, partner, label, reduction=reduction)
            assert loss.item() == 0
            assert torch.autograd.grad(loss, z)[0].abs().max() == 0


def test_a_row_finds_itself_only_where_it_has_no_other_positive():
    z, _ = random(5)
    label = torch.tensor([0, 0, 1, 1, 2])
    s = torch.nn.functional.normalize(z) @ torch.nn.functional.normalize(z).T * 10
    by_hand = []
    for i in range(5):
        near = [j for j in range(5) if label[j] == label[i] and j != i] or [i]
        far = s[i, label != label[i]]
        by_hand += [torch.cat([s[i, j][None], far]).logsumexp(0) - s[i, j] for j in near]
    loss = gated_pairs(z, z, None, label, label, label, exclude_self=True)
    torch.testing.assert_close(loss, torch.stack(by_hand).mean())
    assert loss > gated_pairs(z, z, None, label, label, label)


@pytest.mark.parametrize("t", [0.01, 0.005])
def test_a_self_pair_is_left_out_and_not_taken_off(t):
    """Four equal rows of two classes in float32: log 3 at any temperature; two orthogonal classes: next to nothing."""
    label = torch.tensor([0, 1, 0, 1])
    same = torch.ones(4, 2, requires_grad=True)
    loss = gated_pairs(same, same, None, label, label, label, temperature=t, exclude_self=True)
    assert loss.item() == pytest.approx(math.log(3), abs=1e-4)
    assert torch.autograd.grad(loss, same)[0].isfinite().all()
    apart = torch.eye(2)[label]
    assert gated_pairs(apart, apart, None, label, label, label, temperature=t, exclude_self=True) < 1e-6


def test_anchors_without_another_of_their_class():
    """Four orthogonal rows, labels 0, 1, 1, 3: whatever the temperature, the pair of class 1 is among two negatives.
    A row alone is its own positive; left out of the keys' labels it does not count."""
    rows = torch.eye(4, requires_grad=True)
    label = torch.tensor([0, 1, 1, 3])
    partner = torch.tensor([7, 1, 1, 7])
    loss = gated_pairs(rows, rows, None, label, partner, label, temperature=0.8, exclude_self=True)
    assert loss.item() == pytest.approx(math.log(3), abs=1e-5)
    none = gated_pairs(rows, rows, None, label, label + 9, label, temperature=0.8)
    none.backward()
    assert none.item() == 0
    assert rows.grad.abs().max() == 0


def test_a_scale_that_overflows_the_released_code():
    """exp(88) is beyond float32; there a learned scale is not held."""
    z = torch.eye(3)[SIX].requires_grad_()
    loss = gated_pairs(z, -z, torch.rand(6, 3), SIX, SIX, SIX, temperature=1 / 5000)
    assert loss.isfinite()
    assert torch.autograd.grad(loss, z)[0].isfinite().all()


def test_closing_all_gates_is_never_better_than_chance():
    """The trivial way out of the product: all logits 0."""
    z, k = random(6)
    closed = gated_pairs(z, k, torch.zeros_like(z), SIX, SIX, SIX, form="dot")
    assert closed.item() == pytest.approx(math.log(5), abs=1e-6)


def test_frequent_classes_count_more_over_pairs_than_over_rows():
    z, k = random(6)
    label = torch.tensor([0, 0, 0, 0, 1, 2])
    total, count = gated_pair_sums(z, k, None, label, label, label, reduction="pair")
    assert count.item() == 4 * 4 + 1 + 1
    rows = [gated_pairs(z[i : i + 1], k, None, label[i : i + 1], label[i : i + 1], label) for i in range(6)]
    torch.testing.assert_close(total / count, (4 * sum(rows[:4]) + rows[4] + rows[5]) / 18)
    torch.testing.assert_close(gated_pairs(z, k, None, label, label, label), sum(rows) / 6)


FIXTURE = json.loads((Path(__file__).parent / "released" / "hydra_loss.json").read_text("utf-8"))


@pytest.mark.parametrize("case", FIXTURE["cases"], ids=lambda case: case["name"])
def test_the_released_code_on_fixed_inputs(case):
    z, k, gate = (
        torch.tensor(FIXTURE["inputs"][name], dtype=torch.float64).requires_grad_() for name in ("z", "k", "g")
    )
    label, partner = (torch.tensor(FIXTURE["inputs"][name]) for name in ("label", "partner"))
    loss = gated_pairs(
        z, k, gate, label, partner, label, temperature=FIXTURE["inputs"]["temperature"], **case["options"]
    )
    # The released rows divide by their number of positives plus 1e-6.
    assert loss.item() == pytest.approx(case["loss"], rel=case["tolerance"])
    for value, name in ((z, "z"), (k, "k"), (gate, "g")):
        (gradient,) = torch.autograd.grad(loss, value, retain_graph=True)
        right = torch.tensor(case["gradients"][name], dtype=torch.float64)
        torch.testing.assert_close(gradient, right, rtol=case["tolerance"], atol=case["tolerance"])


@pytest.mark.parametrize("reduction", ["row", "pair"])
def test_two_processes_have_the_loss_and_gradient_of_one(reduction):
    """Anchors of each process, keys of both with their gradient: with the counts of both, one process's loss."""
    alone = loss_and_gradient(reduction, shared_count=True)
    for part in run(loss_and_gradient, 2, reduction, True):
        assert part[0] == pytest.approx(alone[0], abs=1e-12)
        torch.testing.assert_close(part[1], alone[1], rtol=0, atol=1e-12)


def test_a_process_that_divides_by_its_own_count_of_pairs_trains_another_loss():
    alone = loss_and_gradient("pair", shared_count=True)
    for part in run(loss_and_gradient, 2, "pair", False):
        assert abs(part[0] - alone[0]) > 0.01


def test_a_form_that_is_none_and_options_without_effect_are_named():
    z, k = random(6)
    good = {"z": z, "k": k, "gate": None, "label": SIX, "partner": SIX, "key_label": SIX}
    with pytest.raises(UserError, match="form must be one of subspace, dot"):
        gated_pairs(**good, form="cosine")
    with pytest.raises(UserError, match="reduction must be one of row, pair"):
        gated_pairs(**good, reduction="mean")
    with pytest.raises(UserError, match="it is for form='dot'"):
        gated_pairs(**good, alpha=0.5)
    with pytest.raises(UserError, match="it is for form='dot'"):
        losses.GatedPairs(alpha=0.5)
    with pytest.raises(UserError, match="exclude_self needs keys that are the anchors"):
        gated_pairs(**good | {"k": k[:3], "key_label": SIX[:3]}, exclude_self=True)
    with pytest.raises(UserError, match="one width"):
        gated_pairs(**good | {"k": k[:, :3]})


def test_a_learned_alpha_and_temperature_get_gradients():
    z, k = random(6)
    loss = losses.GatedPairs(0.1, form="dot", alpha=0.5).double()
    loss(z, k, torch.rand(6, 5).double(), SIX, SIX.roll(2), SIX).backward()
    assert loss.alpha.grad.abs() > 0
    assert loss.temperature.value.grad.abs() > 0
    assert losses.GatedPairs(form="dot").alpha is None
