"""Pairs of pictures that hardly differ: tables of them, generated scenes, batches, and the filter."""

import json
from importlib import import_module

import pytest
import torch
from PIL import Image

from nearfar.data import Loader, Records, open_source, train_tokenizer
from nearfar.data.mining.contrast_pairs import filter_contrast_pairs, pair_similarities
from nearfar.data.scenes import contrasts
from nearfar.errors import UserError

TOKENIZER = train_tokenizer(["a red car", "a blue car", "what is it?"] * 9, 300)
RED, BLUE = (200, 0, 0), (0, 0, 200)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "pictures").mkdir()
    for number in range(4):
        Image.new("RGB", (20, 16), RED).save(tmp_path / "pictures" / f"{number}a.png")
        Image.new("RGB", (20, 16), BLUE).save(tmp_path / "pictures" / f"{number}b.png")
    return tmp_path


def rows(names, wrap=str):
    image, image2, text, text2 = names
    return [
        {
            image: wrap(f"pictures/{number}a.png"),
            image2: wrap(f"pictures/{number}b.png"),
            text: "a red car",
            text2: "007",
        }
        for number in range(4)
    ]


PLAIN = ("image", "image2", "text", "text2")
OFFICIAL = ("chosen_images", "rejected_images", "chosen_response", "rejected_response")


def written(folder, kind, names=PLAIN, **more):
    import pandas as pd

    wrap = (lambda path: [path]) if names == OFFICIAL else str
    table = [row | more for row in rows(names, wrap)]
    path = folder / f"pairs.{kind}"
    if kind == "csv":
        pd.DataFrame(table).to_csv(path, index=False)
    elif kind == "parquet":
        pd.DataFrame(table).to_parquet(path)
    else:
        path.write_text(json.dumps(table) if kind == "json" else "\n".join(map(json.dumps, table)))
    return path


@pytest.mark.parametrize(
    ("kind", "names"),
    [("csv", PLAIN), ("json", PLAIN), ("jsonl", OFFICIAL), ("parquet", PLAIN), ("json", OFFICIAL)],
    ids=["csv", "json", "jsonl of S-VCO", "parquet", "json of S-VCO"],
)
def test_a_table_of_pairs_gives_both_pictures_and_both_texts(folder, kind, names):
    source = open_source(str(written(folder, kind, names)))
    assert {"image", "image2", "text", "text2"} <= set(source.columns)
    record = source[2]
    assert record["image"].endswith("pictures/2a.png")
    assert record["image2"].endswith("pictures/2b.png")
    assert (record["text"], record["text2"]) == (["a red car"], ["007"])
    [batch] = Loader(
        source, batch_size=4, image_size=16, tokenizer=TOKENIZER, picture_pairs=True, views="none", shuffle=False
    )
    assert batch["image"].shape == batch["image2"].shape == (4, 3, 16, 16)
    assert (batch["image"][:, 0] > 0.5).all()
    assert (batch["image2"][:, 2] > 0.5).all()
    assert TOKENIZER.decode(batch["text2"]["input_ids"][0], skip_special_tokens=True).replace(" ", "") == "007"
    assert "prompt" not in batch


def test_prompts_of_the_released_form_are_joined(folder):
    path = written(folder, "json", OFFICIAL, system_prompt="Look closely.", instruction_prompt="what is it?")
    source = open_source(str(path))
    assert source[0]["prompt"] == "Look closely. what is it?"
    assert set(source.columns) == {"image", "image2", "text", "text2", "prompt"}
    [batch] = Loader(source, batch_size=4, image_size=16, tokenizer=TOKENIZER, picture_pairs=True, views="none")
    assert "what is it" in TOKENIZER.decode(batch["prompt"]["input_ids"][0])


def test_a_folder_with_such_a_table_counts_no_second_picture_as_left_out(folder):
    path = written(folder, "csv")
    path.rename(folder / "metadata.csv")
    source = open_source(str(folder))
    assert len(source) == 4
    assert source.skipped.count == 0
    assert source[0]["image2"].endswith("0b.png")


def test_other_tables_stay_what_they_are(folder):
    import pandas as pd

    path = folder / "one.csv"
    pd.DataFrame([{key: row[key] for key in ("image", "image2", "text")} for row in rows(PLAIN)]).to_csv(
        path, index=False
    )
    source = open_source(str(path))
    assert source[0]["text"] == ["a red car"]
    with pytest.raises(UserError, match=r"one\.csv has no text of a second picture, 'text2'.*Name the columns"):
        Loader(source, batch_size=2, image_size=16, tokenizer=TOKENIZER, picture_pairs=True)


