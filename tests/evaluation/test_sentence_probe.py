"""A linear probe of sentences: folds that keep equal texts together, a penalty chosen inside, pairs, published sets."""

import json

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from nearfar import cli
from nearfar.classifiers.linear import LinearProbe, folds
from nearfar.data import Records
from nearfar.errors import UserError
from nearfar.evaluation import evaluate
from nearfar.evaluation.language.labelled_texts import labelled_texts
from nearfar.evaluation.language.sentence_probe import pair_features, sentence_probe


class Vectors:
    """A text is its own vector, written with spaces."""

    def tokenize(self, texts):
        return torch.tensor([[float(number) for number in text.split()] for text in texts])

    def encode_text(self, tokens):
        return tokens


def clouds(n, classes=2, noise=0.5, seed=0, dim=4):
    """Texts around one centre a class, in turns."""
    rng = np.random.default_rng(seed)
    centre = np.eye(dim)
    rows = [(centre[i % classes] + noise * rng.normal(size=dim), i % classes) for i in range(n)]
    return [{"text": " ".join(f"{x:.4f}" for x in vector), "label": label} for vector, label in rows]


FEW = {"outer_folds": 4, "inner_folds": 2, "cs": (1.0, 100.0)}


def test_cross_validation_is_scikit_learns():
    """Each fold is measured as fitted on the others."""
    records = clouds(60, classes=3, noise=0.6)
    result = sentence_probe(Vectors(), Records(records), outer_folds=4, cs=(1.0,))
    x = np.array([[float(number) for number in record["text"].split()] for record in records])
    x, y = x / np.linalg.norm(x, axis=1, keepdims=True), np.array([record["label"] for record in records])
    fold = folds(torch.from_numpy(y), 4, 0).numpy()
    right = [(LogisticRegression(C=1.0).fit(x[fold != f], y[fold != f]).predict(x[fold == f]) == y[fold == f]).sum()
             for f in range(4)]  # fmt: skip
    assert result["accuracy"] == pytest.approx(sum(right) / 60)
    assert 0.5 < result["accuracy"] < 1
    assert result.metrics["accuracy"].n == 60
    assert result.metrics["accuracy"].low < result["accuracy"] < result.metrics["accuracy"].high
    assert result.details["folds"] == 4


def test_equal_texts_are_never_on_both_sides():
    """Classes that nothing but memory tells apart: with copies on both sides the probe would be right."""
    rng = np.random.default_rng(0)
    texts = [" ".join(f"{x:.3f}" for x in rng.normal(size=40)) for _ in range(40)]
    copies = [{"text": text, "label": i % 2} for i, text in enumerate(texts)] * 4
    result = sentence_probe(Vectors(), Records(copies), **FEW)
    assert result["accuracy"] < 0.75
    once = sentence_probe(Vectors(), Records(copies[:40]), **FEW).metrics["accuracy"]
    four = result.metrics["accuracy"]
    assert four.high - four.low == pytest.approx(once.high - once.low, abs=0.1), "copies make no interval narrower"
    spread = [{**record, "text": f"{record['text']} {i % 7}", "group": i % 40} for i, record in enumerate(copies)]
    assert sentence_probe(Vectors(), Records(spread), **FEW)["accuracy"] < 0.75, "a group stays together, too"


def test_groups_join_through_equal_texts():
    rows = [("a", 1), ("b", 1), ("b", 2), ("c", 2), ("d", None), ("d", None), ("e", None)]
    data = labelled_texts(Records([{"text": text, "label": 0, "group": group} for text, group in rows]))
    assert data.group.tolist() == [0, 0, 0, 0, 1, 1, 2]


def test_the_penalty_is_chosen_inside():
    """Labels of what is measured do not change it; of the training texts they do."""
    train, test = clouds(60, noise=1.0), clouds(30, noise=1.0, seed=1)
    flipped = [record | {"label": 1 - record["label"]} for record in test]
    one, other = (
        sentence_probe(Vectors(), Records(part), train=Records(train), inner_folds=3) for part in (test, flipped)
    )
    assert one.details["C"] == other.details["C"]
    assert one["accuracy"] == pytest.approx(1 - other["accuracy"])
    assert one.details["folds"] == 0


