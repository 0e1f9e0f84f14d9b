"""A number for `data.validation`: a share of the training data, held out, the same in every stage and every resume."""

import json

import pyarrow.parquet as parquet
import pytest
import yaml

from nearfar.data import Records, hold_out, hold_out_of_stream, open_source
from nearfar.data.sources.source import Stream
from nearfar.errors import UserError
from nearfar.evaluation import load_results
from nearfar.training.recipe import load

SHARE = ["data.validation=0.25", "evaluation.data=null", "evaluation.protocols=[retrieval]", "training.workers=0"]


class Shards(Stream):
    """Records in parts of ten."""

    name, columns = "shards", ("image", "text")

    def __init__(self, records):
        self.records = records
        self.parts = -(-len(records) // 10)

    def read(self, part, skip=0):
        yield from map(dict, self.records[10 * part : 10 * part + 10][skip:])


def pairs(count, captions=lambda i: f"thing {i}"):
    return [{"image": f"picture {i}".encode(), "text": captions(i)} for i in range(count)]


def pictures(source):
    return {bytes(record["image"]) for record in source}


def texts(source):
    return {record["text"] for record in source}


def test_a_recipe_validates_and_measures_on_the_share(recipe, photos, tmp_path):
    built = load(recipe, SHARE).build()
    trained, held = hold_out(open_source(str(photos)), 0.25)
    assert list(built.source.ids()) == list(trained.ids())
    assert list(built.validated_on.ids()) == list(held.ids())
    assert not set(built.source.texts()) & set(built.validated_on.texts())
    run = built.run(tmp_path / "run")
    assert any("val_loss" in row for row in run.history)
    read = {i for batch in built.loader for i in batch["index"].tolist()}
    assert read <= set(trained.ids())
    assert load_results(tmp_path / "run" / "results.json")["retrieval"]["text_to_image_R@1"] >= 0
    assert json.loads((tmp_path / "run" / "results.json").read_text())["about"]["data"].endswith("(held out)")


def test_a_resumed_run_holds_out_the_same(recipe, tmp_path):
    load(recipe, [*SHARE, "steps=3"]).run(tmp_path / "part")
    again = load(tmp_path / "part", ["steps=6"])
    assert again.data.validation == 0.25
    assert list(again.build().validated_on.ids()) == list(load(recipe, SHARE).build().validated_on.ids())


def test_stages_and_features_hold_out_the_same(recipe, photos, tmp_path):
    values = yaml.safe_load(recipe.read_text())
    values["data"] |= {"validation": 0.25}
    values["training"] |= {"steps": 2, "report": False}
    values.pop("evaluation")
    whole = {"name": "whole", "model": {"load": "previous"}, "data": {"columns": {"label": "previous/kind"}}}
    kept = {"kind": {"of": "image", "clusters": 2}}
    first = {"name": "first", "model": {**values.pop("model"), "freeze": ["image"]}, "keep": kept}
    first["data"] = {"precompute": ["none"]}
    (tmp_path / "two.yaml").write_text(yaml.safe_dump({**values, "stages": [first, whole]}))
    stages = load(tmp_path / "two.yaml").run(tmp_path / "run")
    _, held = hold_out(open_source(str(photos)), 0.25)
    ids = parquet.read_table(stages[0].folder / "columns-validation.parquet")["index"].to_pylist()
    assert set(ids) <= set(held.ids())
    trained = parquet.read_table(stages[0].folder / "columns.parquet")["index"].to_pylist()
    assert not set(trained) & set(held.ids())


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, 1.5])
def test_a_share_is_between_0_and_1(recipe, share):
    with pytest.raises(UserError, match=r"data\.validation must be a share between 0 and 1"):
        load(recipe, {"data.validation": share})


def test_a_stream_holds_out_by_the_same_hash():
    records = pairs(200)
    trained, held = hold_out_of_stream(Shards(records), 0.2)
    assert pictures(held) == pictures(hold_out(Records(records), 0.2)[1])
    assert pictures(trained) | pictures(held) == pictures(records)
    assert not pictures(trained) & pictures(held)
    # Each record keeps its place as its id, and going on inside a part gives what follows.
    assert all(record["image"] == records[10 * (i >> 32) + (i & 0xFF)]["image"] for record in trained
               for i in [record["index"]])  # fmt: skip
    assert [r["index"] for r in trained.read(3, skip=2)] == [r["index"] for r in trained.read(3)][2:]


def test_what_follows_a_stream_moves_nothing_and_is_trained_on():
    records = pairs(200)
    held = hold_out_of_stream(Shards(records[:100]), 0.2, most=5)[1]
    trained, more = hold_out_of_stream(Shards(records), 0.2, most=5)
    assert pictures(held) == pictures(more)
    assert len(held) == 5
    assert len(list(trained)) == 195


def test_a_stream_and_its_share_have_no_caption_in_common_but_names_of_classes():
    # Each thing has two pictures, and half of all show "a dog".
    records = pairs(200, lambda i: f"thing {i // 4}" if i % 4 < 2 else "a dog")
    trained, held = hold_out_of_stream(Shards(records), 0.2)
    assert texts(trained) & texts(held) == {"a dog"}
    assert not pictures(trained) & pictures(held)
    assert sum(record["text"] == "a dog" for record in trained) > 50


def test_a_stream_too_short_for_its_share_says_so():
    with pytest.raises(UserError, match="holds none of its 2 records out: raise it"):
        hold_out_of_stream(Shards(pairs(2)), 0.001)


@pytest.mark.parametrize("name", ["clip", "albef-paper", "tcl-paper", "align-paper", "albef-vqa-paper"])
def test_recipes_without_validation_data_hold_out_a_share(name):
    assert 0 < load(name).data.share <= 0.1
