"""OpTA: numbers worked out by hand, what it commutes with, where it is biased, and episodes with little in them."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from nearfar.classifiers import OpTA, opta
from nearfar.classifiers.transported_means import standardised
from nearfar.errors import UserError

X = torch.tensor([[0.0, 0.0], [1.0, 0.0]])
Y = torch.tensor([[0.0, 1.0], [0.2, 1.0], [2.0, 1.0], [2.2, 1.0]])


def moved(queries=Y, start=X, **settings):
    return opta(start.double(), queries.double(), **settings)


def close(actual, expected, atol=1e-6):
    torch.testing.assert_close(actual.double(), torch.tensor(expected).double(), atol=atol, rtol=0)


def test_passes_worked_out_by_hand():
    """The released stop rule leaves the first pass at (0.101655, 2.096365), whose mean is 1.09901; at convergence the
    mean is the queries', 1.1."""
    first = moved(passes=1)
    close(first, [[0.102476, 1.0], [2.097524, 1.0]])
    torch.testing.assert_close(first.mean(0), Y.double().mean(0), atol=1e-12, rtol=0)
    close(moved(passes=2), [[0.1, 1.0], [2.1, 1.0]], atol=1e-5)
    close(moved(passes=1, epsilon=1.0), [[0.928806, 1.0], [1.271193, 1.0]])
    close(moved(passes=1, epsilon=1e6), [[1.1, 1.0], [1.1, 1.0]])


def test_no_pass_leaves_prototypes_and_a_mix_keeps_a_part():
    assert torch.equal(opta(X, Y, passes=0), X)
    close(moved(passes=1, mix=0.7), [[0.7 * 0.102476, 0.7], [0.7 * 2.097524 + 0.3, 0.7]])


def test_imbalanced_queries_pull_the_small_class_away():
    """Half of the mass is forced on one query of four: the second prototype goes to 1.164 instead of 2.2. Without the
    constraint, or with the true shares, it does not."""
    uneven = torch.tensor([[0.0, 1.0], [0.2, 1.0], [0.1, 1.0], [2.2, 1.0]])
    close(moved(uneven, passes=1), [[0.085407, 1.0], [1.164593, 1.0]])
    assert moved(uneven, passes=5, prior="relaxed")[1, 0] > 2.19
    assert moved(uneven, passes=5, prior=[3, 1])[1, 0] > 2.19


def test_it_commutes_with_rotation_translation_scale_and_order():
    draw = torch.Generator().manual_seed(0)
    start, queries = torch.randn(5, 8, generator=draw).double(), torch.randn(40, 8, generator=draw).double()
    turn = torch.linalg.qr(torch.randn(8, 8, generator=draw).double())[0]
    order, swap = torch.randperm(40, generator=draw), torch.randperm(5, generator=draw)
    plain = opta(start, queries, passes=3)
    assert torch.allclose(opta(3 * start @ turn + 1, 3 * queries @ turn + 1, passes=3), 3 * plain @ turn + 1)
    assert torch.allclose(opta(start, queries[order], passes=3), plain)
    assert torch.allclose(opta(start[swap], queries, passes=3), plain[swap])
    episodes = opta(torch.stack([start, 2 * start]), torch.stack([queries, 2 * queries]), passes=3)
    assert torch.allclose(episodes, torch.stack([plain, 2 * plain]))


def test_one_class_goes_to_the_mean_of_the_queries_and_same_classes_stay_the_same():
    close(opta(X[:1], Y, passes=1), [[1.1, 1.0]])
    same = opta(X[[0, 0, 1]], Y, passes=2)
    assert torch.equal(same[0], same[1])
    assert torch.equal(opta(X[[0, 0]], X[[0, 0, 0]], passes=2), X[[0, 0]])  # all points are one


def test_a_class_without_a_share_of_the_queries_stays_where_it_is():
    queries = torch.tensor([[0.0, 1.0], [0.2, 1.0], [2.0, 1.0]])
    prototypes = torch.tensor([[0.0, 0.0], [1.0, 0.0], [9.0, 9.0]])
    after = opta(prototypes, queries, prior=[2, 1, 0], passes=3)
    assert after[2].tolist() == [9.0, 9.0]
    close(after[:2, 1], [1.0, 1.0])
    assert 0 <= after[:2, 0].min() <= after[:2, 0].max() <= 2, "means of queries"


def test_standardising_is_by_each_vector_alone():
    x = torch.tensor([[1.0, 2.0, 3.0, 6.0], [5.0, 5.0, 5.0, 5.0]])
    expected = (x[0] - 3) / x[0].std()
    close(standardised(x), [expected.tolist(), [0.0] * 4])


