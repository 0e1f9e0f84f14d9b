"""Scene descriptions: what models write of a picture as data, read leniently, and as one text within a budget."""

import json

import pytest

from nearfar.data.descriptions.description_text import description_text, token_counter
from nearfar.data.descriptions.parse_scene import MOST, parse_scene
from nearfar.data.descriptions.scene_description import ObjectDescription, Relation, SceneDescription, object_of
from nearfar.errors import UserError

DOG = ObjectDescription("dog", 2, ("small", "brown"), ("running",), "on the left", (Relation("left of", "tree"),))
TREE = ObjectDescription("tree", other={"season": "autumn", "age": 40})
PARK = SceneDescription("a quiet park in the rain", (DOG, TREE))


def test_a_description_goes_through_json_unchanged():
    assert SceneDescription.from_json(PARK.to_json()) == PARK
    assert PARK.to_json() == SceneDescription.from_json(PARK.to_json()).to_json()
    assert SceneDescription.from_json('{"scene": "x"}') == SceneDescription("x")
    assert json.loads(SceneDescription("é").to_json()) == {"scene": "é", "objects": []}


def test_unknown_keys_are_kept_and_never_lost():
    read = object_of({"name": "tree", "season": "autumn", "count": "several", "relations": "by a road"})
    assert dict(read.other) == {"season": "autumn", "count": "several", "relations": "by a road"}
    assert read.count == 1
    assert object_of(read.plain()) == read
    with pytest.raises(UserError, match="no 'mood'"):
        SceneDescription.from_json('{"scene": "", "objects": [], "mood": "glad"}')


