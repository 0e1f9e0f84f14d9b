"""Pairs of sentences as people have them, by the command line: blanks, scores under another name, one pair, files for
queries. Every message names the file and the remedy."""

import json

import pytest
from PIL import Image

from nearfar import cli
from nearfar.data import train_tokenizer
from nearfar.errors import UserError
from nearfar.evaluation import load_results
from nearfar.models.language.model import language_model

PAIRS = [("a cat", "a tabby", "4.5"), ("a dog", "a car", ""), ("a fox", "a red fox", "4"), ("a car", "a tree", "0.5")]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    texts = [text for first, second, _ in PAIRS for text in (first, second)]
    language_model("tiny", tokenizer=train_tokenizer(texts, 300)).save_pretrained(folder)
    return str(folder)


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def table(path, *rows):
    path.write_text("\n".join(",".join(map(str, row)) for row in rows) + "\n")
    return str(path)


def evaluate(capsys, *words):
    """The results of the command, and what it prints in one line."""
    cli.main(["evaluate", *words, "--json", "out.json"])
    return load_results("out.json"), " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("protocol", ["similarity", "sts"])
def test_a_blank_score_leaves_the_pair_out(model, here, capsys, protocol):
    scored = table(here / "blank.csv", ("sentence1", "sentence2", "score"), *PAIRS)
    whole = table(here / "whole.csv", ("sentence1", "sentence2", "score"), *(row for row in PAIRS if row[2]))
    results, said = evaluate(capsys, model, "--on", scored, "--protocols", protocol)
    right, quiet = evaluate(capsys, model, "--on", whole, "--protocols", protocol)
    assert results[protocol].metrics == right[protocol].metrics
    assert results[protocol].metrics["spearman"].n == 3
    assert f"{protocol}: 1 record without a score is left out" in said
    assert "left out" not in quiet


def test_a_score_that_is_no_number_is_named_with_its_remedy(model, here):
    where = table(here / "odd.csv", ("sentence1", "sentence2", "score"), *PAIRS, ("a", "b", "n/a"))
    with pytest.raises(SystemExit, match=r"odd\.csv, record 4: score is 'n/a', not a number: .*leave the cell blank"):
        cli.main(["evaluate", model, "--on", where, "--protocols", "similarity"])


def test_whole_scores_under_label_can_be_named(model, here, capsys):
    rows = [(first, second, number) for number, (first, second, _) in enumerate(PAIRS)]
    where = table(here / "whole.csv", ("sentence1", "sentence2", "label"), *rows)
    named = table(here / "named.csv", ("sentence1", "sentence2", "score"), *rows)
    for protocol in ("similarity", "sts"):
        with pytest.raises(SystemExit, match=r"whole\.csv has no 'score': the whole numbers of its column 'label'"):
            cli.main(["evaluate", model, "--on", where, "--protocols", protocol])
    options = ["--protocols", "similarity", "--options", "similarity.score=label"]
    results, _ = evaluate(capsys, model, "--on", where, *options)
    right, _ = evaluate(capsys, model, "--on", named, "--protocols", "similarity")
    assert results["similarity"].metrics == right["similarity"].metrics


def test_no_score_at_all(model, here):
    where = table(here / "none.csv", ("sentence1", "sentence2"), *(row[:2] for row in PAIRS))
    with pytest.raises(SystemExit, match=r"none\.csv has no 'score': name the column of scores with similarity\.score"):
        cli.main(["evaluate", model, "--on", where, "--protocols", "similarity"])


def test_rows_with_a_blank_positive_are_counted(model, here, capsys):
    where = table(here / "blank.csv", ("anchor", "positive"), ("a cat", "a tabby"), ("a dog", " "), ("a", "b"))
    results, said = evaluate(capsys, model, "--on", where, "--protocols", "pair_retrieval")
    assert results["pair_retrieval"].details["pairs"] == 2
    assert results["pair_retrieval"].metrics["first_to_second_R@1"].n == 2
    assert "pair_retrieval: 1 record without two texts is left out" in said


@pytest.mark.parametrize("rows", [[("a cat", "a tabby")], [("a cat", "a tabby"), ("a cat", "a kitten")]])
def test_pairs_of_one_text_measure_nothing(model, here, rows):
    where = table(here / "one.csv", ("anchor", "positive"), *rows)
    with pytest.raises(SystemExit, match=rf"one\.csv holds {len(rows)} pairs of one text or group"):
        cli.main(["evaluate", model, "--on", where, "--protocols", "pair_retrieval"])


def test_what_is_measured_is_what_the_output_names(model, here, capsys, monkeypatch):
    """The sets alone are read: not the world, which is what `--on` means where it is left out."""
    where = table(here / "set.csv", ("sentence1", "sentence2", "score"), *(row for row in PAIRS if row[2]))
    opened = []
    monkeypatch.setattr("nearfar.data.open_source", lambda spec, **_: opened.append(spec))
    _, said = evaluate(capsys, model, "--protocols", "sts", "--sts-sets", where)
    assert f"{model} on {where}" in said
    assert "world/emoji" not in said
    assert json.loads((here / "out.json").read_text())["about"]["on"] == where
    assert not opened


def test_a_corpus_by_lines_or_sentences(model, here, capsys):
    (here / "t.txt").write_text("A cat sleeps. A dog barks.\nA fox runs.\n")
    for unit, count in ((None, 1), ("lines", 2), ("sentences", 3)):
        flags = [] if unit is None else ["--unit", unit]
        cli.main(["index", model, "text:t.txt", "--out", f"index-{unit}", *flags])
        assert f"{count} texts" in " ".join(capsys.readouterr().out.split()).replace("1 text,", "1 texts,")
    _, said = evaluate(capsys, model, "--on", "text:t.txt", "--unit", "sentences", "--protocols", "geometry")
    assert "3 records" in said
    with pytest.raises(SystemExit, match="no option 'unit'"):
        cli.main(["index", model, table(here / "a.csv", ("text",), ("x",)), "--unit", "lines"])


def test_the_name_of_a_file_is_no_query(here):
    Image.new("RGB", (8, 8)).save("a cat.png")
    (here / "queries.txt").write_text("a cat\n")
    for words, remedy in (
        (["a cat.png"], r"--image 'a cat\.png' searches by the picture"),
        (["queries.txt"], r"--queries queries\.txt --out hits\.jsonl"),
        (["cat", "--plus", "a cat.png"], "searched as words"),
    ):
        with pytest.raises(SystemExit, match=remedy):
            cli.main(["search", *words, "--index", "none"])
    with pytest.raises(SystemExit, match="none"):  # no such index: the words themselves are none of its business
        cli.main(["search", "a cat", "--index", "none"])


def test_blank_scores_are_told_from_others_in_python():
    from nearfar.data import Records
    from nearfar.evaluation.protocols.similarity import scored_pairs

    rows = [{"text": "a", "text2": "b", "score": score} for score in (None, " ", 0, 1)]
    pairs = scored_pairs(Records(rows))
    assert (len(pairs), pairs.blank) == (2, 2)
    with pytest.raises(UserError, match="pairs of one score"):
        scored_pairs(Records(rows[:3]))