def blobs(counts, shots, s=0.6, dim=64, seed=0):
    """Gaussian classes: support, its labels, queries and theirs."""
    draw = np.random.default_rng(seed)
    centre = s * draw.normal(size=(len(counts), dim))
    names = np.array(["ant", "bee", "cat", "dog", "elk"])[: len(counts)]
    own, of_query = np.repeat(np.arange(len(counts)), shots), np.repeat(np.arange(len(counts)), counts)
    support = centre[own] + draw.normal(size=(len(own), dim))
    return support, names[own], centre[of_query] + draw.normal(size=(len(of_query), dim)), names[of_query]


@pytest.mark.parametrize("rule", ["logistic", "nearest"])
@pytest.mark.parametrize("shots", [1, 5])
def test_the_classifier_is_the_functions_put_together(rule, shots):
    x, y, q, _ = blobs([6, 6, 6], shots)
    classifier = OpTA(rule=rule).fit(x, y)
    unit = standardised(torch.tensor(x, dtype=torch.float32))
    means = torch.stack([unit[y == name].mean(0) for name in ("ant", "bee", "cat")])
    torch.testing.assert_close(classifier.prototypes_, means, atol=1e-4, rtol=0)
    query = standardised(torch.tensor(q, dtype=torch.float32))
    settings = {"passes": 5, "mix": 1.0} if shots == 1 else {"passes": 1, "mix": 0.7}
    there = opta(means, query, **settings)
    if rule == "nearest":
        expected = -torch.cdist(query, there).square().numpy()
    else:
        expected = LogisticRegression(C=1.0, max_iter=1000).fit(there.numpy(), np.arange(3)).decision_function(query)
    assert np.allclose(classifier.decision_function(q), expected, atol=2e-2)
    assert (classifier.predict(q) == classifier.classes_[expected.argmax(1)]).all()


def test_transport_helps_one_shot_and_the_company_of_a_query_matters():
    plain, with_transport, alone = [], [], []
    for seed in range(20):
        x, y, q, answer = blobs([15] * 5, 1, seed=seed)
        plain.append(OpTA(passes=0, rule="nearest").fit(x, y).score(q, answer))
        classifier = OpTA(rule="nearest").fit(x, y)
        with_transport.append(classifier.score(q, answer))
        alone.append(np.mean(classifier.predict(q[:15]) == answer[:15]))
    assert np.mean(plain) == pytest.approx(0.818, abs=0.06)
    assert np.mean(with_transport) > 0.97
    assert np.mean(alone) < 0.6  # queries of one class only: the plan spreads them over all


def test_two_classes_one_class_and_more_than_a_block_of_queries():
    x, y, q, answer = blobs([900, 900], 1, dim=16, s=1.5)
    assert OpTA().fit(x, y).decision_function(q).shape == (1800, 2)
    assert OpTA().fit(x, y).score(q, answer) > 0.95
    one = OpTA().fit(x[:1], y[:1])
    assert one.predict(q[:3]).tolist() == ["ant"] * 3
    assert one.predict_proba(q[:3]).tolist() == [[1.0]] * 3


def test_mistakes_are_sentences():
    x, y, q, _ = blobs([3, 3, 3], 1)
    classifier = OpTA().fit(x, y)
    assert classifier.predict(q[:0]).shape == (0,)
    for make, message in (
        (lambda: OpTA(rule="svm"), "rule='svm': choose logistic or nearest"),
        (lambda: classifier.predict(q[:2]), "give all queries at once, at least one a class and not 2"),
        (lambda: OpTA(prior="even").fit(x, y).predict(q), "prior='even': choose uniform, relaxed"),
        (lambda: OpTA(prior=[1, 1]).fit(x, y).predict(q), "masses of the classes must be 3 numbers"),
        (lambda: OpTA(prior="relaxed").fit(x * np.nan, y).predict(q), "some are NaN or infinite"),
        (lambda: opta(X, Y[:, :1]), r"must be \[..., N, D\] and \[..., M, D\]"),
        (lambda: opta(X, Y[:0]), "2 prototypes onto 0 queries"),
        (lambda: opta(X[:0], Y), "0 prototypes onto 4 queries"),
        (lambda: opta(X, Y, passes=-1), "passes=-1 must be 0 or more"),
        (lambda: opta(X, Y, mix=1.5), r"mix=1.5 a share in \[0, 1\]"),
    ):
        with pytest.raises(UserError, match=message):
            make()
