"""The losses of image contrast against values that their released code gave on the same vectors."""

import json
import math
from pathlib import Path

import pytest
import torch
from torch.nn.functional import normalize

from nearfar.classifiers.transported_means import opta
from nearfar.losses.alignment_uniformity import view_uniformity
from nearfar.losses.common_salient import gaussian_uniformity, joint_entropy
from nearfar.losses.functional import mv_dhel, mv_info_nce, nt_xent, pairwise_views, poly_view, supcon
from nearfar.losses.global_contrastive import SampleState, global_contrastive
from nearfar.losses.individual_temperature import TemperatureRule
from nearfar.methods.image.beclr import live_alignment
from nearfar.methods.parts.feature_queue import queue_info_nce

RELEASED = json.loads((Path(__file__).parent / "released" / "image_losses.json").read_text())
B, D = 5, 6
LABEL = torch.tensor([0, 1, 0, 2, 1])
STEP = torch.arange(B, dtype=torch.float64)
IMAGE, TEXT = (0.3 + 0.1 * STEP, 0.2 + 0.05 * STEP), (0.9 - 0.1 * STEP, 0.5 - 0.06 * STEP)  # s and temperature
EXACT = {"rel": 1e-8, "abs": 1e-10}  # some of the code adds 1e-10 to what it divides by


def wave(*shape, phase):
    values = torch.sin(1.7 * torch.arange(math.prod(shape), dtype=torch.float64) + phase)
    return normalize(values.view(shape), dim=-1)


def exact(case):
    """The temperature in float64: a plain float is held in float32."""
    return torch.tensor(case["temperature"], dtype=torch.float64)


def visited(mean, temperature):
    return SampleState(mean.log(), torch.ones_like(mean), temperature, torch.zeros_like(mean))


def step(states, case, **options):
    """The loss, whose gradient is compared here, and the next states."""
    a, b = wave(B, D, phase=0.1).requires_grad_(), wave(B, D, phase=0.2).requires_grad_()
    out = global_contrastive(a, b, states, gamma=case["gamma"], **options)
    size = [gradient.abs().sum().item() for gradient in torch.autograd.grad(out.loss, [a, b])]
    assert size == pytest.approx(case["gradient_sums"], **EXACT)
    return out.loss, out.states


def test_supervised_contrast():
    both = torch.cat([wave(B, D, phase=0.1), wave(B, D, phase=0.2)])
    for case in RELEASED["supcon"]["supervised"]:
        assert supcon(both, LABEL.repeat(2), temperature=exact(case)).item() == pytest.approx(case["loss"], rel=1e-10)
    for case in RELEASED["supcon"]["as_scaled_by_default"]:  # by tau over 0.07, which the paper has not
        loss = supcon(both, LABEL.repeat(2), temperature=exact(case)) * case["temperature"] / 0.07
        assert loss.item() == pytest.approx(case["loss"], rel=1e-10)


@pytest.mark.parametrize("case", RELEASED["simclr"]["nt_xent"] + RELEASED["supcon"]["unlabelled"], ids=str)
def test_two_views_of_each_sample(case):
    loss = nt_xent(wave(B, D, phase=0.1), wave(B, D, phase=0.2), temperature=exact(case))
    assert loss.item() == pytest.approx(case["loss"], rel=1e-10)


@pytest.mark.parametrize("case", RELEASED["moco"]["queue"], ids=lambda case: str(case["temperature"]))
def test_keys_of_a_queue(case):
    q, k, queue = wave(4, D, phase=0.1), wave(4, D, phase=0.2), wave(8, D, phase=0.5)
    assert queue_info_nce(q, k, queue, case["temperature"]).item() == pytest.approx(case["loss"], rel=1e-10)
    after = torch.cat([k, queue[4:]])
    assert after.sum(0).tolist() == pytest.approx(case["queue_sum"], abs=1e-12)


@pytest.mark.parametrize("case", RELEASED["multiview"]["losses"], ids=lambda c: f"{c['views']}, {c['temperature']}")
def test_many_views(case):
    views, tau = wave(case["views"], 4, D, phase=0.3), exact(case)
    rows, label = views.flatten(0, 1), torch.arange(4).repeat(case["views"])
    computed = {
        "mv_info_nce": mv_info_nce(views, temperature=tau, same_view_negatives=True),
        "mv_dhel": mv_dhel(views, temperature=tau),
        "pairs_of_nt_xent": pairwise_views(views, loss=lambda a, b: nt_xent(a, b, temperature=tau)),
        "pairs_of_dhel": pairwise_views(views, loss=lambda a, b: mv_dhel([a, b], temperature=tau)),
        "poly_view": poly_view(views, temperature=tau),
        "all_positives": supcon(rows, label, temperature=tau),
    }
    assert {name: loss.item() for name, loss in computed.items()} == pytest.approx(
        {name: case[name] for name in computed}, rel=1e-10
    )


