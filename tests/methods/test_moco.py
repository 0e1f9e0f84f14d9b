"""MoCo: its loss by its formula, what its keys are normalised by, its queue, and its state under two processes."""

import copy

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy, normalize

from methods.image_batches import PAIR, Identity, Normed, batch, encoder, step
from methods.shuffle_work import shuffle, trained
from nearfar.methods import MoCo
from nearfar.methods.parts.feature_queue import queue_info_nce
from training.ranks import run


def test_a_query_s_own_key_against_the_queue_and_nothing_else():
    q, k = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    method = MoCo(Identity(), temperature=0.3, queue_size=7).double()
    loss = method({"views": torch.stack([q, k])})["loss"]
    q, k = normalize(q, dim=1), normalize(k, dim=1)
    logits = torch.cat([(q * k).sum(1, keepdim=True), q @ method.queue.features.T], 1) / 0.3
    torch.testing.assert_close(loss, cross_entropy(logits, torch.zeros(5, dtype=torch.long)))


@pytest.mark.parametrize(("normalise", "expected"), [("batch", [-1, 1]), ("running", [9.439, 13.253])])
def test_what_keys_are_normalised_by(normalise, expected):
    """After one batch [0, 2], keys [10, 14]: by their own statistics (the paper's), or by the running ones."""
    model = Normed()
    method = MoCo(model, normalise=normalise, queue_size=4)
    model.project_image(PAIR[0])
    method.teacher.update()
    keys = []
    for mode in (True, False):
        method.train(mode)
        with method.teacher.teaching() as slow:
            keys.append(slow.project_image(PAIR[1]).flatten().tolist())
    assert keys == [pytest.approx(expected, abs=1e-3)] * 2
    assert MoCo(Normed(), queue_size=4).teacher.normalise == "batch", "the paper's is the default"


def test_keys_are_queued_after_the_step_they_were_made_in():
    method = MoCo(encoder(), queue_size=6)
    before = copy.deepcopy(method.state_dict())
    method(batch())
    with torch.no_grad():
        method(batch())
    method.eval()(batch())
    method.train()
    for name, value in method.state_dict().items():
        if "running" not in name and "num_batches" not in name:
            assert torch.equal(value, before[name]), name
    for key in ("running_mean", "num_batches_tracked"):
        kept = [name for name in before if name.startswith("teacher") and name.endswith(key)]
        assert kept
        assert all(torch.equal(method.state_dict()[name], before[name]) for name in kept), "a pass moves no teacher"
    step(method, batch())
    assert len(method.queue) == 4
    with torch.no_grad():
        expected = method._keys(batch()["views"][1])
    # The teacher has not moved: no optimiser changed the encoder.
    torch.testing.assert_close(method.queue.features[:4], expected)


def test_no_gradient_reaches_the_keys():
    method = MoCo(encoder(), queue_size=4)
    method(batch())["loss"].backward()
    assert all(p.grad is None for p in method.teacher.parameters())
    assert all(p.grad is not None for p in method.model.parameters())


def test_the_teacher_follows_at_its_momentum():
    method = MoCo(encoder(), momentum=0.75, queue_size=4)
    weight = method.model.projector.network[0].weight
    start = weight.detach().clone()
    with torch.no_grad():
        weight += 1
    method.teacher.update()
    torch.testing.assert_close(method.teacher.module.projector.network[0].weight, start + 0.25)


def test_further_and_small_views_are_queries():
    method = MoCo(encoder(), queue_size=8)
    data = batch(views=3, small=2)
    whole = method(data)["loss"]
    pairs = [{"views": torch.stack([data["views"][i], data["views"][1]])} for i in (0, 2)]
    parts = [method(pair)["loss"] for pair in pairs]
    for small in data["small_views"]:
        q = normalize(method.model.project_image(small), dim=1)
        parts.append(queue_info_nce(q, method._keys(data["views"][1]), method.queue.features, 0.2))
    torch.testing.assert_close(whole, torch.stack(parts).mean(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("counts", [[4, 4], [3, 5]])
def test_shuffled_keys_come_back_to_their_own_samples(counts):
    pixels = torch.randn(8, 3, generator=torch.Generator().manual_seed(0))
    order = torch.randperm(8, generator=torch.Generator().manual_seed(7))
    expected = torch.zeros(8, 3)
    for part in order.split(counts):  # each process centres as many samples as it brought, drawn from both
        expected[part] = pixels[part] - pixels[part].mean(0)
    same, centred = zip(*run(shuffle, 2, pixels, counts, 7), strict=True)
    np.testing.assert_array_equal(np.concatenate(same), pixels.numpy())
    np.testing.assert_allclose(np.concatenate(centred), expected.numpy(), atol=1e-6)


def test_two_processes_keep_one_state_and_resume_to_the_bit(tmp_path):
    first, second = run(trained, 2, str(tmp_path / "whole"), 0)
    assert first["queue.pointer"] == 4
    assert first["queue.filled"] == 12
    again, _ = run(trained, 2, str(tmp_path / "part"), 2)
    for key, value in first.items():
        if key.startswith(("teacher", "queue")):
            np.testing.assert_array_equal(second[key], value, err_msg=key)
        np.testing.assert_array_equal(again[key], value, err_msg=key)
