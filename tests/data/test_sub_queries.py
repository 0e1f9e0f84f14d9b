"""Queries about parts of scenes with all that they are true of, and pairs of queries and descriptions of scenes."""

from random import Random

import pytest

from nearfar.data import open_source
from nearfar.data.descriptions.scene_description import ObjectDescription, Relation, SceneDescription
from nearfar.data.descriptions.sub_queries import Part, drawn_parts, holds, sub_queries
from nearfar.errors import UserError


def thing(name, *attributes, count=1, actions=(), relations=()):
    return ObjectDescription(name, count, attributes, actions, "", tuple(Relation(*each) for each in relations))


SCENES = [
    SceneDescription("", (thing("car", "red", "small"), thing("dog", "brown", actions=("running",)))),
    SceneDescription("", (thing("car", "red"), thing("car", "blue"))),
    SceneDescription("", (thing("car", "blue", count=2), thing("tree", "old", relations=[("left of", "car")]))),
    SceneDescription("nothing named"),
]


def test_a_query_has_every_scene_that_it_is_true_of():
    queries = {query.text: query for query in sub_queries(SCENES, each=40)}
    assert queries["a red car"].positives == (0, 1)
    assert queries["a blue car"].positives == (1, 2)
    assert queries["a red small car"].positives == (0,)
    assert queries["a dog running"].positives == (0,)
    assert queries["an old tree"].positives == (2,)
    assert queries["a tree left of a car"].positives == (2,)
    for query in queries.values():
        assert query.positives == tuple(n for n, scene in enumerate(SCENES) if holds(query.parts, scene))
        assert 3 <= len(query.text.split()) <= 8
    both = [query for query in queries.values() if len(query.parts) == 2]
    assert both
    assert all(query.positives for query in queries.values())


def test_each_part_is_another_thing():
    red, blue, car = Part("car", ("red",)), Part("car", ("blue",)), Part("car")
    assert holds([red, blue], SCENES[1])
    assert holds([blue, red], SCENES[1])
    assert not holds([red, red], SCENES[1])
    assert holds([car, red], SCENES[1])  # the first car must leave the red one to the other
    assert holds([blue, blue], SCENES[2])
    assert not holds([blue, blue, blue], SCENES[2])
    assert not holds([Part("car", ("red", "blue"))], SCENES[1])


def test_ambiguous_queries_can_be_left_out_and_draws_repeat():
    assert all(len(query.positives) == 1 for query in sub_queries(SCENES, each=40, most_positives=1))
    assert sub_queries(SCENES, each=2, seed=1) == sub_queries(SCENES, each=2, seed=1)
    assert sub_queries(SCENES, each=1, seed=1) != sub_queries(SCENES, each=1, seed=2)
    alone = drawn_parts(SCENES[0], 2, (3, 8), Random("sub-queries 1 0"))
    assert alone.keys() <= {query.text for query in sub_queries(SCENES, each=2, seed=1)}
    assert sub_queries(SCENES[3:]) == []
    with pytest.raises(UserError, match="numbers from 1 on"):
        sub_queries(SCENES, words=(5, 4))


def test_scenes_as_queries_and_descriptions():
    data = open_source("world/described", n=30, seed=3)
    assert (data.name, len(data)) == ("world/described:train", 30)
    for record in data:
        scene = SceneDescription.from_json(record["scene"])
        assert len(scene.objects) == 3
        assert len(record["text"]) == 4
        assert all(each.phrase in record["text2"] for each in scene.objects)
        for query in record["text"][1:]:
            names = [each for each in scene.objects if each.name in query]
            assert names
    assert data[7] == data[7]
    assert open_source("world/described", n=40, seed=3)[29] == data[29]
    assert open_source("world/described", n=5, split="test")[0] != open_source("world/described", n=5)[0]


def test_false_queries_are_asked_for_and_false():
    plain, hard = (open_source("world/described", n=20, false_queries=wish) for wish in (False, True))
    assert "negative_text" not in plain.columns
    for record in hard:
        assert len(record["negative_text"]) == 2
        assert not {*record["negative_text"]} & {*record["text"]}
    with pytest.raises(UserError, match="2 to 5 things"):
        open_source("world/described", objects=1)
