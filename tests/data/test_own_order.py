"""Which record comes when is an argument: an order of one's own resumes, and is divided among processes."""

import pytest
import torch

from nearfar.data import Loader, Records
from nearfar.data.batches.order import BatchRow, LocalBatch, candidates
from nearfar.errors import UserError

LABELS = [0, 1, 2, 0, 1, 2, 0, 1]


class ClassPairs:
    """Batches of pairs of one class: the places of each class in turn, two by two."""

    def check(self, plan):
        if plan.split.global_batch_size % 2:
            raise UserError("pairs need an even batch")

    def places(self, plan):
        labels = plan.source.column("label")
        by_class = [[i for i, label in enumerate(labels) if label == kind] for kind in sorted(set(labels))]
        return [place for members in by_class for place in members[: len(members) // 2 * 2]]

    def length(self, plan):
        return len(self.places(plan)) // plan.split.global_batch_size

    def batches(self, plan, epoch, state):
        places, size = self.places(plan), plan.split.global_batch_size
        for step in range(state.get("step", 0), self.length(plan)):
            start, stop = plan.split.local_rows(size)
            rows = [BatchRow(candidates(plan, places, epoch, step * size + i)) for i in range(start, stop)]
            yield LocalBatch(rows, start, {"step": step + 1})


def loader(**options):
    records = Records([{"label": label} for label in LABELS], name="classes")
    return Loader(records, [], order=ClassPairs(), **({"batch_size": 2} | options))


def test_it_decides_what_comes_when():
    assert len(loader()) == 3
    assert [batch["index"].tolist() for batch in loader()] == [[0, 3], [1, 4], [2, 5]]
    assert all(len(batch["label"].unique()) == 1 for batch in loader())


def test_it_resumes_where_it_stopped():
    batches = loader()
    iterator = iter(batches)
    next(iterator)
    again = loader()
    again.load_state_dict(batches.state_dict())
    assert [batch["index"].tolist() for batch in again] == [[1, 4], [2, 5]]


def test_processes_share_its_batches():
    parts = [[batch["index"] for batch in loader(batch_size=1, rank=rank, world_size=2)] for rank in range(2)]
    assert [torch.cat(pair).tolist() for pair in zip(*parts, strict=True)] == [[0, 3], [1, 4], [2, 5]]


def test_it_refuses_what_it_cannot_follow():
    with pytest.raises(UserError, match="pairs need an even batch"):
        loader(batch_size=3)
