"""Files of class texts, and the library that a search chooses from."""

import json

import pytest

from nearfar.errors import UserError
from nearfar.prompting import TEMPLATES, ClassTexts, PromptLibrary, expand_templates
from nearfar.prompting.prompt_library import Item
from nearfar.prompting.template_library import BASE


def test_a_file_is_what_was_saved(tmp_path):
    texts = ClassTexts.from_sentences({"Café": ["a café", 'a "small" one'], "dog": ["a dog"]})
    path = texts.save(tmp_path / "new" / "texts.json")
    assert ClassTexts.load(path) == texts
    content = path.read_text("utf-8")
    assert '  "a café",\n' in content
    assert json.loads(content) == {"Café": ["a café", 'a "small" one'], "dog": ["a dog"]}


def test_yaml_and_single_texts_are_read(tmp_path):
    (tmp_path / "a.yaml").write_text("cat: it purrs\ndog:\n  - it barks\n  - ' it barks '\n  - it runs\n", "utf-8")
    assert ClassTexts.load(tmp_path / "a.yaml").sentences == (("it purrs",), ("it barks", "it runs"))
    (tmp_path / "bom.json").write_text('\ufeff{"cat": "it purrs"}', "utf-8")
    assert ClassTexts.load(tmp_path / "bom.json").names == ("cat",)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", '{"cat": }', "no JSON from line 1"),
        ("a.yaml", "cat: [it", "no YAML"),
        ("a.json", "[1]", "must map names to texts"),
        ("a.yaml", "1: it purrs", "the name 1 is no text"),
        ("a.yaml", "no: it purrs", "the name False is no text"),
        ("a.json", '{"cat": []}', "'cat': write a text or a list"),
        ("a.json", '{"cat": ["it purrs", ""]}', "'cat': '' is no text"),
        ("a.json", '{"cat": ["it purrs", 3]}', "'cat': 3 is no text"),
        ("a.json", '{"cat": {"a": "b"}}', "'cat': write a text"),
        ("a.json", "{}", "no classes"),
        ("a.json", '{"cat": "it purrs", "dog": "it barks", "cat": "it climbs"}', "'cat' stands there twice"),
        ("a.yaml", "cat: it purrs\ncat: it climbs\n", "'cat' stands there twice"),
        ("a.yaml", "descriptions: {cat: it purrs, cat: it climbs}\n", "'cat' stands there twice"),
        ("a.yaml", "", "must map names to texts"),
        ("a.yaml", "cat: &a [*a]", "'cat': .* is no text"),
        ("a.yaml", "cat: !!python/object:os.system {}", "no YAML"),
        ("a.txt", "cat: it purrs", "are read from .json, .yaml or .yml"),
        ("none.json", None, "is not there"),
    ],
    ids=str,
)
def test_bad_files_are_named(tmp_path, name, content, message):
    path = tmp_path / name
    if content is not None:
        path.write_text(content, "utf-8")
    with pytest.raises(UserError, match=message):
        ClassTexts.load(path)


def test_classes_are_chosen_by_name():
    texts = ClassTexts.from_sentences({"cat": ["it purrs"], "dog": ["it barks"], "owl": ["it hoots"]})
    assert texts.for_names(["owl", "cat"]).sentences == (("it hoots",), ("it purrs",))
    with pytest.raises(
        UserError, match=r"a\.json: no texts for the class 'dgo' and 1 more classes\. Did you mean 'dog'"
    ):
        texts.for_names(["dgo", "cow"], where="a.json: ")


def test_a_library_grows_by_types_as_in_the_paper():
    """Of 80 templates 43 of which say photo, 3 types make 80 + 3 * 246 = 818."""
    forms = [f"a {i} photo of a {{}}." for i in range(43)] + [f"a {i} sketch of a {{}}." for i in range(37)]
    assert len(expand_templates(forms, ["bird", "wildlife", "ornithology"])) == 818
    assert len(expand_templates(forms, [f"kind {i}" for i in range(6)])) == 1556
    # A type that a template has already gives the same text twice.
    assert len(expand_templates(["a photo of a {}.", "a sketch of a {}."], ["sketch"])) == 7
    assert expand_templates(["a photograph of a {}"], ["bird"]) == (
        "a photograph of a {}",
        "a photograph of a {}, a type of bird",
        "a photograph of a bird: {}",
    )
    assert BASE[0] == "a photo of a {}"
    assert set(BASE) == set(TEMPLATES["full"])
    assert expand_templates() == BASE


def test_items_are_names_with_and_without_descriptions():
    library = PromptLibrary(
        ("Snow Owl",),
        descriptions={"Snow Owl": ("The snow owl is white.", "It hoots; snow owlets do not.")},
        labels={"Snow Owl": ("Bubo", "Snow Owl")},
    )
    items = library.items("Snow Owl")
    assert items[0] == Item("Snow Owl", "")
    assert items == (
        Item("Snow Owl", ""),
        Item("Snow Owl", "The snow owl is white."),
        Item("Snow Owl", "It hoots; snow owlets do not."),
        Item("Bubo", ""),
        Item("Bubo", "The Bubo is white."),
        Item("Bubo", "It hoots; snow owlets do not."),
    )
    assert library.sentence("a photo of a {}.", items[4]) == "a photo of a Bubo. The Bubo is white."
    assert library.sentence("a {}", items[0]) == "a Snow Owl"


def test_features_are_joined_by_a_comma():
    library = PromptLibrary(("cat",), descriptions={"cat": ("whiskers",)}, join=", which has ")
    assert library.sentence("a photo of a {}.", library.items("cat")[1]) == "a photo of a cat, which has whiskers"


def test_a_library_is_read(tmp_path):
    path = tmp_path / "library.yaml"
    path.write_text(
        "templates: ['a photo of a {}.']\ntypes: pet\njoin: ', which has '\n"
        "labels: {cat: [puss]}\ndescriptions: {cat: [whiskers], eel: [fins]}\n",
        "utf-8",
    )
    library = PromptLibrary.load(path, ["cat", "dog"])
    assert len(library.all_templates) == 5
    assert library.described == 1
    assert [item.label for item in library.items("cat")] == ["cat", "cat", "puss", "puss"]
    assert library.items("dog") == (Item("dog", ""),)
    plain = tmp_path / "cupl.json"
    plain.write_text('{"cat": ["A cat purrs."]}', "utf-8")
    assert PromptLibrary.load(plain, ["cat"]) == PromptLibrary(("cat",), descriptions={"cat": ("A cat purrs.",)})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"descriptions": {"Cat": ["A cat purrs."]}}', "of none of the classes: its 'Cat' .* Did you mean 'cat'"),
        ('{"templates": ["a photo"]}', "'a photo' has no {} where"),
        ('{"descriptions": ["A cat purrs."]}', "'descriptions': map each class"),
        ('{"labels": {"cat": [1]}}', "'cat': 1 is no text"),
        ('{"join": 3}', "'join': write the text"),
    ],
    ids=str,
)
def test_bad_libraries_are_named(tmp_path, content, message):
    path = tmp_path / "library.json"
    path.write_text(content, "utf-8")
    with pytest.raises(UserError, match=message):
        PromptLibrary.load(path, ["cat", "dog"])


def test_names_stand_once():
    with pytest.raises(UserError, match="'cat' is there twice"):
        PromptLibrary(("cat", "dog", "cat"))
    with pytest.raises(UserError, match="give a list of names, not 'cat'"):
        PromptLibrary("cat")
