import copy

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from methods.memory_work import fill
from nearfar.errors import UserError
from nearfar.methods.parts.clustered_memory import ClusteredMemory
from training.ranks import run

E1, E2 = torch.eye(2)


def two_clusters(**settings):
    """Six places, filled with three rows about each axis: ids 0 to 2 and 3 to 5."""
    memory = ClusteredMemory(2, 6, 2, **settings)
    near = torch.tensor([[1.0, 0.0], [1.0, 0.1], [1.0, 0.2]])
    memory.push(torch.cat([near, near.flip(1)]), torch.arange(6))
    return memory


def test_it_is_a_ring_whatever_the_size_of_batches():
    memory = ClusteredMemory(2, 5, 2)
    rows = torch.stack([torch.cos(torch.arange(13.0) / 9), torch.sin(torch.arange(13.0) / 9)], 1)
    a, b, c = torch.arange(3), torch.arange(3, 6), torch.arange(6, 13)
    memory.push(rows[a] * 7, a)
    assert (len(memory), memory.clustered) == (3, False)
    memory.push(rows[b], b)
    assert memory.index.tolist() == [5, 1, 2, 3, 4]
    assert (int(memory.pointer), len(memory), memory.clustered) == (1, 5, True)
    memory.push(rows[c], c)
    assert sorted(memory.index.tolist()) == [8, 9, 10, 11, 12], "of seven the last five"
    torch.testing.assert_close(memory.features, rows[memory.index])
    torch.testing.assert_close(memory.features.norm(dim=1), torch.ones(5))


def test_clusters_when_it_is_full_and_prototypes_are_means_of_their_members():
    memory = two_clusters()
    first, second = int(memory.label[0]), int(memory.label[3])
    assert memory.label.tolist() == [first] * 3 + [second] * 3
    memory.push(torch.tensor([[0.3, 1.0], [1.0, 0.3]]), torch.tensor([6, 7]))
    assert memory.label[:2].tolist() == [second, first]
    for label in (first, second):
        members = memory.features[memory.label == label]
        torch.testing.assert_close(memory.prototypes[label], members.mean(0))


def test_a_prototype_without_members_stays_and_momentum_keeps_a_share():
    for empty in (0, 1):
        memory = two_clusters()
        memory.label.fill_(1 - empty)
        before = memory.prototypes.clone()
        memory._follow_members()
        assert torch.equal(memory.prototypes[empty], before[empty])
        torch.testing.assert_close(memory.prototypes[1 - empty], memory.features.mean(0))
    memory = two_clusters(momentum=0.75)
    old = memory.prototypes.clone()
    memory.push(torch.tensor([[0.3, 1.0], [1.0, 0.3]]), torch.tensor([6, 7]))
    means = torch.stack([memory.features[memory.label == label].mean(0) for label in (0, 1)])
    torch.testing.assert_close(memory.prototypes, 0.75 * old + 0.25 * means)


@pytest.mark.parametrize(("score", "near"), [("distance", True), ("cosine", True), ("official", False)])
def test_the_sign_of_the_score(score, near):
    """(e1, e1, e2, e2) on prototypes (e1, e2): the released code's sign assigns each to the far one."""
    memory = two_clusters(score=score)
    memory.prototypes.copy_(torch.eye(2))
    assert memory.assign(torch.stack([E1, E1, E2, E2])).tolist() == ([0, 0, 1, 1] if near else [1, 1, 0, 0])


def test_neighbours_are_of_the_own_cluster_and_never_the_sample_itself():
    memory = two_clusters()
    neighbours = memory.neighbours(torch.tensor([[2.0, 0.0]]), 2, torch.tensor([0]))
    assert neighbours.ids.tolist() == [[1, 2]]
    torch.testing.assert_close(neighbours.cosine[0], torch.tensor([1 / 1.01**0.5, 1 / 1.04**0.5]))
    assert torch.equal(neighbours.features[0], memory.features[[1, 2]])
    without = memory.neighbours(torch.tensor([[2.0, 0.0]]), 2)
    assert without.ids.tolist() == [[0, 1]], "without ids its own copy is the nearest"
    # Its cluster has two others: the whole memory is searched.
    assert memory.neighbours(torch.tensor([[2.0, 0.0]]), 3, torch.tensor([0])).ids.tolist() == [[1, 2, 5]]
    all_six = memory.neighbours(torch.tensor([[2.0, 0.0]]), 6, torch.tensor([0]))
    assert (all_six.ids[0, -1], all_six.cosine[0, -1], all_six.features[0, -1].norm()) == (-1, -torch.inf, 0)


