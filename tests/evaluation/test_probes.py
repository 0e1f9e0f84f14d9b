import numpy as np
import pytest
import torch

from nearfar.errors import UserError
from nearfar.evaluation import Embeddings, knn, linear_probe
from nearfar.evaluation.protocols.probes import split


def labelled(n, classes=5, noise=1.0, dim=8, seed=0, offset=0):
    generator = torch.Generator().manual_seed(seed + 1)
    centre = torch.randn(classes, dim, generator=torch.Generator().manual_seed(0))
    label = torch.randint(classes, (n,), generator=generator)
    image = centre[label] + noise * torch.randn(n, dim, generator=generator)
    nothing = torch.zeros(0, dtype=torch.long)
    return Embeddings(image, image[:0], nothing, label=label + offset, domain=torch.arange(n) % 2)


def slow_knn(train, test, k, temperature):
    x, y = (torch.nn.functional.normalize(d.image.double(), dim=1).numpy() for d in (train, test))
    predictions = []
    for query in y:
        cosine = x @ query
        votes = np.zeros(5)
        for j in np.argsort(-cosine)[:k]:
            votes[train.label[j]] += np.exp(cosine[j] / temperature)
        predictions.append(votes.argmax())
    return np.mean(np.array(predictions) == test.label.numpy())


@pytest.mark.parametrize(("k", "temperature"), [(1, 0.07), (7, 0.07), (20, 1.0), (1000, 0.005)])
def test_knn_by_brute_force(k, temperature):
    train, test = labelled(80), labelled(50, seed=1)
    result = knn(test, train, k=k, temperature=temperature)
    assert result["top1"] == pytest.approx(slow_knn(train, test, k, temperature))
    assert result.metrics["top1"].chance == pytest.approx(1 / 5)
    assert 0.2 < result["top1"] < 1


def test_labels_need_not_count_from_zero():
    near, far = (knn(labelled(50, seed=1, offset=o), labelled(80, offset=o)) for o in (0, 100))
    assert near.metrics == far.metrics
    near, far = (linear_probe(labelled(50, seed=1, offset=o), labelled(80, offset=o)) for o in (0, 100))
    assert near.metrics == far.metrics


def test_linear_probe_finds_what_is_there_and_nothing_in_noise():
    train, test = labelled(400, noise=0.6), labelled(200, noise=0.6, seed=1)
    assert linear_probe(test, train)["top1"] > 0.9
    generator = torch.Generator().manual_seed(9)
    test.image = torch.randn(200, 8, generator=generator)
    chance = linear_probe(test, train).metrics["top1"]
    assert chance.low <= chance.chance + 0.08
    assert chance.value < 0.35


def test_linear_probe_is_scikit_learns(monkeypatch):
    from sklearn.linear_model import LogisticRegression

    train, test = labelled(120), labelled(60, seed=1)
    x, y = (torch.nn.functional.normalize(d.image, dim=1).numpy() for d in (train, test))
    expected = LogisticRegression(C=10, max_iter=1000).fit(x, train.label).score(y, test.label)
    result = linear_probe(test, train, cs=(10.0,))
    assert result["top1"] == pytest.approx(expected)
    assert result.details["C"] == 10


def test_c_never_sees_the_test_images():
    train, test = labelled(120), labelled(60, seed=1)
    chosen = linear_probe(test, train).details["C"]
    test.label = test.label.flip(0)
    assert linear_probe(test, train).details["C"] == chosen


def test_two_classes_and_a_class_without_training_images():
    train, test = labelled(60, classes=2), labelled(40, classes=2, seed=1)
    assert linear_probe(test, train)["top1"] > 0.6
    test.label[0] = 4
    result = linear_probe(test, train)
    assert result.details["classes"] == 3
    assert result.metrics["top1"].n == 40


def test_without_training_data_half_is_held_out():
    data = labelled(100)
    first, second = split(data.label, 0.5, 0)
    assert not set(first.tolist()) & set(second.tolist())
    assert knn(data).metrics == knn(data.select(second), data.select(first)).metrics
    assert set(knn(data).by["domain"]) == {"0", "1"}
    lonely = Embeddings(torch.eye(3), torch.eye(3), torch.arange(3), label=torch.arange(3))
    with pytest.raises(UserError, match="pass train"):
        knn(lonely)


def test_one_class_is_told():
    one = Embeddings(torch.eye(4), torch.eye(4), torch.arange(4), label=torch.zeros(4, dtype=torch.long))
    with pytest.raises(UserError, match="two classes"):
        linear_probe(one)
