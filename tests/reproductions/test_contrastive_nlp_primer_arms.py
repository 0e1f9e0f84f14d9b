"""The arms of the primer's reproduction differ in what their names say, on few texts and steps."""

import numpy as np
import pytest
import torch

from nearfar.reproductions.setups import labelled_entries
from nearfar.reproductions.text import contrastive_nlp_primer_reproduction as reproduction


@pytest.fixture
def small(monkeypatch):
    texts, kept = labelled_entries.unlabelled()[:64], [labelled_entries.classes()[0][i] for i in (0, 5, 30)]
    monkeypatch.setattr(labelled_entries, "unlabelled", lambda: texts)
    monkeypatch.setattr(labelled_entries, "classes", lambda: (kept, kept[2:]))
    monkeypatch.setattr(labelled_entries, "FITTING", labelled_entries.FITTING | {"steps": 1, "batch_size": 8})
    monkeypatch.setattr(labelled_entries, "MODEL", labelled_entries.MODEL | {"width": 16, "layers": 1})
    training = reproduction.CONFIG["pretraining"] | {"steps": 2, "batch_size": 16}
    monkeypatch.setattr(reproduction, "CONFIG", reproduction.CONFIG | {"pretraining": training})


def test_every_arm_trains_and_is_measured(small):
    arms = reproduction.run(0, {arm: {"lr": 1e-2} for arm in reproduction.ARMS})
    claims = reproduction.reproduction.claims
    assert {claim.method for claim in claims} | {claim.baseline for claim in claims} <= set(arms)
    assert all(claim.metric in arms[arm] for claim in claims for arm in (claim.method, claim.baseline))
    figures = {arm: values["opposites"] for arm, values in arms.items() if arm != reproduction.HEAD}
    assert np.isfinite(list(figures.values())).all()
    assert len({round(figure, 6) for figure in figures.values()}) == len(figures), "no two arms are the same"


def test_words_are_turned_into_their_opposites():
    swaps = {"man": "woman", "woman": "man", "hot": "cold"}
    assert labelled_entries._turned("man, cook, hot, man", swaps) == "woman, cook, hot, woman"
    assert labelled_entries._turned("a mandrill", swaps) is None


def test_f1_over_classes_and_over_the_rarer_half(monkeypatch):
    monkeypatch.setattr(labelled_entries, "classes", lambda: (["a", "b", "c"], ["c"]))
    monkeypatch.setattr(labelled_entries, "entries", lambda split: [{"subject": name} for name in "aabc"])
    macro, tail = labelled_entries.f1(np.eye(3)[[0, 0, 1, 1]], "test")
    assert macro == pytest.approx((1 + 2 / 3 + 0) / 3)
    assert tail == 0


def test_as_many_labels_as_there_are(small):
    counts = [len(labelled_entries.labelled(shots, 0)) for shots in (1, 5)]
    assert counts == [3, 15]
    assert labelled_entries.labelled(5, 0) == labelled_entries.labelled(5, 0) != labelled_entries.labelled(5, 1)
    torch.manual_seed(0)
    assert labelled_entries.fresh(0).embed_dim == 16
