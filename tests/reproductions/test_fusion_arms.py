"""The arms of ALBEF's and TCL's reproductions, without the training."""

import pytest

from nearfar.reproductions import albef_reproduction as albef
from nearfar.reproductions import tcl_reproduction as tcl
from nearfar.reproductions.shared import coloured_shapes, fusion_pairs


def test_wrong_captions_are_a_share_and_fixed_for_the_seed():
    texts = [[f"caption {i}", f"tag {i}"] for i in range(400)]
    noisy, again, other = (fusion_pairs.training_texts(texts, noise=0.4, seed=seed) for seed in (0, 0, 1))
    assert 0.3 < sum(a != b for a, b in zip(texts, noisy, strict=True)) / 400 < 0.5
    assert noisy == again != other
    assert fusion_pairs.training_texts(texts, noise=0.0, seed=0) == texts


def test_concepts_are_the_same_in_every_style_and_fewer_are_some_of_them():
    one, other = fusion_pairs.emoji("fluent-3d", 20, 3), fusion_pairs.emoji("noto", 20, 3)
    assert sorted(one.column("group")) == sorted(other.column("group"))
    assert len(one) == 20
    assert set(one.column("style")) == {"fluent-3d"}
    assert set(fusion_pairs.emoji("noto", 5, 3).column("group")) < set(one.column("group"))


def test_albefs_arms_and_claims_fit_together(monkeypatch):
    asked = []

    def found(seed, noise, settings):
        asked.append((noise, settings))
        figures = {"R@1": len(asked) ** 2 / 100, "R@5": len(asked) / 10, "swap": 0.5}
        return dict.fromkeys(("alone", "re-ranked", "matching"), figures)

    monkeypatch.setattr(albef, "found", found)
    arms = albef.run(0)
    assert [noise for noise, _ in asked] == [0.2] * 4 + [0.0] * 2
    for claim in albef.reproduction.claims:
        assert claim.metric in arms[claim.method]
        assert claim.metric in arms[claim.baseline]
    assert arms["gain of distillation, 20 % wrong"]["R@1"] == pytest.approx(0.07)


def test_held_out_shapes_come_with_their_swaps_and_are_never_trained_on():
    data = coloured_shapes.shapes(3, scenes=60, size=32, held_out=30)
    assert set(data.train.numbers["group"].tolist()).isdisjoint(data.test.numbers["group"].tolist())
    assert len(data.test.numbers["group"].unique()) == len(data.test.texts) == len(data.swapped)
    taught = {own[0] for own in data.train.texts}
    for (caption,), swapped in zip(data.test.texts, data.swapped, strict=True):
        assert sorted(caption.split()) == sorted(swapped.split())
        assert caption != swapped
        assert taught.isdisjoint((caption, swapped))


def test_tcls_arms_and_claims_fit_together(monkeypatch):
    weights = []
    figures = {"alone": {"R@1": 0.1, "R@10": 0.2}, "re-ranked": {"R@1": 0.3}}
    inside = {"image to image R@1": 0.4, "text to text R@1": 0.5}
    monkeypatch.setattr(tcl, "features", lambda *_: None)
    monkeypatch.setattr(tcl, "trained", lambda *_, **settings: weights.append(settings["weights"]))
    monkeypatch.setattr(tcl, "retrieved", lambda *_, **__: figures)
    monkeypatch.setattr(tcl, "within", lambda *_: inside)
    arms = tcl.run(0)
    assert [sum(each) for each in weights] == [1, 2, 3]
    for claim in tcl.reproduction.claims:
        assert claim.metric in arms[claim.method]
        assert claim.metric in arms[claim.baseline]
