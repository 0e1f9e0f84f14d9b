"""Where a temperature of each sample comes to rest: hand-worked values, duality, and a rho out of reach."""

import math

import pytest
import torch

from nearfar.errors import UserError
from nearfar.losses import GlobalContrastive
from nearfar.losses.individual_temperature import TemperatureRule, best_temperature, kl_to_uniform


def test_a_step_that_falls_along_a_quarter_of_a_cosine_of_the_visits():
    rule = TemperatureRule(lr=0.1, share=1.0, visits=3, bounds=(0.01, 9.0))
    visited = torch.tensor([0.0, 1.0, 2.0, 3.0, 8.0])
    tau, slope = rule.step(torch.full((5,), 0.5), torch.zeros(5), torch.ones(5), visited)
    assert tau.tolist() == pytest.approx([0.4, 0.5 - 0.05 * math.sqrt(3), 0.45, 0.5, 0.5], abs=1e-6)
    assert slope.tolist() == [1.0] * 5
    with pytest.raises(UserError, match="visits=0"):
        TemperatureRule(visits=0)


@pytest.mark.parametrize(
    ("rho", "ties", "tau"),
    [
        (0.5, 1, 0.20066), (0.5, 10, 0.29942), (0.5, 100, 0.45926), (0.5, 300, 0.46756), (0.5, 500, 0.33521),
        (1.0, 1, 0.17706), (1.0, 10, 0.24950), (1.0, 100, 0.33403), (1.0, 300, 0.24928),
    ],
)  # fmt: skip
def test_where_temperatures_come_to_rest(rho, ties, tau):
    """Of 1,000 negatives `ties` at the top. Common samples have a higher one; with half of all at the top it falls."""
    h = torch.full((1000,), -1.0, dtype=torch.float64)
    h[:ties] = 0
    assert best_temperature(h, rho).item() == pytest.approx(tau, abs=2e-5)
    moved, rule = torch.tensor([0.9]).double(), TemperatureRule(rho=rho, lr=0.02, share=1.0, bounds=(0.01, 1.0))
    for _ in range(1000):
        moved, _ = rule.step(moved, torch.zeros(1), rho - kl_to_uniform(h[None], moved))
    assert moved.item() == pytest.approx(tau, abs=1e-4)


def test_rho_above_what_can_be_reached_runs_to_the_bound():
    h = torch.full((1000,), -1.0, dtype=torch.float64)
    h[:500] = 0
    assert best_temperature(h, 1.0, bounds=(0.01, 1.0)).item() == pytest.approx(0.01)  # log 2 < 1
    with pytest.raises(UserError, match=r"below log\(127\) = 4.84"):
        GlobalContrastive(128, rule=TemperatureRule(rho=6.0))
    assert GlobalContrastive(2_900_000, rule=TemperatureRule(rho=6.0)).rule.rho == 6.0


def test_duality():
    """min over tau of the loss is the worst expectation in the ball."""
    h = torch.tensor([0.0, -1.0], dtype=torch.float64)
    tau = best_temperature(h, 0.1)
    assert tau.item() == pytest.approx(1.059947, abs=1e-5)
    value = tau * ((h / tau).logsumexp(0) - math.log(2)) + tau * 0.1
    p = torch.linspace(0, 1, 200_001, dtype=torch.float64)[1:-1]
    divergence = p * p.log() + (1 - p) * (1 - p).log() + math.log(2)
    worst = (-(1 - p))[divergence <= 0.1].max()
    assert value.item() == pytest.approx(-0.280205, abs=1e-6)
    assert worst.item() == pytest.approx(value.item(), abs=1e-5)


def test_the_loss_of_one_anchor_falls_in_tau_between_mean_and_maximum():
    h = torch.tensor([-0.2, -0.5, -0.9], dtype=torch.float64)
    values = [(tau * ((h / tau).logsumexp(0) - math.log(3))).item() for tau in (0.001, 0.1, 0.5, 1.0, 1000.0)]
    assert values == pytest.approx([-0.20110, -0.30492, -0.45669, -0.49330, -0.53329], abs=1e-5)


def test_a_step_is_no_longer_than_its_clip():
    rule = TemperatureRule(rho=0.3, lr=0.1, share=0.5, clip=2.0, bounds=(0.01, 1.0))
    tau, slope = rule.step(torch.tensor([0.5, 0.5]), torch.tensor([0.0, 1.0]), torch.tensor([100.0, -100.0]))
    assert slope.tolist() == [1.0, -0.5]
    torch.testing.assert_close(tau, torch.tensor([0.4, 0.55]))
