"""Losses of many views: hand-worked values, the plain float64 formulas, gradients, missing views, reductions."""

import math

import pytest
import torch
from torch.autograd import gradcheck

from nearfar import ops
from nearfar.errors import UserError
from nearfar.losses import MVDHEL, InfoNCE, NTXent, PairwiseViews
from nearfar.losses.functional import info_nce, mv_dhel, mv_info_nce, nt_xent, pairwise_views, poly_view

TWO = torch.tensor([[[1.0, 0.0], [0.6, 0.8]], [[0.8, 0.6], [0.0, 1.0]]], dtype=torch.float64)
THREE = torch.cat([TWO, torch.tensor([[[0.0, 1.0], [1.0, 0.0]]], dtype=torch.float64)])
BOTH = {"paper": {}, "code": {"same_view_negatives": True}}


def random_views(v, n, d=8, seed=0, dtype=torch.float64):
    return torch.randn(v, n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def plain(views, tau):
    """Similarities [V, N, V, N] / tau, same view, same sample."""
    z = torch.nn.functional.normalize(views, dim=-1)
    s = torch.einsum("lid,mjd->limj", z, z) / tau
    v, n = z.shape[:2]
    same_view = torch.eye(v, dtype=torch.bool)[:, None, :, None].expand(v, n, v, n)
    same_sample = torch.eye(n, dtype=torch.bool)[None, :, None, :].expand(v, n, v, n)
    return s, same_view, same_sample


def plain_aligned(s, same_view, same_sample):
    return torch.log((s.exp() * (same_sample & ~same_view)).sum((0, 2, 3)))


def plain_mv_info_nce(views, tau, *, same_view_negatives=False):
    s, same_view, same_sample = plain(views, tau)
    counts = ~(same_view & same_sample) if same_view_negatives else ~same_view
    return (torch.log((s.exp() * counts).sum((0, 2, 3))) - plain_aligned(s, same_view, same_sample)).mean()


def plain_mv_dhel(views, tau, *, as_printed=False):
    s, same_view, same_sample = plain(views, tau)
    counts = same_view if as_printed else same_view & ~same_sample
    spread = torch.log((s.exp() * counts).sum((2, 3))).sum(0)
    return (spread - plain_aligned(s, same_view, same_sample)).mean() + (0 if as_printed else math.log(2))


@pytest.mark.parametrize(
    ("views", "tau", "values"),
    [
        # MV-DHEL, as printed; MV-InfoNCE of the code, of the paper; poly-view geometric, arithmetic; pairs of NT-Xent
        (TWO, 1.0, (0.4, 1.532883, 0.967041, 0.594111, 0.957474, 0.957474, 0.957474)),
        (TWO, 0.5, (0.8, 2.449054, 0.900093, 0.581943, 0.870714, 0.870714, 0.870714)),
        (THREE, 1.0, (-0.418925, 2.027220, 1.028629, 0.848949, 1.572931, 1.545937, 1.225008)),
        (THREE, 0.5, (0.172877, 3.948859, 1.152028, 1.012563, 1.857170, 1.740319, 1.441962)),
    ],
)
def test_small_cases_worked_by_hand(views, tau, values):
    computed = (
        mv_dhel(views, temperature=tau),
        mv_dhel(views, temperature=tau, as_printed=True),
        mv_info_nce(views, temperature=tau, same_view_negatives=True),
        mv_info_nce(views, temperature=tau),
        poly_view(views, temperature=tau),
        poly_view(views, temperature=tau, average="arithmetic"),
        pairwise_views(views, loss=NTXent(tau)),
    )
    assert [value.item() for value in computed] == pytest.approx(values, abs=1e-6)


@pytest.mark.parametrize(("tau", "value"), [(1.0, 0.333333), (0.5, 0.666667)])
def test_pairs_of_two_view_dhel(tau, value):
    assert pairwise_views(THREE, loss=lambda a, b: mv_dhel([a, b], temperature=tau)).item() == pytest.approx(
        value, abs=1e-6
    )


@pytest.mark.parametrize("tau", [1.0, 0.5])
def test_each_view_against_the_mean_of_the_others(tau):
    """A float64 reference that normalises the mean, as the losses here do."""
    z = torch.nn.functional.normalize(random_views(3, 5), dim=-1)
    terms = [nt_xent(z[a], torch.stack([z[b] for b in range(3) if b != a]).mean(0), temperature=tau) for a in range(3)]
    torch.testing.assert_close(pairwise_views(z, loss=NTXent(tau), against="mean"), torch.stack(terms).mean())


@pytest.mark.parametrize(("v", "m", "tau"), [(3, 4, 0.5), (2, 7, 1.0), (5, 3, 0.2)])
def test_all_vectors_equal_and_orthonormal_samples(v, m, tau):
    equal, orthonormal = torch.ones(v, m, 4).double(), torch.eye(m).double().expand(v, m, m)
    e = math.exp(-1 / tau)
    pairs = math.log(v * (v - 1) / 2)
    assert mv_info_nce(equal, temperature=tau).item() == pytest.approx(math.log(m))
    assert mv_info_nce(equal, temperature=tau, same_view_negatives=True).item() == pytest.approx(
        math.log((v * m - 1) / (v - 1))
    )
    assert mv_dhel(equal, temperature=tau).item() == pytest.approx(v * math.log(m - 1) + (v - 1) / tau - pairs)
    assert mv_dhel(equal, temperature=tau, as_printed=True).item() == pytest.approx(
        v * math.log(m) + (v - 1) / tau - pairs - math.log(2)
    )
    assert mv_info_nce(orthonormal, temperature=tau).item() == pytest.approx(math.log(1 + (m - 1) * e))
    assert mv_info_nce(orthonormal, temperature=tau, same_view_negatives=True).item() == pytest.approx(
        math.log(1 + v * (m - 1) * e / (v - 1))
    )
    assert mv_dhel(orthonormal, temperature=tau).item() == pytest.approx(v * math.log(m - 1) - 1 / tau - pairs)


@pytest.mark.parametrize(("v", "dhel", "code"), [(2, 4.728828, 2.632199), (3, 6.494630, 2.368207), (4, 8.665896, None)])
def test_points_on_a_circle(v, dhel, code):
    angle = torch.arange(16).double() * math.pi / 8
    circle = torch.stack([angle.cos(), angle.sin()], 1).expand(v, 16, 2)
    assert mv_info_nce(circle, temperature=1.0).item() == pytest.approx(2.008503, abs=1e-6)
    assert mv_dhel(circle, temperature=1.0).item() == pytest.approx(dhel, abs=1e-6)
    if code:
        assert mv_info_nce(circle, temperature=1.0, same_view_negatives=True).item() == pytest.approx(code, abs=1e-6)


@pytest.mark.parametrize("backend", ["tiled", "dense"])
@pytest.mark.parametrize(("v", "n"), [(2, 5), (4, 9)])
def test_equal_to_the_plain_formula_with_its_gradient(v, n, backend):
    tau = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    for fast, slow, options in [
        *((mv_info_nce, plain_mv_info_nce, option) for option in BOTH.values()),
        (mv_dhel, plain_mv_dhel, {}),
        (mv_dhel, plain_mv_dhel, {"as_printed": True}),
    ]:
        views = random_views(v, n).requires_grad_()
        value, expected = fast(views, temperature=tau, backend=backend, **options), slow(views, tau, **options)
        torch.testing.assert_close(value, expected)
        torch.testing.assert_close(
            torch.autograd.grad(value, [views, tau]), torch.autograd.grad(expected, [views, tau])
        )


@pytest.mark.parametrize("n", [40, 41])
def test_tiles_smaller_than_a_view(n):
    views = torch.nn.functional.normalize(random_views(3, n), dim=-1)
    whole = ops.view_partition(views.unbind(), 4.0, backend="dense")
    for tile in (7, 16, 100):
        torch.testing.assert_close(ops.view_partition(views.unbind(), 4.0, tile=tile, budget=0), whole)


def test_gradients_of_both_orders():
    views = random_views(3, 4, d=3).requires_grad_()
    assert gradcheck(lambda x: mv_info_nce(x, temperature=0.4), views)
    assert gradcheck(lambda x: mv_dhel(x, temperature=0.4), views)
    assert gradcheck(lambda x: poly_view(x, temperature=0.4, average="arithmetic"), views)
    (first,) = torch.autograd.grad(mv_dhel(views), views, create_graph=True)
    assert torch.autograd.grad(first.square().sum(), views)[0].isfinite().all()


def test_raw_gradients_are_orthogonal_to_the_rows():
    views = random_views(3, 6).requires_grad_()
    for loss in (mv_info_nce, mv_dhel, poly_view):
        (gradient,) = torch.autograd.grad(loss(views), views)
        torch.testing.assert_close((gradient * views).sum(-1), torch.zeros(3, 6).double(), atol=1e-12, rtol=0)


@pytest.mark.parametrize("loss", [mv_info_nce, mv_dhel, poly_view])
def test_what_may_be_permuted_and_what_not(loss):
    views = random_views(3, 6)
    value = loss(views)
    rotation = torch.linalg.qr(random_views(1, 8)[0])[0]
    for same in (views.flip(0), views.roll(1, 1), views @ rotation, views * torch.rand(3, 6, 1).double().add(0.1)):
        torch.testing.assert_close(loss(same), value)
    other = views.clone()
    other[0] = other[0].roll(1, 0)
    assert abs(loss(other) - value) > 1e-3


def test_decoupling():
    """MV-DHEL sees each view's own Gram matrix and the positives; MV-InfoNCE also rows of others in other views."""
    e = torch.eye(4).double()
    first = torch.stack([e[:2], torch.stack([0.6 * e[0] + 0.8 * e[2], 0.6 * e[1] + 0.8 * e[3]])])
    second = torch.stack([e[:2], torch.stack([0.6 * e[0] + 0.8 * e[1], -0.8 * e[0] + 0.6 * e[1]])])
    values = [mv_dhel(x, temperature=1.0).item() for x in (first, second)]
    assert values == pytest.approx([-0.6, -0.6])
    code = [mv_info_nce(x, temperature=1.0, same_view_negatives=True).item() for x in (first, second)]
    paper = [mv_info_nce(x, temperature=1.0).item() for x in (first, second)]
    assert code == pytest.approx([0.740805, 0.825408], abs=1e-6)
    assert paper == pytest.approx([0.437488, 0.550431], abs=1e-6)


def test_two_views_reduce_to_known_losses():
    a, b = random_views(2, 7)
    torch.testing.assert_close(poly_view([a, b]), nt_xent(a, b))
    torch.testing.assert_close(pairwise_views([a, b], loss=InfoNCE(0.2)), info_nce(a, b, temperature=0.2))
    assert mv_info_nce([a, b], temperature=0.2) >= info_nce(a, b, temperature=0.2)  # Jensen
    assert mv_info_nce([a, b], same_view_negatives=True) >= nt_xent(a, b)
    # Mirror images have equal denominators from both sides.
    torch.testing.assert_close(
        mv_info_nce([a, a.flip(0)[[6, 5, 4, 3, 2, 1, 0]]], temperature=0.2), info_nce(a, a, temperature=0.2)
    )


def test_uniformity_weight_balances_the_gradient():
    """With 1 / V a sample is pulled with the weights that it is pushed with: both sum to 1 / tau."""
    views = random_views(4, 6)
    pulled = mv_dhel(views, uniformity_weight=0.0)
    pushed = mv_dhel(views) - pulled
    torch.testing.assert_close(mv_dhel(views, uniformity_weight=0.25), pulled + pushed / 4)


@pytest.mark.parametrize("loss", [mv_info_nce, mv_dhel, poly_view])
@pytest.mark.parametrize("fill", [0.0, 7.0, math.nan])
def test_a_missing_view_changes_nothing(loss, fill):
    """With a sample's view left out: the float64 value of the loss over what is there, and no gradient through it."""
    views = random_views(3, 5)
    mask = torch.ones(3, 5)
    mask[2, 1] = mask[0, 4] = 0
    mask[:2, 3] = 0  # of which one view is left: it has no pair, and is a negative of others
    holes = views.masked_fill(mask[..., None] == 0, fill).requires_grad_()
    value = loss(holes, mask=mask)
    torch.testing.assert_close(value, by_sample(loss, views, mask.bool()))
    (gradient,) = torch.autograd.grad(value, holes)
    assert gradient.isfinite().all()
    assert not gradient[mask == 0].any()


def by_sample(loss, views, real):
    """The losses' definitions, one sample and row at a time."""
    z, tau = torch.nn.functional.normalize(views, dim=-1), 0.5
    v, n = real.shape
    each = []
    for i in range(n):
        here = [a for a in range(v) if real[a, i]]
        if len(here) < 2:
            continue

        def s(a, b, i=i, j=None):
            return z[a, i] @ z[b, i if j is None else j] / tau

        others = {(a, b): [s(a, b, i, j) for j in range(n) if j != i and real[b, j]] for a in here for b in range(v)}
        positives = torch.stack([s(a, b) for a in here for b in here if a != b])
        if loss is mv_info_nce:
            terms = [*positives, *(x for (a, b), values in others.items() if a != b for x in values)]
            each.append(torch.stack(terms).logsumexp(0) - positives.logsumexp(0))
        elif loss is mv_dhel:
            spread = sum(torch.stack(others[a, a]).logsumexp(0) for a in here)
            each.append(spread - positives.logsumexp(0) + math.log(2))
        else:
            rows = {a: [x for b in range(v) for x in others[a, b]] for a in here}
            pairs = [(a, b) for a in here for b in here if a != b]
            total = sum(torch.stack([s(a, b), *rows[a]]).logsumexp(0) - s(a, b) for a, b in pairs)
            # each anchor's mean over its partners, summed over anchors
            each.append(total / (len(here) - 1))
    count = sum(int(real[:, i].sum()) for i in range(n) if real[:, i].sum() > 1)
    return torch.stack(each).sum() / count if loss is poly_view else torch.stack(each).mean()


def test_samples_of_one_group_are_not_pushed_apart():
    views = random_views(2, 6)
    twice = torch.cat([views, views], 1)
    group = torch.arange(6).repeat(2)
    once = mv_info_nce(views, temperature=0.3)
    # Every other sample is there twice: the negatives weigh ln 2 more, and a row's own double is not among them.
    s = plain(views, 0.3)
    aligned = plain_aligned(*s)
    negatives = torch.log(torch.expm1(plain_terms(views, 0.3))) + aligned
    expected = torch.nn.functional.softplus(negatives + math.log(2) - aligned).mean()
    torch.testing.assert_close(mv_info_nce(twice, temperature=0.3, group=group), expected)
    torch.testing.assert_close(mv_info_nce(views, temperature=0.3, group=torch.arange(6)), once)
    torch.testing.assert_close(mv_dhel(twice, group=group), mv_dhel(views) + 2 * math.log(2))
    everything = torch.ones(2, 12)
    torch.testing.assert_close(mv_info_nce(twice, temperature=0.3, group=group, mask=everything), expected)


def plain_terms(views, tau):
    s, same_view, same_sample = plain(views, tau)
    return torch.log((s.exp() * ~same_view).sum((0, 2, 3))) - plain_aligned(s, same_view, same_sample)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("equal", [False, True])
@pytest.mark.parametrize("tau", [0.05, 0.01])
def test_many_views_at_a_low_temperature_stay_finite(dtype, equal, tau):
    """Where products of sums of exponentials overflow float32 (from 6 views at 0.1) and float64 (from 7 at 0.01), sums
    of logarithms do not."""
    views = random_views(8, 256, d=16, dtype=dtype)
    views = torch.ones_like(views) if equal else views
    views.requires_grad_()
    for loss in (mv_info_nce, mv_dhel, poly_view):
        value = loss(views, temperature=tau)
        assert value.isfinite()
        assert torch.autograd.grad(value, views)[0].isfinite().all()
    if equal and dtype == torch.float32:
        assert mv_dhel(views, temperature=tau).item() == pytest.approx(
            8 * math.log(255) + 7 / tau - math.log(28), rel=1e-6
        )


def test_a_group_that_is_the_whole_batch_spreads_from_nothing():
    views = random_views(2, 4).requires_grad_()
    one = torch.zeros(4, dtype=torch.long)
    assert mv_info_nce(views, group=one).item() == 0
    value = mv_dhel(views, group=one)
    torch.testing.assert_close(value, mv_dhel(views, uniformity_weight=0.0))
    assert torch.autograd.grad(value, views)[0].isfinite().all()


def test_bad_input_is_named():
    views = random_views(2, 4)
    with pytest.raises(UserError, match="two views at least, got 1"):
        mv_info_nce(views[:1])
    with pytest.raises(UserError, match="two samples at least"):
        mv_dhel(views[:, :1])
    assert mv_info_nce(views[:, :1]).item() == 0
    with pytest.raises(UserError, match=r"one shape \[N, D\]"):
        poly_view([views[0], views[1, :3]])
    with pytest.raises(UserError, match="average must be"):
        poly_view(views, average="harmonic")
    with pytest.raises(UserError, match="against must be"):
        pairwise_views(views, against="all")
    with pytest.raises(UserError, match="ring"):
        mv_dhel(views, backend="ring")
    with pytest.raises(UserError, match="one of within and across"):
        ops.view_partition(views.unbind(), 1.0, within=False, across=False)
    with pytest.raises(UserError, match="as many rows each"):
        ops.view_partition([views[0], views[1, :3]], 1.0)


def test_the_temperature_of_a_shared_two_view_loss_is_trained():
    loss = PairwiseViews(InfoNCE(0.1))
    loss(random_views(3, 5, dtype=torch.float32)).backward()
    assert loss.loss.temperature.value.grad.abs() > 0
    assert not next(PairwiseViews().parameters()).requires_grad
    assert MVDHEL(0.2, learnable=False).temperature().item() == pytest.approx(0.2)