@pytest.mark.parametrize(
    ("item", "phrase"),
    [
        ("old car", "old car"),
        ({"class": "dog", "count": "three", "attributes": "wet, brown"}, "3 wet brown dog"),
        ({"object": "cat", "count": "2", "actions": ["sleeping"]}, "2 cat sleeping"),
        ({"label": "cup", "relations": [{"predicate": "on", "object": "table"}, "near a plate"]},
         "cup on table near a plate"),
        ({"name": " red \n kite ", "count": 0, "position": "top"}, "red kite top"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_objects_are_read_in_the_forms_that_models_write(item, phrase):
    assert object_of(item).phrase == phrase


def test_what_has_no_name_is_no_object():
    assert [object_of(item) for item in ({"count": 2}, {"name": " "}, 3, None, ["dog"])] == [None] * 5


LIST = '[{"name": "car", "attributes": ["red"]}, {"name": "dog"}]'
REPAIRED = {
    "fenced": f"Here they are:\n```json\n{LIST}\n```\nDone.",
    "an open fence": f"```\n{LIST}",
    "words around": f"The objects are {LIST}, that is all.",
    "trailing commas": '[{"name": "car", "attributes": ["red",],}, {"name": "dog"},]',
    "a comma in a text": '[{"name": "car", "attributes": ["red"]}, {"name": "dog", "note": ",]"}, ]',
    "cut in an object": f'{LIST[:-1]}, {{"name": "bir',
    "cut after a comma": f"{LIST[:-1]},",
    "a key above": f'{{"objects": {LIST}',
}


@pytest.mark.parametrize("kind", REPAIRED)
def test_lists_that_are_no_whole_json_are_mended(kind):
    parsed = parse_scene("a street", REPAIRED[kind])
    assert [each.phrase for each in parsed.description.objects] == ["red car", "dog"]
    assert (parsed.description.scene, parsed.how, parsed.left_out) == ("a street", "repaired", 0)


def test_commas_in_texts_stay():
    parsed = parse_scene("a street", '[{"name": "sign", "attributes": ["[1,]"]}, ]')
    assert (parsed.how, parsed.description.objects[0].phrase) == ("repaired", "[1,] sign")


@pytest.mark.parametrize("objects", [LIST, f'{{"objects": {LIST}}}'], ids=["list", "object"])
def test_strict_json_is_read_as_it_is(objects):
    assert parse_scene("a street", objects).how == "json"
    whole = parse_scene(f'{{"scene": "a street", "objects": {LIST}}}')
    assert (whole.description, whole.how) == (parse_scene("a street", LIST).description, "json")


@pytest.mark.parametrize("objects", ["", "I see a car.", "[" * 100_000, "{", '"car"', "null"])
def test_no_picture_is_without_a_description(objects):
    parsed = parse_scene("a street", objects)
    assert (parsed.description, parsed.how) == (SceneDescription("a street"), "none")
    assert parse_scene(" ", "I see\na car.").description == SceneDescription("I see a car.")


def test_a_model_that_repeats_itself_ends():
    many = json.dumps([{"name": "car"}, *[{"name": "dog"}] * 50, {"count": 2}])
    parsed = parse_scene("", many)
    assert [each.phrase for each in parsed.description.objects] == ["car", f"{MOST - 1} dog"]
    assert parsed.left_out == 52 - MOST
    assert parse_scene("", json.dumps([{"count": 2}, "car"])).left_out == 1


def test_order_and_repetition_do_not_change_the_canonical_form():
    turned = SceneDescription(PARK.scene, (TREE, ObjectDescription("bench"), DOG))
    other = SceneDescription(PARK.scene, (DOG, ObjectDescription("bench"), TREE))
    assert turned.canonical().to_json() == other.canonical().to_json()
    assert description_text(turned.canonical()) == description_text(other.canonical())
    assert description_text(turned) != description_text(other)
    twice = SceneDescription("", (TREE, TREE, DOG)).merged()
    assert [each.count for each in twice.objects] == [2, 2]


def test_the_text_is_the_scene_and_then_the_objects():
    text = description_text(PARK)
    assert text.text == "a quiet park in the rain Objects: 2 small brown dog running on the left left of tree; tree"
    assert not text.is_cut
    assert description_text(SceneDescription("a park")).text == "a park"
    assert description_text(SceneDescription("", (TREE,))).text == "Objects: tree"
    assert description_text(PARK, form="json").text == PARK.to_json()


@pytest.mark.parametrize("form", ["phrases", "json"])
@pytest.mark.parametrize("join", ["scene-first", "halves"])
def test_no_text_is_longer_than_its_limit_and_a_wide_one_changes_nothing(form, join):
    letters = len
    whole = description_text(PARK, form=form, count=letters)
    for limit in (40, 60, 80):
        cut = description_text(PARK, form=form, join=join, tokens=limit, count=letters)
        assert cut.tokens == len(cut.text) <= limit
        assert cut.is_cut
    for limit in (whole.tokens, whole.tokens + 1):
        assert description_text(PARK, form=form, join=join, tokens=limit, count=letters) == whole
    just = description_text(PARK, form=form, join=join, tokens=whole.tokens - 1, count=letters)
    assert just.is_cut
    assert just.objects_left_out == 1


def test_scene_first_drops_objects_and_halves_drop_words():
    """Of 6 words of the scene, 1 that begins the objects and 10 of theirs, 9 may stay."""
    first = description_text(PARK, tokens=9)
    assert (first.text, first.words_left_out, first.objects_left_out) == (PARK.scene, 0, 2)
    scene = SceneDescription(PARK.scene, (TREE, ObjectDescription("bench"), ObjectDescription("gate"), DOG))
    halves = description_text(scene, tokens=9, join="halves")
    assert (halves.text, halves.words_left_out) == ("a quiet park in the Objects: tree; bench; gate", 1)
    assert halves.objects_left_out == 1
    few = description_text(SceneDescription(PARK.scene, (TREE,)), tokens=7, join="halves")
    assert few.text == "a quiet park in the Objects: tree"  # they need two words, and get no more


def test_tokens_are_counted_as_the_encoder_counts_them():
    from nearfar.models import text_encoder

    encoder = text_encoder("minilm", max_length=24)
    count = token_counter(encoder)
    long = SceneDescription("a photograph of " + "very " * 40 + "old things", (DOG, TREE))
    for text in ("", "a dog", "unbelievable Kites; 3"):
        assert count(text) == encoder.tokenize([text])["attention_mask"].sum().item()
    assert count(long.scene) > 24
    cut = description_text(long, tokens=24, count=count)
    assert cut.tokens == encoder.tokenize([cut.text])["attention_mask"].sum().item() <= 24
    with pytest.raises(UserError, match="no tokenizer to count by"):
        token_counter(object())


@pytest.mark.parametrize(
    ("options", "said"),
    [({"form": "xml"}, "form='xml'"), ({"join": "middle"}, "join='middle'"), ({"tokens": -1}, "allow more")],
    ids=["form", "join", "tokens"],
)
def test_a_wrong_setting_is_named(options, said):
    with pytest.raises(UserError, match=said):
        description_text(PARK, **options)


@pytest.mark.parametrize("text", ["", "[]", '{"scene": 3}', '{"objects": [{"count": 2}]}', '{"objects": {}}'])
def test_edited_json_that_is_no_description_is_refused(text):
    with pytest.raises(UserError, match="a description"):
        SceneDescription.from_json(text)


def test_redaction_reaches_every_text():
    plate = ObjectDescription(
        "X1", 1, ("X1",), ("X1",), "X1", (Relation("X1", "X1"),), {"X1": ["X1", {"a": "X1"}], "b": 1}
    )
    changed = SceneDescription("X1", (plate,)).mapped(lambda text: text.replace("X1", "-"))
    assert "X1" not in changed.to_json()
    assert changed.objects[0].other == {"-": ["-", {"a": "-"}], "b": 1}
    nothing = SceneDescription("a street", (plate, ObjectDescription("car"))).mapped(
        lambda text: text.replace("X1", "")
    )
    assert SceneDescription.from_json(nothing.to_json()).objects == (ObjectDescription("car"),)
