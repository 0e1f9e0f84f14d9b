"""Every loss against its slow float64 formula, values and gradients, and the special cases that tie them together."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nearfar import losses, ops
from nearfar.errors import UserError
from nearfar.losses import functional as F
from oracles import contrastive as oracle


def pair(n, d=5, seed=0):
    g = torch.Generator().manual_seed(seed)
    return [torch.randn(n, d, generator=g, dtype=torch.float64, requires_grad=True) for _ in range(2)]


def agree(got, expected, inputs):
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-12)
    for mine, theirs in zip(
        torch.autograd.grad(got, inputs, retain_graph=True), torch.autograd.grad(expected, inputs), strict=True
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("n", [1, 2, 7])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("eps", [0.0, 0.1])
@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("extra", [0, 3])
def test_info_nce(n, symmetric, eps, grouped, extra):
    a, b = pair(n)
    tau = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    group = torch.arange(n) // 2 if grouped else None
    extras = pair(extra, seed=1) if extra else [None, None]
    got = F.info_nce(
        a,
        b,
        temperature=tau,
        symmetric=symmetric,
        label_smoothing=eps,
        group=group,
        negatives_a=extras[0] if symmetric else None,
        negatives_b=extras[1],
    )
    expected = oracle.info_nce(
        a, b, tau, eps=eps, symmetric=symmetric, group=group, extra_a=extras[0], extra_b=extras[1]
    )
    used = [x for x in extras[0 if symmetric else 1 :] if x is not None]
    if n == 1 and not extra:
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)
    else:
        agree(got, expected, [a, b, tau, *used])


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("eps", [0.0, 0.1])
@pytest.mark.parametrize("extra", [0, 3])
def test_one_temperature_a_row(symmetric, eps, extra):
    """It belongs to the row's a, in both directions."""
    a, b = pair(6)
    tau = torch.linspace(0.1, 0.9, 6, dtype=torch.float64).requires_grad_()
    group = torch.arange(6) // 2
    negatives = pair(extra, seed=1)[0] if extra else None
    got = F.info_nce(
        a, b, temperature=tau, symmetric=symmetric, label_smoothing=eps, group=group, negatives_b=negatives
    )
    expected = oracle.info_nce(a, b, tau[:, None], eps=eps, group=group, symmetric=False, extra_b=negatives)
    if symmetric:
        columns = (torch.nn.functional.cosine_similarity(a[:, None], b, dim=2) / tau[:, None]).T
        expected = (expected + oracle.info_nce_of_logits(columns, eps=eps, group=group)) / 2
    agree(got, expected, [a, b, tau])


def test_directions_sum_is_twice_the_mean():
    a, b = pair(4)
    assert F.info_nce(a, b, directions="sum").item() == pytest.approx(2 * F.info_nce(a, b).item(), rel=1e-12)


@given(st.integers(2, 9), st.floats(0.02, 5.0), st.integers(0, 99))
@settings(max_examples=15, deadline=None)
def test_info_nce_does_not_see_scale_or_order(n, tau, seed):
    a, b = pair(n, seed=seed)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    loss = F.info_nce(a, b, temperature=tau).item()
    assert F.info_nce(3 * a[order], 0.2 * b[order], temperature=tau).item() == pytest.approx(loss, rel=1e-9, abs=1e-12)
    assert F.info_nce(b, a, temperature=tau).item() == pytest.approx(loss, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("n", [2, 6])
def test_nt_xent(n):
    a, b = pair(n)
    tau = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    agree(F.nt_xent(a, b, temperature=tau), oracle.nt_xent(a, b, tau), [a, b, tau])


def test_supcon_and_its_special_case():
    a, b = pair(6)
    label = torch.tensor([0, 0, 1, 1, 1, 5])  # the last has no positive
    tau = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    agree(F.supcon(a, label, temperature=tau), oracle.supcon(a, label, tau), [a, tau])
    each = torch.arange(6).repeat(2)
    nt_xent = F.nt_xent(a, b, temperature=0.4)
    torch.testing.assert_close(F.supcon(torch.cat([a, b]), each, temperature=0.4), nt_xent, rtol=1e-9, atol=0)


def test_supcon_without_positives_is_a_zero_with_a_graph():
    z, _ = pair(3)
    loss = F.supcon(z, torch.arange(3))
    assert loss.item() == 0
    loss.backward()
    assert z.grad.abs().max() == 0


@pytest.mark.parametrize("grouped", [False, True])
def test_sigmoid(grouped):
    a, b = pair(6)
    group = torch.tensor([0, 0, 1, 2, 2, 3]) if grouped else None
    tau, bias = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (0.2, -3.0))
    got = F.sigmoid_loss(a, b, temperature=tau, bias=bias, group=group)
    agree(got, oracle.sigmoid(a, b, tau, bias, group), [a, b, tau, bias])


