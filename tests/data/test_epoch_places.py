"""The order of an epoch over a source holds 8 bytes a record, and nothing where it is not shuffled."""

import tracemalloc

import torch

from nearfar.data.batches.order import BatchSplit, OrderPlan, SourceOrder, epoch_places, mix


class Counted:
    """A source that is only counted."""

    def __init__(self, count):
        self.count = count

    def __len__(self):
        return self.count


def plan(count, *, shuffle):
    return OrderPlan(Counted(count), BatchSplit(64, 0, 1, True), seed=3, shuffle=shuffle)


def test_places_are_a_permutation_of_integers():
    places = epoch_places(plan(1000, shuffle=True), 2)
    expected = torch.randperm(1000, generator=torch.Generator().manual_seed(mix(3, 2)))
    assert list(places) == expected.tolist()
    assert type(places[5]) is int
    assert places.nbytes == 8 * 1000


def test_an_epoch_of_many_records_holds_no_list():
    """PyTorch's eight bytes a record are not traced; a list would be, with as many and more."""
    tracemalloc.start()
    for count, shuffle in ((300_000, True), (100_000_000, False)):
        batch = next(SourceOrder().batches(plan(count, shuffle=shuffle), 0, {"step": 1000}))
        assert len(batch.rows) == 64
    assert batch.rows[1].candidate(0)[0] == 64_001
    assert tracemalloc.get_traced_memory()[1] < 300_000
    tracemalloc.stop()
