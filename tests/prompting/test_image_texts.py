"""Texts for single pictures (GIST): the matching against a slow formula, what it never does, files of descriptions."""

import json
from itertools import pairwise
from math import log

import pytest
import torch
from torch.nn.functional import normalize

from nearfar.errors import UserError
from nearfar.losses import InfoNCE
from nearfar.prompting import ClassDescriptions, match_texts
from nearfar.prompting.image_texts.class_descriptions import name_key


def by_formula(f, g, top):
    """The numbers of the greatest softmax(100 <f, g_m>), one picture at a time, in float64."""
    p = (100 * normalize(g.double(), dim=1) @ normalize(f.double(), dim=0)).softmax(0)
    return sorted(range(len(g)), key=lambda m: (-float(p[m]), m))[:top]


def drawn(seed=0, n=40, sizes=(1, 3, 9, 6)):
    g = torch.Generator().manual_seed(seed)
    label = torch.randint(len(sizes), (n,), generator=g)
    return torch.randn(n, 5, generator=g), label, [torch.randn(size, 5, generator=g) for size in sizes]


@pytest.mark.parametrize("top", [1, 4, 20])
def test_the_best_texts_are_those_of_the_formula_and_of_the_own_class(top):
    image, label, texts = drawn()
    matched = match_texts(image, label, texts, top=top)
    for row, (chosen, scores) in enumerate(zip(matched.texts, matched.scores, strict=True)):
        own = texts[label[row]]
        assert chosen == by_formula(image[row], own, top)
        assert len(chosen) == min(top, len(own))
        for number, score in zip(chosen, scores, strict=True):
            cosine = float(normalize(image[row].double(), dim=0) @ normalize(own[number].double(), dim=0))
            assert score == pytest.approx(cosine, abs=1e-12)
        assert all(a >= b - 1e-12 for a, b in pairwise(scores))


def test_length_order_and_company_change_nothing():
    image, label, texts = drawn()
    whole = match_texts(image, label, texts).texts
    scale = torch.rand(len(image), 1, generator=torch.Generator().manual_seed(1)) + 0.1
    assert match_texts(image * scale, label, [3 * each for each in texts]).texts == whole
    turned = torch.randperm(len(image), generator=torch.Generator().manual_seed(2))
    again = match_texts(image[turned], label[turned], texts).texts
    assert [again[turned.tolist().index(row)] for row in range(len(image))] == whole
    assert [match_texts(image[i : i + 1], label[i : i + 1], texts).texts[0] for i in range(len(image))] == whole


def test_other_classes_count_for_nothing():
    """A description of another class that is the picture itself is not taken."""
    eye = torch.eye(4)
    assert match_texts(eye[:1], torch.tensor([0]), [eye[1:3], eye[:1]], top=3).texts == [[0, 1]]


def test_equal_descriptions_come_in_their_order_and_unknown_classes_get_none():
    image, texts = torch.randn(3, 6), torch.randn(2, 6)
    same = torch.cat([texts[:1]] * 3 + [texts[1:]])
    chosen = match_texts(image, torch.tensor([0, -1, 1]), [same, same[:0]], top=4).texts
    assert [number for number in chosen[0] if number < 3] == [0, 1, 2]
    assert chosen[1:] == [[], []]


@pytest.mark.parametrize(
    ("label", "texts", "top", "message"),
    [
        ([0, 2], [torch.ones(1, 3)] * 2, 1, r"a label 2, but descriptions of only 2 classes"),
        ([0, 1], [torch.ones(1, 3), torch.ones(2, 4)], 1, r"class 1 must be \[M, 3\], as wide as the pictures"),
        ([0], [torch.ones(1, 3)], 1, r"must be \[N, D\] and \[N\], got \[2, 3\] and \[1\]"),
        ([0, 0], [torch.ones(1, 3)], 0, "top is 0"),
    ],
    ids=["label", "width", "length", "top"],
)
def test_what_does_not_fit_is_named(label, texts, top, message):
    with pytest.raises(UserError, match=message):
        match_texts(torch.ones(2, 3), torch.tensor(label), texts, top=top)


