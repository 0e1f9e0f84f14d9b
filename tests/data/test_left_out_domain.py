"""One domain left out of data of several, and batches that hold as much of each."""

import pytest
import torch

from nearfar.data import ClassOrder, Loader, Records, world
from nearfar.data.batches.left_out_domain import each_domain_out, leave_domain_out
from nearfar.errors import UserError
from nearfar.training.recipe import load
from nearfar.training.recipe.recipe_data import open_data


def records(domains, names=("art", "photo", "sketch")):
    rows = [{"text": f"sample {i}", "index": 100 + i, "domain": domain} for i, domain in enumerate(domains)]
    return Records(rows, name="samples", domains=list(names))


def test_the_others_and_its_own_with_their_ids():
    others, left_out = leave_domain_out(records([0, 1, 2, 1, 0]), "photo")
    assert (list(others.ids()), list(left_out.ids())) == ([100, 102, 104], [101, 103])
    assert others.domains == ["art", "photo", "sketch"]
    assert "photo" in left_out.name


def test_a_record_of_no_domain_is_in_neither():
    source = Records([{"text": "a", "domain": 0}, {"text": "b"}, {"text": "c", "domain": 1}], domains=["x", "y"])
    others, left_out = leave_domain_out(source, "y")
    assert [each["text"] for each in [*others, *left_out]] == ["a", "c"]


def test_each_in_turn():
    turns = list(each_domain_out(records([0, 2, 2, 0])))
    assert [(name, len(others), len(own)) for name, others, own in turns] == [("art", 2, 2), ("sketch", 2, 2)]


def test_what_cannot_be_left_out():
    with pytest.raises(UserError, match=r"samples: no domain 'foto'\. Did you mean 'photo'"):
        leave_domain_out(records([0, 1]), "foto")
    with pytest.raises(UserError, match="holds no other domain"):
        leave_domain_out(records([1, 1]), "photo")
    with pytest.raises(UserError, match="no records of this domain"):
        leave_domain_out(records([0, 1]), "sketch")
    with pytest.raises(UserError, match="names no domains"):
        leave_domain_out(Records([{"text": "a"}]), "art")


DOMAINS = [0] * 30 + [1] * 4 + [2] * 14


def test_a_batch_holds_as_much_of_each_domain():
    batches = Loader(records(DOMAINS), order=ClassOrder.of(records(DOMAINS), 4, key="domain"), batch_size=12)
    drawn = [batch for epoch in range(8) for batch in epoch_of(batches, epoch)]
    for batch in drawn:
        assert batch["domain"].bincount(minlength=3).tolist() == [4, 4, 4]
    times = torch.cat([batch["index"] for batch in drawn]).bincount(minlength=148)[100:]
    # 8 epochs of 4 batches draw 128 of each domain: each of its 4 exactly 32 times, each of its 30 some times.
    assert (times[30:34] == 32).all()
    assert times[:30].min() >= 1


def epoch_of(batches, epoch):
    batches.set_epoch(epoch)
    return list(batches)


def test_it_is_called_by_what_it_is():
    with pytest.raises(UserError, match="samples has 3 domains, and a batch of 16 samples with 4 of each needs 4"):
        next(iter(Loader(records(DOMAINS), order=ClassOrder.of(records(DOMAINS), 4, key="domain"), batch_size=16)))
    with pytest.raises(UserError, match="has no domains, by which to draw several samples of a domain"):
        ClassOrder.of(Records([{"text": "a"}], name="texts"), 2, key="domain")


def test_subjects_are_classes_of_several_concepts_and_the_same_in_every_split():
    splits = {split: world.emoji(split, subjects=True) for split in ("train", "test")}
    assert splits["train"].classes == splits["test"].classes == world.topics("train").classes
    for source in splits.values():
        record = source[17]
        assert source.classes[record["label"]] == record["subcategory"].replace("-", " ")
    assert world.emoji("test")[7]["label"] == 1


def test_a_recipe_measures_on_the_domain_that_it_left_out():
    own = ["data.train={spec: world/emoji, split: test}", "data.leave_out=noto", "evaluation.data=null"]
    opened = open_data(load("world", [*own, "data.validation=0.1"]))
    assert {each["style"] for each in opened.held_out} == {"noto"}
    assert not any("noto" in {each["style"] for each in part} for part in (opened.source, opened.validated_on))
    opened = open_data(load("world", [*own[:2], "data.validation={spec: world/emoji, split: val}"]))
    assert {each["style"] for each in opened.held_out} == set(world.STYLES), "what the recipe names stays"
    assert {each["style"] for each in opened.validated_on} == {*world.STYLES} - {"noto"}


def test_batches_are_filled_in_one_way():
    with pytest.raises(UserError, match=r"data\.per_class and data\.per_domain both fill the batches"):
        load("world", ["data.per_class=2", "data.per_domain=2"])
