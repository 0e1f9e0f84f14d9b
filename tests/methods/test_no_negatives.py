"""BYOL and SimSiam: losses worked out by hand, where the gradient stops, what normalises each view, and the rise of
BYOL's momentum."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn.functional import cosine_similarity

from methods.image_batches import APART, PAIR, Identity, Normed, batch, encoder, step
from nearfar import train
from nearfar.errors import UserError
from nearfar.methods import BYOL, SimSiam
from nearfar.methods.parts.mean_teacher import cosine_momentum
from nearfar.training import TrainConfig

QUIET = {"progress": False, "report": False, "warmup": 0}


def plain(kind):
    """The method with a predictor that changes nothing, over pictures that are their own projections."""
    method = kind(Identity(2))
    method.predictor = nn.Identity()
    return method


@pytest.mark.parametrize(("kind", "losses"), [(BYOL, (0, 4, 8)), (SimSiam, (-1, 0, 1))])
def test_losses_by_hand(kind, losses):
    """Views that are equal, orthogonal, opposite: BYOL sums 2 - 2 cos over both directions, SimSiam averages -cos."""
    first = torch.tensor([[3.0, 0.0], [0.0, 0.5]])
    for second, expected in zip((2 * first, first.flip(1), -first), losses, strict=True):
        assert plain(kind)({"views": torch.stack([first, second])})["loss"].item() == pytest.approx(expected, abs=1e-6)


def test_byol_foretells_each_view_from_the_other():
    method = BYOL(encoder(norm="hidden"), predictor_hidden=16)
    with torch.no_grad():
        method.model.projector.network[0].weight.mul_(1.5)  # so that the slow copy differs
    a, b = batch()["views"]
    p = [method.predictor(method.model.project_image(view)) for view in (a, b)]
    with method.teacher.teaching() as slow:
        z = [slow.project_image(view) for view in (a, b)]
    expected = 4 - 2 * (cosine_similarity(p[0], z[1]).mean() + cosine_similarity(p[1], z[0]).mean())
    torch.testing.assert_close(method(batch())["loss"], expected)


def test_small_views_foretell_the_large_ones_and_are_not_foretold():
    first, second, small = torch.eye(2), torch.eye(2), -torch.eye(2)
    data = {"views": torch.stack([first, second]), "small_views": small[None]}
    # Two pairs of large views agree, two from the small one are opposite.
    assert plain(BYOL)(data)["loss"].item() == pytest.approx(2 * (0 + 0 + 4 + 4) / 4)
    assert plain(SimSiam)(data)["loss"].item() == pytest.approx((-1 - 1 + 1 + 1) / 4)


@pytest.mark.parametrize("kind", [BYOL, SimSiam])
def test_every_view_is_normalised_by_itself(kind):
    method = kind(Normed(), predictor_hidden=2)
    kept = []
    method.predictor = type("Kept", (nn.Module,), {"forward": lambda self, z: kept.append(z.flatten().tolist()) or z})()
    method({"views": PAIR})
    assert [z for view in kept for z in view] == pytest.approx(APART, abs=1e-4)


def test_simsiam_s_gradient_stops_at_what_is_foretold():
    views = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def gradient(**settings):
        rows = views.clone().requires_grad_()
        method = SimSiam(Identity(4), **settings)
        method.predictor = nn.Identity()
        method({"views": rows})["loss"].backward()
        return rows.grad

    rows = views.clone().requires_grad_()
    (-cosine_similarity(rows[0], views[1]).mean() / 2 - cosine_similarity(rows[1], views[0]).mean() / 2).backward()
    torch.testing.assert_close(gradient(), rows.grad)
    # Without the stop each pair counts from both ends.
    torch.testing.assert_close(gradient(stop_gradient=False), 2 * rows.grad)


def test_byol_s_target_takes_no_gradient_and_its_predictor_is_not_the_model_s():
    method = BYOL(encoder(norm="hidden"), predictor_hidden=16)
    method(batch())["loss"].backward()
    assert all(p.grad is None for p in method.teacher.parameters())
    assert not [name for name in method.model.state_dict() if "predictor" in name]
    assert method.teacher.normalise == "batch", "the paper's"


def test_byol_s_momentum_rises_over_the_run():
    data = [batch(seed=i) for i in range(4)]
    method = BYOL(encoder(norm="hidden"), momentum=0.9, predictor_hidden=16)
    assert method.teacher.total_steps is None
    logged = []
    forward = method.forward
    method.forward = lambda data: logged.append(method.teacher.momentum) or forward(data)
    train(method, data, steps=4, lr=1e-4, **QUIET)
    assert logged == pytest.approx([1 - 0.1 * (math.cos(math.pi * k / 4) + 1) / 2 for k in range(4)])
    assert method.teacher.momentum == cosine_momentum(4, 4, 0.9) == 1
    stated = BYOL(encoder(norm="hidden"), total_steps=9, predictor_hidden=16)
    train(stated, data, steps=2, lr=1e-4, **QUIET)
    assert stated.teacher.total_steps == 9


def test_a_pass_without_a_step_moves_no_teacher():
    method = BYOL(encoder(norm="hidden"), predictor_hidden=16)
    before = copy.deepcopy(method.teacher.state_dict())
    method(batch())
    method.before_step()
    method.teacher.train(False)
    method(batch())
    assert all(torch.equal(value, before[name]) for name, value in method.teacher.state_dict().items())
    step(method.train(), batch())
    assert method.teacher.updates == 1
    norms = [name for name in before if name.endswith("num_batches_tracked")]
    assert {int(method.teacher.state_dict()[name]) for name in norms} == {2}, "two views"


@pytest.mark.parametrize("kind", [BYOL, SimSiam])
def test_a_batch_in_chunks_is_refused(kind):
    with pytest.raises(UserError, match=f"chunk is for methods with embeddings; {kind.__name__} has none"):
        train(kind(encoder(norm="hidden"), predictor_hidden=16), [batch()], steps=1, chunk=2, **QUIET)


@pytest.mark.parametrize("kind", [BYOL, SimSiam])
def test_one_sample_is_a_sentence(kind):
    with pytest.raises(UserError, match="batch norm in training needs two samples at least"):
        kind(encoder(norm="hidden"), predictor_hidden=16)(batch(1))


def test_without_the_stop_simsiam_collapses():
    """Section 4.1: the loss falls to -1 and the spread to 0; with the stop it stays open."""
    spreads = {}
    for stop in (True, False):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 8))
        net.encode_image, net.embed_dim = net.forward, 8
        method = SimSiam(net, predictor_hidden=8, stop_gradient=stop)
        generator = torch.Generator().manual_seed(1)
        centres = torch.randn(64, 8, generator=generator)
        data = [
            {"views": centres + 0.3 * torch.randn(2, 64, 8, generator=generator), "index": torch.arange(64)}
            for _ in range(8)
        ]
        config = TrainConfig(steps=300, lr=2e-2, weight_decay=0.0, clip_norm=None, **QUIET)
        train(method, data, config=config)
        spreads[stop] = method(data[0])["spread"].item()
    assert spreads[False] < 0.1 < 0.5 < spreads[True]
