"""Curation in blocks keeps what one process keeps, goes on where it stopped, and refuses what would not fit."""

import os
from collections import Counter

import pytest
import torch
from PIL import Image
from pyarrow import parquet

from nearfar import cli
from nearfar.data import AltTextFilter, curated, open_source
from nearfar.embedding import curate, embed
from nearfar.embedding.curation import near_block
from nearfar.errors import UserError
from nearfar.models import load

RULES = AltTextFilter(min_side=10, max_images=2, min_words=1, max_words=3, vocabulary=9)
SMALL = {"block": 4, "batch_size": 2}


@pytest.fixture
def pairs(photos):
    """Of each picture two rows; some captions twice, one of them with other pictures; a picture that cannot be read."""
    names = [path.name for path in sorted(photos.glob("*.png"))]
    words = ["a red thing", "one", "red", "a b c d", "shared words", "Shared words!", "shared  words", "a red thing"]
    rows = [f"{names[i % 11]},{words[i % 8] if i < 16 else f'rare{i}'},{100 + i}" for i in range(22)]
    (photos / "pairs.csv").write_text("\n".join(["image,text,index", *rows, "gone.png,a red thing,200"]) + "\n")
    return photos / "pairs.csv"


def kept(folder):
    source = curated(folder)
    return [(record["index"], record["text"]) for record in source]


def test_rules_in_blocks_are_those_of_one_process(pairs, tmp_path):
    expected, whole = RULES(open_source(str(pairs)))
    report = curate(str(pairs), tmp_path / "out", alt_text=RULES, **SMALL)
    assert kept(tmp_path / "out") == [(record["index"], record["text"]) for record in expected]
    assert report.dropped == {why: count for why, count in whole.dropped.items() if count}
    assert report.kept == len(expected)
    assert {"image cannot be read", "text shared by more than 2 images", "rare word or pair of words"} <= {
        *report.dropped
    }


@pytest.mark.parametrize("block", [4, 64])
def test_scores_and_near_ones_are_those_of_all_pairs(pairs, model, tmp_path, block):
    made = embed(load(model), open_source(str(pairs)), batch_size=2)
    score = (made.image[made.image_of_text] * made.text).sum(1)
    least = float(score.sort().values[len(score) // 2 - 1 :][:2].mean())  # between two: none is equal
    curate(
        str(pairs), tmp_path / "out", model=model, min_score=least, near_pictures=0.9999, near_captions=0.9999,
        block=block, batch_size=2,
    )  # fmt: skip
    rows = [i for i in range(len(made)) if score[i] >= least]
    for vectors in (made.image, made.text):
        rows = [i for n, i in enumerate(rows) if not any(vectors[i] @ vectors[j] >= 0.9999 for j in rows[:n])]
    assert [index for index, _ in kept(tmp_path / "out")] == made.index[rows].tolist()
    assert 1 < len(rows) < 11


def test_what_is_dropped_stands_with_its_reason(pairs, model, tmp_path):
    report = curate(str(pairs), tmp_path / "out", model=model, near_pictures=0.99999, max_skipped=0.5, **SMALL)
    rows = [
        row
        for path in sorted((tmp_path / "out/pictures").glob("dropped-*"))
        for row in parquet.read_table(path).to_pylist()
    ]
    assert Counter(row["why"] for row in rows) == report.dropped == {"picture within 0.99999 of an earlier one": 11}
    assert [(row["id"], row["near"]) for row in rows] == [(111 + i, i) for i in range(11)]
    assert (report.records, report.kept, report.skipped.count) == (22, 11, 1)


@pytest.mark.parametrize("kind", ["photos", "shards", "tables"])
def test_a_curation_is_a_source(kind, model, tmp_path, request):
    spec = str(request.getfixturevalue(kind))
    curate(spec, tmp_path / "out", model=model, near_captions=0.9, **SMALL)
    source = open_source(str(tmp_path / "out"))
    assert isinstance(source, type(curated(tmp_path / "out")))
    whole = open_source(spec, **({"streaming": True} if kind == "shards" else {}))
    before = [(record["image"], record["text"]) for record in whole]
    after = [(record["image"], record["text"]) for record in source]
    assert 0 < len(after) < 11
    assert all(pair in before for pair in after)
    if kind != "photos":
        assert [record["index"] for record in source.read(1, skip=1)] == [r["index"] for r in source.read(1)][1:]


def test_a_run_that_was_stopped_goes_on(pairs, model, tmp_path, monkeypatch):
    work, made = near_block.BlockNear.__call__, []

    def stopped(self, number):
        if number == 2 and not made:
            raise KeyboardInterrupt
        made.append(number)
        return work(self, number)

    def run():
        return curate(str(pairs), tmp_path / "out", model=model, near_pictures=0.99, max_skipped=0.5, **SMALL)

    monkeypatch.setattr(near_block.BlockNear, "__call__", lambda self, n: stopped(self, n) if n == 2 else work(self, n))
    with pytest.raises(KeyboardInterrupt):
        run()
    with pytest.raises(UserError, match="holds no curation that has ended"):
        curated(tmp_path / "out")
    made.append(None)
    report = run()
    assert made[1:] == [2]
    assert (report.made, report.there) == (4, 14)
    assert run().made == 0


def test_what_would_not_fit_is_refused(pairs, photos, model, tmp_path):
    out = tmp_path / "out"

    def run(**changes):
        settings = {"model": model, "near_pictures": 0.99, "max_skipped": 0.5, **SMALL, **changes}
        return curate(str(pairs), out, **settings)

    run()
    with pytest.raises(UserError, match=r"made with near pictures 0\.99, not 0\.9: name another --out, or remove"):
        run(near_pictures=0.9)
    with pytest.raises(UserError, match=r"made with min score None, not 0\.1"):
        run(min_score=0.1)
    other = load(model)
    with torch.no_grad():
        next(other.parameters()).add_(0.1)
    other.save_pretrained(tmp_path / "other")
    with pytest.raises(UserError, match="were made by another model than"):
        run(model=str(tmp_path / "other"))
    os.utime(pairs, ns=(1, 1))
    with pytest.raises(UserError, match=r"the files of .*pairs\.csv have changed since"):
        run()
    for changes, sentence in [
        ({"model": None}, "near_pictures compares embeddings: name a model"),
        ({"near_pictures": None}, "nothing to curate by"),
        ({"near_pictures": 95.0}, "near_pictures is 95, but a cosine lies between -1 and 1"),
        ({"near_pictures": None, "alt_text": RULES}, "alt_text needs no model"),
    ]:
        with pytest.raises(UserError, match=sentence):
            run(**changes)
    with pytest.raises(UserError, match="near_captions needs captions, and photos has none"):
        curate(str(photos), tmp_path / "alone", model=model, near_captions=0.9, options={"captions": "none"}, **SMALL)


def test_the_command_curates(photos, model, tmp_path, capsys):
    Image.new("RGB", (20, 20), "red").save(photos / "99.png")
    (photos / "99.txt").write_text("red again")
    command = ["curate", str(photos), "--model", model, "--out", str(tmp_path / "out"), "--near-pictures", "0.999999"]
    cli.main([*command, "--block", "8", "--batch-size", "4"])
    text = capsys.readouterr().out
    assert "11 of 12 records kept\n           1  picture within 0.999999 of an earlier one" in text
    assert "6 blocks made, 0 were there" in text
    cli.main([*command, "--block", "8", "--batch-size", "4"])
    assert "0 blocks made, 6 were there" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="nothing to curate by"):
        cli.main(["curate", str(photos)])
