"""Batches of one cluster each (MCL): pure, without repeats, the same on any number of processes."""

import json
from collections import Counter
from pathlib import Path

import pytest
import torch

from nearfar.data import ClusterBatchSampler, ClusterOrder, Loader, Records
from nearfar.data.batches.cluster_batches import cluster_batches, merged
from nearfar.data.sources.skipped import BadRecord
from nearfar.data.sources.source import Stream
from nearfar.errors import UserError

SIZES = {0: 25, 1: 10, 2: 7}
LABELS = torch.tensor([group for group, size in SIZES.items() for _ in range(size)])


def records(labels=LABELS):
    return Records([{"text": f"number {i}", "cluster": int(label)} for i, label in enumerate(labels)], name="numbers")


def epoch(batch_size=8, *, rank=0, world=1, number=0, labels=LABELS, **options):
    """The ids of each batch of an epoch."""
    loader = Loader(
        records(labels), order=ClusterOrder(**options), batch_size=batch_size, rank=rank, world_size=world, seed=3
    )
    loader.set_epoch(number)
    batches = [batch["index"].tolist() for batch in loader]
    assert len(loader) == len(batches)
    return batches


def groups(batches):
    return [{int(LABELS[i]) for i in batch} for batch in batches]


def test_counts_and_order_of_the_released_sampler():
    """25, 10 and 7 samples in batches of 8: 3 + 1 + 0, in the order 0, 1, 0, 0 with one of each group in turn."""
    batches = epoch(order="round_robin")
    assert groups(batches) == [{0}, {1}, {0}, {0}]
    assert all(len(batch) == 8 for batch in batches)
    assert len({i for batch in batches for i in batch}) == 32
    assert ClusterOrder().coverage(records(), 8) == 32 / 42


@pytest.mark.parametrize("small", ["drop", "merge", "partial"])
def test_a_whole_batch_is_of_one_cluster_over_all_processes(small):
    """Two processes of 4 have between them the batches of one of 8; none repeats a sample."""
    options = {"small": small}
    one = epoch(8, **options)
    two = [epoch(4, rank=rank, world=2, **options) for rank in range(2)]
    joined = [first + second for first, second in zip(*two, strict=True)]
    four = [epoch(2, rank=rank, world=4, **options) for rank in range(4)]
    assert all(len(set(map(len, parts))) == 1 for parts in zip(*four, strict=True)), "a rest of 2 is none for 4"
    if small == "partial":  # a rest is cut to an even number where two processes share it
        assert [set(batch) >= set(both) for batch, both in zip(one, joined, strict=True)] == [True] * len(one)
    else:
        assert joined == one
    label = merged(LABELS, 8) if small == "merge" else LABELS
    for batch in (*one, *joined):
        assert len(set(label[batch].tolist())) == 1
    for batches in (one, joined):
        assert max(Counter(i for batch in batches for i in batch).values()) == 1


def test_separate_draws_would_repeat_samples():
    """Why all processes draw alike: by seed + rank, "every second position" of two permutations is no partition."""
    first, second = (ClusterBatchSampler(LABELS, 4, 2, rank, seed=rank) for rank in range(2))
    taken = [i for batch in (*first, *second) for i in batch]
    assert len(set(taken)) < len(taken)
    first, second = (ClusterBatchSampler(LABELS, 4, 2, rank) for rank in range(2))
    taken = [i for batch in (*first, *second) for i in batch]
    assert len(first) == len(second) == 4
    assert len(set(taken)) == len(taken) == 32


def test_what_small_groups_become():
    assert sorted(map(len, epoch(small="partial"))) == [2, 7, 8, 8, 8, 8], (
        "a single one is left out: it has no negatives"
    )
    # Cluster 2 has 7 and joins the nearest large one, 1.
    assert sorted(map(len, epoch(small="merge"))) == [8] * 5


def test_small_groups_join_their_neighbours_by_number():
    """Numbers 100 to 102 shared the clusters of the earlier stages; 900 is far."""
    labels = torch.tensor([100, 100, 101, 101, 102, 900, 900, 900, 900, 900])
    assert merged(labels, 4).tolist() == [100] * 5 + [900] * 5
    assert merged(torch.tensor([5, 5, 5, 6, 90, 90, 90]), 3).tolist() == [5, 5, 5, 5, 90, 90, 90]
    assert merged(torch.tensor([1, 2, 3]), 9).tolist() == [1, 1, 1], "too few for one batch: all in one"


def test_one_cluster_is_plain_shuffling():
    batches = epoch(8, labels=torch.zeros(42, dtype=torch.long))
    assert len(batches) == 5
    assert len({i for batch in batches for i in batch}) == 40
    assert sorted(i for batch in batches for i in batch) != [i for batch in batches for i in batch]


