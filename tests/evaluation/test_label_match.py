"""Labels matched without examples: the figures are scikit-learn's, one label a text or several."""

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, f1_score

from nearfar.data import Records
from nearfar.errors import UserError
from nearfar.evaluation import evaluate
from nearfar.evaluation.language.label_match import average_precision, f1_of, label_match, rarest


class Table:
    """Logits as they are written in the texts: one number a label, in order of the names."""

    def tokenize(self, texts):
        return texts

    def encode_text(self, tokens):
        return torch.ones(len(tokens), 2)

    def match_labels(self, texts, labels, batch_size=64):
        return torch.tensor([[float(number) for number in text.split()] for text in texts])


def rows(n=60, classes=4, seed=0):
    rng = np.random.default_rng(seed)
    label = np.minimum(rng.geometric(0.45, n) - 1, classes - 1)
    logits = rng.normal(size=(n, classes)) + 1.5 * np.eye(classes)[label] - 0.5
    return label, logits.round(2)


def written(logits):
    return [" ".join(map(str, row)) for row in logits]


def test_one_label_a_text_is_scikit_learns():
    label, logits = rows()
    records = [{"text": text, "label": int(each)} for text, each in zip(written(logits), label, strict=True)]
    result = label_match(Table(), Records(records, classes=["ant", "bee", "cat", "dog"]), tail=0.5)
    truth, predicted = np.eye(4)[label], logits.argmax(1)
    assert result["macro_f1"] == pytest.approx(f1_score(label, predicted, average="macro"))
    assert result["accuracy"] == pytest.approx((label == predicted).mean())
    assert result["mean_ap"] == pytest.approx(average_precision_score(truth, logits, average="macro"))
    each = f1_score(label, predicted, average=None)
    assert result["tail_f1"] == pytest.approx(each[np.argsort(np.bincount(label), kind="stable")[:2]].mean())
    assert result.by["label"]["bee"]["f1"].value == pytest.approx(each[1])
    metric = result.metrics["accuracy"]
    assert metric.low < metric.value < metric.high
    assert metric.chance == 0.25


def test_several_labels_a_text_are_scikit_learns():
    _, logits = rows(classes=3)
    truth = np.random.default_rng(1).random((60, 3)) < 0.4
    truth[:, 0] |= ~truth.any(1)
    names = np.array(["ant", "bee", "cat"])
    records = [{"text": text, "tags": names[own].tolist()} for text, own in zip(written(logits), truth, strict=True)]
    result = evaluate(Table(), Records(records), ["label_match"], options={"label_match": {"labels": "tags"}})
    figures = result["label_match"]
    predicted = logits >= 0
    assert figures["macro_f1"] == pytest.approx(f1_score(truth, predicted, average="macro"))
    assert figures["accuracy"] == pytest.approx((truth == predicted).all(1).mean())
    strict = label_match(Table(), Records(records), labels="tags", threshold=0.9)
    assert strict["macro_f1"] == pytest.approx(f1_score(truth, logits >= np.log(9), average="macro"))


def test_ties_count_as_one_step():
    truth, scores = np.array([[1], [0], [1], [0]], dtype=bool), np.array([[1.0], [1.0], [0.0], [0.0]])
    assert average_precision(truth, scores)[0] == pytest.approx(average_precision_score(truth[:, 0], scores[:, 0]))


def test_a_label_never_predicted_has_an_f1_of_zero():
    assert f1_of(np.array([[True], [True]]), np.array([[False], [False]])).tolist() == [0.0]


def test_the_rarest_are_a_share_and_one_at_least():
    assert rarest(np.array([5, 1, 9, 1]), 0.5).tolist() == [1, 3]
    assert rarest(np.array([5, 1]), 0.01).tolist() == [1]


@pytest.mark.parametrize(
    ("records", "options", "words"),
    [
        ([{"text": "0 1", "label": 0}] * 3, {}, "labels are told apart, and there is one"),
        ([{"text": "0 1", "tags": []}], {"labels": "tags"}, "holds no texts with 'tags'"),
        ([{"text": "0 1", "label": 0}], {"tail": 0.0}, "a share of the labels is above 0"),
    ],
)
def test_what_cannot_be_measured_is_named(records, options, words):
    with pytest.raises(UserError, match=words):
        label_match(Table(), Records(records), **options)


def test_a_model_without_a_head_is_named():
    class Plain:
        def encode_text(self, tokens):
            return tokens

    with pytest.raises(UserError, match="a Plain does not match labels: train a label_matcher with the method cless"):
        label_match(Plain(), Records([{"text": "a", "label": 0}, {"text": "b", "label": 1}]))
