"""Accuracy on base and on new classes, each among its own names, and what both come to."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from nearfar.embedding.embeddings import Embeddings
from nearfar.errors import UserError
from nearfar.evaluation import evaluate
from nearfar.evaluation.measures.base_and_new import base_to_new, harmonic_mean

NAMES = ["ant", "bee", "cow", "old_dog"]
CORNERS = {"ant": (1, 0), "bee": (0, 1), "cow": (-1, 0), "old dog": (0, -1)}


class Corners:
    """Each name is a corner of a square; sentences are remembered."""

    def __init__(self):
        self.texts = []

    def tokenize(self, texts):
        self.texts += texts
        return torch.tensor([next(xy for name, xy in CORNERS.items() if name in text) for text in texts]).float()

    def encode_text(self, tokens, normalize=False):
        return tokens

    def modules(self):
        return iter(())


class Prompted(Corners):
    """Names depend on the picture: pictures of length above 1 turn them round."""

    base = ("ant", "cow")
    temperature = 0.1

    def class_cosines(self, images, tokens):
        return F.normalize(images, dim=1) @ -tokens.T


def data(pictures, labels, **more):
    image = torch.tensor(pictures, dtype=torch.float32)
    label = torch.tensor(labels)
    return Embeddings(image, torch.zeros(0, 2), torch.zeros(0, dtype=torch.long), label=label, classes=NAMES, **more)


# Of base classes (ant, bee) two of three are right: the third lies nearest to "cow", which is not among them, then bee.
PICTURES, LABELS = [(1, 0.1), (0.1, 1), (-1, 0.2), (-1, 0.1), (0.3, -1), (-1, -0.9)], [0, 1, 0, 2, 3, 3]


def test_each_kind_is_put_among_its_own_names():
    encoder = Corners()
    result = base_to_new(encoder, data(PICTURES, LABELS))
    assert result["base"] == pytest.approx(2 / 3)
    assert result["new"] == pytest.approx(2 / 3)
    assert result["harmonic_mean"] == pytest.approx(2 / 3)
    assert sorted(encoder.texts) == sorted(f"a photo of a {name}." for name in CORNERS)
    assert [result.metrics[name].chance for name in ("base", "new", "harmonic_mean")] == [0.5, 0.5, 0.5]
    assert {name: each["top1"].value for name, each in result.by["class"].items()} == {
        "ant": 0.5,
        "bee": 1.0,
        "cow": 1.0,
        "old dog": 0.5,
    }
    figure = result.metrics["harmonic_mean"]
    assert figure.low <= figure.value <= figure.high
    assert result.details["base"] == ["ant", "bee"]


def test_base_classes_by_name_and_pictures_without_a_label():
    encoder = Corners()
    made = data([*PICTURES, (1, 1)], [*LABELS, -1])
    result = base_to_new(encoder, made, base=["old_dog"], templates="{}")
    assert encoder.texts.count("old dog") == 1
    assert result["base"] == 1.0, "alone among its kind"
    assert result.metrics["new"].n == 4
    assert result["new"] == pytest.approx(3 / 4)
    assert result["harmonic_mean"] == pytest.approx(harmonic_mean(1.0, 0.75))


def test_a_model_with_a_prompt_says_what_it_was_trained_on_and_sees_the_picture():
    encoder = Prompted()
    result = base_to_new(encoder, data(PICTURES, LABELS))
    assert result.details["base"] == ["ant", "cow"]
    assert sorted(encoder.texts) == sorted(CORNERS), "names alone"
    # Turned round: among ant and cow each picture is put on the wrong side but the third.
    assert result["base"] == pytest.approx(1 / 3)
    assert result["new"] == 0.0
    assert result["harmonic_mean"] == 0.0
    assert base_to_new(encoder, data(PICTURES, LABELS), base=["ant", "bee"]).details["base"] == ["ant", "bee"]


def test_the_interval_resamples_groups():
    rng = np.random.default_rng(0)
    labels = [0, 2] * 100
    right = rng.random(200) < 0.7
    pictures = [
        ((1, 0) if y == 0 else (-1, 0)) if ok else ((0, 1) if y == 0 else (0, -1))
        for y, ok in zip(labels, right, strict=True)
    ]
    alone = base_to_new(Corners(), data(pictures, labels)).metrics["harmonic_mean"]
    assert 0.05 < alone.high - alone.low < 0.2
    groups = torch.arange(200) // 20
    grouped = base_to_new(Corners(), data(pictures, labels, group=groups)).metrics["harmonic_mean"]
    assert grouped.value == alone.value
    assert (grouped.low, grouped.high) != (alone.low, alone.high)


def test_the_harmonic_mean():
    """Oracle 8."""
    for base, new, both in [(82.69, 63.22, 71.66), (80.47, 71.69, 75.83), (82.28, 75.14, 78.55), (40, 0, 0), (0, 0, 0)]:
        assert harmonic_mean(base, new) == pytest.approx(both, abs=5e-3)


def test_it_is_a_protocol():
    made = data(PICTURES, LABELS)
    result = evaluate(Corners(), made, ["base_to_new"], options={"base_to_new": {"base": ["ant"]}})["base_to_new"]
    assert result.details["base"] == ["ant"]


def test_what_is_refused():
    made = data(PICTURES, LABELS)
    with pytest.raises(UserError, match="no class 'cat'"):
        base_to_new(Corners(), made, base=["cat"])
    with pytest.raises(UserError, match="holds no picture of a new class"):
        base_to_new(Corners(), data(PICTURES[:3], LABELS[:3]))
    with pytest.raises(UserError, match="holds no picture of a base class"):
        base_to_new(Corners(), data(PICTURES[3:], LABELS[3:]))
    made.label = None
    with pytest.raises(UserError, match="has no labels with names"):
        base_to_new(Corners(), made)