def test_inner_folds_choose_by_all_of_them():
    records = clouds(40, noise=0.8)
    x = torch.tensor([[float(number) for number in record["text"].split()] for record in records])
    y = torch.tensor([record["label"] for record in records])
    unit = torch.nn.functional.normalize(x, dim=1).numpy()
    fold, cs = folds(y, 4, 3).numpy(), (0.01, 1.0, 1000.0)
    right = [
        sum((LogisticRegression(C=c, max_iter=1000).fit(unit[fold != f], y[fold != f]).predict(unit[fold == f])
             == y[fold == f].numpy()).sum() for f in range(4))
        for c in cs
    ]  # fmt: skip
    chosen = LinearProbe(cs, inner_folds=4, seed=3).fit(x, y).C_
    assert chosen == cs[int(np.argmax(right))]


def test_folds_hold_their_share_of_each_class():
    label = torch.tensor([0] * 20 + [1] * 8 + [2])
    fold = folds(label, 4, 0)
    assert [torch.bincount(fold[label == one], minlength=4).tolist() for one in (0, 1)] == [[5] * 4, [2] * 4]
    assert fold[-1] == -1, "the only text of its class cannot be held out"


def test_chance_is_the_commonest_class():
    """A model that maps everything to one point answers it, and is at chance."""

    class Same(Vectors):
        def encode_text(self, tokens):
            return torch.ones(len(tokens), 3)

    records = [record | {"label": int(i % 4 == 0)} for i, record in enumerate(clouds(80))]
    result = sentence_probe(Same(), Records(records, classes=["no", "yes"]), **FEW)
    assert result["accuracy"] == pytest.approx(0.75)
    assert result.metrics["accuracy"].chance == pytest.approx(0.75)
    assert (result["mean_per_class"], result.metrics["mean_per_class"].chance) == (0.5, 0.5)
    assert (result["f1"], result.metrics["f1"].chance) == (0, pytest.approx(0.4))
    assert result.by["class"]["yes"]["accuracy"].value == 0


def test_pairs():
    """Whether both are of one class is in no single vector: |u - v| and u * v have it."""
    u, v = torch.randn(2, 5, 9)
    u, v = (torch.nn.functional.normalize(x, dim=1) for x in (u, v))
    torch.testing.assert_close(pair_features(u, v), torch.cat([(u - v).abs(), u * v * 3], 1))
    torch.testing.assert_close(pair_features(u, v), pair_features(v, u))
    single = clouds(120, noise=0.2)
    other = [*single[60:], *single[:61]][1:]
    pairs = [
        {"text": a["text"], "text2": b["text"], "label": int(a["label"] == b["label"])}
        for a, b in zip(single, [*other[:60], *single[60:]], strict=True)
    ]
    result = sentence_probe(Vectors(), Records(pairs), **FEW)
    assert result.details["pairs"] is True
    assert result["accuracy"] > 0.9
    assert result["f1"] == pytest.approx(
        2 * _count(result, "1") / (2 * _count(result, "1") + _errors(result)), abs=1e-9
    )
    both = labelled_texts(Records([{"text": "1", "text2": "2", "label": 0}, {"text": "2", "text2": "1", "label": 0}]))
    assert both.group.tolist() == [0, 0]


def _count(result, name):
    metric = result.by["class"][name]["accuracy"]
    return metric.value * metric.n


def _errors(result):
    return sum((1 - each["accuracy"].value) * each["accuracy"].n for each in result.by["class"].values())


def test_train_and_test_agree_by_the_names_of_classes():
    """Numbers of a table's classes follow what stands in that table; texts of the test are not fitted."""
    train = Records([record | {"label": 1 - record["label"]} for record in clouds(40, noise=0.2)], classes=["b", "a"])
    test = Records(clouds(20, noise=0.2, seed=1), classes=["a", "b"])
    assert sentence_probe(Vectors(), test, train=train, inner_folds=2)["accuracy"] > 0.9
    both = sentence_probe(Vectors(), test, train=train + test, inner_folds=2)
    assert both.details["train"] == 40
    assert both.details["left_out"] == {"of training that stand in the test set": 20}