@pytest.mark.parametrize("alpha", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("grouped", [False, True])
def test_soft_targets(alpha, grouped):
    q, teacher = pair(4)
    k, _ = pair(9, seed=2)
    tau = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    groups = (torch.tensor([0, 0, 1, 2]), torch.tensor([0, 0, 1, 2, 2, 7, 8, 0, 9])) if grouped else (None, None)
    got = F.soft_target_info_nce(
        q, k.detach(), teacher_q=teacher, temperature=tau, alpha=alpha, q_group=groups[0], k_group=groups[1]
    )
    agree(got, oracle.soft_target(q, k.detach(), tau, alpha, teacher, *groups), [q, tau])
    assert torch.autograd.grad(got, teacher, allow_unused=True)[0] is None


def test_soft_targets_train_the_module_s_own_temperature():
    q, teacher = pair(4)
    k, _ = pair(9, seed=2)
    loss = losses.SoftTargetInfoNCE(losses.Temperature(0.3, parametrisation="divisor")).double()
    got = loss(q, k.detach(), teacher_q=teacher, alpha=torch.tensor(0.5))
    agree(got, oracle.soft_target(q, k.detach(), loss.temperature(), 0.5, teacher), [q, loss.temperature.value])
    fixed = losses.SoftTargetInfoNCE(0.3, learnable=False)
    assert [name for name, p in fixed.named_parameters() if p.requires_grad] == []


def test_a_queue_of_unit_keys_is_not_copied(monkeypatch):
    calls, inner = [], ops.soft_target
    monkeypatch.setattr(ops, "soft_target", lambda q, k, *a, **o: calls.append(k) or inner(q, k, *a, **o))
    q, _ = pair(4)
    queue = torch.nn.functional.normalize(pair(9, seed=2)[0].detach(), dim=1)
    expected = F.soft_target_info_nce(q, 3 * queue, temperature=0.05)
    for k in (queue, queue.float(), queue * (1 + 1e-12), queue.clone().requires_grad_()):
        actual = F.soft_target_info_nce(q.to(k.dtype), k, temperature=0.05)
        torch.testing.assert_close(actual.double(), expected, rtol=1e-6 if k.dtype == torch.float32 else 1e-12, atol=0)
    assert [k.data_ptr() == queue.data_ptr() for k in calls] == [False, True, False, False, False]
    assert torch.autograd.grad(actual, k)[0].mul(queue).sum(1).abs().max() < 1e-12  # along the sphere


def test_alignment_and_uniformity():
    a, b = pair(5)
    unit = torch.nn.functional.normalize
    agree(F.alignment(a, b, alpha=3.0), (unit(a, dim=1) - unit(b, dim=1)).norm(dim=1).pow(3).mean(), [a, b])
    assert F.alignment(a, a, alpha=3.0).item() == 0
    agree(F.uniformity(a, t=1.5), torch.pdist(unit(a, dim=1)).square().mul(-1.5).exp().mean().log(), [a])


@pytest.mark.parametrize("alpha", [0.5, 1.0, 1.5, 3.0])
def test_alignment_of_a_pair_that_coincides_has_gradient_zero(alpha):
    a, b = pair(4)
    b = torch.cat([a[:1].detach(), b[1:]])
    (actual,) = torch.autograd.grad(F.alignment(a, b, alpha=alpha), a)
    unit = torch.nn.functional.normalize
    others = (unit(a[1:], dim=1) - unit(b[1:], dim=1)).norm(dim=1).pow(alpha).sum() / 4
    (expected,) = torch.autograd.grad(others, a)
    torch.testing.assert_close(actual, expected)
    assert not actual[0].any()


def test_gradients_near_zero_keep_their_digits():
    """At loss ~ 1e-6 and scale 100, where 1 - p cancels in float32 cross-entropy."""
    z = torch.linalg.qr(torch.randn(64, 64, dtype=torch.float64))[0][:32]
    reference, single = z.clone().requires_grad_(), z.float().requires_grad_()
    fixed = z.float()
    exact = oracle.info_nce(reference, fixed.double(), 1 / 16)
    loss = F.info_nce(single, fixed, temperature=1 / 16)
    assert 1e-7 < exact.item() < 1e-4
    (g,), (h,) = torch.autograd.grad(exact, reference), torch.autograd.grad(loss, single)
    assert loss.item() == pytest.approx(exact.item(), rel=1e-5)
    assert ((g - h).norm() / g.norm()).item() < 1e-5


@pytest.mark.parametrize("parametrisation", ["log", "divisor"])
def test_temperature(parametrisation):
    tau = losses.Temperature(0.2, parametrisation=parametrisation, bounds=(0.1, 0.5))
    assert tau().item() == pytest.approx(0.2, rel=1e-6)
    assert (tau() * tau.scale()).item() == pytest.approx(1, rel=1e-6)
    with torch.no_grad():
        tau.value.fill_(-math.log(3.0) if parametrisation == "log" else 3.0)
    tau.clamp_()
    assert tau().item() == pytest.approx(0.5, rel=1e-6)
    fixed = losses.Temperature(0.7, learnable=False, parametrisation=parametrisation, bounds=(0.1, 0.5))
    fixed.clamp_()
    assert fixed().item() == pytest.approx(0.7, rel=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: F.info_nce(torch.zeros(3, 2), torch.zeros(4, 2)), "one shape"),
        (lambda: F.info_nce(torch.zeros(3), torch.zeros(3)), r"\[N, D\]"),
        (lambda: F.info_nce(torch.eye(2), torch.eye(2), temperature=0.0), "positive"),
        (lambda: losses.InfoNCE(label_smoothing=1.0), "label_smoothing"),
        (lambda: losses.InfoNCE(directions="max"), "directions"),
        (lambda: losses.Temperature(-1.0), "positive"),
        (lambda: losses.Temperature(1.0, bounds=(2.0, 1.0)), "bounds"),
        (lambda: F.supcon(torch.eye(3), torch.zeros(2)), "repeat its label"),
        (lambda: F.uniformity(torch.eye(1)), "N >= 2"),
        (lambda: F.soft_target_info_nce(torch.eye(2), torch.eye(2), alpha=0.4), "teacher_q"),
        (lambda: F.soft_target_info_nce(torch.eye(2), torch.eye(2)[:1]), "positive of query"),
        (lambda: F.soft_target_info_nce(torch.eye(2), torch.eye(2), alpha=1.5, teacher_q=torch.eye(2)), "alpha must"),
        (lambda: F.info_nce(torch.eye(2), torch.eye(2), label_smoothing=1.0), "label_smoothing"),
        (lambda: F.info_nce(torch.eye(2), torch.eye(2), directions="max"), "directions"),
        (lambda: F.info_nce(torch.eye(2), torch.eye(2), symmetric=False, negatives_a=torch.eye(2)), "no effect"),
        (
            lambda: F.info_nce(torch.eye(2), torch.eye(2), temperature=torch.ones(2), negatives_a=torch.eye(2)),
            "says nothing of negatives_a",
        ),
        (lambda: F.alignment(torch.eye(2), torch.eye(2), alpha=0.0), "alpha must be positive"),
        (lambda: F.uniformity(torch.eye(2), t=0.0), "t must be positive"),
    ],
)
def test_bad_input_says_what_is_wrong(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda z: F.soft_target_info_nce(z, z, q_group=torch.tensor([0, 5]), k_group=torch.tensor([0, 1])),
            "no key of its group",
        ),
        (lambda z: F.supcon(z, torch.tensor([0.0, 0.5])), "one integer a row"),
        (lambda z: F.info_nce(z, z, group=torch.arange(3), negatives_b=z), "group must hold"),
        (lambda z: F.global_local_info_nce(z, z[:, None], group=torch.arange(3)), "group must hold"),
    ],
)
def test_bad_ids_say_what_is_wrong(call, message):
    with pytest.raises(UserError, match=message):
        call(torch.eye(2))


@pytest.mark.parametrize(
    "call",
    [
        lambda z: F.info_nce(z, z, label_smoothing=0.1, backend="ring"),
        lambda z: losses.SupCon(backend="ring")(z, torch.zeros(2, dtype=torch.long)),
        lambda z: losses.AlignmentUniformity(backend="ring")(z, z),
        lambda z: losses.GlobalLocalInfoNCE(backend="ring")(z, z[:, None]),
        lambda z: losses.SoftTargetInfoNCE(backend="ring")(z, z, teacher_q=z, alpha=0.4),
    ],
)
def test_a_ring_that_would_give_another_loss_is_refused(call):
    with pytest.raises(UserError, match="in one process"):
        call(torch.eye(2))


def test_state_dict_holds_what_is_learned():
    loss = losses.SigmoidLoss()
    with torch.no_grad():
        loss.bias.fill_(-2.0)
        loss.temperature.value.fill_(1.0)
    again = losses.SigmoidLoss()
    again.load_state_dict(loss.state_dict())
    a, b = (x.detach() for x in pair(4))
    assert again(a, b).item() == loss(a, b).item()
