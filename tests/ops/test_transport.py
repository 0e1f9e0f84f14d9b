import json
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.optimize import linprog

from nearfar.errors import UserError
from nearfar.ops import transport_plan

POT = json.loads((Path(__file__).parent / "released" / "pot.json").read_text())
"""What POT gave for costs and masses that are made here, too; its origin and version stand there."""


def by_scaling(cost, rows, columns, epsilon, iterations=200_000):
    """Sinkhorn-Knopp on the kernel itself, in float64, until nothing moves."""
    kernel = np.exp(-cost / epsilon)
    u = np.ones(len(rows))
    for _ in range(iterations):
        before, u = u, rows / (kernel @ (columns / (kernel.T @ u)))
        if np.allclose(before, u, rtol=1e-14, atol=0):
            break
    return u[:, None] * kernel * (columns / (kernel.T @ u))


def cheapest(cost, rows, columns):
    """The cost of transport without entropy, by linear programming."""
    n, m = cost.shape
    sums = np.concatenate([np.kron(np.eye(n), np.ones(m)), np.kron(np.ones(n), np.eye(m))])
    return linprog(cost.ravel(), A_eq=sums, b_eq=np.concatenate([rows, columns])).fun


def clusters(n, m, seed, spread=3.0, dtype=torch.float64):
    draw = torch.Generator().manual_seed(seed)
    centre = spread * torch.randn(n, 4, generator=draw)
    point = centre[torch.randint(n, (m,), generator=draw)] + torch.randn(m, 4, generator=draw)
    cost = torch.cdist(centre, point).square()
    return (cost / cost.max()).to(dtype)


def even(n):
    return np.full(n, 1 / n)


@pytest.mark.parametrize(("n", "m", "seed"), [(2, 3, 0), (5, 75, 1), (7, 7, 2), (1, 9, 3), (9, 1, 4), (12, 5, 5)])
@pytest.mark.parametrize("epsilon", [1.0, 0.2, 0.05])
def test_the_plan_of_plain_scaling_in_float64(n, m, seed, epsilon):
    cost = clusters(n, m, seed)
    plan = transport_plan(cost, epsilon=epsilon)
    torch.testing.assert_close(
        plan, torch.from_numpy(by_scaling(cost.numpy(), even(n), even(m), epsilon)), atol=1e-7, rtol=0
    )


@pytest.mark.parametrize("case", POT["cases"], ids=lambda case: f"{case['n']} x {case['m']}, {case['epsilon']}")
def test_the_plans_of_pot(case):
    n, m = case["n"], case["m"]
    cost = (torch.sin(1.7 * torch.arange(n * m).double() + n + 0.1 * m).view(n, m) + 1) / 2
    rows, columns = (1.5 + torch.sin(2.3 * torch.arange(size).double() + phase) for size, phase in ((n, 0.3), (m, 0.7)))
    margins = {} if case["even"] else {"rows": rows, "columns": columns}
    plan = transport_plan(cost, epsilon=case["epsilon"], **margins)
    torch.testing.assert_close(plan, torch.tensor(case["plan"], dtype=torch.float64), atol=2e-9, rtol=0)


def test_a_plan_of_another_package():
    """POT's `ot.sinkhorn` on these costs, epsilon 0.5, has 0.401092 on the diagonal."""
    plan = transport_plan(torch.tensor([[0.1, 0.9], [0.8, 0.2]]), epsilon=0.5)
    torch.testing.assert_close(plan, torch.tensor([[0.401092, 0.098908], [0.098908, 0.401092]]), atol=1e-6, rtol=0)


@pytest.mark.parametrize("epsilon", [0.05, 0.003])
@pytest.mark.parametrize("unequal", [False, True])
def test_masses_are_met_and_a_small_epsilon_is_nearly_the_cheapest(epsilon, unequal):
    cost = clusters(5, 40, 7)
    rows = torch.tensor([8.0, 4.0, 2.0, 1.0, 1.0] if unequal else [1.0] * 5, dtype=torch.float64)
    plan = transport_plan(cost, rows=rows, epsilon=epsilon)
    rows = rows / rows.sum()
    assert (plan.sum(1) - rows).abs().max() < 1e-12
    assert (plan.sum(0) - 1 / 40).abs().max() < 1e-12
    assert plan.min() >= 0
    least = cheapest(cost.numpy(), rows.numpy(), even(40))
    assert least - 1e-9 <= float((plan * cost).sum()) < least + epsilon * np.log(5)


def test_masses_are_met_where_iterations_run_out():
    plan = transport_plan(clusters(6, 50, 3), epsilon=1e-4, most=3)
    assert (plan.sum(1) - 1 / 6).abs().max() < 1e-12
    assert (plan.sum(0) - 1 / 50).abs().max() < 1e-12


def test_clusters_well_apart_take_few_iterations():
    """Scaling alone needs 1,620 for 1e-6 here; with Newton's steps a dozen suffice."""
    cost = torch.tensor([[1.0, 1.04, 5.0, 5.84], [2.0, 1.64, 2.0, 2.44]], dtype=torch.float64) / 5.84
    torch.testing.assert_close(transport_plan(cost, most=12), transport_plan(cost, most=5000), atol=1e-12, rtol=0)


def test_problems_of_a_batch_are_solved_alone():
    costs = torch.stack([clusters(4, 10, seed, dtype=torch.float32) for seed in range(6)])
    together = transport_plan(costs.unflatten(0, (2, 3))).flatten(0, 1)
    assert together.dtype == torch.float32
    for cost, plan in zip(costs, together, strict=True):
        torch.testing.assert_close(transport_plan(cost), plan)


def test_no_cost_is_an_even_plan_and_no_mass_no_share():
    assert torch.equal(transport_plan(torch.zeros(2, 4)), torch.full((2, 4), 1 / 8))
    plan = transport_plan(torch.rand(3, 5), rows=torch.tensor([0.0, 1.0, 1.0]))
    assert plan[0].abs().max() < 1e-12
    torch.testing.assert_close(plan.sum(1), torch.tensor([0.0, 0.5, 0.5]))


def test_same_rows_share_alike():
    cost = clusters(3, 12, 1)
    plan = transport_plan(cost[[0, 0, 1, 2]])
    torch.testing.assert_close(plan[0], plan[1])


def test_mistakes_are_sentences():
    cost = torch.rand(2, 3)
    for make, message in (
        (lambda: transport_plan(cost[0]), r"finite costs \[..., N, M\]"),
        (lambda: transport_plan(cost * torch.nan), "finite costs"),
        (lambda: transport_plan(cost[:0]), "at least one row and column"),
        (lambda: transport_plan(cost.long()), r"\[2, 3\] of torch.int64"),
        (lambda: transport_plan(cost, epsilon=0), "epsilon=0: must be above 0"),
        (lambda: transport_plan(cost, rows=torch.ones(3)), "masses of the rows must be 2 numbers"),
        (lambda: transport_plan(cost, rows=torch.tensor([1.0, -1.0])), "none below 0"),
        (lambda: transport_plan(cost, columns=torch.zeros(3)), "masses of the columns must be 3 numbers"),
        (lambda: transport_plan(cost, rows=torch.ones(4, 2)), "masses of the rows"),
    ):
        with pytest.raises(UserError, match=message):
            make()
