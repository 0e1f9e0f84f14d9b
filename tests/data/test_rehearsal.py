"""Tasks of classes, the memory that is rehearsed, batches with a quota of it."""

import pytest
import torch

from nearfar.data.rehearsal.class_tasks import class_tasks
from nearfar.data.rehearsal.rehearsal_batches import RehearsalBatchSampler
from nearfar.data.rehearsal.rehearsal_memory import RehearsalMemory, class_shares, herded
from nearfar.errors import UserError


def test_every_class_is_in_one_task():
    for seed in (None, 0, 1):
        tasks = class_tasks(9, 4, seed=seed)
        assert [len(task) for task in tasks] == [3, 2, 2, 2]
        assert sorted(each for task in tasks for each in task) == list(range(9))
    assert class_tasks(9, 3, seed=0) == class_tasks(9, 3, seed=0) != class_tasks(9, 3, seed=1)
    for tasks, words in (
        (10, "each task needs a class"),
        (0, "each task needs"),
        ([4, 4], "9 together"),
        ([9, 0], "9"),
    ):
        with pytest.raises(UserError, match=words):
            class_tasks(9, tasks)


@pytest.mark.parametrize("selection", ["random", "herding"])
def test_a_memory_never_grows_and_holds_every_class(selection):
    memory = RehearsalMemory(7, selection=selection)
    chance = torch.Generator().manual_seed(0)
    for task in range(3):
        numbers = torch.arange(100 * task, 100 * task + 40)
        label = 2 * task + torch.arange(40) % 2
        before = dict(memory.kept)
        memory.update(numbers, label, torch.randn(40, 8, generator=chance))
        assert len(memory) <= 7
        assert sorted(memory.kept) == list(range(2 * task + 2))
        assert all(memory.kept.values())
        assert all(members[: len(memory.kept[name])] == memory.kept[name] for name, members in before.items())
    assert all(number // 100 == name // 2 for name, members in memory.kept.items() for number in members)
    assert len(set(memory.numbers())) == len(memory) == 7


def test_classes_of_unequal_sizes_by_the_policy_that_is_named():
    """Size 10, classes of 2, 50, 50: 2 + 4 + 4, or 2 + 3 + 3."""
    label = torch.tensor([0] * 2 + [1] * 50 + [2] * 50)
    for share, counts in (("redistributed", [2, 4, 4]), ("fixed", [2, 3, 3])):
        memory = RehearsalMemory(10, share=share)
        memory.update(torch.arange(102), label)
        assert [len(memory.kept[name]) for name in range(3)] == counts
    assert class_shares({4: 50, 5: 50, 6: 50}, 10, "redistributed") == {4: 3, 5: 3, 6: 4}


def test_herding_takes_first_the_sample_nearest_to_the_mean():
    features = torch.nn.functional.normalize(torch.randn(30, 5, generator=torch.Generator().manual_seed(1)), dim=1)
    order = herded(features, 30)
    assert order[0] == (features - features.mean(0)).norm(dim=1).argmin()
    assert sorted(order.tolist()) == list(range(30))
    for count in (2, 5, 10):  # each is the best one to add
        kept = features[order[: count - 1]].sum(0)
        distance = (features.mean(0) - (kept + features) / count).norm(dim=1)
        distance[order[: count - 1]] = torch.inf
        assert order[count - 1] == distance.argmin()
    memory = RehearsalMemory(3, selection="herding")
    memory.update(torch.arange(30), torch.zeros(30, dtype=torch.long), features)
    assert memory.kept[0] == order[:3].tolist()


def test_what_a_memory_refuses():
    memory = RehearsalMemory(2)
    memory.update(torch.arange(4), torch.tensor([0, 0, 1, 1]))
    with pytest.raises(UserError, match="class 1 is in the memory already"):
        memory.update(torch.arange(2), torch.tensor([1, 1]))
    with pytest.raises(UserError, match="3 classes, and a memory of 2"):
        memory.update(torch.arange(2), torch.tensor([2, 2]))
    with pytest.raises(UserError, match="pass them, or selection='random'"):
        RehearsalMemory(2, selection="herding").update(torch.arange(2), torch.tensor([2, 2]))
    with pytest.raises(UserError, match="of the same samples"):
        memory.update(torch.arange(2), torch.tensor([2]))
    with pytest.raises(UserError, match="selection='best': choose one of random, herding"):
        RehearsalMemory(2, selection="best")


def test_an_epoch_is_that_of_the_new_samples():
    """10 new samples in batches of 10 beside a memory of 1,000: one step, with the quota two."""
    assert len(RehearsalBatchSampler(range(10), range(1000), batch_size=10, quota=0)) == 1
    sampler = RehearsalBatchSampler(range(10), range(100, 1100), batch_size=10, quota=5)
    batches = list(sampler)
    assert [len(batch) for batch in batches] == [10, 10]
    assert sorted(number for batch in batches for number in batch if number < 100) == list(range(10))
    assert len({number for batch in batches for number in batch if number >= 100}) == 10
    small = list(RehearsalBatchSampler(range(9), range(100, 102), batch_size=6, quota=3))
    assert all(sum(number >= 100 for number in batch) == 3 for batch in small)
    assert len(next(iter(RehearsalBatchSampler(range(4), [], batch_size=4, quota=2)))) == 4  # an empty memory
    with pytest.raises(UserError, match="new samples need a place"):
        RehearsalBatchSampler(range(9), [1], batch_size=4, quota=4)


def test_epochs_differ_and_are_the_same_again():
    sampler = RehearsalBatchSampler(range(20), range(100, 110), batch_size=5, quota=1)
    first, second = list(sampler), list(sampler)
    assert first != second
    sampler.set_epoch(0)
    assert list(sampler) == first


def test_herding_does_not_look_at_the_lengths_of_features():
    chance = torch.Generator().manual_seed(2)
    features = torch.randn(20, 5, generator=chance)
    lengths = torch.rand(20, 1, generator=chance) * 50 + 0.1
    assert herded(features * lengths, 8).tolist() == herded(features, 8).tolist()


def test_another_seed_keeps_other_samples():
    kept = []
    for seed in (0, 0, 1):
        memory = RehearsalMemory(6, seed=seed)
        memory.update(torch.arange(80), torch.arange(80) % 2)
        kept.append(memory.kept)
    assert kept[0] == kept[1] != kept[2]
