"""Pairs of texts in published tables and files: columns by their names, ragged negatives, STS sets, broken lines."""

import json

import pytest

from nearfar.data import Loader, Records, open_source, train_tokenizer
from nearfar.errors import UserError

TOKENIZER = train_tokenizer(["a red car", "two dogs"], 300)


def written(folder, name, rows):
    file = folder / name
    if file.suffix == ".jsonl":
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        between = "\t" if file.suffix in (".tsv", ".txt") else ","
        lines = [between.join(rows[0]), *(between.join(map(str, row.values())) for row in rows)]
        file.write_text("\n".join(lines) + "\n")
    return file


@pytest.mark.parametrize(
    ("name", "first", "second", "score"),
    [
        ("stsb.csv", "sentence1", "sentence2", "score"),
        ("multi.jsonl", "sentence1", "sentence2", "similarity_score"),
        ("SICK_test_annotated.txt", "sentence_A", "sentence_B", "relatedness_score"),
        ("glue.tsv", "sentence1", "sentence2", "label"),
        ("mine.tsv", "text", "text2", "score"),
    ],
)
def test_published_columns_are_known(tmp_path, name, first, second, score):
    rows = [{"pair_ID": i, first: f"a {i}", second: f"b {i}", score: i + 0.5} for i in range(3)]
    source = open_source(written(tmp_path, name, rows))
    assert {"text", "text2", "score"} <= set(source.columns)
    record = source[2]
    assert (record["text"], record["text2"], float(record["score"])) == (["a 2"], "b 2", 2.5)
    assert record[second] == "b 2" or second == "text2", "under its own name, too"
    assert "label" not in record, "scores are no classes"


def test_negatives_of_any_number(tmp_path):
    """SimCSE's NLI has one a row, sentence-transformers' mined data several columns, jsonl lists."""
    nli = open_source(written(tmp_path, "nli.csv", [{"sent0": "a", "sent1": "b", "hard_neg": "c"}]))
    assert (nli[0]["text"], nli[0]["text2"], nli[0]["negative_text"]) == (["a"], "b", ["c"])
    columns = [{"anchor": "a", "positive": "b", "negative_1": "c", "negative_2": n} for n in ("d", "", "e")]
    mined = open_source(written(tmp_path, "mined.csv", columns))
    assert [record["negative_text"] for record in mined] == [["c", "d"], ["c"], ["c", "e"]]
    lists = [{"anchor": "a", "positive": "b", "negatives": n} for n in (["c", "d", "e"], [], ["f"])]
    ragged = open_source(written(tmp_path, "lists.jsonl", lists))
    assert [record["negative_text"] for record in ragged] == [["c", "d", "e"], [], ["f"]]
    batch = next(iter(Loader(ragged, batch_size=3, shuffle=False, tokenizer=TOKENIZER, text_pairs=True)))
    assert batch["negative_count"].tolist() == [3, 0, 1]
    assert len(batch["negative_text"]["input_ids"]) == 9
    two = next(iter(Loader(ragged, batch_size=3, shuffle=False, tokenizer=TOKENIZER, text_pairs=True, negatives=2)))
    assert two["negative_count"].tolist() == [2, 0, 1]


def test_numbers_in_pairs_stay_as_they_are_written(tmp_path):
    source = open_source(written(tmp_path, "codes.csv", [{"anchor": "007", "positive": "1.50", "negative": "010"}]))
    assert (source[0]["text"], source[0]["text2"], source[0]["negative_text"]) == (["007"], "1.50", ["010"])


def test_tables_of_pictures_are_as_they_were(tmp_path):
    row = {"image": "a.png", "text": "a", "positive": "yes", "score": 1.5}
    record = open_source(written(tmp_path, "pets.jsonl", [row]))[0]
    assert "text2" not in record
    assert record["positive"] == "yes"
    alone = open_source(written(tmp_path, "lines.jsonl", [{"text": "a", "score": 2.5}]))
    assert alone.columns == ["text", "score"]


def test_batches_have_no_second_text_unless_a_method_reads_it():
    source = Records([{"text": "a", "text2": "b"}] * 2)
    assert "text2" not in next(iter(Loader(source, batch_size=2, tokenizer=TOKENIZER)))
    assert "text2" in next(iter(Loader(source, batch_size=2, tokenizer=TOKENIZER, text_pairs=True)))


def test_a_pair_without_its_second_text_is_skipped():
    source = Records([{"text": str(i), "text2": "" if i == 3 else "b"} for i in range(12)])
    loader = Loader(source, batch_size=4, tokenizer=TOKENIZER, text_pairs=True)
    assert sum(len(batch["index"]) for batch in loader) == 12
    assert "no text2" in str(loader.skipped.listing())


def semeval(folder, subset, pairs):
    folder.mkdir(exist_ok=True)
    (folder / f"STS.input.{subset}.txt").write_text("".join(f"{a}\t{b}\n" for a, b, _ in pairs))
    (folder / f"STS.gs.{subset}.txt").write_text("".join(f"{score}\n" for *_, score in pairs))


def test_semeval_folders(tmp_path):
    """A pair without a score is left out and counted; STS 2016 has sources behind the sentences."""
    folder = tmp_path / "STS16-en-test"
    semeval(folder, "headlines", [("a cat", "a tabby\tsource a\tsource b", 4.5), ("a", "b", ""), ('say "a', "c", 0)])
    semeval(folder, "answers", [("d", "e", 2.2)])
    source = open_source(folder)
    assert source.domains == ["answers", "headlines"]
    assert [(r["text"], r["text2"], r["score"], r["domain"]) for r in source] == [
        ("d", "e", 2.2, 0), ("a cat", "a tabby", 4.5, 1), ('say "a', "c", 0.0, 1)
    ]  # fmt: skip
    assert "1" in str(source.skipped)


def test_stsb_files(tmp_path):
    """Tabs, no header, a quote that nothing closes, licences behind."""
    first = 'main-captions\tMSRvid\t2012test\t0024\t2.500\tA girl.\tA "girl.\tcc\tcc'
    file = tmp_path / "sts-dev.csv"
    file.write_text(f"{first}\nnews\tm\t2015\t1\t0\ta\tb\n")
    source = open_source(file)
    assert [(r["text"], r["text2"], r["score"]) for r in source] == [("A girl.", 'A "girl.', 2.5), ("a", "b", 0.0)]
    assert source.domains == ["main-captions", "news"]


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (("", "STS.gs.news.txt"), "STS.gs.news.txt is missing"),
        (("1\n", "STS.gs.news.txt"), "has 2 lines and STS.gs.news.txt 1"),
        (("1\nmany\n", "STS.gs.news.txt"), "line 2 has 'many' where the score stands"),
        (("a\tb\nc\n", "STS.input.news.txt"), "line 2 does not hold two sentences"),
    ],
)
def test_broken_sets_are_named(tmp_path, broken, words):
    semeval(tmp_path / "set", "news", [("a", "b", 1), ("c", "d", 2)])
    content, name = broken
    if content:
        (tmp_path / "set" / name).write_text(content)
    else:
        (tmp_path / "set" / name).unlink()
    with pytest.raises(UserError, match=words):
        open_source(tmp_path / "set")


def test_a_short_line_of_stsb_is_named(tmp_path):
    file = tmp_path / "sts-test.csv"
    file.write_text("g\tf\t2012test\t1\t2.0\ta\tb\ng\tf\t2012test\t2\t3.0\ta\n")
    with pytest.raises(UserError, match="line 2 has 6 fields"):
        open_source(file)
