"""Optimisers, schedules, averages and endless batches against their formulas, several steps long."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from toy import Pairs, Plain, batch, loader

from nearfar import train
from nearfar.training import TrainConfig
from nearfar.training.loop.optim import SGD, Lamb, Lars, build_optimizer, lr_factor
from nearfar.training.loop.validation import validate
from nearfar.training.state import random_state
from nearfar.training.state.endless_batches import EndlessBatches
from nearfar.training.state.moving_average import MovingAverage

QUIET = {"progress": False, "report": False}


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
def test_schedules_fall_to_their_floor(schedule):
    """Peak 2, floor 0.5: a quarter of the peak."""
    config = TrainConfig(schedule=schedule, warmup=2, lr=2.0, min_lr=0.5)
    actual = [lr_factor(step, 7, config) for step in range(8)]
    shares = [step / 5 for step in range(6)]
    fall = {"cosine": lambda x: (1 + math.cos(math.pi * x)) / 2, "linear": lambda x: 1 - x, "constant": lambda x: 1}
    floor = 1 if schedule == "constant" else 0.25
    expected = [0.5, 1.0, *(floor + (1 - floor) * fall[schedule](x) for x in shares)]
    assert actual == pytest.approx(expected)
    assert actual[-1] == pytest.approx(floor)


def test_a_parameter_may_get_its_first_gradient_late():
    """By torch's plain steps, one parameter at a time; those of all from the start are its own to the bit."""

    def trained(make, begins):
        weights = [nn.Parameter(torch.linspace(-1, 1, 5)) for _ in begins]
        optimizer = make(weights, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01)
        for step in range(6):
            for weight, first in zip(weights, begins, strict=True):
                weight.grad = torch.linspace(0, step + 1, 5) if step >= first else None
            optimizer.step()
        return [weight.detach() for weight in weights]

    def fused(*args, **settings):
        return SGD(*args, **settings, fused=True)

    for ours, plain in zip(trained(fused, [0, 2, 4]), trained(torch.optim.SGD, [0, 2, 4]), strict=True):
        torch.testing.assert_close(ours, plain)
    whole = trained(lambda *args, **settings: torch.optim.SGD(*args, **settings, fused=True), [0, 0])
    assert all(torch.equal(ours, own) for ours, own in zip(trained(fused, [0, 0]), whole, strict=True))


def test_steps_fall_to_a_tenth_after_each_third():
    """30 and 60 of 90 epochs, and never a fourth time; the warm-up is no part of the thirds."""
    config = TrainConfig(schedule="steps", warmup=0)
    factors = [lr_factor(step, 90, config) for step in (0, 29, 30, 59, 60, 89, 90)]
    assert factors == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01, 0.01])
    warmed = TrainConfig(schedule="steps", warmup=2)
    assert [lr_factor(step, 8, warmed) for step in range(8)] == pytest.approx([0.5, 1, 1, 1, 0.1, 0.1, 0.01, 0.01])


@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_lamb_is_its_algorithm(decay):
    """Algorithm 2 of arXiv 1904.00962, five steps in float64."""
    generator = torch.Generator().manual_seed(0)
    weight = nn.Parameter(torch.randn(3, 2, generator=generator, dtype=torch.float64))
    gradients = torch.randn(5, 3, 2, generator=generator, dtype=torch.float64)
    gradients[1:3] *= 30  # so that the two moments forget at their own rates
    optimizer = Lamb([weight], lr=0.1, betas=(0.8, 0.95), eps=1e-3, weight_decay=decay)
    x, m, v = weight.detach().clone(), torch.zeros(3, 2), torch.zeros(3, 2)
    for t, g in enumerate(gradients, start=1):
        weight.grad = g.clone()
        optimizer.step()
        m, v = 0.8 * m + 0.2 * g, 0.95 * v + 0.05 * g**2
        r = (m / (1 - 0.8**t)) / ((v / (1 - 0.95**t)).sqrt() + 1e-3)
        if decay:
            r = r + decay * x
            r = r * x.norm() / r.norm()
        x = x - 0.1 * r
        torch.testing.assert_close(weight.detach(), x, rtol=1e-10, atol=1e-12)


