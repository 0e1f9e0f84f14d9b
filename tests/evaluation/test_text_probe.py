"""A classifier that is trained on texts, on pictures; and how far apart pictures and texts lie."""

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from nearfar.classifiers import TextTrained
from nearfar.data import Records
from nearfar.data.texts.text_adapters import GaussianNoise, MeanShift
from nearfar.embedding import Embeddings
from nearfar.errors import UserError
from nearfar.evaluation import evaluate, modality_gap
from nearfar.evaluation.language.text_probe import text_probe

D, CLASSES, ITEMS = 128, 10, 1500


def space(seed, side, gap=0.3, n=ITEMS):
    """Vectors of texts or pictures with their classes: 16 coordinates of shared meaning; 16 of a small, clean cue that
    texts alone have; 96 of a gap."""
    world, draw = np.random.default_rng(seed), np.random.default_rng([seed, side == "text", n])

    def directions(count, dim):
        drawn = world.normal(size=(count, dim))
        return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)

    meaning, cue, between = directions(CLASSES, 16), directions(CLASSES, 16), directions(1, 96)
    label = draw.integers(CLASSES, size=n)
    shared = 0.5 * meaning[label] + 0.22 * draw.normal(size=(n, 16))
    if side == "text":
        own = 0.15 * cue[label] + 0.02 * draw.normal(size=(n, 16))
    else:
        own = 0.15 * draw.normal(size=(n, 16))
    apart = (gap if side == "text" else -gap) * between + 0.03 * draw.normal(size=(n, 96))
    x = np.concatenate([shared, own, apart], axis=1)
    return x / np.linalg.norm(x, axis=1, keepdims=True), label


def accuracies(seed, adapter, **settings):
    """On pictures and on other texts."""
    probe = TextTrained(adapter, **{"steps": 400, **settings}).fit(*space(seed, "text"))
    return probe.score(*space(seed, "image")), probe.score(*space(seed, "text", n=1000))


def test_noise_teaches_what_pictures_have_too():
    """What noise takes away is the texts' own cue, not the gap: a shift does nothing, and without a gap it is the
    same."""
    amount = 2 / D**0.5
    plain, noisy = accuracies(0, None), accuracies(0, GaussianNoise(amount))
    assert noisy[0] - plain[0] > 0.25
    assert plain[1] > 0.95 > noisy[1]
    text, image = space(0, "text")[0], space(0, "image")[0]
    assert abs(accuracies(0, MeanShift(D).fit(text, image))[0] - plain[0]) < 0.1
    few = {"steps": 400, "seed": 0}
    scores = [
        TextTrained(adapter, **few).fit(*space(0, "text", gap=0.0)).score(*space(0, "image", gap=0.0))
        for adapter in (None, GaussianNoise(amount))
    ]
    assert scores[1] - scores[0] > 0.25
    assert accuracies(0, None, weight_decay=0.01)[0] - plain[0] > 0.2, "a penalty is a rival"


def test_where_there_is_no_gap_and_no_cue_pictures_are_classified_as_texts():
    text, label = space(1, "text")
    probe = TextTrained(steps=50).fit(text, label)
    assert np.array_equal(probe.predict(text), probe.predict(text.copy()))
    np.testing.assert_allclose(probe.decision_function(7 * text), probe.decision_function(text), rtol=1e-4, atol=1e-5)