def test_two_rows_of_one_picture_and_text_cannot_be_told_apart_unless_they_are_no_negatives():
    """Three rows at scale 100, the first two alike: (2/3) ln 2; where a picture's rows are a group, 0."""
    rows = torch.eye(2, dtype=torch.float64)[[0, 0, 1]]
    loss = InfoNCE(0.01, learnable=False)
    assert float(loss(rows, rows)) == pytest.approx(2 / 3 * log(2), abs=1e-12)
    assert float(loss(rows, rows, group=torch.tensor([0, 0, 1]))) == pytest.approx(0.0, abs=1e-12)


def write(path, content):
    path.write_text(json.dumps(content), "utf-8")
    return path


def test_files_as_they_are_published(tmp_path):
    """Names with a line's end, as GIST's file of CUB has them; a single text, as others write it."""
    long = {"black-footed-albatross\n": ["It is dark.", " It has a hook. ", "It is dark."], "bobolink\n": "It sings."}
    short = {"black-footed-albatross": ["dark", "hooked bill", "dark, again"]}
    texts = ClassDescriptions.load(write(tmp_path / "l.json", long), write(tmp_path / "s.json", short))
    assert texts.names == ("black-footed-albatross", "bobolink")
    assert texts.texts == (("It is dark.", "It has a hook."), ("It sings.",))
    assert texts.short == (("dark", "hooked bill"), ("It sings.",))
    own = texts.for_names(["002.Bobolink", "001.Black_footed_Albatross", "hen"], needed=["002.Bobolink"])
    assert own.texts == (("It sings.",), ("It is dark.", "It has a hook."), ())
    assert own.captions(1) == ("Black footed Albatross: dark", "Black footed Albatross: hooked bill")


def test_a_name_as_it_stands_goes_before_one_that_is_alike():
    texts = ClassDescriptions.of({"Red Fox": "a", "red_fox": "b"})
    assert texts.for_names(["red_fox", "Red Fox"]).texts == (("b",), ("a",))
    with pytest.raises(UserError, match="the class 'RED FOX' may be 'Red Fox' or 'red_fox'"):
        texts.for_names(["RED FOX"])
    assert name_key("12.red-fox\n") == name_key("Red_Fox")


@pytest.mark.parametrize(
    ("long", "short", "message"),
    [
        ({"cat": ["a", "b"]}, {"cat": ["c"]}, "the class 'cat' has 2 descriptions and 1 short ones"),
        ({"cat": ["a"]}, {"dog": ["c"]}, "short forms of 'dog', which has no descriptions"),
        ({"cat": ["a", " "]}, None, r"'cat': ' ' is no text"),
        ({"cat": {"a": "b"}}, None, "'cat': write a text or a list of texts"),
        ({"cat": "a", " cat\n": "b"}, None, "the name 'cat' stands there twice"),
        ({}, None, "no class has a description"),
        ([1], None, "must map names to texts"),
    ],
    ids=["count", "other", "blank", "nested", "twice", "empty", "list"],
)
def test_a_file_that_does_not_fit_is_named(tmp_path, long, short, message):
    path = write(tmp_path / "l.json", long)
    forms = None if short is None else write(tmp_path / "s.json", short)
    with pytest.raises(UserError, match=message):
        ClassDescriptions.load(path, forms)


def test_missing_classes_are_named():
    texts = ClassDescriptions.generated(["cat", "dog"], lambda name: [f"a {name} with fur"])
    assert texts.texts == (("a cat with fur",), ("a dog with fur",))
    with pytest.raises(UserError, match="no descriptions of the class 'cats' and 1 more classes"):
        texts.for_names(["cats", "dog", "hen"])
