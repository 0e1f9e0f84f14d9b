"""One task of several as a source, and the order of its batches."""

import pytest
import torch

from nearfar.data import Loader, Records, RehearsalOrder, Task, known_so_far, task_source
from nearfar.data.batches.batch import BatchKey
from nearfar.data.fields.field import Field
from nearfar.data.sources.skipped import BadRecord
from nearfar.errors import UserError
from nearfar.training.stages.joined_columns import fields_of

CLASSES = [f"class {number}" for number in range(6)]


@pytest.fixture
def source():
    return Records([{"text": f"t{i}", "label": i % 6} for i in range(60)], name="things", classes=CLASSES)


def batches(source, order=None, **options):
    settings = {"batch_size": 6, "workers": 0} | options
    return list(Loader(source, fields_of(source), order=order, **settings))


def test_a_task_holds_its_classes_and_what_was_kept_of_earlier_ones(source):
    kept_before = set()
    for number in (1, 2, 3):
        task = task_source(source, Task(number, 3, order=5, memory=8, quota=2))
        classes = Task(number, 3, order=5).classes(source)
        rows = list(task)
        new, kept = rows[: task.new], rows[task.new :]
        assert {row["label"] for row in new} == set(classes[number - 1])
        assert len(new) == 20
        assert [row["is_memory"] for row in rows] == [0] * 20 + [1] * len(kept)
        assert len(kept) == (0 if number == 1 else 8)
        assert {row["label"] for row in kept} == {each for own in classes[: number - 1] for each in own}
        assert {row["task"] for row in new} == {number}
        assert all(source[row["index"]]["text"] == row["text"] for row in rows)
        assert not {row["index"] for row in new} & {row["index"] for row in kept}
        earlier = {row["index"] for row in kept}
        if number == 3:  # what is left of the classes that were kept before
            assert {each for each in earlier if source[each]["label"] in classes[0]} <= kept_before
        kept_before = earlier
        known = known_so_far(source, Task(number, 3, order=5))
        assert len(known) == 20 * number
        assert {row["task"] for row in known} == set(range(1, number + 1))
        assert not any(row["is_memory"] for row in known)


def test_each_batch_has_its_quota(source):
    task = task_source(source, Task(3, 3, memory=8, quota=2))
    drawn = batches(task, RehearsalOrder(2))
    assert len(drawn) == 5
    assert all(batch["is_memory"].tolist() == [0, 0, 0, 0, 1, 1] for batch in drawn)
    new = [index for batch in drawn for index in batch["index"][:4].tolist()]
    assert len({*new}) == 20
    kept = [index for batch in drawn for index in batch["index"][4:].tolist()]
    assert len({*kept[:8]}) == 8, "all of the memory before one comes again"
    assert [b["index"].tolist() for b in batches(task, RehearsalOrder(2))] == [b["index"].tolist() for b in drawn]
    halves = [batches(task, RehearsalOrder(2), batch_size=3, rank=rank, world_size=2) for rank in (0, 1)]
    for whole, one, other in zip(drawn, *halves, strict=True):
        assert [*one["index"].tolist(), *other["index"].tolist()] == whole["index"].tolist()


def test_it_goes_on_where_it_stopped(source):
    task = task_source(source, Task(2, 3, memory=8, quota=2))
    loader = Loader(task, fields_of(task), RehearsalOrder(2), batch_size=6)
    whole = [batch["index"].tolist() for batch in loader]
    loader.set_epoch(0)
    iterator = iter(loader)
    first = [next(iterator)["index"].tolist() for _ in range(2)]
    again = Loader(task, fields_of(task), RehearsalOrder(2), batch_size=6)
    again.load_state_dict(loader.state_dict())
    assert first + [batch["index"].tolist() for batch in again] == whole


def test_one_task_is_ordinary_training(source):
    task = task_source(source, Task(1, 1))
    own, plain = batches(task, RehearsalOrder(0)), batches(source)
    assert [batch["index"].tolist() for batch in own] == [batch["index"].tolist() for batch in plain]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"number": 4, "of": 3}, "task 4 of 3"),
        ({"number": 0, "of": 3}, "number is 0, but must be 1 or more"),
        ({"number": 1, "of": 3, "memory": 4}, "memory=4 and quota=0"),
        ({"number": 1, "of": 3, "quota": 4}, "memory=0 and quota=4"),
        ({"number": 1, "of": 3, "selection": "nearest"}, "selection='nearest': choose one of random, herding"),
    ],
)
def test_what_is_refused(settings, message):
    with pytest.raises(UserError, match=message):
        Task(**settings)


def test_data_that_do_not_fit(source):
    with pytest.raises(UserError, match="names no classes"):
        task_source(Records([{"text": "a", "label": 0}]), Task(1, 1))
    with pytest.raises(UserError, match="record 1 has no label"):
        task_source(Records([{"text": "a", "label": 0}, {"text": "b", "label": -1}], classes=["a"]), Task(1, 1))
    with pytest.raises(UserError, match="4 classes, and a memory of 3"):
        task_source(source, Task(3, 3, memory=3, quota=1))
    with pytest.raises(UserError, match="things is no task of several"):
        Loader(source, order=RehearsalOrder(2), batch_size=6)
    with pytest.raises(UserError, match="quota=6 of a batch of 6"):
        Loader(task_source(source, Task(2, 3, memory=8, quota=6)), order=RehearsalOrder(6), batch_size=6)


class Fragile(Field):
    """Of some texts nothing can be made."""

    columns, fixed = ("text",), True
    keys = {"length": BatchKey()}  # noqa: RUF012

    def __init__(self, broken):
        self.broken = broken

    def prepare(self, record, chance):
        if record["text"] in self.broken:
            raise BadRecord("it is broken")
        return len(record["text"])

    def collate(self, parts, chance):
        return {"length": torch.tensor(parts)}


def test_a_broken_record_gives_way_to_one_of_its_kind(source):
    """A rehearsed one to a rehearsed one: the quota stays, and so does the number of new ones."""
    task = task_source(source, Task(3, 3, memory=8, quota=2))
    gone = [*range(0, task.new, 3), *range(task.new, len(task), 3)]
    fields = [*fields_of(task), Fragile({task[place]["text"] for place in gone})]
    drawn = list(Loader(task, fields, RehearsalOrder(2), batch_size=6, max_skipped=0.5))
    assert all(batch["is_memory"].tolist() == [0, 0, 0, 0, 1, 1] for batch in drawn)
    assert not {task[place]["index"] for place in gone} & {
        index for batch in drawn for index in batch["index"].tolist()
    }
