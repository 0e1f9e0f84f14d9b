"""Ratings of words by the command line's way: a table of the user's, its columns, what is left out, and the map."""

import json

import pytest
import torch

from nearfar.data import open_source
from nearfar.data.sources.source import Records
from nearfar.errors import UserError
from nearfar.evaluation import evaluate
from nearfar.evaluation.report.word_map import word_map
from nearfar.evaluation.words.word_ratings import word_ratings


class Letters:
    """Counts of letters: how long a word is, and how many of its letters are an e."""

    def tokenize(self, texts):
        return torch.tensor([[float(len(t)), float(t.count("e")), float(len(t) % 3)] for t in texts])

    def encode_text(self, tokens):
        return tokens


WORDS = ["tree", "house", "idea", "elephant", "sea", "reference", "cat", "love", "sentence", "eye", "ox", "degree"]
RECORDS = [
    {"text": word, "score": word.count("e") / len(word), "length": float(len(word)), "label": int("e" in word)}
    for word in WORDS
]


def test_axes_probe_norms_and_categories():
    source = Records(RECORDS, name="norms", classes=["without", "with e"])
    result = word_ratings(Letters(), source, norms="length")
    assert 0 <= result["first_axis"] <= 1
    assert {"first_axis", "best_axis", "probe", "probe_length", "neighbours", "silhouette"} == set(result.metrics)
    assert result.metrics["neighbours"].chance is not None
    assert result.details["words"] == len(result.details["map"]["words"]) == 12
    assert result.details["map"]["rating"] == sorted(result.details["map"]["rating"])


def test_what_is_left_out_is_counted_and_a_word_counts_once():
    records = [*RECORDS, RECORDS[0] | {"score": 0.9}, {"text": "new", "score": None}, {"text": "", "score": 1.0}]
    result = word_ratings(Letters(), Records(records))
    assert result.details["left_out"] == {
        "a word that was there before": 1,
        "without a rating": 1,
        "no word": 1,
    }
    assert result["first_axis"] == word_ratings(Letters(), Records(RECORDS))["first_axis"]
    assert word_ratings(Letters(), Records(RECORDS), limit=9).details["words"] == 9


def test_a_table_of_ones_own(tmp_path):
    file = tmp_path / "norms.csv"
    lines = ["Word,Visual,Haptic", *(f"{r['text']},{r['score']:.3f},{r['length']}" for r in RECORDS)]
    file.write_text("\n".join(lines) + "\n")
    source = open_source(str(file), text="Word")
    options = {"word_ratings": {"rating": "Visual", "norms": ["Haptic"]}}
    result = evaluate(Letters(), source, ["word_ratings"], options=options, progress=False)["word_ratings"]
    assert "probe_Haptic" in result.metrics
    json.dumps(result.to_dict())
    with pytest.raises(UserError, match="score"):
        evaluate(Letters(), source, ["word_ratings"], progress=False)


def test_what_is_no_rating_is_named():
    with pytest.raises(UserError, match=r"row 1: its score is 'high'"):
        word_ratings(Letters(), Records([RECORDS[0], RECORDS[1] | {"score": "high"}], name="norms"))
    with pytest.raises(UserError, match="8 are needed"):
        word_ratings(Letters(), Records(RECORDS[:4]))


def test_the_map_names_words_and_figures():
    blocks = word_map({"word_ratings": word_ratings(Letters(), Records(RECORDS))}, None)
    assert "12 words" in blocks[0].text
    drawn = str(blocks[1].figures[0].svg)
    assert "lowest cat, highest eye" in drawn