def test_more_queries_than_a_tile_are_the_same():
    memory, queries = two_clusters(), F.normalize(torch.randn(600, 2), dim=1)
    whole = memory.neighbours(queries, 2).ids
    parts = [memory.neighbours(part, 2).ids for part in queries.split(1)]
    assert torch.equal(whole, torch.cat(parts))


def test_a_search_changes_nothing_and_carries_no_gradient():
    memory = two_clusters()
    before = copy.deepcopy(memory.state_dict())
    query = torch.randn(3, 2, requires_grad=True)
    assert not memory.neighbours(query, 2).features.requires_grad
    assert all(torch.equal(value, before[name]) for name, value in memory.state_dict().items())


def test_it_refuses_what_is_not_finite_by_name():
    memory = two_clusters()
    before = copy.deepcopy(memory.state_dict())
    with pytest.raises(UserError, match="features of samples 41 are NaN or infinite, and would stay in the memory"):
        memory.push(torch.tensor([[1.0, 0.0], [torch.nan, 1.0]]), torch.tensor([40, 41]))
    assert all(torch.equal(value, before[name]) for name, value in memory.state_dict().items())


def test_state_resumes_to_the_bit():
    memory, again = two_clusters(), ClusteredMemory(2, 6, 2)
    again.load_state_dict(copy.deepcopy(memory.state_dict()))
    batch = torch.tensor([[0.5, 1.0], [1.0, 0.6]])
    for one in (memory, again):
        one.push(batch, torch.tensor([8, 9]))
    assert all(torch.equal(a, b) for a, b in zip(memory.buffers(), again.buffers(), strict=True))


def test_two_processes_keep_the_memory_of_one():
    batches = torch.randn(4, 6, 4, generator=torch.Generator().manual_seed(0))
    state, neighbours, said = fill(batches)
    assert "samples 5 are" in said
    for theirs, their_neighbours, theirs_said in run(fill, 2, batches):
        for name, value in state.items():
            assert np.array_equal(theirs[name], value), name
        assert np.array_equal(their_neighbours, neighbours)
        assert theirs_said == said


def stream(score):
    """Share of members in the class that rules their cluster, before and after 60 batches of 20 Gaussian classes."""
    draw = torch.Generator().manual_seed(0)
    centres = torch.randn(20, 32, generator=draw) * 0.5
    memory = ClusteredMemory(32, 2000, 50, score=score)

    def batch(count):
        kind = torch.randint(20, (count,), generator=draw)
        return centres[kind] + 0.7 * torch.randn(count, 32, generator=draw), kind

    def purity():
        kinds = torch.zeros(50, 20).index_put_((memory.label, memory.index), torch.ones(2000), accumulate=True)
        return float(kinds.max(1).values.sum() / 2000)

    memory.push(*batch(2000))
    before = purity()
    for _ in range(60):
        memory.push(*batch(128))
    return before, purity()


def test_partitions_hold_with_the_right_sign_and_fall_apart_with_the_official_one():
    before, after = stream("distance")
    assert before > 0.8
    assert after > 0.7
    assert stream("official")[1] < 0.3


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ClusteredMemory(2, 3, 3), "and more places than clusters"),
        (lambda: ClusteredMemory(2, 9, 3, score="euclid"), "choose distance, cosine or official"),
        (lambda: ClusteredMemory(2, 9, 3, momentum=2), "a share in"),
        (lambda: ClusteredMemory(2, 9, 3).neighbours(torch.ones(1, 2), 1), "no clusters before it is full"),
        (lambda: ClusteredMemory(2, 9, 3).recluster(), "holds 0 of 9"),
        (lambda: two_clusters().neighbours(torch.ones(1, 2), 7), "k=7"),
        (lambda: two_clusters().push(torch.ones(1, 3), torch.ones(1)), r"features \[B, 2\] with ids \[B\]"),
    ],
)
def test_mistakes_are_sentences(call, message):
    with pytest.raises(UserError, match=message):
        call()
