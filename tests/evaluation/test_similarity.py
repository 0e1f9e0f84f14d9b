"""Similarity of sentences: correlations against scipy's and by hand, and a language model as an encoder."""

import numpy as np
import pytest
import torch
from scipy import stats

from nearfar.data.fields.text import train_tokenizer
from nearfar.data.sources.source import Records
from nearfar.errors import UserError
from nearfar.evaluation import evaluate
from nearfar.evaluation.needs import missing_in_model, missing_in_source
from nearfar.evaluation.protocols.similarity import similarity, weighted_ranks
from nearfar.models.language.model import language_model

WORDS = ("red", "green", "blue")


class Sentences:
    """Counts of three words."""

    embed_dim = 3

    def tokenize(self, texts):
        return torch.tensor([[float(text.count(word)) for word in WORDS] for text in texts])

    def encode_text(self, tokens, normalize=False):
        return tokens


def pairs(n=200, seed=0):
    draw = np.random.default_rng(seed)
    records = []
    for i in range(n):
        a, b = (" ".join(draw.choice(WORDS, 4)) for _ in range(2))
        shared = sum(min(a.count(word), b.count(word)) for word in WORDS)
        records.append({"text": a, "text2": b, "score": shared + draw.normal(), "domain": i % 2})
    return Records(records, name="pairs", domains=["news", "forum"])


def cosines(source):
    encoder = Sentences()
    a, b = (encoder.tokenize([record[key] for record in source]) for key in ("text", "text2"))
    return torch.cosine_similarity(a, b).numpy().astype(np.float64).round(6)


def test_correlations_are_scipys():
    source = pairs()
    result = similarity(Sentences(), source)
    scores = source.column("score")
    assert result["spearman"] == pytest.approx(stats.spearmanr(cosines(source), scores)[0], abs=1e-5)
    assert result["pearson"] == pytest.approx(stats.pearsonr(cosines(source), scores)[0], abs=1e-5)
    assert list(result.by["domain"]) == ["news", "forum"]
    news = [record for record in source if record["domain"] == 0]
    expected = stats.spearmanr(cosines(news), [record["score"] for record in news])[0]
    assert result.by["domain"]["news"]["spearman"].value == pytest.approx(expected, abs=1e-5)
    assert (result.metrics["spearman"].n, result.by["domain"]["news"]["spearman"].n) == (200, 100)


def test_ranks_of_a_resample_are_those_of_its_rows_written_out():
    x = np.array([3.0, 1.0, 3.0, 2.0])
    weights = np.array([[2.0, 1.0, 0.0, 3.0]])
    written = stats.rankdata(np.repeat(x, [2, 1, 0, 3]))
    actual = weighted_ranks(x, weights)[0]
    assert actual[[0, 0, 1, 3, 3, 3]].tolist() == written.tolist()


def test_the_interval_holds_what_other_samples_give():
    metric = similarity(Sentences(), pairs(150)).metrics["spearman"]
    others = [similarity(Sentences(), pairs(150, seed), resamples=1)["spearman"] for seed in range(1, 41)]
    assert metric.low < np.mean(others) < metric.high
    assert (metric.high - metric.low) / 3.92 == pytest.approx(np.std(others), rel=0.4)
    assert similarity(Sentences(), pairs(150), seed=0).metrics["spearman"] == metric


def test_groups_are_resampled_together():
    once = pairs(60)
    fivefold = Records([{**record, "group": i} for i, record in enumerate(once) for _ in range(5)])
    alone, together = (similarity(Sentences(), data).metrics["spearman"] for data in (once, fivefold))
    assert together.value == pytest.approx(alone.value, abs=0.02)
    assert together.high - together.low == pytest.approx(alone.high - alone.low, rel=0.15)


def test_a_collapsed_model_has_no_correlation():
    class Same(Sentences):
        def encode_text(self, tokens, normalize=False):
            return torch.ones(len(tokens), 3)

    assert np.isnan(similarity(Same(), pairs(20))["spearman"])


def test_columns_may_have_other_names_and_what_is_missing_is_named():
    table = Records([{"text": "red", "b": "red blue", "s": "4.5"}, {"text": "red", "b": "green", "s": 0}], name="sts")
    options = {"second": "b", "score": "s"}
    assert missing_in_source("similarity", table, options=options) is None
    assert missing_in_source("similarity", table).startswith("sts has no 'text2' (its columns are: text, b, s)")
    assert similarity(Sentences(), table, **options)["spearman"] == pytest.approx(1)
    for change, message in (
        ({"b": None}, "record 0 has no 'b'"),
        ({"s": "high"}, "record 0: s is 'high', not a number"),
        ({"s": float("nan")}, "record 0: s is nan"),
    ):
        with pytest.raises(UserError, match=message):
            similarity(Sentences(), Records([{**table[0], **change}, table[1]], name="sts"), **options)
    with pytest.raises(UserError, match="pairs of one score"):
        similarity(Sentences(), Records([table[0]] * 3), **options)


def test_a_language_model_is_evaluated_as_it_is():
    source = pairs(30)
    model = language_model("tiny", tokenizer=train_tokenizer(source.texts(), 300))
    assert not hasattr(model, "image_size")
    assert missing_in_model("retrieval", model) == "a LanguageModel does not embed pictures"
    assert missing_in_model("geometry", model, source) is None
    results = evaluate(model, source, ["geometry", "similarity"], batch_size=7)
    assert {"text_uniformity", "text_effective_rank", "text_spread"} <= set(results["geometry"].metrics)
    assert not any(name.startswith("image") for name in results["geometry"].metrics)
    assert -1 <= results["similarity"]["spearman"] <= 1
    assert list(evaluate(model, source)) == ["geometry"]


def test_padding_does_not_change_a_sentence():
    model = language_model("tiny", tokenizer=train_tokenizer(["red green blue"] * 3, 300)).eval()
    alone = model.encode_text(model.tokenize(["red"]))
    beside = model.encode_text(model.tokenize(["red", "green blue red green blue"]))[:1]
    assert torch.allclose(alone, beside, atol=1e-5)
