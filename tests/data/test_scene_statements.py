"""Statements about scenes: as true or false as they are said to be, and not to be judged by their words."""

from collections import Counter, defaultdict

import pytest

from data.scene_truth import holds, parts_of
from nearfar.data import open_source
from nearfar.data.scenes import STATEMENT_KINDS, VERDICTS, statements
from nearfar.errors import UserError

NUMBERS = ["no", "one", "two", "three"]


def is_true(record):
    """Whether the statement holds of the things in the scene."""
    things, text = record["objects"], record["text"]
    names = {thing["name"]: thing for thing in things}
    words = text.split()
    match record["statement_kind"]:
        case "thing":
            return text.split(" ", 3)[3] in names
        case "colour":
            return names[text.removeprefix("the ").rpartition(" is ")[0]]["colour"] == words[-1]
        case "count":
            return NUMBERS.index(words[2]) == sum(thing["colour"] == words[3] for thing in things)
    first, _, rest = text.removeprefix("the ").partition(" is ")
    one, relation, other = parts_of(f"is the {first} {rest}?", things)
    return holds(relation, one, other)


def test_the_label_is_the_truth():
    for record in statements("train", vocabulary="basic", n=400, seed=2):
        assert VERDICTS[record["label"]] == ("entailment" if is_true(record) else "contradiction"), record["text"]


def test_the_words_do_not_give_it_away():
    counts = defaultdict(lambda: defaultdict(Counter))
    for record in statements("train", vocabulary="shapes", size=32, n=6000):
        counts[record["statement_kind"]][record["text"]][record["label"]] += 1
    assert set(counts) == set(STATEMENT_KINDS)
    for kind, said in counts.items():
        often = [labels for labels in said.values() if labels.total() >= 30]
        guessed = sum(max(labels.values()) for labels in often) / max(1, sum(labels.total() for labels in often))
        assert guessed < 0.6, kind
        labels = sum(said.values(), Counter())
        assert abs(labels[0] / labels.total() - 0.5) < 0.05, kind


def test_opened_by_name_with_its_columns():
    source = open_source("world/statements", split="test", vocabulary="shapes", n=3, kinds=["colour"])
    assert source.name == "world/statements:test"
    assert set(source[0]) == set(source.columns)
    assert source.classes == ["entailment", "contradiction"]
    for held in (source, source.first(2)):
        assert held.training().plan.split == "train"
        assert held.training().kinds == ("colour",)
    with pytest.raises(UserError, match="choose some of: thing, colour"):
        statements(kinds=["smell"])
    with pytest.raises(UserError, match="statements: objects=6"):
        statements(objects=6)
