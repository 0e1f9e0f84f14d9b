"""Many queries at once have the hits that each has alone, and are written as they come."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest

import nearfar.models
from nearfar import cli
from nearfar.data.sources.skipped import Skipped
from nearfar.data.sources.source import Records
from nearfar.errors import UserError
from nearfar.search import Query, build, query, search_many
from nearfar.search.querying.query_files import QueryFile
from search.colours import COLOURS, SHAPES, ColourEncoder, draw, png

NAMES = [name for name in COLOURS if name != "white"]


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    """45 pictures, three of each kind equal, so that many scores are equal too."""
    rows = [
        {"image": png(draw(c, s)), "text": f"a {c} {s}", "index": i, "path": f"{c}/{s}", "size": [i, "x"]}
        for i, (c, s, _) in enumerate((c, s, n) for c in NAMES for s in SHAPES for n in range(3))
    ]
    where = tmp_path_factory.mktemp("many") / "index"
    return build(ColourEncoder(), Records(rows), where, model="colours", keep=["path", "size"])


@pytest.fixture
def command(index, monkeypatch):
    monkeypatch.setattr(nearfar.models, "load", lambda name, **_: ColourEncoder())
    return lambda *words: cli.main(["search", "--index", str(index.directory), *map(str, words)])


def alike(many, one):
    assert [hit.key for hit in many] == [hit.key for hit in one]
    np.testing.assert_allclose([hit.score for hit in many], [hit.score for hit in one], atol=1e-6)


@pytest.mark.parametrize("batch_size", [1, 7, 256])
@pytest.mark.parametrize("where", [None, 'path contains "disc" or id > 40'])
def test_many_have_the_hits_that_each_has_alone(index, batch_size, where):
    encoder = ColourEncoder()
    queries = [Query(text=f"{a} {b}") for a in NAMES for b in NAMES]
    queries += [Query(image=draw(a), plus=(b,), minus=(a,), weight=0.5) for a in NAMES for b in NAMES if a != b]
    results = list(search_many(index, encoder, queries, top=12, where=where, batch_size=batch_size))
    assert [each.number for each in results] == list(range(45))
    for each, single in zip(results, queries, strict=True):
        parts = {"text": single.text, "image": single.image, "plus": single.plus, "minus": single.minus}
        alike(each, query(index, encoder, **parts, weight=single.weight, top=12, where=where))
        assert len(each) == 12


def test_a_query_that_cannot_be_used_is_named_or_counted(index):
    encoder, queries = ColourEncoder(), ["red", " ", Query(image=b"not a picture"), "blue"]
    with pytest.raises(UserError, match="query 1: nothing to look for"):
        list(search_many(index, encoder, queries))
    skipped = Skipped()
    results = list(search_many(index, encoder, queries, skipped=skipped))
    assert [each.number for each in results] == [0, 3]
    alike(results[1], query(index, encoder, text="blue"))
    assert skipped.count == 2


def test_queries_are_taken_as_they_are_needed(index):
    def endless():
        while True:
            yield "red"

    results = search_many(index, ColourEncoder(), endless(), batch_size=4)
    assert [len(next(results)) for _ in range(9)] == [10] * 9


def test_the_lines_of_a_text_to_json_lines(index, command, tmp_path, capsys):
    (tmp_path / "q.txt").write_text("red disc\n\nein blaues blue Ding\n", "utf-8")
    command("--queries", tmp_path / "q.txt", "--out", tmp_path / "out" / "hits.jsonl", "--top", 3)
    lines = [json.loads(line) for line in (tmp_path / "out" / "hits.jsonl").read_text("utf-8").splitlines()]
    assert [(line["query"], line["text"]) for line in lines] == [(0, "red disc"), (2, "ein blaues blue Ding")]
    assert [hit["key"] for hit in lines[1]["hits"]] == [
        hit.key for hit in query(index, ColourEncoder(), text="ein blaues blue Ding", top=3)
    ]
    assert lines[0]["hits"][0]["kept"]["size"][1] == "x"
    said = capsys.readouterr().out
    assert "1 skipped:\n  query 1: nothing to look for" in said
    assert "hits of 2 queries among 45 pictures" in said


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_a_column_of_a_table_to_parquet(index, command, tmp_path, ending):
    from datasets import Dataset

    rows = Dataset.from_dict({"question": ["red", "blue", "green"], "n": [1, 2, 3]})
    path = tmp_path / f"q.{ending}"
    {"csv": rows.to_csv, "jsonl": rows.to_json, "parquet": rows.to_parquet}[ending](str(path))
    command("--queries", path, "--column", "question", "--out", tmp_path / "hits.parquet", "--top", 2)
    hits = pq.read_table(tmp_path / "hits.parquet").to_pylist()
    assert [(hit["query"], hit["text"], hit["rank"]) for hit in hits] == [
        (n, colour, rank) for n, colour in enumerate(("red", "blue", "green")) for rank in (1, 2)
    ]
    alone = query(index, ColourEncoder(), text="green", top=2)[1]
    assert (hits[-1]["key"], hits[-1]["id"], hits[-1]["captions"]) == (alone.key, alone.id, list(alone.captions))
    assert hits[-1]["path"] is None
    assert hits[-1]["kept:path"] == alone.kept["path"]
    assert json.loads(hits[-1]["size"]) == alone.kept["size"]


def test_the_pictures_of_a_folder_and_of_a_column(index, command, tmp_path, capsys):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for colour in ("blue", "red"):
        draw(colour, "bar").save(folder / f"{colour}.png")
    (folder / "torn.png").write_bytes(png(draw("red"))[:60])
    command("--queries", folder, "--out", tmp_path / "hits.jsonl", "--top", 1)
    lines = [json.loads(line) for line in (tmp_path / "hits.jsonl").read_text().splitlines()]
    assert [(line["image"].rpartition("/")[2], line["hits"][0]["caption"]) for line in lines] == [
        ("blue.png", "a blue bar"),
        ("red.png", "a red bar"),
    ]
    assert "query 2" in capsys.readouterr().out
    (tmp_path / "q.csv").write_text("words,photo\nred,pictures/blue.png\nblue,pictures/red.png\n")
    command("--queries", tmp_path / "q.csv", "--column", "photo", "--out", tmp_path / "hits.jsonl", "--top", 1)
    lines = [json.loads(line) for line in (tmp_path / "hits.jsonl").read_text().splitlines()]
    assert [line["hits"][0]["caption"] for line in lines] == ["a blue bar", "a red bar"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--queries", "Q"], "--queries needs a file for the hits: --out hits.jsonl"),
        (["red", "--queries", "Q", "--out", "h.jsonl"], "from the file alone: leave out text"),
        (["red", "--out", "h.jsonl"], "--out belongs to --queries FILE"),
        (["--queries", "Q", "--out", "h.csv"], r"hits are written as \.jsonl or \.parquet; name the file h\.jsonl"),
        (["--queries", "NOWHERE.txt", "--out", "h.jsonl"], "no such file"),
        (["--queries", "NOWHERE.csv", "--out", "h.jsonl"], "no such file"),
        (["--queries", "EMPTY", "--out", "h.jsonl"], "holds no queries"),
        (["--queries", "Q", "--column", "x", "--out", "h.jsonl"], "has no column 'x': leave it out"),
        (["--queries", "TABLE", "--column", "x", "--out", "h.jsonl"], "no column 'x' for image; its columns are: a, b"),
        (["--queries", "Q", "--out", "h.jsonl", "--where", "x <"], "the filter cannot be read at its end"),
        (["--queries", "Q", "--out", "h.jsonl", "--where", "x = 1"], "'x' is no column of the index"),
    ],
)
def test_mistakes_are_answered_in_one_line(command, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "Q.txt").write_text("red\n")
    (tmp_path / "EMPTY.txt").write_text("")
    (tmp_path / "TABLE.csv").write_text("a,b\n1,2\n")
    places = {name: f"{name}{ending}" for name, ending in (("Q", ".txt"), ("EMPTY", ".txt"), ("TABLE", ".csv"))}
    with pytest.raises(SystemExit, match=message):
        command(*(places.get(word, word) for word in words))
    assert not list(tmp_path.glob("*h.*"))


def test_pictures_of_a_camera_are_queries_whatever_their_names_say(tmp_path):
    """A name such as IMG_0001 is no caption, and a query by picture needs none."""
    for number, colour in enumerate(("red", "green", "blue")):
        draw(colour).save(tmp_path / f"IMG_{number:04d}.png")
    assert [query.image is not None for query in QueryFile(tmp_path)] == [True, True, True]
