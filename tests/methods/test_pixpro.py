"""PixPro: what its loss is made of, what moves by gradient and what by momentum, and its state."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import normalize

from methods.pixpro_work import Maps, batch, trained
from nearfar.data import Loader, Records
from nearfar.data.batches.data_info import DataInfo
from nearfar.errors import UserError
from nearfar.losses.functional import pix_contrast, pixel_consistency
from nearfar.losses.near_cells import NearCells, cells_of_views, pixel_positive_mask
from nearfar.methods import PixPro
from nearfar.methods.image.pixpro import counted
from nearfar.models import image_encoder
from training.ranks import run


def method(pixels="propagated", **settings):
    torch.manual_seed(0)
    return PixPro(Maps(), pixels=pixels, hidden=6, out=4, **settings)


def near_of(data, threshold=0.7):
    size, grid = data["views"].shape[-2:], (data["views"].shape[3] // 2, data["views"].shape[4] // 2)
    return NearCells(*(cells_of_views(each, grid, view_size=size) for each in data["geometry"]), threshold)


def step(made, data, number=1):
    made.before_step()
    loss = made(data)["loss"]
    loss.backward()
    made.after_step(number)
    return loss.detach()


@pytest.mark.parametrize("scale", [1.0, 2.0])
@pytest.mark.parametrize("pixels", ["propagated", "plain", "contrast"])
@pytest.mark.parametrize("shape", [(8, 8), (4, 12)])
def test_the_loss_is_made_of_its_parts(pixels, shape, scale):
    """Both directions, each view's queries against the other's keys, on squares and oblongs."""
    made, data = method(pixels, scale=scale), batch(shape=shape)
    maps = [made.model.encode_image_map(view) for view in data["views"]]
    x = [made.projector(each) for each in maps]
    keys = [each.detach() for each in x]  # the copy equals the model before the first step
    near = near_of(data)
    if pixels == "contrast":
        expected = (pix_contrast(x[0], keys[1], near) + pix_contrast(x[1], keys[0], near.mT)) / 2
    else:
        y = [made.propagation(each) for each in x] if pixels == "propagated" else x
        expected = pixel_consistency(y[0], keys[1], near, scale=scale)
        expected = expected + pixel_consistency(y[1], keys[0], near.mT, scale=scale)
    outputs = made(data)
    torch.testing.assert_close(outputs["loss"], expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(outputs["pixel_loss"], outputs["loss"].detach())
    counts = near.whole().sum((1, 2)).float()
    assert outputs["positives"] == counts.mean()
    assert outputs["apart"] == (counts == 0).float().mean()


def test_the_instance_branch_is_byol_s_loss_of_maps_pooled_after_the_heads():
    """Over maps of any size: not a window of 7 x 7."""
    for shape in ((8, 8), (20, 20)):
        alone, data = method("none", instance_weight=0.5, scale=2.0), batch(shape=shape)
        z, keys = [], []
        for view in data["views"]:
            projected = alone.instance_projector(alone.model.encode_image_map(view))
            z.append(normalize(alone.predictor(projected).mean((2, 3)), dim=1))
            keys.append(normalize(projected.mean((2, 3)), dim=1).detach())
        expected = -2 * (z[0] * keys[1]).sum(1).mean() - 2 * (z[1] * keys[0]).sum(1).mean()
        outputs = alone(data)
        torch.testing.assert_close(outputs["instance_loss"], expected.detach(), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(outputs["loss"], 0.5 * expected, rtol=1e-4, atol=1e-5)
    both = method(instance_weight=0.5)(data)
    torch.testing.assert_close(both["loss"].detach(), both["pixel_loss"] + 0.5 * both["instance_loss"])


@pytest.mark.parametrize("pixels", ["propagated", "contrast"])
def test_gradients_reach_the_queries_side_alone(pixels):
    made, data = method(pixels, instance_weight=1.0), batch()
    data["geometry"] = data["geometry"].requires_grad_()
    made(data)["loss"].backward()
    for name, parameter in made.named_parameters():
        frozen = name.startswith(("teacher.", "contrast."))
        assert (parameter.grad is None) == frozen, name
    assert data["geometry"].grad is None
    if made.propagation is not None:
        assert all(p.grad.abs().sum() > 0 for p in made.propagation.parameters())


def test_a_loss_of_one_view_s_queries_leaves_the_other_s_graph_alone():
    one, other = (torch.randn(2, 4, 3, 3, requires_grad=True) for _ in range(2))
    near = pixel_positive_mask(*(torch.tensor([[0.0, 0.0, 1.0, 1.0]]).expand(2, 4) for _ in range(2)), (3, 3))
    pixel_consistency(method().propagation(one), other, near).backward()
    assert one.grad.abs().sum() > 0
    assert other.grad is None


def test_pictures_without_a_common_place_give_nothing():
    made, data = method(), batch()
    data["geometry"][1, :, 0, 2] = 1e4
    outputs = made(data)
    assert outputs["loss"].item() == 0
    assert (outputs["positives"], outputs["covered"], outputs["apart"]) == (0, 0, 1)
    outputs["loss"].backward()
    assert all(p.grad is None or not p.grad.abs().sum() for p in made.parameters())


def test_collapse_shows_in_the_spread_and_not_in_the_loss():
    made, data = method("plain"), batch()
    with torch.no_grad():
        for parameter in made.projector.parameters():
            parameter.zero_()
        made.projector.mlp.network[-1].bias.fill_(1.0)
        made.teacher.slow.reset()
    outputs = made(data)
    shown = 1 - outputs["apart"].item()
    assert outputs["loss"].item() == pytest.approx(-2 * shown, abs=1e-5)
    assert outputs["spread"].item() == pytest.approx(0, abs=1e-6)


def test_the_momentum_follows_the_run_and_survives_a_resume():
    """0.99, 0.991464, 0.995, 0.998536, 1 at quarters of the run, counted by a buffer."""
    made = method()
    made.begin(DataInfo(size=8, steps=4))
    resumed, shares = None, []
    for number in range(1, 6):
        shares.append(made(batch(seed=number))["momentum"].item())
        step(made, batch(seed=number), number)
        if number == 2:
            resumed = method()
            resumed.begin(DataInfo(size=8, steps=4))
            resumed.load_state_dict(copy.deepcopy(made.state_dict()))
    assert [round(value, 6) for value in shares] == [0.99, 0.991464, 0.995, 0.998536, 1.0]
    assert resumed(batch())["momentum"].item() == pytest.approx(0.995)


def test_it_goes_on_from_its_state_to_the_bit():
    made = method(instance_weight=1.0)
    step(made, batch(seed=1))
    again = method(instance_weight=1.0)
    again.load_state_dict(copy.deepcopy(made.state_dict()))
    assert torch.equal(step(made, batch(seed=2)), step(again, batch(seed=2)))
    for name, value in made.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name


def test_forward_leaves_nothing_behind():
    made, data = method(), batch()
    made.eval()
    before = copy.deepcopy(made.state_dict())
    made(data)
    made.train()
    with torch.no_grad():
        made(data)
    kept = {name: value for name, value in made.state_dict().items() if name.startswith("teacher.")}
    assert all(torch.equal(value, before[name]) for name, value in kept.items())
    made.before_step()
    made.after_step(1)
    assert all(
        torch.equal(value, before[name])
        for name, value in made.state_dict().items()
        if name.startswith("teacher.") and "running" in name
    ), "what no step was taken on is forgotten"


@pytest.mark.parametrize("normalise", ["batch", "running"])
def test_keys_are_normalised_by_their_own_batch_unless_an_option_says_otherwise(normalise):
    made, data = method("plain", normalise=normalise), batch()
    assert method().teacher.normalise == "batch", "the paper's is the default"
    with made.teacher.teaching() as slow:
        cells, _ = slow(data["views"][0])
    made.eval()
    with made.teacher.teaching() as slow:
        again, _ = slow(data["views"][0])
    assert torch.equal(cells, again), "train() changes nothing"
    online = made.projector.train(normalise == "batch")(made.model.encode_image_map(data["views"][0]))
    torch.testing.assert_close(cells, online)


def test_its_geometry_is_that_of_the_data_layer():
    """Through the loader, of pictures that are not square: near cells show the same place."""
    pictures = [np.random.default_rng(i).integers(0, 255, (40, 80, 3), np.uint8) for i in range(8)]
    loader = Loader(
        Records([{"image": each} for each in pictures]), batch_size=8, image_size=16, views="byol", n_views=2, seed=3
    )
    data = next(iter(loader))
    assert data["picture_size"].tolist() == [[80.0, 40.0]] * 8
    made = method("plain")
    near = made._near(data, [torch.Size([8, 8])] * 2)
    plain = NearCells(*(cells_of_views(g, (8, 8), view_size=(16, 16)) for g in data["geometry"]))
    assert (near.whole() != plain.whole()).any(), "distances are shares of width and height"
    size = data["picture_size"]
    by_hand = NearCells(*(cells_of_views(g, (8, 8), view_size=(16, 16), picture_size=size) for g in data["geometry"]))
    assert torch.equal(near.whole(), by_hand.whole())
    assert 0 < counted(near)["covered"] <= 1


def test_the_mean_of_parts_is_the_whole():
    """So that processes need to gather nothing: the loss is of each picture by itself. Batch norm apart."""
    made, data = method(instance_weight=0.0), batch(n=6)
    made.eval()
    made.teacher.normalise = "running"
    for part in made.teacher.module.modules():
        part.training = False
    whole = made(data)["loss"]
    parts = [{key: value[:, i : i + 2] for key, value in data.items()} for i in (0, 2, 4)]
    torch.testing.assert_close(torch.stack([made(part)["loss"] for part in parts]).mean(), whole)


def test_two_processes_have_the_gradient_of_one_and_one_teacher():
    alone = trained(1)
    for part in run(trained, 2, 2):
        for name, value in alone.items():
            np.testing.assert_allclose(part[name], value, atol=1e-9, err_msg=name)


def test_it_trains_on_an_image_encoder_of_any_grid():
    model = image_encoder("micro-resnet")
    made = PixPro(model, hidden=16, out=8, instance_weight=1.0)
    data = {"views": torch.randn(2, 4, 3, 64, 64), "geometry": torch.eye(3).expand(2, 4, 3, 3)}
    outputs = made(data)
    assert outputs["loss"].isfinite()
    assert outputs["positives"] == 16
    assert isinstance(made.projector.mlp.network[1], nn.BatchNorm1d)
    assert made.encoder is model


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PixPro(Maps(), pixels="smooth"), "propagated"),
        (lambda: PixPro(Maps(), pixels="none"), "instance loss alone: give it a weight, instance_weight=1"),
        (lambda: PixPro(Maps(), instance_weight=-1.0), r"^instance_weight=-1\.0: a number from 0 on$"),
        (lambda: PixPro(Maps(), threshold=0.0), r"^threshold=0\.0: how near .* a number above 0 \(paper: 0\.7\)$"),
        (lambda: PixPro(nn.Linear(2, 2)), "encode_image_map"),
        (lambda: method()({"views": torch.randn(2, 3, 5, 8, 8)}), "geometry"),
        (lambda: method()({"image": torch.randn(3, 5, 8, 8)}), "n_views"),
    ],
)
def test_mistakes_are_sentences(make, message):
    with pytest.raises(UserError, match=message):
        make()


def test_the_released_code_s_schedule():
    import json
    from pathlib import Path

    from nearfar.methods.parts.mean_teacher import cosine_momentum

    released = json.loads((Path(__file__).parents[1] / "losses" / "released" / "pixpro.json").read_text())["momentum"]
    assert [cosine_momentum(k, 8, 0.99) for k in range(9)] == pytest.approx(released, abs=1e-15)
    assert math.isclose(released[-1], 1)
