"""Hard negative captions: which units are found, what is swapped, and what never is."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nearfar.data.mining.grammar import noun_phrases, sentence, tags, units, words
from nearfar.data.mining.swaps import CaptionSwapper, swap
from nearfar.errors import UserError

CAPTION = "a big red dog quickly chases two small cats near the old house"


def test_tags_of_a_caption():
    tagged = tags(words(CAPTION))
    assert [t for t in tagged if t in ("noun", "adjective", "adverb", "verb", "number")] == [
        *("adjective", "adjective", "noun", "adverb", "verb", "number", "adjective", "noun", "adjective", "noun")
    ]


def test_noun_phrases_are_whole_and_apart():
    tokens = words(CAPTION)
    assert [" ".join(tokens[a:b]) for a, b in noun_phrases(tags(tokens))] == [
        "a big red dog",
        "two small cats",
        "the old house",
    ]


@given(st.text(alphabet="abc ,.'-", max_size=40))
@settings(max_examples=50, deadline=None)
def test_words_lose_no_letter(text):
    assert "".join(words(text)).replace(" ", "") == text.replace(" ", "")
    assert words(sentence(words(text))) == words(text)


@given(st.data())
@settings(max_examples=50, deadline=None)
def test_a_swap_undone_is_the_caption(data):
    tokens = CAPTION.split()
    a, b, c, d = sorted(data.draw(st.lists(st.integers(0, len(tokens)), min_size=4, max_size=4)))
    swapped = swap(tokens, (a, b), (c, d))
    assert sorted(swapped) == sorted(tokens)
    assert swap(swapped, (a, a + d - c), (d - (b - a), d)) == tokens


def test_overlapping_spans_are_refused():
    with pytest.raises(ValueError, match="overlap"):
        swap(["a", "b", "c"], (0, 2), (1, 3))


def test_each_kind_gives_at_most_one_negative_of_the_same_words():
    negatives = CaptionSwapper()(CAPTION)
    assert set(negatives) == {"noun", "adjective", "noun_phrase"}
    for negative in negatives.values():
        assert negative != CAPTION
        assert sorted(words(negative)) == sorted(words(CAPTION))


def test_nothing_to_swap():
    swapper = CaptionSwapper()
    assert swapper("a dog") == {}
    assert swapper("") == {}
    assert swapper("a red car and a red car") == {}
    assert swapper.report.captions == 3
    assert swapper.report.with_negatives == 0
    assert swapper.report.without["noun"] == 3


def test_a_symmetric_conjunction_is_no_negative():
    assert CaptionSwapper(kinds=("noun_phrase",))("a cat and a dog") == {}
    kept = CaptionSwapper(kinds=("noun_phrase",), keep_symmetric=True)("a cat and a dog")
    assert kept == {"noun_phrase": "a dog and a cat"}


def test_articles_agree_unless_left_alone():
    caption = "a red car is left of an orange house"
    assert CaptionSwapper(("adjective",))(caption)["adjective"] == "an orange car is left of a red house"
    as_is = CaptionSwapper(("adjective",), fix_articles=False)(caption)["adjective"]
    assert as_is == "a orange car is left of an red house"


def test_the_choice_depends_on_seed_and_caption_alone():
    first = CaptionSwapper(seed=1).corpus([CAPTION, "a red car is left of a blue house"])
    random.seed(5)
    again = CaptionSwapper(seed=1).corpus(["a red car is left of a blue house", CAPTION])
    assert first == again[::-1]
    many = {CaptionSwapper(("noun",), seed=s)(CAPTION)["noun"] for s in range(20)}
    assert len(many) > 1


def test_the_report_counts_and_shows():
    swapper = CaptionSwapper(("adjective", "adverb"))
    swapper.corpus([CAPTION, "a dog"])
    text = str(swapper.report)
    assert "2 captions, 1 (50%)" in text
    assert "adjective: 1 negatives, 1 captions without" in text
    assert CAPTION in text


def test_unknown_kinds_are_named():
    with pytest.raises(UserError, match=r"no kind of units 'pronoun'\."):
        CaptionSwapper(("pronoun",))


def test_units_of_verbs():
    tokens = words("a dog is slowly chasing a cat while a bird sings")
    assert [" ".join(tokens[a:b]) for a, b in units(tags(tokens), "verb_phrase")] == ["is slowly chasing", "sings"]
