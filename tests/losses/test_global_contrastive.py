"""SogCLR and iSogCLR: hand-worked values, the recommended dense form in float64, known losses as special cases, the
moving averages over many steps, and what official forms get wrong."""

import math

import pytest
import torch
from torch.nn.functional import cross_entropy, normalize

from nearfar.errors import UserError
from nearfar.losses import GlobalContrastive
from nearfar.losses.functional import global_contrastive, info_nce
from nearfar.losses.global_contrastive import SampleState
from nearfar.losses.individual_temperature import TemperatureRule, best_temperature, kl_to_uniform

FAST = TemperatureRule(rho=0.4, lr=0.05, share=0.5, bounds=(0.02, 1.0))


def vectors(n, seed=0, d=6, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    return [torch.randn(n, d, generator=g, dtype=torch.float64).to(dtype) for _ in range(2)]


def fresh(n, temperature=0.1, sides=2, dtype=torch.float64):
    return tuple(SampleState.fresh(n, temperature, like=torch.zeros(0, dtype=dtype)) for _ in range(sides))


def dense_side(sim, positive, hidden, state, *, gamma, rule, inner="differences"):
    """One side, as the matrix form of the method's own step: surrogate of each anchor, log s, derivative."""
    tau = state.temperature[:, None]
    h = sim - positive[:, None] if inner != "similarities" else sim
    a = (h / tau).detach().masked_fill(hidden, -math.inf)
    m = (~hidden).sum(1).double()
    g = a.exp().sum(1) / m
    if inner == "with_positive":
        g = g + 1 / m
    s = torch.where(state.visits > 0, (1 - gamma) * state.log_mean.exp() + gamma * g, g)
    w = a.exp() / s[:, None] / m[:, None]
    loss = (w * h).sum(1) - (positive if inner == "similarities" else 0)
    rho = rule.rho if rule else 0.0
    return loss, s.log(), s.log() + rho - (w * a.masked_fill(hidden, 0)).sum(1)


def dense(a, b, states, *, gamma=0.8, rule=None, inner="differences", group=None):
    """Loss, and the next states, from whole matrices."""
    a, b = normalize(a, dim=1), normalize(b, dim=1)
    ids = torch.arange(len(a)) if group is None else group
    options = {"gamma": gamma, "rule": rule, "inner": inner}
    positive = (a * b).sum(1)
    if len(states) == 2:
        hidden = ids[:, None] == ids
        sides = [
            dense_side(x @ y.T, positive, hidden, state, **options)
            for x, y, state in ((a, b, states[0]), (b, a, states[1]))
        ]
        grouped = [[side] for side in sides]
    else:
        z, twice = torch.cat([a, b]), SampleState(*(value.repeat(2) for value in states[0]))
        hidden = ids.repeat(2)[:, None] == ids.repeat(2)
        side = dense_side(z @ z.T, positive.repeat(2), hidden, twice, **options)
        halves = list(zip(*(x.chunk(2) for x in side), strict=True))
        sides, grouped = halves, [halves]
    after = []
    for state, each in zip(states, grouped, strict=True):
        log_mean = torch.stack([s.exp() for _, s, _ in each]).mean(0).log()
        tau, slope = state.temperature, state.slope
        if rule:
            tau, slope = rule.step(tau, slope, torch.stack([g for _, _, g in each]).mean(0).detach())
        after.append(SampleState(log_mean.detach(), state.visits + 1, tau, slope))
    return sum(loss.mean() for loss, _, _ in sides), tuple(after)


@pytest.mark.parametrize("inner", ["differences", "with_positive", "similarities"])
@pytest.mark.parametrize("sides", [1, 2])
@pytest.mark.parametrize("rule", [None, FAST])
@pytest.mark.parametrize("groups", [False, True])
def test_steps_equal_the_matrix_form(inner, sides, rule, groups):
    """Three visits: losses, gradients and states."""
    n = 9
    mine = theirs = fresh(n, 0.2, sides)
    group = torch.tensor([0, 0, 1, 2, 3, 4, 4, 5, 6]) if groups else None
    for step in range(3):
        a, b = (x.requires_grad_() for x in vectors(n, step))
        out = global_contrastive(a, b, mine, gamma=0.7, rule=rule, inner=inner, group=group)
        expected, theirs = dense(a, b, theirs, gamma=0.7, rule=rule, inner=inner, group=group)
        torch.testing.assert_close(out.loss, expected, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(
            torch.autograd.grad(out.loss, [a, b]), torch.autograd.grad(expected, [a, b]), rtol=1e-8, atol=1e-11
        )
        for left, right in zip(out.states, theirs, strict=True):
            torch.testing.assert_close(tuple(left), tuple(right), rtol=1e-9, atol=1e-12)
        mine = out.states


SIM = torch.tensor([[0.9, 0.1, 0.2], [0.3, 0.8, 0.0], [0.1, 0.4, 0.7]], dtype=torch.float64)


def with_similarities(sim):
    """Unit rows a, b with a @ b.T = sim: b in an orthonormal basis, a in that and in rows of its own."""
    n = len(sim)
    b = torch.cat([torch.eye(n), torch.zeros(n, n)], 1).double()
    rest = (1 - sim.square().sum(1)).sqrt()
    return torch.cat([sim, torch.diag(rest)], 1), b


@pytest.mark.parametrize(("inner", "value"), [("differences", -1.039086), ("with_positive", -0.011222)])
def test_three_pairs_worked_by_hand(inner, value):
    a, b = with_similarities(SIM)
    out = global_contrastive(a, b, fresh(3), gamma=1.0, inner=inner)
    assert out.loss.item() == pytest.approx(value, abs=1e-6)
    if inner == "differences":
        assert out.states[0].log_mean.tolist() == pytest.approx([-7.379885, -5.644560, -3.644560], abs=1e-6)
        assert out.states[1].log_mean.tolist() == pytest.approx([-6.566219, -4.644560, -5.566219], abs=1e-6)
        assert out.objective.item() == pytest.approx(-1.114867, abs=1e-6)
    assert global_contrastive(a, b, fresh(3), gamma=1.0, directions="mean").loss.item() == pytest.approx(
        -0.519543, abs=1e-6
    )


def gradients(loss, *leaves):
    return torch.autograd.grad(loss, leaves)


@pytest.mark.parametrize("tau", [0.1, 0.7])
def test_gamma_one_with_the_positive_is_infonce(tau):
    a, b = (x.requires_grad_() for x in vectors(7))
    out = global_contrastive(a, b, fresh(7, tau), gamma=1.0, inner="with_positive")
    plain = 2 * tau * info_nce(a, b, temperature=tau)
    # The divisor of the mean, B - 1, and 1 in the sum for the positive: weights of the same softmax.
    torch.testing.assert_close(gradients(out.loss, a, b), gradients(plain, a, b), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("sides", [1, 2])
def test_gamma_one_is_the_decoupled_loss(sides):
    a, b = (x.requires_grad_() for x in vectors(7))
    out = global_contrastive(a, b, fresh(7, 0.3, sides), gamma=1.0)
    x, y = normalize(a, dim=1), normalize(b, dim=1)
    own = (x * y).sum(1)
    if sides == 2:
        s = (x @ y.T).masked_fill(torch.eye(7, dtype=torch.bool), -math.inf) / 0.3
        plain = 0.3 * (s.logsumexp(1) - own / 0.3 + s.logsumexp(0) - own / 0.3).mean()
    else:
        z, ids = torch.cat([x, y]), torch.arange(7).repeat(2)
        s = (z @ z.T).masked_fill(ids[:, None] == ids, -math.inf) / 0.3
        plain = 2 * 0.3 * (s.logsumexp(1) - own.repeat(2) / 0.3).mean()
    torch.testing.assert_close(gradients(out.loss, a, b), gradients(plain, a, b), rtol=1e-9, atol=1e-12)


def test_first_and_second_visit():
    """The first visit takes the batch's own mean whole: gamma times it, from zero, would make its weights too big."""
    a, b = vectors(5)
    first = global_contrastive(a, b, fresh(5), gamma=0.8)
    plain = global_contrastive(a, b, fresh(5), gamma=1.0)
    assert torch.equal(first.states[0].log_mean, plain.states[0].log_mean)
    known = SampleState(torch.tensor([0.5]).double().log(), torch.ones(1), torch.ones(1), torch.zeros(1))
    e = torch.eye(2).double()
    states = tuple(SampleState(*(v.repeat(2) for v in known)) for _ in range(2))
    second = global_contrastive(e, torch.stack([e[0], e[0]]), states, gamma=0.8)
    # Sample 0: its positive and its negative are the same, g = exp 0 = 1, and s = 0.2 * 0.5 + 0.8.
    assert second.states[0].log_mean[0].exp().item() == pytest.approx(0.9)


def test_gamma_falls_along_half_a_cosine_of_each_sample_s_visits():
    """From 1 at the first visit to 0.2 at the fourth and later ones, whatever was visited beside it."""
    a, b = vectors(4)
    states = fresh(4, 0.3)
    states[0].visits[:], states[0].log_mean[:] = torch.tensor([[0.0, 1.0, 2.0, 5.0], [7.0, 0.5, 0.5, 0.5]])
    settings = ({"gamma": 1.0}, {"gamma": 0.2, "gamma_visits": 3})
    now, after = (global_contrastive(a, b, states, **each).states[0].log_mean.exp() for each in settings)
    weight = torch.tensor([1.0, 0.8, 0.4, 0.2]).to(now)
    torch.testing.assert_close(after, (1 - weight) * math.exp(0.5) + weight * now)
    with pytest.raises(UserError, match="gamma_visits=-1"):
        global_contrastive(a, b, states, gamma_visits=-1)


def test_batches_that_mix_known_and_new_samples():
    a, b = vectors(4)
    state = fresh(4, sides=1)[0]
    state.visits[:2], state.log_mean[:2] = 1.0, -1.0
    out = global_contrastive(a, b, (state,), gamma=0.5)
    new = global_contrastive(a, b, fresh(4, sides=1), gamma=0.5)
    assert torch.equal(out.states[0].log_mean[2:], new.states[0].log_mean[2:])
    assert not torch.isclose(out.states[0].log_mean[:2], new.states[0].log_mean[:2]).any()


def test_the_derivative_is_rho_minus_the_divergence():
    h = torch.tensor([0.0, -1.0], dtype=torch.float64)
    assert kl_to_uniform(h, 0.5).item() == pytest.approx(0.327813, abs=1e-6)
    # One anchor with its positive at similarity 0 and two negatives at 0 and -1; what moves tau by 1 is its derivative.
    rule = TemperatureRule(rho=0.4, lr=1.0, share=1.0, bounds=(1e-3, 10.0))
    e = torch.eye(3).double()
    a, b = torch.stack([e[0], e[1], e[1]]), torch.stack([e[1], e[1], -e[0]])
    states = fresh(3, 0.5)
    out = global_contrastive(a, b, states, gamma=1.0, rule=rule)
    assert out.states[0].log_mean[0].item() == pytest.approx(-0.566219, abs=1e-6)
    assert out.states[0].slope[0].item() == pytest.approx(0.072187, abs=1e-6)
    assert out.states[0].temperature[0].item() == pytest.approx(0.5 - 0.072187, abs=1e-6)


def test_equal_similarities_have_the_derivative_rho_at_any_temperature():
    a = torch.eye(4).double()
    b = torch.cat([a, torch.zeros(4, 4)], 1).roll(4, 1)
    a = torch.cat([a, torch.zeros(4, 4)], 1)
    rule = TemperatureRule(rho=0.4, lr=0.1, share=1.0, bounds=(0.05, 1.0))
    states = fresh(4, 0.2)
    for tau in (0.16, 0.12, 0.08, 0.05, 0.05):
        states = global_contrastive(a, b, states, rule=rule).states
        assert states[0].temperature.tolist() == pytest.approx([tau] * 4)


def test_a_rule_that_does_not_move_is_sogclr():
    a, b = vectors(6)
    still = TemperatureRule(rho=0.4, lr=0.0)
    states = other = fresh(6)
    for _ in range(3):
        one, two = global_contrastive(a, b, states), global_contrastive(a, b, other, rule=still)
        assert torch.equal(one.loss, two.loss)
        assert torch.equal(one.states[0].log_mean, two.states[0].log_mean)
        assert torch.equal(two.states[0].temperature, other[0].temperature)
        states, other = one.states, two.states


@pytest.mark.parametrize("sides", [1, 2])
def test_permuting_the_batch_permutes_the_state(sides):
    a, b = vectors(6)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    states = tuple(
        SampleState(-torch.rand(6), torch.ones(6), torch.rand(6) / 2 + 0.1, torch.zeros(6)) for _ in range(sides)
    )
    moved = tuple(SampleState(*(value[order] for value in state)) for state in states)
    one, two = global_contrastive(a, b, states, rule=FAST), global_contrastive(a[order], b[order], moved, rule=FAST)
    torch.testing.assert_close(one.loss, two.loss)
    for left, right in zip(one.states, two.states, strict=True):
        torch.testing.assert_close(tuple(value[order] for value in left), tuple(right))


def test_a_log_cannot_underflow_after_one_bad_batch():
    """A running maximum of exponents never falls: after h / tau = 400 once, float32 exponentials of good batches are 0,
    s shrinks to nothing and the anchor learns no more. The logarithm of s has no such memory."""
    e = torch.eye(3)
    bad = torch.stack([e[0], e[1]]), torch.stack([-e[0], e[1] * 0.1 + e[0]])
    good = torch.stack([e[0], e[1]]), torch.stack([e[0], e[1]])
    states = fresh(2, 0.005, dtype=torch.float32)
    states = global_contrastive(*bad, states).states
    assert states[0].log_mean[0] > 300
    for _ in range(150):
        a = (good[0] + 0.01).requires_grad_()
        out = global_contrastive(a, good[1], states, gamma=0.99)
        states = out.states
    assert out.loss.isfinite()
    assert all(value.isfinite().all() for value in states[0])
    assert torch.autograd.grad(out.loss, a)[0].abs().max() > 1e-3  # weights of size 1, as at any other start
    cosines = 0.01 / math.sqrt(1.01**2 + 2 * 0.01**2), 1.01 / math.sqrt(1.01**2 + 2 * 0.01**2)
    assert states[0].log_mean[0].item() == pytest.approx((cosines[0] - cosines[1]) / 0.005, abs=1e-3)  # of now alone


def test_the_stored_mean_of_both_views_does_not_grow():
    """The sum of both views' means, in the place of their mean, diverges for gamma <= 0.5."""
    a, b = vectors(8)
    states = fresh(8, 0.5, 1)
    for _ in range(30):
        states = global_contrastive(a, b, states, gamma=0.4).states
    x, y = normalize(a, dim=1), normalize(b, dim=1)
    z, ids = torch.cat([x, y]), torch.arange(8).repeat(2)
    h = (z @ z.T - (x * y).sum(1).repeat(2)[:, None]) / 0.5
    g = h.exp().masked_fill(ids[:, None] == ids, 0).sum(1) / 14
    torch.testing.assert_close(states[0].log_mean.exp(), g.view(2, 8).mean(0), rtol=1e-6, atol=0)


def test_the_bias_of_small_batches_falls_with_gamma():
    """Frozen features, batches of 8 of 64: how far log s is from the log of the mean over all data, on average."""
    g = torch.Generator().manual_seed(0)
    a = normalize(torch.randn(64, 8, generator=g, dtype=torch.float64), dim=1)
    b = normalize(a + 0.5 * torch.randn(64, 8, generator=g, dtype=torch.float64), dim=1)
    full = global_contrastive(a, b, fresh(64), gamma=1.0).states[0].log_mean
    biases = {}
    for gamma in (1.0, 0.8, 0.2):
        states, drift = fresh(64), []
        for epoch in range(30):
            for rows in torch.randperm(64, generator=g).split(8):
                here = tuple(SampleState(*(value[rows] for value in state)) for state in states)
                moved = global_contrastive(a[rows], b[rows], here, gamma=gamma).states
                for value, new in zip([*states[0], *states[1]], [*moved[0], *moved[1]], strict=True):
                    value[rows] = new
            if epoch >= 15:
                drift.append((states[0].log_mean - full).mean())
        biases[gamma] = torch.stack(drift).mean().item()
    assert biases[1.0] < -0.9  # the plain loss of a batch
    assert biases[1.0] < biases[0.8] < biases[0.2] < 0
    assert biases[0.8] < biases[1.0] / 2 * 0.9  # most of it stays at the authors' 0.8
    assert biases[0.2] > -0.25


class TestModule:
    def criterion(self, **settings):
        return GlobalContrastive(10, 0.2, **settings).double()

    @pytest.mark.parametrize("modalities", [1, 2])
    def test_only_the_samples_of_the_batch_change_and_only_by_a_gradient(self, modalities):
        a, b = (x.requires_grad_() for x in vectors(4))
        criterion = self.criterion(rule=FAST, modalities=modalities)
        before = {name: value.clone() for name, value in criterion.state_dict().items()}
        rows = torch.tensor([7, 2, 0, 9])
        loss = criterion(a, b, rows)
        assert all(torch.equal(before[name], value) for name, value in criterion.state_dict().items())
        with torch.no_grad():
            criterion(a, b, rows)
        loss.backward()
        others = torch.tensor([1, 3, 4, 5, 6, 8])
        for name in ("log_mean", "visits", "temperatures", "slope"):
            assert torch.equal(criterion.get_buffer(name)[:, others], before[name][:, others])
            assert not torch.isclose(criterion.get_buffer(name)[:, rows], before[name][:, rows]).any()
        assert not any(value.requires_grad for value in criterion.buffers())
        assert criterion.objective != 0

    def test_saved_and_loaded_it_goes_on_as_without_a_stop(self):
        one, two = self.criterion(rule=FAST), None
        for step in range(4):
            if step == 2:
                two = self.criterion(rule=FAST)
                two.load_state_dict(one.state_dict())
            a, b = (x.requires_grad_() for x in vectors(4, step))
            rows = torch.randperm(10, generator=torch.Generator().manual_seed(step))[:4]
            losses = [criterion(a, b, rows) for criterion in (one, two) if criterion is not None]
            for loss in losses:
                loss.backward()
            assert all(torch.equal(losses[0], loss) for loss in losses)
        assert all(torch.equal(value, two.state_dict()[name]) for name, value in one.state_dict().items())

    def test_texts_may_be_counted_apart_from_pictures(self):
        a, b = (x.requires_grad_() for x in vectors(3))
        criterion = self.criterion()
        criterion(a, b, torch.tensor([0, 1, 2]), index_b=torch.tensor([5, 4, 3])).backward()
        assert criterion.visits.nonzero().tolist() == [[0, 0], [0, 1], [0, 2], [1, 3], [1, 4], [1, 5]]

    @pytest.mark.parametrize("modalities", [1, 2])
    @pytest.mark.parametrize("bad", [math.nan, math.inf])
    def test_a_batch_that_is_not_finite_leaves_nothing(self, modalities, bad):
        a, b = vectors(3)
        criterion = self.criterion(modalities=modalities)
        criterion(a.requires_grad_(), b, torch.tensor([0, 1, 2])).backward()
        before = {name: value.clone() for name, value in criterion.state_dict().items()}
        broken = a.detach().index_fill(0, torch.tensor([1]), bad).requires_grad_()
        loss = criterion(broken, b, torch.tensor([2, 1, 4]))
        loss.backward()
        assert loss.isnan()
        assert all(torch.equal(value, before[name]) for name, value in criterion.state_dict().items())

    def test_bad_input_is_named(self):
        a, b = vectors(3)
        criterion = self.criterion(modalities=1)
        with pytest.raises(UserError, match="count the 10 samples from 0 to 9, and holds -1"):
            criterion(a, b, torch.tensor([1, -1, 2]))
        with pytest.raises(UserError, match="index names a sample twice"):
            criterion(a, b, torch.tensor([1, 1, 2]))
        with pytest.raises(UserError, match="count the 10 samples from 0 to 9, and holds 10"):
            criterion(a, b, torch.tensor([1, 10, 2]))
        with pytest.raises(UserError, match="index must hold one integer a row"):
            criterion(a, b, torch.ones(3))
        with pytest.raises(UserError, match="index_b is for two modalities"):
            criterion(a, b, torch.arange(3), index_b=torch.arange(3))
        with pytest.raises(UserError, match="gamma=0"):
            GlobalContrastive(10, gamma=0)(a, b, torch.arange(3))
        with pytest.raises(UserError, match="inner must be one of"):
            GlobalContrastive(10, inner="all")(a, b, torch.arange(3))
        with pytest.raises(UserError, match="temperature must be above 0"):
            GlobalContrastive(10, 0.0)
        with pytest.raises(UserError, match="samples=0"):
            GlobalContrastive(0)
        with pytest.raises(UserError, match="states must be one or two"):
            global_contrastive(a, b, fresh(4))
        wrong_shape = torch.ones(3, 2, 2)
        for a_, b_, group in ((wrong_shape, b, None), (a, wrong_shape, None), (a, b, wrong_shape)):
            with pytest.raises(UserError, match=r"\b(a|b|group)\b must"):
                global_contrastive(a_, b_, fresh(3), group=group)
        for wrong in ({"rho": 0}, {"lr": -1}, {"share": 0}, {"clip": 0}, {"bounds": (1, 0.1)}):
            with pytest.raises(UserError, match=next(iter(wrong))):
                TemperatureRule(**wrong)
        with pytest.raises(UserError, match="bounds"):
            best_temperature(a, 0.1, bounds=(1, 1))


@pytest.mark.parametrize("sides", [1, 2])
def test_one_sample_has_no_negative_and_changes_nothing(sides):
    a, b = (x.requires_grad_() for x in vectors(1))
    states = fresh(1, 0.1, sides)
    out = global_contrastive(a, b, states, rule=FAST)
    assert out.loss.item() == 0
    assert out.objective.item() == 0
    assert not torch.autograd.grad(out.loss, a)[0].any()
    assert all(
        torch.equal(x, y) for new, old in zip(out.states, states, strict=True) for x, y in zip(new, old, strict=True)
    )


def test_infonce_of_the_worked_pairs():
    a, b = with_similarities(SIM)
    both = cross_entropy(SIM / 0.1, torch.arange(3)) + cross_entropy(SIM.T / 0.1, torch.arange(3))
    assert info_nce(a, b, temperature=0.1).item() == pytest.approx((both / 2).item())
    assert (both / 2).item() == pytest.approx(0.014786, abs=2e-6)