def test_lars_is_its_algorithm():
    """Algorithm 1 of arXiv 1708.03888, five steps in float64."""
    generator = torch.Generator().manual_seed(0)
    weight = nn.Parameter(torch.randn(3, 2, generator=generator, dtype=torch.float64))
    optimizer = Lars([weight], lr=0.1, momentum=0.8, weight_decay=0.3, trust=0.01)
    x, v = weight.detach().clone(), torch.zeros(3, 2)
    for g in torch.randn(5, 3, 2, generator=generator, dtype=torch.float64):
        weight.grad = g.clone()
        optimizer.step()
        local = 0.01 * x.norm() / (g.norm() + 0.3 * x.norm())
        v = 0.8 * v + 0.1 * local * (g + 0.3 * x)
        x = x - v
        torch.testing.assert_close(weight.detach(), x, rtol=1e-10, atol=1e-12)


def test_lars_moves_a_bias_and_a_matrix_that_are_zero():
    bias, matrix, weight = (
        nn.Parameter(torch.zeros(1)),
        nn.Parameter(torch.zeros(1, 1)),
        nn.Parameter(torch.zeros(1, 2)),
    )
    with torch.no_grad():
        weight[0, 0] = 2.0
    for parameter in (bias, matrix):
        parameter.grad = torch.ones_like(parameter)
    weight.grad = torch.tensor([[0.0, 1.0]])
    Lars([bias, matrix, weight], lr=0.1, momentum=0.0).step()
    assert bias.item() == matrix.item() == pytest.approx(-0.1)
    assert weight[0, 1].item() == pytest.approx(-0.1 * 0.001 * 2)


def test_a_recipe_s_lars_takes_its_momentum_from_betas():
    method = Plain()
    made = build_optimizer(method, TrainConfig(optimizer="lars", betas=(0.7, 0.9), lr=0.3, weight_decay=0.2))
    assert {(group["momentum"], group["lr"], group["trust"]) for group in made.param_groups} == {(0.7, 0.3, 0.001)}
    assert sorted(group["weight_decay"] for group in made.param_groups) == [0, 0.2]


def test_lamb_moves_weights_that_are_zero_and_leaves_those_without_a_gradient():
    zero, still = nn.Parameter(torch.zeros(2, 2)), nn.Parameter(torch.ones(2, 2))
    zero.grad = torch.zeros(2, 2)
    optimizer = Lamb([zero, still], lr=0.1, weight_decay=0.5)
    optimizer.step()
    assert torch.equal(zero, torch.zeros(2, 2)), "a gradient of zero is no division by zero"
    zero.grad = torch.ones(2, 2)
    optimizer.step()
    assert zero.max() < 0
    assert torch.equal(still, torch.ones(2, 2))


def test_rates_follow_the_factor_of_each_step():
    rows = train(Plain(), loader(), steps=6, lr=0.1, warmup=2, schedule="constant", log_every=1, **QUIET).history
    assert [row["lr"] for row in rows] == pytest.approx([0.05, 0.1, 0.1, 0.1, 0.1, 0.1])


def test_groups_keep_their_own_peak():
    class Own(Plain):
        def param_groups(self, weight_decay):
            one, other = self.net[0].parameters(), self.net[2].parameters()
            return [{"params": list(one), "lr": 3.0}, {"params": list(other), "lr_scale": 0.5}, {"params": []}]

    groups = build_optimizer(Own(), TrainConfig(lr=0.2)).param_groups
    assert [group["initial_lr"] for group in groups] == pytest.approx([3.0, 0.1])


def test_the_average_is_its_formula():
    module = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        module.weight.fill_(0.0)
    average, expected = MovingAverage(module, 0.3), 0.0
    for n in range(1, 8):
        with torch.no_grad():
            module.weight.fill_(float(n * n))
        average.update(module)
        decay = min(0.3, (1 + n) / (10 + n))
        expected = decay * expected + (1 - decay) * n * n
        assert average.average["weight"].item() == pytest.approx(expected, rel=1e-5)
    for _ in range(2):
        with average.swapped_in(module):
            assert module.weight.item() == pytest.approx(expected, rel=1e-5)
        assert module.weight.item() == 49
    assert average.average["weight"].item() == pytest.approx(expected, rel=1e-5)
    average.put_in(module)
    assert module.weight.item() == pytest.approx(expected, rel=1e-5)


