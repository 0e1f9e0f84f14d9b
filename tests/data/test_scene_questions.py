"""Questions about scenes: true, the same everywhere, and not to be answered by their words."""

from collections import Counter, defaultdict

import numpy as np
import pytest

from data.scene_truth import holds, parts_of
from nearfar.data import open_source
from nearfar.data.scenes import COLOURS, KINDS, questions
from nearfar.errors import UserError


def test_answers_are_true_of_the_picture():
    for record in questions("train", vocabulary="basic", n=400, seed=2):
        things, (answer,), text = record["objects"], record["answers"], record["text"]
        names = {thing["name"]: thing for thing in things}
        pixels = np.asarray(record["image"])
        assert pixels.shape == (64, 64, 3)
        assert all(thing["mask"].any() for thing in things)
        kind = record["question_type"]
        if kind == "colour":
            (name,) = [name for name in names if text == f"what colour is the {name}?"]
            assert answer == names[name]["colour"]
        elif kind == "count":
            colour = text.removeprefix("how many ").removesuffix(" things are there?")
            assert int(answer) == sum(thing["colour"] == colour for thing in things)
        elif kind == "presence":
            looks = text.removesuffix("?").split(" ", 3)[3]
            there = {*names, *(f"{thing['colour']} {thing['name']}" for thing in things)}
            assert answer == ("yes" if looks in there else "no")
        elif kind == "relation":
            first, relation, second = parts_of(text, things)
            assert holds(relation, first, second) == (answer == "yes")
        else:
            first, relation, second = parts_of(f"is the {answer} {text.removeprefix('what is ')}", things)
            assert holds(relation, first, second)


def test_the_words_do_not_give_the_answer_away():
    by_kind = defaultdict(lambda: defaultdict(Counter))
    for record in questions("train", vocabulary="shapes", size=32, n=6000):
        by_kind[record["question_type"]][record["text"]][record["answers"][0]] += 1
    assert set(by_kind) == set(KINDS)
    for kind, most in (("presence", 0.55), ("relation", 0.55), ("colour", 0.2), ("count", 0.35), ("thing", 0.25)):
        counts = by_kind[kind]
        assert 1000 < sum(sum(answers.values()) for answers in counts.values()) < 1400, kind
        right, guessed = foretold(counts)
        assert guessed > 1000, kind
        assert right / guessed < most, kind
    yes = Counter(
        answer for kind in ("presence", "relation") for a in by_kind[kind].values() for answer in a.elements()
    )
    assert abs(yes["yes"] / yes.total() - 0.5) < 0.04


def foretold(counts):
    """How often an answer is the commonest one of all other records with the same question, and of how many records:
    a guess that knows the whole question and not the picture. Of answers that are as common one is drawn."""
    right, guessed = 0.0, 0
    for answers in counts.values():
        for answer, times in answers.items():
            others = answers - Counter([answer])
            likely = [each for each in others if others[each] == max(others.values())]
            if likely:
                right += times * (answer in likely) / len(likely)
                guessed += times
    return right, guessed


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_few_nouns_in_few_pairs_are_enough(split):
    """The splits share eight shapes by pairs, and val may own a single pair: what is absent must still be found."""
    source = questions(split, vocabulary="shapes", n=200, kinds=["presence"], objects=5, size=48)
    assert Counter(record["answers"][0] for record in source).keys() == {"yes", "no"}


def test_one_record_whatever_the_length_and_splits_apart():
    assert questions(n=5)[3]["text"] == questions(n=50)[3]["text"]
    assert questions(n=5, seed=1)[3]["text"] != questions(n=5)[3]["text"]
    pairs = {
        split: {
            frozenset(t["name"] for t in r["objects"])
            for r in questions(split, vocabulary="basic", n=200, kinds=["thing"])
        }
        for split in ("train", "val", "test")
    }
    assert not pairs["train"] & pairs["test"]
    assert not pairs["train"] & pairs["val"]


def test_opened_by_name_with_its_columns():
    source = open_source("world/questions", split="test", vocabulary="shapes", n=3, kinds=["colour"])
    assert source.name == "world/questions:test"
    assert set(source[0]) == set(source.columns)
    assert source[0]["answers"][0] in COLOURS
    for held in (source, source.first(2)):  # a part of the data knows where to train as the whole does
        assert held.training().plan.split == "train"
        assert held.training().plan.seed != source.plan.seed
        assert held.training().kinds == ("colour",)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"kinds": ["smell"]}, "choose some of: colour, presence"),
        ({"kinds": []}, "choose some of"),
        ({"objects": 1}, "2 to 5 things"),
        ({"split": "dev"}, "split has no 'dev'"),
        ({"relations": ["beside"]}, "relations has no 'beside'"),
    ],
)
def test_what_cannot_be_asked_is_refused(wrong, says):
    with pytest.raises(UserError, match=says):
        questions(**wrong)