@pytest.mark.parametrize("case", RELEASED["isogclr"]["sogclr_two_modalities"], ids=lambda case: str(case["gamma"]))
def test_global_contrast_of_two_modalities(case):
    tau = exact(case).expand(B)
    loss, states = step((visited(IMAGE[0], tau), visited(TEXT[0], tau)), case, inner="with_positive")
    assert loss.item() == pytest.approx(case["loss"], **EXACT)
    for state, log_s in zip(states, case["log_s"], strict=True):
        assert state.log_mean.tolist() == pytest.approx(log_s, **EXACT)


@pytest.mark.parametrize("case", RELEASED["isogclr"]["isogclr_two_modalities"], ids=lambda case: str(case["gamma"]))
def test_temperatures_of_two_modalities(case):
    rule = TemperatureRule(rho=case["rho"])
    loss, states = step((visited(*IMAGE), visited(*TEXT)), case, inner="with_positive", rule=rule)
    assert loss.item() == pytest.approx(case["loss"], **EXACT)
    for side, state in enumerate(states):
        assert state.log_mean.tolist() == pytest.approx(case["log_s"][side], **EXACT)
        assert state.temperature.tolist() == pytest.approx(case["temperature"][side], **EXACT)
        assert state.slope.tolist() == pytest.approx(case["slope"][side], **EXACT)


@pytest.mark.parametrize("case", RELEASED["isogclr"]["isogclr_two_views"], ids=lambda c: f"{c['gamma']}, {c['rho']}")
def test_temperatures_of_two_views(case):
    before = visited(*IMAGE)
    before = before._replace(visits=torch.zeros(B)) if case["first_visit"] else before
    rule = TemperatureRule(rho=case["rho"], clip=3.0)
    loss, (after,) = step((before,), case, inner="similarities", rule=rule)
    assert loss.item() == pytest.approx(case["loss"], **EXACT)
    assert after.log_mean.tolist() == pytest.approx(case["log_s"], **EXACT)
    assert after.temperature.tolist() == pytest.approx(case["temperature"], **EXACT)
    assert after.slope.tolist() == pytest.approx(case["slope"], **EXACT)


@pytest.mark.parametrize("case", RELEASED["sepclr"]["terms"], ids=lambda case: str(case["variance"]))
def test_common_and_salient(case):
    c, salient, variance = wave(2, 6, 4, phase=0.6), wave(2, 6, 2, phase=0.7), case["variance"]
    t = salient[0] * (torch.arange(6) > 2)[:, None]
    computed = {
        "align": (c[0] - c[1]).square().sum(1).mean() / (2 * variance),
        "uniformity": gaussian_uniformity(c[0], variance=variance),
        "joint_entropy": joint_entropy(c[0], t, variance=variance),
    }
    assert {name: term.item() for name, term in computed.items()} == pytest.approx(
        {name: case[name] for name in computed}, rel=1e-10
    )


@pytest.mark.parametrize("case", RELEASED["beclr"]["opta"], ids=lambda case: str(case["passes"]))
def test_transported_prototypes(case):
    """Up to what either leaves of the marginals: a third of the mass to 1e-6 here, and 1e-8 added to it there."""
    moved = opta(
        wave(case["prototypes"], D, phase=0.4), wave(case["queries"], D, phase=0.9), passes=case["passes"], mix=1.0
    )
    torch.testing.assert_close(moved, torch.tensor(case["moved"], dtype=torch.float64), rtol=0, atol=1e-5)


@pytest.mark.parametrize("case", RELEASED["beclr"]["loss"], ids=lambda c: f"{c['neighbours']}, {c['temperature']}")
def test_batches_with_and_without_neighbours(case):
    """Of batches that neighbours have enlarged the released loss takes all rows alike."""
    rows = 2 * B * (1 + case["neighbours"])
    target = wave(rows, D, phase=0.1)
    p, z = wave(rows, D, phase=0.2).requires_grad_(), wave(rows, D, phase=0.4).requires_grad_()
    alignment = live_alignment(p, target.roll(rows // 2, 0))
    uniformity = view_uniformity(*z.chunk(2), temperature=case["temperature"])
    loss = alignment + case["weight"] * uniformity
    computed = {"alignment": alignment, "uniformity": uniformity, "loss": loss}
    assert {name: term.item() for name, term in computed.items()} == pytest.approx(
        {name: case[name] for name in computed}, rel=1e-10
    )
    sums = [gradient.abs().sum().item() for gradient in torch.autograd.grad(loss, [p, z])]
    assert sums == pytest.approx(case["gradient_sums"], rel=1e-8)
