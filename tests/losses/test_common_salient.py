"""SepCLR's losses (arXiv 2402.11928): hand-worked values, the dense float64 formula, and where no gradient may go."""

import math

import pytest
import torch

from nearfar.errors import UserError
from nearfar.losses import SepCLRLoss
from nearfar.losses import functional as F
from nearfar.losses.common_salient import gaussian_uniformity, joint_entropy, sepclr_terms

E1, E2 = torch.eye(2, dtype=torch.float64)
CORNERS = torch.stack([E1, E2, -E1, -E2])
SPLIT = torch.tensor([0, 0, 0, 1, 1, 1, 1])


def rows(n=7, d=5, seed=0, views=2):
    return torch.randn(views, n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def dense(c, s, target, *, tau=0.5, weight=2.0):
    """The formula as it is printed, with matrices of all pairs."""
    target = target.bool()
    c = torch.nn.functional.normalize(c, dim=-1)
    t = torch.where(target[:, None], s, 0.0)
    squared = lambda a: (a[:, None] - a[None]).square().sum(-1)  # noqa: E731
    pairs = ~torch.eye(len(target), dtype=torch.bool)
    unif = lambda a: (-squared(a) / (2 * tau)).exp()[pairs].mean().log()  # noqa: E731
    jem = lambda a, b: (-(squared(a) + squared(b)) / (2 * tau)).exp().mean(1).log().mean()  # noqa: E731
    align = lambda a: (a[0] - a[1]).square().sum(1).mean() / (2 * tau)  # noqa: E731
    return {
        "common": align(c) + weight * (unif(c[0]) + unif(c[1])) / 2,
        "salient": align(s[:, target]) + weight * (unif(t[0]) + unif(t[1])) / 2,
        "infoless": s[:, ~target].square().sum(-1).mean(1).sum() / (4 * tau),
        "jem": (jem(c[0], t[0]) + jem(c[1], t[1])) / 2,
    }


def test_uniformity_of_known_points():
    assert gaussian_uniformity(torch.stack([E1, E2])).item() == pytest.approx(-2)
    assert gaussian_uniformity(torch.stack([E1, -E1])).item() == pytest.approx(-4)
    assert gaussian_uniformity(CORNERS).item() == pytest.approx(-2.339989, abs=1e-6)
    z = rows()[0]
    unit = torch.nn.functional.normalize(z, dim=1)
    assert gaussian_uniformity(unit, variance=0.25).item() == pytest.approx(F.uniformity(z, t=2.0).item(), rel=1e-12)


def test_the_floor_that_background_gives():
    """Background is at the origin, so that its pairs keep exp(0): the target may run away, and the loss may not."""
    s = torch.tensor([[0.0, 0.0], [0.0, 0.0], [3.0, 0.0], [-3.0, 0.0]], dtype=torch.float64)
    assert gaussian_uniformity(s).item() == pytest.approx(-1.791266, abs=1e-6)
    far = torch.cat([torch.zeros(256, 2), 1e4 * torch.randn(256, 2)])  # float32
    assert gaussian_uniformity(far).item() == pytest.approx(-1.388253, abs=1e-5)
    apart = 100 * torch.eye(4)
    assert gaussian_uniformity(apart).item() == pytest.approx(-20_000.0), "no underflow to minus infinity"


def test_joint_entropy_of_known_points():
    s = torch.zeros(4, 3, dtype=torch.float64)
    assert joint_entropy(torch.ones(5, 2), torch.ones(5, 1)).item() == 0
    assert joint_entropy(CORNERS, s).item() == pytest.approx(-1.132438, abs=1e-6)
    assert joint_entropy(1e3 * CORNERS, s).item() == pytest.approx(-math.log(4))
    c = torch.stack([E1, E1, -E1, -E1])
    nothing = torch.zeros(4, 1, dtype=torch.float64)
    for values, joint, shared in (((0, 2, 0, 2), 1.349995, 0.0), ((0, 0, 2, 2), 0.692812, 0.657183)):
        s = torch.tensor(values, dtype=torch.float64)[:, None]
        alone = [-joint_entropy(a, nothing).item() for a in (c, s)]
        assert alone == pytest.approx([0.674997] * 2, abs=1e-6)
        assert -joint_entropy(c, s).item() == pytest.approx(joint, abs=1e-6)
        assert sum(alone) + joint_entropy(c, s).item() == pytest.approx(shared, abs=1e-6)


def test_alignment_of_known_points():
    c = torch.stack([CORNERS[:2], CORNERS[[1, 0]]])  # each view of a sample is at a right angle to the other
    s, target = torch.zeros(2, 2, 1, dtype=torch.float64), torch.tensor([0, 0])
    assert sepclr_terms(c, s, target, uniformity_weight=0)["common"].item() == pytest.approx(2)
    assert sepclr_terms(c, s, target, uniformity_weight=0, variance=1.0)["common"].item() == pytest.approx(1)


@pytest.mark.parametrize("tau", [0.5, 0.1, 2.0])
@pytest.mark.parametrize("backend", ["auto", "dense"])
def test_terms_are_the_dense_formula(tau, backend):
    c, s = rows(d=4), rows(d=3, seed=1)
    terms = sepclr_terms(c, s, SPLIT, variance=tau, uniformity_weight=1.5, backend=backend)
    for name, value in dense(c, s, SPLIT, tau=tau, weight=1.5).items():
        torch.testing.assert_close(terms[name], value, rtol=1e-10, atol=1e-12, msg=name)
    weighed = SepCLRLoss(tau, beta_salient=3.0, beta_infoless=5.0, lambda_jem=7.0, uniformity_weight=1.5)
    expected = terms["common"] + 3 * terms["salient"] + 5 * terms["infoless"] + 7 * terms["jem"]
    torch.testing.assert_close(weighed(c, s, SPLIT), expected, rtol=1e-10, atol=0)
    weights = {"beta_salient": 3.0, "beta_infoless": 5.0, "lambda_jem": 7.0, "uniformity_weight": 1.5}
    torch.testing.assert_close(F.sepclr(c, s, SPLIT, variance=tau, **weights), expected, rtol=1e-10, atol=0)


def test_float32_keeps_its_digits_where_rows_lie_far_from_the_origin():
    c, s = rows(d=4), rows(d=3, seed=1) + 30
    exact = dense(c, s, torch.ones(7))
    terms = sepclr_terms(c.float(), s.float(), torch.ones(7, dtype=torch.bool))
    for name in ("common", "salient", "jem"):
        assert terms[name].item() == pytest.approx(exact[name].item(), rel=1e-4, abs=1e-4), name
    far = (rows(d=3, seed=1)[0] + 3000).float()  # where the product's terms are ten million
    near = (far.double() - 3000).float()
    assert gaussian_uniformity(far).item() == pytest.approx(gaussian_uniformity(near).item(), rel=1e-6)


def test_gradients_by_differences():
    c, s = rows(5, 3).requires_grad_(), rows(5, 2, seed=1).requires_grad_()
    target = torch.tensor([0, 0, 1, 1, 1])
    weights = {"beta_salient": 3.0, "beta_infoless": 2.0, "lambda_jem": 5.0}
    assert torch.autograd.gradcheck(lambda c, s: F.sepclr(c, s, target, **weights), (c, s))


def test_where_no_gradient_goes():
    c, s = rows(d=4).requires_grad_(), rows(d=3, seed=1).requires_grad_()
    background, target = SPLIT == 0, SPLIT == 1
    terms = sepclr_terms(c, s, SPLIT)
    gradient = {
        (term, name): torch.autograd.grad(value, x, retain_graph=True, allow_unused=True, materialize_grads=True)[0]
        for term, value in terms.items()
        for name, x in (("c", c), ("s", s))
    }
    for term in ("salient", "jem"):
        assert (gradient[term, "s"][:, background] == 0).all()
        assert (gradient[term, "s"][:, target] != 0).all()
    assert (gradient["infoless", "s"][:, target] == 0).all()
    torch.testing.assert_close(gradient["infoless", "s"][:, background], s.detach()[:, background] / 3)
    assert (gradient["common", "s"] == 0).all()
    assert (gradient["salient", "c"] == 0).all()
    assert (gradient["infoless", "c"] == 0).all()
    assert (gradient["jem", "c"] != 0).all(), "k-JEM alone couples the two"


def test_a_batch_of_one_set_only():
    c, s = rows(d=4).requires_grad_(), rows(d=3, seed=1).requires_grad_()
    terms = sepclr_terms(c, s, torch.zeros(7, dtype=torch.bool))
    assert terms["salient"].item() == pytest.approx(0, abs=1e-12)
    assert terms["jem"].item() == pytest.approx(
        sum(joint_entropy(torch.nn.functional.normalize(v, dim=1), torch.zeros(7, 1)).item() for v in c) / 2
    )
    terms = sepclr_terms(c, s, torch.ones(7, dtype=torch.bool))
    assert terms["infoless"].item() == 0
    assert terms["salient"].item() == pytest.approx(dense(c, s, torch.ones(7))["salient"].item())
    for target in (torch.zeros(7, dtype=torch.bool), torch.ones(7, dtype=torch.bool)):
        assert all(g.isfinite().all() for g in torch.autograd.grad(F.sepclr(c, s, target), (c, s)))


def test_what_changes_nothing_and_what_does():
    c, s = rows(d=4), rows(d=3, seed=1)
    value = F.sepclr(c, s, SPLIT)
    order = torch.randperm(7, generator=torch.Generator().manual_seed(2))
    turn_c, turn_s = (torch.linalg.qr(rows(d, d, seed=d)[0]).Q for d in (4, 3))
    for same in (
        F.sepclr(c[:, order], s[:, order], SPLIT[order]),
        F.sepclr(c.flip(0), s.flip(0), SPLIT),
        F.sepclr(c @ turn_c, s, SPLIT),
        F.sepclr(c, s @ turn_s, SPLIT),
        F.sepclr(3 * c, s, SPLIT),
    ):
        torch.testing.assert_close(same, value, rtol=1e-10, atol=1e-9)
    salient = lambda s, target: sepclr_terms(c, s, target)["salient"].item()  # noqa: E731
    assert salient(s + 1, SPLIT) != pytest.approx(salient(s, SPLIT), rel=1e-3), "the origin is fixed"
    everyone = torch.ones_like(SPLIT)
    assert salient(s + 1, everyone) == pytest.approx(salient(s, everyone)), "unless there is no background"


def test_common_alone_is_alignment_and_uniformity():
    c, s = rows(d=4), rows(d=3, seed=1)
    alone = F.sepclr(c, s, SPLIT, beta_salient=0, beta_infoless=0, lambda_jem=0)
    spread = (F.uniformity(c[0], t=1.0) + F.uniformity(c[1], t=1.0)) / 2
    torch.testing.assert_close(alone, F.alignment(*c) + 2 * spread)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"common": rows(views=3)}, "common must be two views of one shape"),
        ({"salient": [rows()[0], rows(6)[0]]}, "salient must be two views of one shape"),
        ({"target": torch.ones(6, dtype=torch.bool)}, "target"),
        ({"target": torch.rand(7)}, "target be bool or integers"),
        ({"salient": rows(6)}, "one row a sample"),
        ({"common": rows(1), "salient": rows(1), "target": torch.ones(1).bool()}, "two samples at least"),
        ({"variance": 0.0}, "variance must be positive, got 0.0"),
        ({"backend": "ring"}, "gather the embeddings"),
    ],
)
def test_wrong_inputs_are_named(change, message):
    with pytest.raises(UserError, match=message):
        F.sepclr(**{"common": rows(), "salient": rows(d=3), "target": SPLIT} | change)
