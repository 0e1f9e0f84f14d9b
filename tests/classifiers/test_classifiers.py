"""Classifiers speak scikit-learn: against its own where it has one, and by hand."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

from nearfar.classifiers import (
    Classifier,
    KNearest,
    LinearProbe,
    NearestMean,
    OpTA,
    ZeroShotClassifier,
    class_prototypes,
)
from nearfar.errors import UserError
from nearfar.prompting.class_texts import ClassTexts

FITTED = (NearestMean, KNearest, LinearProbe, OpTA)


def blobs(n=120, seed=0):
    draw = np.random.default_rng(seed)
    y = draw.integers(3, size=n)
    x = np.eye(3, 6)[y] + draw.normal(0, 0.4, (n, 6))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32), np.array(["ant", "bee", "cat"])[y]


class Letters:
    """Embeds a text by how often it holds three letters."""

    embed_dim = 3

    def tokenize(self, texts):
        return torch.tensor([[text.count(letter) + 0.01 for letter in "xyz"] for text in texts])

    def encode_text(self, tokens, normalize=False):
        return tokens


@pytest.mark.parametrize("kind", [*FITTED, lambda: ZeroShotClassifier(Letters())])
def test_before_fit_it_says_fit_first(kind):
    classifier = kind()
    for verb in (classifier.predict, classifier.decision_function, classifier.predict_proba):
        with pytest.raises(UserError, match=r"no classes yet: call fit\(...\) first"):
            verb(np.eye(3))


@pytest.mark.parametrize("kind", FITTED)
def test_all_keep_the_contract(kind):
    x, y = blobs()
    classifier = kind()
    assert isinstance(classifier, Classifier)
    assert classifier.fit(x, y) is classifier
    assert classifier.classes_.tolist() == ["ant", "bee", "cat"]
    scores = classifier.decision_function(torch.from_numpy(x))
    assert (scores.shape, scores.dtype) == ((120, 3), np.float32)
    assert (classifier.predict(x) == classifier.classes_[scores.argmax(1)]).all()
    assert classifier.score(x, y) > 0.8
    assert np.allclose(classifier.predict_proba(x, temperature=1.0).sum(1), 1)
    assert classifier.predict(x[:0]).shape == (0,)
    with pytest.raises(UserError, match=r"must be \[N, 6\], not \[2, 5\]"):
        classifier.predict(np.eye(2, 5))
    with pytest.raises(UserError, match="must be"):
        kind().fit(x, y[:-1])
    with pytest.raises(UserError, match="no examples"):
        kind().fit(x[:0], y[:0])


@pytest.mark.parametrize("kind", [NearestMean, LinearProbe, KNearest])
def test_a_query_has_the_same_scores_alone_and_among_75_others(kind):
    """OpTA is the one that reads the other queries, and says so (`test_transported_means`)."""
    classifier = kind().fit(*blobs())
    queries, _ = blobs(76, seed=1)
    among, alone = classifier.decision_function(queries)[40], classifier.decision_function(queries[40:41])[0]
    np.testing.assert_allclose(alone, among, atol=1e-6, rtol=1e-6)


def test_neighbours_and_linear_probe_are_scikit_learns():
    x, y = blobs()
    new, _ = blobs(seed=1)
    assert (KNearest(1).fit(x, y).predict(new) == KNeighborsClassifier(1).fit(x, y).predict(new)).all()
    probe = LinearProbe([10.0]).fit(x, y)
    theirs = LogisticRegression(C=10.0, max_iter=1000).fit(x, y)
    assert probe.C_ == 10
    assert np.allclose(probe.decision_function(new), theirs.decision_function(new), atol=1e-5)


def test_nearest_mean_is_one_neighbour_among_the_means():
    x, y = blobs()
    new, _ = blobs(seed=1)
    names = ["ant", "bee", "cat"]
    means = np.stack([x[y == name].mean(0) for name in names])
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    assert (NearestMean().fit(x, y).predict(new) == KNeighborsClassifier(1).fit(means, names).predict(new)).all()


def test_votes_by_hand():
    classifier = KNearest(3, temperature=0.5).fit(np.eye(3)[[0, 0, 1, 2]], [0, 0, 1, 2])
    votes = classifier.decision_function([[1.0, 1.0, 0.0]])[0]
    assert votes == pytest.approx([2, 1, 0])


def test_a_class_without_examples_is_never_predicted():
    x, y = blobs()
    for classifier in (LinearProbe([1.0]), KNearest(5)):
        classifier.fit(x, y, classes=["ant", "asp", "bee", "cat"])
        assert classifier.classes_.tolist() == ["ant", "asp", "bee", "cat"]
        assert "asp" not in classifier.predict(x)
    with pytest.raises(UserError, match="label cat is none of the classes"):
        KNearest().fit(x, y, classes=["ant", "bee"])
    with pytest.raises(UserError, match="two classes at least"):
        LinearProbe().fit(x[:3], ["ant"] * 3)


def test_classes_may_have_sentences_of_their_own_and_unequal_numbers():
    texts = ClassTexts.from_sentences({"many": ["x", "xy"], "one": "zz"})
    prototypes = class_prototypes(Letters(), texts)
    a, b = (torch.nn.functional.normalize(torch.tensor(v), dim=0) for v in ([1.01, 0.01, 0.01], [1.01, 1.01, 0.01]))
    assert torch.allclose(prototypes[0], torch.nn.functional.normalize(a + b, dim=0), atol=1e-6)
    classifier = ZeroShotClassifier(Letters()).fit(texts)
    assert classifier.predict([[1.0, 0.2, 0.0], [0.0, 0.0, 1.0]]).tolist() == ["many", "one"]
    plain = class_prototypes(Letters(), ["x", "z"], templates="a {}")
    assert torch.equal(plain, class_prototypes(Letters(), ClassTexts.of(["x", "z"], "a {}")))


def test_class_texts_that_cannot_be():
    for make, message in (
        (lambda: ClassTexts.of([]), "no classes"),
        (lambda: ClassTexts.of("cat"), "a list of names, not 'cat'"),
        (lambda: ClassTexts.of(["cat"], "plain"), "template"),
        (lambda: ClassTexts.from_sentences({"cat": []}), "'cat' has no sentence"),
        (lambda: ClassTexts(("a",), ()), "1 class names, but sentences for 0"),
    ):
        with pytest.raises(UserError, match=message):
            make()
