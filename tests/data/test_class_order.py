"""Batches that hold several samples of each of their classes."""

import tracemalloc

import pytest
import torch

from nearfar.data import ClassOrder, Loader, Records, world
from nearfar.data.batches.order import BatchSplit, OrderPlan, mix
from nearfar.errors import UserError
from nearfar.training.recipe import load


def records(labels):
    return Records([{"text": f"sample {i}", "label": label} for i, label in enumerate(labels)], name="samples")


def loader(source, per_class=2, **options):
    return Loader(source, order=ClassOrder.of(source, per_class), **{"batch_size": 8, **options})


def indices(batches):
    return [batch["index"].tolist() for batch in batches]


EVEN = [i // 4 for i in range(48)]  # 12 classes of 4


def test_each_class_of_a_batch_has_so_many_samples_in_it_next_to_one_another():
    for batch in loader(records(EVEN), per_class=4):
        labels = batch["label"].view(2, 4)
        assert (labels == labels[:, :1]).all()
        assert len(labels[:, 0].unique()) == 2
        assert len(batch["index"].unique()) == 8, "a class of four shows each of its samples once"


def test_over_some_epochs_all_samples_come_and_an_epoch_is_as_long_as_the_data():
    batches = loader(records(EVEN))
    assert len(batches) == 6
    drawn = torch.tensor([index for _ in range(20) for index in indices(batches)]).flatten()
    times = drawn.bincount(minlength=48)
    assert times.min() >= 10  # 20 on average
    assert times.max() <= 30


def test_a_class_comes_about_as_often_as_it_has_samples():
    labels = [0] * 40 + [label for label in range(1, 11) for _ in range(4)]
    batches = loader(records(labels), batch_size=4)
    share = [label for _ in range(20) for batch in batches for label in batch["label"].tolist()].count(0) / (20 * 80)
    assert 0.3 < share < 0.5  # a half, less what two of one class in a batch would be


def test_epochs_differ_and_a_seed_gives_the_same_ones():
    batches = loader(records(EVEN), seed=3)
    first, second = indices(batches), indices(batches)
    assert first != second
    again = loader(records(EVEN), seed=3)
    assert indices(again) == first
    assert indices(loader(records(EVEN), seed=4)) != first
    again.set_epoch(1)
    assert indices(again) == second


def test_going_on_inside_an_epoch():
    whole, part = indices(loader(records(EVEN))), loader(records(EVEN))
    taken = iter(part)
    next(taken), next(taken)
    resumed = loader(records(EVEN))
    resumed.load_state_dict(part.state_dict())
    assert indices(resumed) == whole[2:]


def test_two_processes_take_halves_of_one_process_s_batches():
    whole = indices(loader(records(EVEN)))
    halves = [indices(loader(records(EVEN), batch_size=4, rank=rank, world_size=2)) for rank in (0, 1)]
    assert [one + other for one, other in zip(*halves, strict=True)] == whole


def test_small_classes_show_a_sample_twice_and_samples_without_a_class_never_come():
    labels = [0, 1, 1, 2, 2, -1, 3, 3, None, 4, 4]
    batches = loader(records(labels), batch_size=4)
    drawn = [batch for _ in range(10) for batch in batches]
    assert all((batch["label"].view(2, 2)[:, 0] == batch["label"].view(2, 2)[:, 1]).all() for batch in drawn)
    places = {index for batch in drawn for index in batch["index"].tolist()}
    assert places == {0, 1, 2, 3, 4, 6, 7, 9, 10}


def test_another_of_its_class_stands_in_for_what_cannot_be_read():
    source = Records(
        [{"image": b"no picture" if i % 4 == 0 else world.picture(i, "noto"), "label": i // 4} for i in range(16)]
    )
    batches = Loader(source, order=ClassOrder.of(source, 2), batch_size=4, image_size=8, max_skipped=0.5)
    for batch in batches:
        assert (batch["label"].view(2, 2)[:, 0] == batch["label"].view(2, 2)[:, 1]).all()
        assert (batch["index"] % 4 != 0).all()


@pytest.mark.parametrize(
    ("labels", "per_class", "batch_size", "message"),
    [
        (EVEN, 3, 8, "a batch of 8 samples does not divide into 3 of each class"),
        (EVEN, 2, 26, "samples has 12 classes, and a batch of 26 samples with 2 of each needs 13"),
        ([-1, -1, None], 2, 2, "samples has no labels"),
    ],
)
def test_what_cannot_be_drawn(labels, per_class, batch_size, message):
    with pytest.raises(UserError, match=message):
        loader(records(labels), per_class, batch_size=batch_size)


def test_labels_of_another_source():
    with pytest.raises(UserError, match="2 labels do not fit samples, which has 48 records"):
        Loader(records(EVEN), order=ClassOrder([0, 1], 2), batch_size=2)


def test_a_recipe_draws_by_class():
    small = {"data.limit": 100, "training.batch_size": 16, "data.validation": None, "evaluation.data": None}
    batch = next(iter(load("supcon", {**small, "evaluation.watch": []}).build().loader))
    labels = batch["label"].view(4, 4)
    assert (labels == labels[:, :1]).all()
    assert len(labels[:, 0].unique()) == 4


def test_one_way_alone_to_fill_a_batch():
    with pytest.raises(UserError, match=r"data\.per_class and data\.hard_images both fill the batches"):
        load("supcon", ["data.hard_images=2"])


def test_stand_ins_come_as_from_a_list_of_all_others_of_the_class_and_none_is_made():
    labels = [0, 1, 0, 0, 2, 1, 0, 1, -1, 0]
    plan = OrderPlan(records(labels), BatchSplit(4, 0, 1, True), seed=5, shuffle=True)
    order = ClassOrder(labels, 2)
    for place in (place for place, label in enumerate(labels) if label >= 0):
        row = [place, *(other for other in order.members[labels[place]] if other != place)]
        row += [mix(5, 3, place, attempt) % 10 for attempt in range(len(row), 15)]
        candidate = order._row(plan, place, 3)
        assert [candidate(attempt)[0] for attempt in range(15)] == row
        assert candidate(4)[1]()["text"] == f"sample {row[4]}"
    one_class = ClassOrder([0] * 100_000, 2)
    rows = next(one_class.batches(OrderPlan(range(100_000), BatchSplit(2, 0, 1, True), 0, True), 0, {})).rows
    tracemalloc.start()
    try:
        again = [one_class._row(plan, row.candidate(0)[0], 0) for row in rows for _ in range(50)]
        assert tracemalloc.get_traced_memory()[0] < 1000 * len(again)
    finally:
        tracemalloc.stop()