class NamedByEpoch:
    """Batches that are named by the epoch that was set."""

    epoch = None

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __iter__(self):
        return iter([(self.epoch, 0), (self.epoch, 1), (self.epoch, 2)])


def test_endless_batches_name_their_epoch_and_go_on_from_any_place():
    expected = [(epoch, i) for epoch in range(4) for i in range(3)]
    batches = EndlessBatches(NamedByEpoch())
    iterator = iter(batches)
    assert [next(iterator) for _ in range(12)] == expected
    for place in range(11):
        first = EndlessBatches(NamedByEpoch())
        iterator = iter(first)
        for _ in range(place):
            next(iterator)
        again = EndlessBatches(NamedByEpoch())
        again.load_state_dict(first.state_dict())
        iterator = iter(again)
        assert [next(iterator) for _ in range(12 - place)] == expected[place:]


def test_an_epoch_of_accumulated_batches_has_fewer_steps(tmp_path):
    """Six batches, two a step: saved after steps 3 and 6, once an epoch."""
    train(Plain(), loader(6), out=tmp_path / "run", epochs=2, accumulate=2, keep=9, **QUIET)
    kept = sorted(path.name for path in (tmp_path / "run" / "checkpoints").glob("step-*"))
    assert kept == ["step-00000003", "step-00000006"]


def test_the_loss_scaler_of_half_precision_leaves_the_gradient_as_it_is():
    """Adam would forgive a gradient that is thousands of times too large or too small; its logged norm does not. The
    first scales are too large for this loss, and are lowered step by step."""
    settings = {"steps": 12, "lr": 1e-7, "log_every": 1, "device": "cpu", **QUIET}
    plain, half = (train(Pairs(), loader(1), precision=each, **settings).history[-1] for each in ("no", "fp16"))
    assert half["grad_norm"] == pytest.approx(plain["grad_norm"], rel=0.02)


def test_a_validation_drops_no_numbers():
    method = Pairs(dropout=0.5).train()
    actual = validate(method, [batch(12, 3)], None)["val_loss"]
    with torch.no_grad():
        assert actual == pytest.approx(method.eval()(batch(12, 3))["loss"].item(), rel=1e-6)


def test_a_seed_seeds_every_stream():
    def drawn(seed):
        random_state.seed_everything(seed)
        return np.random.rand(), torch.rand(1).item()  # noqa: NPY002

    assert drawn(3) == drawn(3)
    assert all(a != b for a, b in zip(drawn(3), drawn(4), strict=True))


def test_random_streams_go_on_from_any_place_in_their_blocks():
    """numpy draws in blocks of 624 numbers: a state in the middle of one comes back in the middle."""
    random_state.seed_everything(7)
    np.random.rand(11)  # noqa: NPY002
    state = random_state.state_dict()
    expected = np.random.rand(5).tolist()  # noqa: NPY002
    random_state.seed_everything(8)
    random_state.load_state_dict(state)
    assert np.random.rand(5).tolist() == expected  # noqa: NPY002


def test_a_skipped_first_step_leaves_no_momentum_of_its_own():
    """As a `GradScaler` skips it: by the flag that the fused step reads, with gradients that are not finite."""
    weights = [nn.Parameter(torch.ones(4096)) for _ in range(3)]
    optimizer = SGD(weights, lr=0.1, momentum=0.9, nesterov=True, fused=True)
    for weight in weights:
        weight.grad = torch.full_like(weight, math.inf)
    vars(optimizer).update(grad_scale=torch.tensor(2.0), found_inf=torch.tensor(1.0))
    optimizer.step()
    assert all(torch.equal(optimizer.state[weight]["momentum_buffer"], torch.zeros(4096)) for weight in weights)
    assert all(torch.equal(weight, torch.ones(4096)) for weight in weights)
