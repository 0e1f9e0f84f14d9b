"""BECLR: losses worked out by hand, what neighbours do to gradients in both modes, and when they count."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cosine_similarity, normalize

from methods.beclr_work import trained_in_modes
from methods.image_batches import Identity, batch, encoder, step
from nearfar.errors import UserError
from nearfar.losses.alignment_uniformity import view_uniformity
from nearfar.methods import BECLR
from nearfar.methods.image.beclr import enlarge, live_alignment
from nearfar.methods.parts.clustered_memory import ClusteredMemory, Neighbours
from training.ranks import run

E1, E2 = torch.eye(2)
SMALL = {"memory_size": 8, "clusters": 2, "neighbours": 2, "start_epoch": 0, "predictor_hidden": 8, "masked": 0.0}


def method(**settings):
    return BECLR(encoder(norm="all"), **(SMALL | settings))


def filled(made, steps=3, n=4):
    """The method after so many steps, each of samples of its own."""
    for number in range(steps):
        step(made, batch(n, seed=number, first=n * number), number=number + 1)
    return made


def neighbours(features, cosine=None):
    ids = torch.zeros(features.shape[:2], dtype=torch.long)
    return Neighbours(features, ids, torch.ones(features.shape[:2]) if cosine is None else cosine)


def test_uniformity_worked_out_by_hand():
    axes = torch.stack([E1, E2])
    assert view_uniformity(axes, axes).item() == 0
    assert view_uniformity(E1.repeat(2, 1), E1.repeat(2, 1)).item() == pytest.approx(0.5)
    assert view_uniformity(torch.stack([E1, -E1]), torch.stack([E1, -E1])).item() == pytest.approx(-0.5)
    # Perfect neighbours are other samples to it: log((2 e^0.5 + 4) / 6).
    near = neighbours(axes[:, None])
    assert view_uniformity(enlarge(axes, near), enlarge(axes, near)).item() == pytest.approx(0.195764, abs=1e-6)


def test_uniformity_is_a_slow_loop_and_within_its_bounds():
    a, b = torch.randn(2, 7, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    rows = normalize(torch.cat([a, b]), dim=1)
    terms = [torch.exp(rows[i] @ rows[j] / 0.7) for i in range(14) for j in range(14) if j not in (i, (i + 7) % 14)]
    value = view_uniformity(a, b, temperature=0.7)
    torch.testing.assert_close(value, torch.stack(terms).mean().log())
    assert -1 / 0.7 <= value <= 1 / 0.7
    for make, message in (
        (lambda: view_uniformity(a[:1], b[:1]), "N >= 2"),
        (lambda: view_uniformity(a, b, temperature=0.0), "temperature must be positive"),
    ):
        with pytest.raises(UserError, match=message):
            make()


def test_alignment_is_scale_free_and_its_target_gets_no_gradient():
    p, target = (torch.randn(4, 3, requires_grad=True) for _ in range(2))
    value = live_alignment(p, target)
    torch.testing.assert_close(live_alignment(3 * p, 0.2 * target), value)
    torch.testing.assert_close(value, -cosine_similarity(p, target).mean())
    value.backward()
    assert target.grad is None
    assert live_alignment(target, target).item() == pytest.approx(-1)


def test_live_neighbours_that_are_the_target_change_nothing_and_far_ones_do_not_count():
    p, target = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(1))
    p.requires_grad_()
    (plain,) = torch.autograd.grad(live_alignment(p, target), p)
    same = neighbours(normalize(target, dim=1)[:, None].expand(-1, 3, -1))
    torch.testing.assert_close(torch.autograd.grad(live_alignment(p, target, same), p)[0], plain)
    cosine = torch.tensor([[0.9, 0.1]]).repeat(4, 1)
    other = neighbours(normalize(torch.randn(4, 2, 3), dim=2), cosine)
    first = neighbours(other.features[:, :1], cosine[:, :1])
    gated = live_alignment(p, target, other, least_cosine=0.5)
    torch.testing.assert_close(gated, live_alignment(p, target, first))
    torch.testing.assert_close(live_alignment(p, target, other, least_cosine=0.95), live_alignment(p, target))
    none = neighbours(torch.zeros(4, 2, 3), torch.full((4, 2), -torch.inf))
    torch.testing.assert_close(live_alignment(p, target, none), live_alignment(p, target))


def test_official_neighbours_are_constants_of_the_alignment():
    """Whatever the bank holds: the gradient is 1 / (1 + k) of the plain one."""
    p, target = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(1))
    p.requires_grad_()
    (plain,) = torch.autograd.grad(live_alignment(p, target), p)
    for k in (1, 3):
        bank_p, bank_t = (neighbours(torch.randn(4, k, 3)) for _ in range(2))
        value = live_alignment(enlarge(p, bank_p), enlarge(target, bank_t))
        torch.testing.assert_close(torch.autograd.grad(value, p)[0], plain / (1 + k))


def test_the_loss_is_made_of_its_terms():
    made = method(neighbours=0, weight=0.3, temperature=1.5)
    with torch.no_grad():
        made.model.projector.network[0].weight.mul_(1.5)  # so that the teacher differs
    data = batch()
    both = torch.cat(list(data["views"]))
    z = made.model.project_image(both)
    p = made.predictor(z)
    with made.teacher.teaching() as slow:
        target = slow.project_image(both)
    crossed = target.roll(4, 0)
    expected = -cosine_similarity(p, crossed).mean() + 0.3 * view_uniformity(z[:4], z[4:], temperature=1.5)
    torch.testing.assert_close(made(data)["loss"], expected)


@pytest.mark.parametrize("mode", ["live", "official"])
@pytest.mark.parametrize("late", [{"start_epoch": 1}, {"memory_size": 100}])
def test_until_neighbours_count_it_is_the_plain_method_to_the_bit(mode, late):
    plain, made = filled(method(neighbours=0)), filled(method(mode=mode, **late))
    for data in (batch(seed=7), batch(seed=8)):
        one, other = plain(data), made(data)
        assert torch.equal(one["loss"], other["loss"])
        assert other["neighbours"] == 0
    assert not plain.memories
    assert set(made.memories) == {"live": {"teacher"}, "official": {"teacher", "predicted", "student"}}[mode]


@pytest.mark.parametrize("mode", ["live", "official"])
def test_neighbours_count_after_the_first_epochs(mode):
    made = filled(method(mode=mode, start_epoch=2))
    before = made(batch(seed=9))["loss"]
    made.after_epoch(0, None)
    assert torch.equal(made(batch(seed=9))["loss"], before)
    made.after_epoch(1, None)
    out = made(batch(seed=9) | {"index": torch.arange(100, 104)})
    assert out["neighbours"] == 2
    assert -1 <= out["neighbour_cosine"] <= 1
    assert not torch.equal(out["loss"], before)


def test_live_neighbours_are_the_teacher_s_of_the_other_view():
    made = filled(method())
    data = batch(seed=9, first=50)
    both = torch.cat(list(data["views"]))
    p = made.predictor(made.model.project_image(both))
    with made.teacher.teaching() as slow:
        target = slow.project_image(both)
    total = 0.0
    for own, other in ((p[:4], target[4:]), (p[4:], target[:4])):
        near = made.memories["teacher"].neighbours(other, 2, data["index"]).features
        cosines = torch.cat([other[:, None], near], 1)
        total += -cosine_similarity(own[:, None], cosines, dim=2).mean() / 2
    torch.testing.assert_close(made(data)["alignment"], total.detach())


def test_memories_get_both_views_after_the_step_and_never_a_sample_s_own_neighbour():
    made = method(memory_size=32)
    step(made, batch(), number=1)
    assert made.memories["teacher"].index[:8].tolist() == [0, 1, 2, 3] * 2
    assert len(made.memories["teacher"]) == 8
    with torch.no_grad():
        made(batch(seed=5))
    made(batch(seed=5))  # never sent back
    made.after_step(2)
    assert len(made.memories["teacher"]) == 8
    without_ids = {"views": batch(seed=6)["views"]}
    step(made, without_ids, number=3)
    assert made.memories["teacher"].index[8:16].tolist() == [-1] * 8


@pytest.mark.parametrize("mode", ["live", "official"])
def test_it_goes_on_from_its_state_to_the_bit(mode):
    made = filled(method(mode=mode, total_steps=20))
    made.after_epoch(4, None)
    resumed = method(mode=mode, total_steps=20)
    resumed.load_state_dict(copy.deepcopy(made.state_dict()))
    for each in (made, resumed):
        step(each, batch(seed=11, first=20), number=4)
    for name, value in made.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    assert int(resumed.epochs) == 5


@pytest.fixture(scope="module")
def on_two(tmp_path_factory):
    """What each of two processes ends with: they start once."""
    return run(trained_in_modes, 2, str(tmp_path_factory.mktemp("runs")))


@pytest.mark.parametrize("mode", ["live", "official"])
def test_two_processes_keep_one_memory_and_resume_to_the_bit(mode, on_two):
    ((first, counts), (again, _)), ((second, _), _) = (each[mode] for each in on_two)
    assert counts[0] == 0
    assert counts[-1] == 2
    assert int(first["epochs"]) == 2
    for key, value in first.items():
        if key.startswith(("teacher", "memories")):
            np.testing.assert_array_equal(second[key], value, err_msg=key)
        np.testing.assert_array_equal(again[key], value, err_msg=key)


def test_clusters_are_made_anew_at_their_epochs(monkeypatch):
    calls = []
    monkeypatch.setattr(ClusteredMemory, "recluster", lambda memory: calls.append(len(memory)))
    made = method(recluster_every=3, memory_size=16)
    made.memories["teacher"].label.fill_(0)
    for epoch in range(7):
        made.after_epoch(epoch, None)
    assert len(calls) == 2


def test_the_student_sees_blocks_hidden_and_the_teacher_all():
    views = []

    class Kept(Identity):
        def encode_image(self, pixels):
            views.append(float((pixels == 0).float().mean()))
            return pixels.mean(dim=(2, 3)) + 0 * self.weight

    model = Kept(3)
    model.weight = nn.Parameter(torch.zeros(()))
    made = BECLR(model, masked=0.4, patch=4, neighbours=0, predictor_hidden=4)
    data = {"views": torch.ones(2, 64, 3, 16, 16)}
    made(data)
    assert views[0] == pytest.approx(0.4, abs=0.06)
    assert views[1] == 0
    made.eval()(data)
    assert views[2:] == [0, 0]


def test_settings_that_cannot_be():
    for settings, message in (
        ({"mode": "dead"}, "mode='dead': choose live or official"),
        ({"neighbours": -1}, "neighbours=-1"),
        ({"recluster_every": 0}, "recluster_every=0 at least 1"),
        ({"masked": 1.0}, r"masked=1.0 must be in \[0, 1\)"),
        ({"memory_size": 2}, "more places than clusters"),
    ):
        with pytest.raises(UserError, match=message):
            method(**settings)
    with pytest.raises(UserError, match="compares views of a picture, and the batch has 1"):
        method()(batch(views=1))