def test_seed_and_epoch_alone_say_what_comes():
    assert epoch(number=1) == epoch(number=1)
    assert epoch(number=1) != epoch(number=2)
    assert Counter(map(frozenset, groups(epoch(number=1)))) == Counter(map(frozenset, groups(epoch(number=2))))
    drawn = ClusterBatchSampler(LABELS, 8)
    first = list(drawn)
    assert list(drawn) == first
    drawn.set_epoch(1)
    assert list(drawn) != first
    for place in range(2):
        at_end = [list(ClusterBatchSampler(LABELS, 8, seed=seed))[-1][place] for seed in range(20)]
        assert len(set(LABELS[at_end].tolist())) > 1, "the largest cluster does not always come last"


def test_it_goes_on_inside_an_epoch():
    options = {"order": ClusterOrder(small="partial"), "batch_size": 8, "seed": 3}
    whole = [batch["index"].tolist() for batch in Loader(records(), **options)]
    stopped = Loader(records(), **options)
    iterator = iter(stopped)
    first = [next(iterator)["index"].tolist() for _ in range(2)]
    resumed = Loader(records(), **options)
    resumed.load_state_dict(stopped.state_dict())
    assert first + [batch["index"].tolist() for batch in resumed] == whole


def test_a_broken_record_gives_way_to_one_of_its_cluster():
    def broken(record):
        if record["text"] in ("number 3", "number 30"):
            raise BadRecord("it is broken")
        return record

    class Numbers(type(records().map(broken))):
        def column(self, key, default=None):
            return self.source.column(key, default)

    source = Numbers(records(), broken)
    loader = Loader(source, order=ClusterOrder(small="partial"), batch_size=8, max_skipped=0.5)
    for batch in loader:
        ids = batch["index"].tolist()
        assert len({int(LABELS[i]) for i in ids}) == 1
        assert not {3, 30} & set(ids)
    assert loader.skipped.count == 2


class Endless(Stream):
    columns = ("text", "cluster")

    def read(self, part, skip=0):
        return iter([])


def test_what_cannot_be_ordered():
    with pytest.raises(UserError, match="fills a batch of 99: the largest of 3 has 25"):
        epoch(99)
    with pytest.raises(UserError, match="has 25: all of them together are fewer: lower batch_size"):
        epoch(99, small="merge")
    with pytest.raises(UserError, match="has 1: a batch needs two of one cluster: make fewer clusters"):
        epoch(labels=[3, 5, 8], small="partial")
    with pytest.raises(UserError, match="record 0 has no 'label', the number of its cluster"):
        Loader(records(), order=ClusterOrder("label"), batch_size=2)
    with pytest.raises(UserError, match="is a stream"):
        Loader(Endless(), order=ClusterOrder(), batch_size=2)
    with pytest.raises(UserError, match="no small 'keep'"):
        ClusterOrder(small="keep")
    with pytest.raises(UserError, match="no order 'random'"):
        ClusterBatchSampler(LABELS, 8, order="random")
    with pytest.raises(UserError, match="rank 2 of 2 do not fit"):
        ClusterBatchSampler(LABELS, 8, 2, 2)
    with pytest.raises(UserError, match="labels must be whole numbers"):
        cluster_batches(torch.rand(4), 2)


def test_a_million_samples_take_no_loop_over_them():
    """The released sampler walks lists of all samples each epoch."""
    labels = torch.randint(500, (1_000_000,), generator=torch.Generator().manual_seed(0))
    made = cluster_batches(labels, 256)
    assert len(made) == int((labels.bincount() // 256).sum())
    assert len(set(labels[made.batch(len(made) - 1)].tolist())) == 1


RELEASED = json.loads((Path(__file__).parent / "mcl_released.json").read_text())
"""What MCL's released code gives on these labels; the file names its origin and commit."""


@pytest.mark.parametrize("case", [0, 1])
def test_batches_are_those_of_the_released_sampler_but_for_the_draw(case):
    """As many, as large, of the same clusters in the same order, and no sample twice: with one process, and with two
    that draw alike."""
    theirs = RELEASED["sampler"][case]
    world, size = theirs["world"], theirs["batch_size"]
    for rank, released in enumerate(theirs["ranks"]):
        sampler = ClusterBatchSampler(LABELS, size, world, rank, order="round_robin")
        ours = list(sampler)
        assert len(sampler) == released["length"] == len(ours)
        assert groups(ours) == groups(released["batches"])
        assert list(map(len, ours)) == list(map(len, released["batches"]))
    taken = [i for released in theirs["ranks"] for batch in released["batches"] for i in batch]
    assert len(set(taken)) == len(taken) == 32


def test_the_released_sampler_repeats_samples_where_each_process_has_its_seed():
    """It seeds each by seed + rank; ours draws by seed and epoch alone, so that this cannot happen."""
    taken = [i for released in RELEASED["sampler"][2]["ranks"] for batch in released["batches"] for i in batch]
    assert len(taken) == 32
    assert len(set(taken)) < 32