def test_a_pair_that_cannot_be_read_is_left_out_and_named(folder):
    (folder / "pictures" / "1b.png").write_bytes(b"no picture")
    path = written(folder, "csv")
    loader = Loader(
        open_source(str(path)),
        batch_size=4,
        image_size=16,
        tokenizer=TOKENIZER,
        picture_pairs=True,
        views="none",
        shuffle=False,
        drop_last=False,
        max_skipped=0.5,
    )
    [batch] = loader
    assert batch["index"].tolist() == [0, 2, 3]
    assert "1b.png" in str(loader.skipped.reasons(5))


def test_both_pictures_get_the_same_views():
    ramp = Image.linear_gradient("L").convert("RGB").resize((32, 32))
    source = Records([{"image": ramp, "image2": ramp, "text": "a", "text2": "b"}] * 4, name="pairs")
    [batch] = Loader(source, batch_size=4, image_size=16, tokenizer=TOKENIZER, picture_pairs=True, views="clip")
    assert torch.equal(batch["image"], batch["image2"])
    assert not torch.equal(batch["image"][0], batch["image"][1])


def test_scenes_differ_in_one_thing_and_their_texts_say_so():
    source = contrasts("train", n=60, vocabulary="shapes", size=64)
    kinds = set()
    for record in source:
        kinds.add(record["kind"])
        first, second = record["objects"], record["objects2"]
        shown = [(a["name"], a["colour"]) for a in first], [(a["name"], a["colour"]) for a in second]
        assert record["text"] != record["text2"]
        assert record["image"].tobytes() != record["image2"].tobytes()
        if record["kind"] == "place":
            assert shown[0] == shown[1][::-1]
            continue
        which = 1 if record["kind"] == "colour" else 0
        changed = [(a, b) for a, b in zip(*shown, strict=True) if a != b]
        assert len(changed) == 1
        [(a, b)] = changed
        assert a[which] != b[which]
        assert a[1 - which] == b[1 - which]
        same = [i for i in (0, 1) if shown[0][i] == shown[1][i]]
        assert [first[i]["box"] for i in same] == [second[i]["box"] for i in same]
        words = [set(record[key][0].split()) for key in ("text", "text2")]
        assert (words[0] ^ words[1]) - {"a", "an"} == {a[which], b[which]}
    assert kinds == {"colour", "thing", "place"}


def test_scenes_of_pairs_are_the_same_again_and_their_splits_share_no_pair_of_nouns():
    again = contrasts("val", n=5, vocabulary="shapes", seed=3)
    assert again[2]["image2"].tobytes() == contrasts("val", n=3, vocabulary="shapes", seed=3)[2]["image2"].tobytes()
    assert open_source("world/contrasts", n=3, vocabulary="shapes").name == "world/contrasts:train"
    pairs = [
        {
            frozenset(thing["name"] for thing in record[key])
            for record in contrasts(split, n=80, vocabulary="shapes")
            for key in keys
        }
        for split, keys in (("train", ("objects", "objects2")), ("test", ("objects",)))
    ]
    assert not pairs[0] & pairs[1]
    single = contrasts("train", n=4, objects=1, edits=["colour", "thing"], vocabulary="shapes")
    assert all(len(record["objects"]) == 1 and record["text"] != record["text2"] for record in single)


def test_training_shows_no_pair_of_nouns_of_another_split_though_few_are_its_own(monkeypatch):
    """Of six nouns three pairs alone are of training, and one noun alone has two others beside it."""
    own = [{"circle", "star"}, {"circle", "ring"}, {"heart", "square"}]

    def pair_split(one, other):
        return "train" if {one, other} in own else "test"

    for module in ("contrasts", "scene_source"):
        monkeypatch.setattr(import_module(f"nearfar.data.scenes.{module}"), "pair_split", pair_split)
    names = ["circle", "star", "ring", "heart", "square", "cross"]
    source = contrasts("train", n=20, vocabulary=names, edits=["thing"], size=32)
    for record in source:
        for key in ("objects", "objects2"):
            assert {thing["name"] for thing in record[key]} in own[:2]
    own.remove({"circle", "ring"})
    with pytest.raises(UserError, match="no noun of these 6 is shown beside two others in training"):
        contrasts("train", n=20, vocabulary=names, edits=["thing"], size=32)
    assert contrasts("train", n=2, vocabulary=names, edits=["colour", "place"], size=32)[0]["kind"] != "thing"


