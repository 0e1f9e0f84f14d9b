"""Visual Genome as it is published: both of its forms, names that differ in case, aliases, what is missing."""

import json

import pytest
import torch
from PIL import Image

from nearfar.data import PhraseField, open_source, train_tokenizer
from nearfar.data.boxes.visual_genome import commonest_names, visual_genome
from nearfar.errors import UserError

CAT = {"object_id": 5, "names": ["Cat"], "x": 1, "y": 2, "w": 3, "h": 4}
MAT = {"object_id": 6, "name": "MAT", "x": 0, "y": 5, "w": 9, "h": 2}
LAMP = {"object_id": 7, "names": ["lamp"]}
PARTS = {
    "relationships.json": [
        {"image_id": 1, "relationships": [{"predicate": "ON ", "subject": CAT, "object": MAT}] * 2},
        {"image_id": 2, "relationships": []},
        {"image_id": 3, "relationships": [{"predicate": "near", "subject": CAT, "object": LAMP}]},
    ],
    "attributes.json": [{"image_id": 1, "attributes": [{**CAT, "attributes": ["Black", "small"]}, {**MAT}]}],
    "objects.json": [{"image_id": 1, "objects": [LAMP, CAT]}, {"image_id": 2, "objects": [{**LAMP, "object_id": 9}]}],
}
GRAPHS = [
    {
        "image_id": 1,
        "objects": [LAMP, {**CAT, "attributes": ["black"]}, MAT],
        "relationships": [
            {"predicate": "on", "subject_id": 5, "object_id": 6},
            {"predicate": "on", "subject_id": 5, "object_id": 8},
        ],
    },
    {"image_id": 2, "objects": [{**LAMP, "object_id": 9}], "relationships": []},
]
FIRST = [{"name": "cat", "attribute": "black", "box": (1, 2, 4, 6)}, {"name": "mat", "box": (0, 5, 9, 7)}]


@pytest.fixture
def folder(tmp_path):
    for name, number in (("VG_100K", 1), ("VG_100K_2", 2)):
        (tmp_path / name).mkdir()
        Image.new("RGB", (10, 8)).save(tmp_path / name / f"{number}.jpg")
    return tmp_path


def write(folder, **parts):
    for name, content in parts.items():
        (folder / name.replace("__", ".")).write_text(json.dumps(content))
    return folder


def published(folder):
    return write(folder, **{name.replace(".", "__"): content for name, content in PARTS.items()})


def test_the_parts_are_put_together(folder):
    source = open_source(f"genome:{published(folder)}")
    assert [record["picture_id"] for record in source] == [1, 2]
    assert source[0]["image"] == str(folder / "VG_100K" / "1.jpg")
    assert source[0]["objects"] == [*FIRST, {"name": "lamp"}]
    assert source[0]["relations"] == [[0, "on", 1]]
    assert (source[1]["objects"], source[1]["relations"]) == ([{"name": "lamp"}], [])
    assert source.skipped.count == 1  # the file of picture 3


def test_graphs_say_the_same(folder):
    source = visual_genome(write(folder, scene_graphs__json=GRAPHS))
    assert source[0]["objects"] == [*FIRST, {"name": "lamp"}]
    assert source[0]["relations"] == [[0, "on", 1]]
    assert source.skipped.count == 1  # the relation to a thing that there is not


def test_names_that_mean_one(folder, tmp_path_factory):
    published(folder)
    (folder / "object_alias.txt").write_text("kitty,cat\nrug, mat\n")
    (folder / "relationship_alias.txt").write_text("on top of,on\n")
    source = visual_genome(folder)
    assert [thing["name"] for thing in source[0]["objects"]] == ["kitty", "rug", "lamp"]
    assert source[0]["relations"] == [[0, "on top of", 1]]
    assert commonest_names(source, relations=9, objects=1) == {"relations": ["on top of"], "objects": ["lamp"]}


def test_a_model_of_relations_reads_them(folder):
    source = visual_genome(published(folder))
    field = PhraseField(train_tokenizer(["black cat", "mat", "lamp"], 300), **commonest_names(source), most_objects=4)
    batch = field.collate([field.prepare(record, None) for record in source], None)
    lamp = batch["object_label"][1, 0]
    assert lamp > 0
    assert batch["object_label"][0].tolist().count(int(lamp)) == 1
    expected = torch.zeros(2, 4, 4, dtype=torch.long)
    expected[0, 0, 1] = 1
    assert torch.equal(batch["relation_label"], expected)


def test_what_is_no_object_is_left_out_and_counted(folder):
    graphs = [{**GRAPHS[0], "objects": [*GRAPHS[0]["objects"], None, "a lamp"], "attributes": None}, *GRAPHS[1:]]
    source = visual_genome(write(folder, scene_graphs__json=graphs))
    assert source[0]["objects"] == [*FIRST, {"name": "lamp"}]
    assert source.skipped.count == 1  # a picture once, whatever is wrong with it
    assert "its objects are no list of objects" in str(source.skipped)
    graphs[0] = {**GRAPHS[0], "relationships": {"on": 1}}
    assert visual_genome(write(folder, scene_graphs__json=graphs))[0]["relations"] == []


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({}, "holds no Visual Genome: neither relationships.json nor scene_graphs.json is there"),
        ({"scene_graphs__json": {"images": []}}, "it is no file of Visual Genome: a list"),
        ({"scene_graphs__json": [{"objects": []}]}, "an entry has no 'image_id'"),
        ({"scene_graphs__json": [{"image_id": 8, "objects": [LAMP]}]}, "none of its 1 pictures is there: name their"),
    ],
)
def test_what_is_no_visual_genome(folder, parts, words):
    with pytest.raises(UserError, match=words):
        visual_genome(write(folder, **parts))
