"""Texts and scores as people leave them: no words, one word, signs alone, blanks, other line ends and quotes."""

import numpy as np
import pytest
import torch

from nearfar.data import Records, open_source, train_tokenizer
from nearfar.errors import UserError
from nearfar.evaluation.language.sts_benchmarks import sts
from nearfar.evaluation.protocols.similarity import similarity
from nearfar.evaluation.words.semantic_space import SemanticSpace
from nearfar.models import text_encoder

BOM = b"\xef\xbb\xbf"
HEAD = b"sentence1,sentence2,score\n"
STSB = b"main\tf\t2012\t%d\t%s\t%s\t%s"


class Angles:
    """Embeds a number as a direction, so that cosines are known."""

    def tokenize(self, texts):
        return torch.tensor([float(text) for text in texts])

    def encode_text(self, angles):
        return torch.stack([angles.cos(), angles.sin()], dim=1)


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    bert = {"model_type": "bert", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    tokenizer = train_tokenizer(["a much longer sentence stands beside it here", "word"], 300)
    return text_encoder(bert | {"intermediate_size": 32}, tokenizer=tokenizer, pooling="mean").eval()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "   ",
        "...",
        "?!",
        "a",
        "a\0b",
        "\0",
        "a\ud800b",
        "猫である",
        "\u200b",
        "\ufeff",
        "\N{OCTOPUS}",
        "word " * 2000,
    ],
)
def test_any_text_has_a_vector_that_its_neighbours_do_not_change(encoder, text):
    alone = encoder.encode([text])
    beside = encoder.encode(["a much longer sentence stands beside it here", text])[1:]
    assert 0.1 < np.linalg.norm(alone) < 10
    np.testing.assert_allclose(alone, beside, atol=1e-5)


def written(folder, name, content):
    (folder / name).write_bytes(content)
    return [(*record["text"], record["text2"], record["score"]) for record in open_source(folder / name)]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", BOM + HEAD + b"a cat,a dog,2.5\nx,y,1\n"),
        ("a.csv", (HEAD + b"a cat,a dog,2.5\nx,y,1\n").replace(b"\n", b"\r\n")),
        ("a.csv", HEAD + b'"a cat","a dog","2.5"\n\n"x","y",1\n'),
        ("a.tsv", HEAD.replace(b",", b"\t") + b"a cat\ta dog\t2.5\nx\ty\t1\n"),
    ],
)
def test_marks_line_ends_and_quotes_of_tables_are_none_of_the_text(tmp_path, name, content):
    assert written(tmp_path, name, content) == [("a cat", "a dog", 2.5), ("x", "y", 1.0)]


def test_quotes_in_tables_with_tabs(tmp_path):
    """A tab within quotes is of the text; a quote that nothing closes, and one within a text, stand as they are."""
    head, more = HEAD.replace(b",", b"\t"), b"\tb\t1.5\nc\td\t2.5\n"
    for number, (cell, text) in enumerate(
        [(b'"a\tcat"', "a\tcat"), (b'"hello" he said', '"hello" he said'), (b'"hello he said', '"hello he said')]
    ):
        assert written(tmp_path, f"{number}.tsv", head + cell + more) == [(text, "b", 1.5), ("c", "d", 2.5)]


def test_stsb_files_with_marks_other_line_ends_and_blank_scores(tmp_path):
    lines = [
        STSB % (1, b"5.000", b'A "man".', b"A man."),
        STSB % (2, b"", b"x", b"y"),
        STSB % (3, b"0.5", b'"c', b"d\re"),
    ]
    (tmp_path / "sts-dev.csv").write_bytes(BOM + b"\r\n".join(lines) + b"\r\n")
    source = open_source(tmp_path / "sts-dev.csv")
    assert [(r["text"], r["text2"], r["score"]) for r in source] == [('A "man".', "A man.", 5.0), ('"c', "d\re", 0.5)]
    assert source.domains == ["main"]
    assert source.skipped.count == 1


def test_pairs_with_a_blank_are_left_out_and_counted():
    pairs = [
        ("0", "0.1", 5),
        ("0", "0.5", 3),
        ("0", "1.0", 1),
        ("0", "", 5),
        ("", "0", 5),
        ("0", "2.0", " "),
        ("0", "3", ""),
    ]
    source = Records([{"text": a, "text2": b, "score": s} for a, b, s in pairs], name="pairs")
    for result in (similarity(Angles(), source), sts(Angles(), source)):
        assert result["spearman"] == pytest.approx(1)
        assert (result.metrics["spearman"].n, result.details["pairs"]) == (3, 3)
        assert result.details["left_out"] == {"without a score": 2, "without two texts": 2}
    blank = Records([{"text": "", "text2": "0", "score": 1}] * 3, name="pairs")
    with pytest.raises(UserError, match="pairs holds no pair of two texts, of which neither is blank"):
        similarity(Angles(), blank)
    with pytest.raises(UserError, match=r"pairs, record 0 has no 'text2': similarity\.second names the second"):
        similarity(Angles(), Records([{"text": "0", "score": 1}] * 3, name="pairs"))


def test_a_pair_that_was_rated_twice_counts_twice():
    """By both raters: what is right on average of the two is not undone by their order."""
    words = [str(n) for n in range(9)]
    space = SemanticSpace(words, torch.stack([torch.arange(9) / 3, torch.ones(9)], dim=1))
    rated = [(words[0], words[n], 9.0 - n) for n in range(1, 9)]
    assert space.similarity_correlation(rated) == (pytest.approx(1), 8)
    again, count = space.similarity_correlation([*rated, (words[1], words[0], 8.0), (words[0], words[8], 1.0)])
    assert (again, count) == (pytest.approx(1), 10)
    against, _ = space.similarity_correlation([*rated, (words[0], words[1], 1.0)])
    assert 0 < against < 1