def test_what_cannot_be_probed_is_a_sentence():
    with pytest.raises(UserError, match="lines holds no texts with a label"):
        sentence_probe(Vectors(), Records([{"text": "1"}], name="lines"))
    with pytest.raises(UserError, match="no class of few has two different texts"):
        sentence_probe(Vectors(), Records([{"text": "1", "label": 0}, {"text": "2", "label": 1}], name="few"))
    with pytest.raises(UserError, match="two classes to fit on, and has 1"):
        sentence_probe(Vectors(), Records([record | {"label": 0} for record in clouds(6)], name="one"))
    with pytest.raises(UserError, match="needs a source of labelled texts"):
        sentence_probe(Vectors())
    with pytest.raises(UserError, match="outer_folds is 1, but must be 2 or more"):
        sentence_probe(Vectors(), Records(clouds(6)), outer_folds=1)
    half = [{**record, "label": record["label"] if i < 20 else -1} for i, record in enumerate(clouds(24, noise=0.1))]
    assert sentence_probe(Vectors(), Records(half), **FEW).details["unlabelled"] == 4


def test_published_sets_and_tables_on_the_command_line(tmp_path, capsys):
    good, bad = ["works well", "a good buy", "I love it", "very happy"], ["broke", "a bad buy", "I hate it", "so sad"]
    (tmp_path / "CR").mkdir()
    (tmp_path / "CR" / "custrev.pos").write_text("\n".join(good))
    (tmp_path / "CR" / "custrev.neg").write_text("\n".join(bad))
    (tmp_path / "SST2").mkdir()
    lines = [f"{text}\t{label}" for label, texts in enumerate((bad, good)) for text in texts]
    for part in ("train", "dev"):
        (tmp_path / "SST2" / f"sentiment-{part}").write_text("\n".join(lines))
    (tmp_path / "SST2" / "sentiment-test").write_text("so good\t1\nnot good\t0\n")
    rows = ["text,label", *(f"{line.replace(chr(9), ',')}" for line in lines)]
    (tmp_path / "mine.csv").write_text("\n".join(rows))
    file = tmp_path / "results.json"
    words = ["--protocols", "sentence_probe", "--json", str(file), "--options", "sentence_probe.outer_folds=2",
             "sentence_probe.inner_folds=2", "sentence_probe.cs=[10]"]  # fmt: skip
    cli.main(["evaluate", "minilm", "--probe-sets", str(tmp_path), *words])
    result = json.loads(file.read_text())["results"]["sentence_probe"]
    assert set(result["by"]["set"]) == {"CR", "SST2", "mine.csv"}
    details = result["details"]
    assert (details["SST2"]["texts"], details["SST2"]["train"], details["SST2"]["folds"]) == (2, 8, 0)
    assert (details["mine.csv"]["texts"], details["mine.csv"]["folds"]) == (8, 2)
    cli.main(["evaluate", "minilm", "--on", str(tmp_path / "CR"), *words, "--report", str(tmp_path / "report")])
    alone = json.loads(file.read_text())["results"]["sentence_probe"]["metrics"]["accuracy"]
    assert alone["value"] == result["by"]["set"]["CR"]["accuracy"]["value"]
    page = (tmp_path / "report" / "report.html").read_text()
    assert "sentence probe, accuracy" in page
    assert ("Sentences put into a wrong class" in page) == (alone["value"] < 1)
    capsys.readouterr()


def test_a_folder_without_sets_is_named(tmp_path):
    with pytest.raises(UserError, match="holds no labelled texts"):
        sentence_probe(Vectors(), sets=[str(tmp_path)])
    words = evaluate(Vectors(), Records(clouds(24, noise=0.1)), ["sentence_probe"], options={"sentence_probe": FEW})
    assert words["sentence_probe"]["accuracy"] == 1.0
