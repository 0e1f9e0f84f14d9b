"""How far apart nouns are in WordNet: the shortest path, up and down, by the first sense."""

import pytest

from data.mini_wordnet import write
from nearfar.data import wordnet
from nearfar.errors import UserError


@pytest.fixture
def folder(tmp_path):
    wordnet.Nouns.of.cache_clear()
    return write(tmp_path)


def test_the_fewest_steps_over_any_path(folder):
    """dog - domestic animal - animal, beside dog - canine - carnivore: to animal the shorter one counts, to cat the one
    over carnivore."""
    names = ["dog", "animal", "cat", "car", "entity"]
    assert wordnet.distances(names, folder=folder).tolist() == [
        [0, 2, 4, 7, 4],
        [2, 0, 3, 5, 2],
        [4, 3, 0, 8, 5],
        [7, 5, 8, 0, 3],
        [4, 2, 5, 3, 0],
    ]


def test_instances_plurals_spaces_and_imagenet_s_ids(folder):
    rows = wordnet.distances(["Rex", "dogs", "boxes", "domestic animal", "n00000500", "beast"], folder=folder)
    assert rows[0].tolist() == [1 if i else 0 for i in [0, 1]] + [1 + 6, 2, 1, 3]
    assert rows[1, 4] == 0
    assert rows[3, 5] == 1
    pups = wordnet.distances(["pup 0", "pup 9", "dog", "entity"], folder=folder)
    assert pups[1].tolist() == [0, 0, 1, 5]


def test_words_that_are_no_nouns_are_named(folder):
    with pytest.raises(UserError, match="WordNet has no noun unsorted, n00000999: rename these classes"):
        wordnet.distances(["dog", "unsorted", "n00000999"], folder=folder)


def test_where_wordnet_is_not(tmp_path):
    with pytest.raises(UserError, match=r"install it \(`apt install wordnet-base`\), or name the folder"):
        wordnet.distances(["dog"], folder=tmp_path)


def test_files_that_are_something_else(tmp_path):
    for name in ("index.noun", "data.noun"):
        (tmp_path / name).write_text("dog is a word\n")
    with pytest.raises(UserError, match="are not WordNet's"):
        wordnet.distances(["dog"], folder=tmp_path)
