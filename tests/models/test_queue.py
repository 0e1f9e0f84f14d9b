from __future__ import annotations

import copy

import pytest
import torch
from torch.nn import functional as F

from models.queue_work import push
from nearfar.errors import UserError
from nearfar.models import FeatureQueue
from training.ranks import run


def test_fresh_queue_holds_unit_rows_of_no_id():
    queue = FeatureQueue(dim=5, size=12)
    torch.testing.assert_close(queue.features.norm(dim=1), torch.ones(12))
    assert queue.group.eq(-100).all()
    assert len(queue) == 0
    assert list(queue.parameters()) == []


def test_first_in_first_out_and_full_after_size_over_batch_pushes():
    queue = FeatureQueue(dim=3, size=8)
    fresh = queue.features.clone()
    batches = [torch.randn(4, 3) * 9 for _ in range(3)]
    for step, batch in enumerate(batches[:2]):
        queue.push(batch, torch.arange(4) + 4 * step)
        assert len(queue) == 4 * (step + 1)
    assert queue.pointer == 0
    torch.testing.assert_close(queue.features, F.normalize(torch.cat(batches[:2]), dim=1))
    assert not (queue.features[:, None] == fresh[None]).all(-1).any()  # every random row is gone
    assert torch.equal(queue.group, torch.arange(8))
    queue.push(batches[2], torch.arange(8, 12))
    torch.testing.assert_close(queue.features, F.normalize(torch.cat([batches[2], batches[1]]), dim=1))
    assert torch.equal(queue.group, torch.tensor([8, 9, 10, 11, 4, 5, 6, 7]))
    assert len(queue) == 8


def test_push_without_ids_leaves_none_known_and_carries_no_gradient():
    queue = FeatureQueue(dim=3, size=4)
    queue.push(torch.ones(4, 3), torch.arange(4))
    features = torch.randn(4, 3, requires_grad=True)
    queue.push(features * 2)
    assert queue.group.eq(-100).all()
    assert not queue.features.requires_grad


def test_any_size_of_batch_fits():
    """Five places, batches a and b of three, then seven rows c: the oldest go, and nothing is written past the end."""
    queue = FeatureQueue(dim=1, size=5)
    queue.push(torch.ones(3, 1), torch.tensor([1, 2, 3]))
    queue.push(-torch.ones(3, 1), torch.tensor([11, 12, 13]))
    assert queue.group.tolist() == [13, 2, 3, 11, 12]
    assert queue.features.flatten().tolist() == [-1, 1, 1, -1, -1]
    assert (queue.pointer.item(), len(queue)) == (1, 5)
    queue.push(torch.tensor([[1.0], [1], [-1], [1], [-1], [-1], [1]]), torch.arange(21, 28))
    assert sorted(queue.group.tolist()) == [23, 24, 25, 26, 27]
    assert queue.group.roll(-queue.pointer.item()).tolist() == [23, 24, 25, 26, 27], "from the pointer on, oldest first"
    assert queue.features.flatten().roll(-queue.pointer.item()).tolist() == [-1, 1, -1, -1, 1], "the last five rows"
    assert {"features", "group", "pointer", "filled"} == set(queue.state_dict())


def test_rows_have_unit_length_from_the_start_and_after_a_resume():
    torch.manual_seed(3)
    first = FeatureQueue(dim=4, size=9)
    torch.manual_seed(3)
    second = FeatureQueue(dim=4, size=9)
    assert torch.equal(first.features, second.features)
    second.push(torch.randn(4, 4) * 7)
    first.load_state_dict(second.state_dict())
    for queue in (first, second):
        torch.testing.assert_close(queue.features.norm(dim=1), torch.ones(9), atol=1e-6, rtol=0)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_a_feature_that_is_not_finite_is_named_and_moves_nothing(value):
    queue = FeatureQueue(dim=3, size=4)
    before = copy.deepcopy(queue.state_dict())
    features = torch.ones(2, 3)
    features[1, 2] = value
    with pytest.raises(UserError, match="features of samples 8 are NaN or infinite, and would stay in the queue"):
        queue.push(features, torch.tensor([7, 8]))
    assert all(torch.equal(kept, before[name]) for name, kept in queue.state_dict().items())


def test_rows_are_those_of_normalize_to_the_bit_however_long():
    queue = FeatureQueue(dim=3, size=4)
    rows = torch.stack([torch.randn(3), torch.zeros(3), torch.full((3,), 3e38), torch.full((3,), 1e-13)])
    queue.push(rows)
    assert torch.equal(queue.features, F.normalize(rows, dim=1))


def test_other_mistakes_are_explained():
    queue = FeatureQueue(dim=2, size=8)
    with pytest.raises(UserError, match=r"\[B, 2\]"):
        queue.push(torch.ones(4, 3))
    with pytest.raises(UserError, match="at least one feature"):
        FeatureQueue(dim=2, size=0)


def test_state_resumes_to_the_bit():
    queue = FeatureQueue(dim=2, size=6)
    queue.push(torch.randn(2, 2), torch.tensor([1, 2]))
    again = FeatureQueue(dim=2, size=6)
    again.load_state_dict(copy.deepcopy(queue.state_dict()))
    batch = torch.randn(2, 2)
    for one in (queue, again):
        one.push(batch, torch.tensor([3, 4]))
    assert all(torch.equal(a, b) for a, b in zip(queue.buffers(), again.buffers(), strict=True))


@pytest.mark.parametrize("counts", [[2, 2], [1, 3]])
def test_two_processes_keep_the_queue_of_one(counts):
    features, ids = torch.randn(4, 3), torch.arange(4)
    torch.manual_seed(0)
    alone = FeatureQueue(dim=3, size=8)
    alone.push(features, ids)
    for state in run(push, 2, features, ids, counts):
        for name, value in alone.state_dict().items():
            assert torch.equal(torch.as_tensor(state[name]), value), name


def test_two_processes_refuse_the_same_by_the_sample_of_either():
    features = torch.ones(4, 3)
    features[2, 1] = torch.nan
    with pytest.raises(UserError, match="features of samples 12 are NaN or infinite, and would stay in the queue"):
        run(push, 2, features, torch.arange(10, 14), [1, 3])
