"""1, 2 and 4 real processes give the loss and the gradient of the one big batch, for every loss."""

import numpy as np
import pytest
import torch
from cases import CASES, case_batch, make
from rank_work import (
    gradients_of_all,
    in_a_ring,
    noisy_gradients,
    odds_and_ends,
    train_apart,
    train_normed,
    unequal_rows,
    unequal_statistics,
)
from ranks import run
from torch import nn
from toy import gradients

from nearfar import losses
from nearfar.methods.base import EmbeddingMethod


@pytest.fixture(scope="module", params=[2, 4], ids=["2 ranks", "4 ranks"])
def actual(request):
    """What each rank found, for all cases: the processes start once."""
    return run(gradients_of_all, request.param)


@pytest.fixture(scope="module")
def unequal():
    """The same where one rank holds 5 samples and the other 11."""
    return run(gradients_of_all, 2, [5, 11])


@pytest.mark.parametrize("name", CASES)
def test_ranks_give_the_loss_and_gradient_of_the_one_big_batch(name, actual):
    require_the_gradient_of_one(name, actual)


@pytest.mark.parametrize("name", [name for name in CASES if isinstance(make(CASES[name]), EmbeddingMethod)])
def test_so_do_ranks_with_unequal_parts_of_it(name, unequal):
    """A method without embeddings takes the mean of its own part, and the mean over ranks then counts ranks alike."""
    require_the_gradient_of_one(name, unequal)


def require_the_gradient_of_one(name, actual):
    method = make(CASES[name])
    loss = method(case_batch())["loss"]
    loss.backward()
    expected = gradients(method)
    for rank in actual:
        value, grads = rank[name]
        assert value == pytest.approx(loss.item(), rel=1e-9)
        assert grads.keys() == expected.keys()
        for key, grad in grads.items():
            np.testing.assert_allclose(grad, expected[key].numpy(), rtol=1e-7, atol=1e-10, err_msg=key)


def test_in_a_ring_no_rank_holds_all_keys_and_validation_sees_its_own_rows():
    first, second = run(in_a_ring, 2, [5, 11])
    assert first["gathers"] == second["gathers"] == []
    assert set(first["held"]) == {11, 5}  # the other's keys, and what its own have gathered when they are home
    assert set(second["held"]) == {5, 11}
    assert first["backend"] == second["backend"] == "auto"


def test_what_an_objective_draws_is_the_same_on_every_rank():
    """Ranks whose own streams differ drop the same numbers of the gathered batch: those of one process. Their own
    streams go on as if nothing had been drawn."""
    expected, grads, _ = noisy_gradients()
    for rank, (loss, actual, after) in enumerate(run(noisy_gradients, 2)):
        assert loss == pytest.approx(expected, rel=1e-9)
        for key, grad in actual.items():
            np.testing.assert_allclose(grad, grads[key], rtol=1e-7, atol=1e-10, err_msg=key)
        torch.manual_seed(100 + rank)
        assert after == torch.rand(1).item()


def test_unused_weights_own_streams_and_weighted_means():
    """A weight that one rank does not use counts as zero there, one that none uses keeps no gradient; each rank drops
    numbers of its own; 1 and 3 items weigh a half and one and a half."""
    first, second = run(odds_and_ends, 2)
    assert first["grads"] == second["grads"]
    unused, *others = first["grads"].values()
    assert unused is None
    assert set(others) == {1.5}
    assert not set(first["drawn"]) & set(second["drawn"])
    assert (first["weight"], second["weight"]) == (0.5, 1.5)


def test_no_loss_is_left_out():
    modules = {name for name in losses.__all__ if isinstance(getattr(losses, name), type)} - {"Temperature"}
    assert all(issubclass(getattr(losses, name), nn.Module) for name in modules)
    assert {name for name in modules if name not in CASES} == set(), "add a case to tests/training/cases.py"


def test_ranks_end_with_the_same_weights_as_one_process(tmp_path):
    """Also when they start apart: rank 0's weights are everyone's."""
    options = {"steps": 9, "chunk": 2, "ema": 0.9, "lr": 0.05}
    alone, history = train_apart("", options)
    both = run(train_apart, 2, str(tmp_path / "run"), options)
    for name, value in alone.items():
        np.testing.assert_allclose(both[0][0][name], value, rtol=1e-5, atol=1e-6, err_msg=name)
        np.testing.assert_array_equal(both[1][0][name], both[0][0][name])
    assert both[0][1][-1]["loss"] == pytest.approx(history[-1]["loss"], rel=1e-5)
    assert len(list((tmp_path / "run" / "checkpoints" / "last").glob("process-*.pt"))) == 2


def test_each_rank_goes_on_with_its_own_running_statistics(tmp_path):
    """They are of its own samples: the other rank's differ."""
    expected = run(train_normed, 2, str(tmp_path / "whole"), 0)
    actual = run(train_normed, 2, str(tmp_path / "stopped"), 2)
    assert not np.array_equal(expected[0]["running_mean"], expected[1]["running_mean"])
    for mine, own in zip(actual, expected, strict=True):
        for name, value in own.items():
            np.testing.assert_array_equal(mine[name], value)


def test_statistics_over_unequal_batches_weigh_items_and_not_ranks():
    """Ranks hold [0] and [2, 2, 2]; the mean of the ranks' means would be 1.0."""
    for mean, variance, unbiased in run(unequal_statistics, 2):
        assert (mean, variance, unbiased) == pytest.approx((1.5, 0.75, 1.0), abs=1e-6)


def test_ranks_may_bring_different_numbers_of_rows():
    """One row and three are joined in rank order, on every rank; what else differs is refused on every rank."""
    first, second = run(unequal_rows, 2)
    assert first == second
    assert first["rows"] == [[1, 2], [3, 4], [5, 6], [7, 8]]
    assert first["grad"] is False
    assert first["counts"] == [1, 3]
    assert first["columns"] == [[1, 3, 5, 7], [2, 4, 6, 8]]
    assert first["none here"] == [[3, 4], [5, 6], [7, 8]]
    width, kind, axes = first["refused"]
    assert "along axis 0: float32 [2, 3], float32 [2, 4]; make them alike but for their number" in width
    assert "float32 [2], int64 [2]" in kind
    assert "float32 [1, 2], float32 [2]" in axes
