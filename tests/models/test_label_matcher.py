"""A text encoder with a matching head: labels are means of its own word embeddings, the head is an MLP on both, and it
is saved, loaded and used as an encoder."""

import json

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import nearfar
from nearfar.classifiers import LabelMatchClassifier
from nearfar.data import train_tokenizer
from nearfar.errors import UserError
from nearfar.models import LabelMatcher, label_matcher, text_encoder
from nearfar.prompting.class_texts import ClassTexts

TEXTS = ["a red car", "two small dogs", "the old house near a tree"]
LABELS = ["dogs", "old house", "red"]
BERT = {"model_type": "bert", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
BERT |= {"intermediate_size": 32}


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return label_matcher(BERT, tokenizer=train_tokenizer(TEXTS * 3, 400), pooling="mean", hidden=8).eval()


def test_a_label_is_the_mean_of_its_word_embeddings(model):
    table = model.encoder.text.backbone.get_input_embeddings().weight
    ids = model.tokenizer(" old house", add_special_tokens=False)["input_ids"]
    tokens = model.tokenize([" old house", "", " red"])
    label = model.encode_label(tokens)
    torch.testing.assert_close(label[0], table[ids].mean(0))
    assert torch.equal(label[1], torch.zeros(16)), "no words, and padding and special tokens are none"


def test_a_logit_is_an_mlp_of_both_side_by_side(model):
    t, label = torch.randn(3, 16), torch.randn(3, 16)
    joined = torch.cat([model.norm_text(t), model.norm_label(label)], 1)
    whole = torch.cat([model.of_text.weight, model.of_label.weight], 1)
    expected = model.out(F.gelu(F.linear(joined, whole, model.of_text.bias)))[:, 0]
    torch.testing.assert_close(model.match(t, label), expected)
    every = model.match(t[:, None], label)
    torch.testing.assert_close(every.diagonal(), expected)


def test_labels_are_scored_in_parts_as_at_once(model, monkeypatch):
    whole = model.match_labels(TEXTS, LABELS)
    monkeypatch.setattr("nearfar.models.language.label_matcher.ROWS", 4)
    torch.testing.assert_close(model.match_labels(TEXTS, LABELS, batch_size=2), whole)
    assert model.match_labels([], LABELS).shape == (0, 3)
    torch.testing.assert_close(model.match_labels(TEXTS[:1], LABELS[:1])[0], whole[0, :1])


def test_it_is_saved_loaded_and_encodes_as_its_encoder(model, tmp_path):
    again = nearfar.load(model.save_pretrained(tmp_path / "matcher"))
    assert isinstance(again, LabelMatcher)
    torch.testing.assert_close(again.match_labels(TEXTS, LABELS), model.match_labels(TEXTS, LABELS))
    np.testing.assert_allclose(again.encode(TEXTS), model.encoder.encode(TEXTS), atol=1e-6)
    alone = nearfar.load(again.encoder.save_pretrained(tmp_path / "encoder"))
    np.testing.assert_allclose(alone.encode(TEXTS), again.encode(TEXTS), atol=1e-6)
    config = json.loads((tmp_path / "matcher" / "config.json").read_text())
    assert (config["model"], config["hidden"], config["encoder"]["text"]["pooling"]) == ("LabelMatcher", 8, "mean")


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [("hidden", 0, "hidden is 0"), ("hidden", None, "hidden"), ("encoder", {}, "has no 'text'"),
     ("encoder", "BERT", "encoder is 'BERT'")],
)  # fmt: skip
def test_a_damaged_folder_is_named(model, tmp_path, key, value, words):
    file = model.save_pretrained(tmp_path / "matcher") / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {key: value}))
    with pytest.raises(UserError, match=words):
        nearfar.load(tmp_path / "matcher")


def test_an_encoder_becomes_part_of_it():
    encoder = text_encoder(BERT, tokenizer=train_tokenizer(TEXTS, 300))
    matcher = label_matcher(encoder)
    assert matcher.encoder is encoder
    assert matcher.hidden == encoder.embed_dim


class Counts:
    """A label's logit is how often its letters stand in the text, less 2."""

    def match_labels(self, texts, labels, batch_size=64):
        return torch.tensor([[float(sum(map(text.count, label))) - 2 for label in labels] for text in texts])


def test_a_classifier_of_labels_without_examples():
    classifier = LabelMatchClassifier(Counts()).fit(["a", "b"])
    assert classifier.predict(["aab", "abbb"]).tolist() == ["a", "b"]
    assert classifier.score(["aab", "abbb"], ["a", "a"]) == 0.5
    np.testing.assert_allclose(classifier.predict_proba(["aa"]), [[0.5, 1 / (1 + np.exp(2))]], rtol=1e-6)


def test_several_labels_of_a_text_or_none():
    classifier = LabelMatchClassifier(Counts(), multi_label=True).fit(["a", "b"])
    assert classifier.predict(["aabb", "a", "bbb"]).tolist() == [[True, True], [False, False], [False, True]]
    assert classifier.score(["aabb", "a"], [[True, True], [True, False]]) == 0.5
    assert LabelMatchClassifier(Counts(), multi_label=True, threshold=0.9).fit(["a"]).predict(["aa"]).tolist() == [
        [False]
    ]


def test_the_logits_of_several_texts_for_a_label_are_averaged():
    texts = ClassTexts.from_sentences({"first": ["a", "b"], "second": ["c"]})
    assert LabelMatchClassifier(Counts()).fit(texts).decision_function(["aab", "c"]).tolist() == [[-0.5, -2], [-2, -1]]


def test_what_cannot_be_classified_is_named(model):
    with pytest.raises(UserError, match="a Linear does not match labels"):
        LabelMatchClassifier(nn.Linear(2, 2))
    with pytest.raises(UserError, match="a probability is from 0 to 1"):
        LabelMatchClassifier(model, threshold=2)
    with pytest.raises(UserError, match="no labels yet"):
        LabelMatchClassifier(model).predict(["a"])
    for labels in ("dog", []):
        with pytest.raises(UserError, match="fit takes a list of labels"):
            LabelMatchClassifier(model).fit(labels)