def test_it_follows_its_seed_and_leaves_the_state_of_chance():
    text, label = space(1, "text")
    state = torch.get_rng_state()
    first, again, other = (
        TextTrained(GaussianNoise(0.1), steps=5, seed=seed).fit(text, label).decision_function(text)
        for seed in (1, 1, 2)
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert torch.equal(torch.get_rng_state(), state)
    with torch.no_grad():
        inside = TextTrained(GaussianNoise(0.1), steps=5, seed=1).fit(text, label)
    assert np.array_equal(inside.decision_function(text), first)


def test_it_is_the_logistic_regression_of_scikit_learn():
    """Without noise and on all texts, to its optimum."""
    from nearfar.classifiers.linear import fit_logistic

    text, label = space(2, "text", n=300)
    probe = TextTrained(steps=1000, batch_size=300, lr=0.02, weight_decay=1e-3).fit(text, label)
    theirs = fit_logistic(text.astype(np.float32), label, 1 / (1e-3 * 300), 2000)
    image = space(2, "image", n=500)[0]
    assert (probe.predict(image) == theirs.predict(image.astype(np.float32))).mean() > 0.95


def test_what_cannot_be_fitted_is_named():
    with pytest.raises(UserError, match="two classes"):
        TextTrained().fit(np.eye(3), [1, 1, 1])
    with pytest.raises(UserError, match="steps"):
        TextTrained(steps=0)
    with pytest.raises(UserError, match="lr=0"):
        TextTrained(lr=0.0)
    with pytest.raises(UserError, match="no classes yet"):
        TextTrained().predict(np.eye(2))


class Words:
    """Texts whose numbers are their vectors."""

    def tokenize(self, texts):
        return torch.tensor([[float(word) for word in text.split()] for text in texts])

    def encode_text(self, tokens):
        return tokens


def test_the_protocol_fits_captions_or_texts_of_ones_own():
    (image, label), (text, of_text) = space(0, "image", n=400), space(0, "text", n=600)
    names = [f"class {i}" for i in range(CLASSES)]
    records = [
        {"text": " ".join(f"{x:.6f}" for x in row), "label": int(each)} for row, each in zip(text, of_text, strict=True)
    ]
    data = Embeddings(torch.tensor(image, dtype=torch.float32), label=torch.tensor(label), classes=names)
    texts = Records(records, classes=names)
    result = text_probe(Words(), data, train=texts, noise=2 / 768**0.5, steps=300)
    own = {"steps": 300, "seed": 0}
    noisy, plain = (
        TextTrained(adapter, **own).fit(np.round(text, 6), of_text).score(image, label)
        for adapter in (GaussianNoise(2 / D**0.5), None)
    )
    assert result["top1"] == pytest.approx(noisy, abs=0.011)
    assert result["without_noise"] == pytest.approx(plain, abs=0.011)
    assert result["top1"] - result["without_noise"] > 0.2
    assert (result.details["texts"], result.details["classes"], result.metrics["top1"].n) == (600, CLASSES, 400)
    mirrored = Embeddings(
        data.image, label=CLASSES - 1 - data.label, classes=names[::-1]
    )  # not in the alphabet's order
    short = {"noise": 2 / 768**0.5, "steps": 20}
    once, again = (
        text_probe(Words(), each, train=Records(records, classes=names), **short) for each in (data, mirrored)
    )
    assert again["top1"] == once["top1"] > 0.4
    renamed = Records([record | {"label": CLASSES - 1 - record["label"]} for record in records], classes=names[::-1])
    assert text_probe(Words(), data, train=renamed, **short)["top1"] == once["top1"]


def test_without_texts_of_ones_own_the_captions_of_one_half_are_fitted():
    each = torch.arange(40) % 4
    vectors = normalize(torch.eye(4)[each] + 0.1 * torch.rand(40, 4), dim=1)
    data = Embeddings(vectors, vectors, label=each, classes=list("abcd"))
    [result] = evaluate(Words(), data, ["text_probe"], options={"text_probe": {"steps": 100}}).values()
    assert result["top1"] == 1.0
    assert (result.details["texts"], result.metrics["top1"].n) == (20, 20)
    assert result.metrics["top1"].chance == 0.25


def test_data_that_cannot_be_probed_are_named():
    eye = torch.eye(4)
    with pytest.raises(UserError, match="no captions to learn from"):
        text_probe(Words(), Embeddings(eye, label=torch.arange(4) % 2))
    with pytest.raises(UserError, match="two classes at least, and has 1"):
        text_probe(Words(), Embeddings(eye, eye, label=torch.zeros(4, dtype=torch.long)))
    with pytest.raises(UserError, match="none can be held out"):
        text_probe(Words(), Embeddings(eye, eye, label=torch.arange(4)))


def test_the_gap_is_measured():
    draw = torch.Generator().manual_seed(0)
    image, text = (torch.randn(50, 6, generator=draw, dtype=torch.float64) + shift for shift in (0.5, -0.5))
    gap = modality_gap(image, text)
    x, y = normalize(image, dim=1), normalize(text, dim=1)
    apart = ~torch.eye(50, dtype=torch.bool)
    expected = {
        "paired_cosine": (x * y).sum(1).mean(),
        "unpaired_cosine": (x @ y.T)[apart].mean(),
        "text_cosine": (y @ y.T)[apart].mean(),
        "image_cosine": (x @ x.T)[apart].mean(),
        "centroid_distance": (x.mean(0) - y.mean(0)).norm(),
    }
    assert gap == pytest.approx({name: value.item() for name, value in expected.items()}, rel=1e-9)
    assert modality_gap(np.eye(3), np.eye(3))["centroid_distance"] == 0
    for wrong in ((image, text[:4]), (image[:1], text[:1]), (image[0], text[0])):
        with pytest.raises(UserError, match="must be pairs"):
            modality_gap(*wrong)
