import numpy as np
import pytest
import torch

from nearfar.errors import UserError
from nearfar.evaluation import TEMPLATES, ZeroShotClassifier, class_prototypes, embed, embed_texts, templates, zero_shot
from nearfar.evaluation.measures.retrieval_ranks import rank_scores
from nearfar.evaluation.protocols.zero_shot_accuracy import accuracies


def test_prototype_is_the_normalised_mean_of_normalised_sentences(encoder):
    sentences = ["a {}", "green {}", "blue {}"]
    prototypes = class_prototypes(encoder, ["red", "black"], templates=sentences)
    for name, prototype in zip(["red", "black"], prototypes, strict=True):
        each = embed_texts(encoder, [s.format(name) for s in sentences]).double()
        mean = each.mean(0)
        torch.testing.assert_close(prototype.double(), mean / mean.norm(), atol=1e-6, rtol=0)


def test_accuracy_by_brute_force(encoder, colours):
    data = embed(encoder, colours)
    data.image = data.image + torch.randn(12, 3, generator=torch.Generator().manual_seed(3))
    result = zero_shot(encoder, data, templates="name", ks=(1, 3))
    cosine = (
        torch.nn.functional.normalize(data.image, dim=1) @ class_prototypes(encoder, data.classes, templates="name").T
    )
    order = cosine.argsort(dim=1, descending=True)
    for k in (1, 3):
        expected = (order[:, :k] == data.label[:, None]).any(1).double().mean()
        assert result[f"top{k}"] == pytest.approx(float(expected))
        assert result.metrics[f"top{k}"].chance == pytest.approx(k / 6)
    assert 0 < result["top1"] < 1


def test_plain_squares_are_all_right_and_broken_down(encoder, colours):
    result = zero_shot(encoder, colours)
    assert result["top1"] == result["mean_per_class"] == 1
    assert set(result.by["domain"]) == {"plain", "striped"}
    assert set(result.by["class"]) == set(colours.classes)
    assert result.by["class"]["red"]["top1"].n == 2


def test_candidates_present_or_all(encoder, colours):
    warm = colours.filter(lambda record: record["label"] in (0, 3))
    assert zero_shot(encoder, warm).metrics["top1"].chance == pytest.approx(1 / 2)
    assert zero_shot(encoder, warm, candidates="all").metrics["top1"].chance == pytest.approx(1 / 6)


def test_mean_per_class_weighs_classes_alike():
    scores = torch.tensor([[1.0, 0.0]] * 9 + [[1.0, 0.0]])
    label = torch.tensor([0] * 9 + [1])
    metrics = accuracies(rank_scores(scores, label, torch.arange(2)), label, None)
    assert metrics["top1"].value == pytest.approx(0.9)
    assert metrics["mean_per_class"].value == pytest.approx(0.5)
    assert "top5" not in metrics


def test_unlabelled_images_are_left_out_and_missing_names_told(encoder, colours):
    data = embed(encoder, colours)
    data.label[0] = -1
    assert zero_shot(encoder, data).metrics["top1"].n == 11
    with pytest.raises(UserError, match="only 2 classes are named"):
        zero_shot(encoder, data, classes=["red", "green"])
    data.classes = None
    with pytest.raises(UserError, match="names no classes"):
        zero_shot(encoder, data)
    data.label = None
    with pytest.raises(UserError, match="no labels"):
        zero_shot(encoder, data)


def test_classifier_has_scikit_learns_verbs(encoder, colours):
    data = embed(encoder, colours)
    names = [colours.classes[i] for i in data.label.tolist()]
    classifier = ZeroShotClassifier(encoder, templates="name").fit(colours.classes)
    assert classifier.predict(data.image).tolist() == names
    assert classifier.predict(data.image.numpy() * 7).tolist() == names
    assert classifier.score(data.image, names) == 1
    np.testing.assert_allclose(classifier.predict_proba(data.image).sum(1), 1, rtol=1e-5)
    with pytest.raises(UserError, match="call fit"):
        ZeroShotClassifier(encoder).predict(data.image)
    with pytest.raises(UserError, match="list of class names"):
        ZeroShotClassifier(encoder).fit("red")


def test_template_sets():
    for sentences in TEMPLATES.values():
        assert len(set(sentences)) == len(sentences)
        assert all(sentence.count("{}") == 1 for sentence in sentences)
    assert len(templates("full")) == 80
    for wrong in ("a photo", ["a {}", "a photo"], []):
        with pytest.raises(UserError, match="template"):
            templates(wrong)