def test_scenes_of_pairs_that_cannot_be_are_named():
    for options, why in (
        ({"edits": ["size"]}, "edits has no 'size'"),
        ({"edits": []}, "edits is empty"),
        ({"objects": 1}, "no other's place"),
    ):
        with pytest.raises(UserError, match=why):
            contrasts("train", **options)


def shaded(*pairs):
    pictures = [[Image.new("RGB", (4, 4), (shade, 0, 0)) for shade in pair] for pair in pairs]
    return Records([{"image": a, "image2": b, "kind": "edit"} for a, b in pictures], name="shades")


def angle(scale):
    """A model whose cosine of two pictures is that of `scale` degrees times the difference of their shades."""

    def embed(pictures):
        degrees = torch.tensor([scale * picture.getpixel((0, 0))[0] for picture in pictures], dtype=torch.float64)
        return torch.stack([degrees.deg2rad().cos(), degrees.deg2rad().sin()], 1)

    return embed


def test_pairs_are_kept_that_are_alike_in_meaning_and_unlike_in_looks():
    source = shaded((0, 10), (0, 40), (0, 100), (0, 80))
    torch.testing.assert_close(
        pair_similarities(source, angle(0.8), batch_size=3),
        torch.tensor([8.0, 32.0, 80.0, 64.0], dtype=torch.float64).deg2rad().cos(),
    )
    kept, report = filter_contrast_pairs(source, angle(0.5), angle(0.8))
    assert kept.ids() == [3]  # cosines of 40 and 64 degrees: 0.77 and 0.44
    assert (report.pairs, report.kept) == (4, 1)
    assert list(report.dropped.values()) == [0, 1, 2, 0]
    kept, _ = filter_contrast_pairs(source, angle(0.5), angle(0.8), semantic_above=0.6, visual_below=0.9)
    assert kept.ids() == [1, 2, 3]


def test_models_of_nearfar_are_asked_by_their_own_name():
    from nearfar.models import image_encoder

    model = image_encoder("micro-resnet").train()
    source = shaded((0, 10), (0, 240))
    cosine = pair_similarities(source, model)
    with torch.no_grad():
        rows = model.eval().encode_image(model.preprocess([source[1]["image"], source[1]["image2"]])).double()
    assert cosine[1].item() == pytest.approx(torch.cosine_similarity(rows[0], rows[1], dim=0).item(), rel=1e-4)


def test_exempt_pairs_keep_their_share_and_broken_ones_are_counted():
    rows = [*shaded(*[(0, 80)] * 6, *[(0, 10)] * 2)]
    rows += [record | {"kind": "mirrored"} for record in shaded(*[(0, 0)] * 8)]
    rows += [{"image": b"broken", "image2": b"broken", "kind": "edit"}] * 2
    source = Records(rows, name="pairs")
    keep = {"exempt": lambda record: record["kind"] == "mirrored", "seed": 3}
    kept, report = filter_contrast_pairs(source, angle(0.5), angle(0.8), **keep)
    kinds = [record["kind"] for record in kept]
    assert (kinds.count("edit"), kinds.count("mirrored")) == (6, 5)  # 6 of 10, so 4.8 of 8
    assert list(report.dropped.values()) == [2, 0, 2, 3]
    assert report.kept == len(kept) == 11
    again, _ = filter_contrast_pairs(source, angle(0.5), angle(0.8), **keep)
    other, _ = filter_contrast_pairs(source, angle(0.5), angle(0.8), **keep | {"seed": 4})
    assert again.ids() == kept.ids() != other.ids()


def test_what_the_filter_cannot_do_with_is_named():
    source = shaded((0, 10))
    with pytest.raises(UserError, match="semantic_above=2"):
        filter_contrast_pairs(source, angle(1), angle(1), semantic_above=2)
    with pytest.raises(UserError, match="one has no second picture, 'image2'"):
        filter_contrast_pairs(Records([{"image": "a.png"}], name="one"), angle(1), angle(1))
    with pytest.raises(UserError, match=r"gave \[1, 2\] for 2"):
        filter_contrast_pairs(source, lambda pictures: torch.ones(1, 2), angle(1))
