"""The arms of ALBEF's and TCL's reproductions, without the training."""

import pytest

from nearfar.reproductions import albef, fusion_pairs, tcl


def test_wrong_captions_are_a_share_and_fixed_for_the_seed():
    texts = [[f"caption {i}", f"tag {i}"] for i in range(400)]
    noisy, again, other = (fusion_pairs.training_texts(texts, noise=0.4, seed=seed, first=False) for seed in (0, 0, 1))
    assert 0.3 < sum(a != b for a, b in zip(texts, noisy, strict=True)) / 400 < 0.5
    assert noisy == again != other
    assert fusion_pairs.training_texts(texts, noise=0.0, seed=0, first=False) == texts
    assert fusion_pairs.training_texts(texts, noise=0.0, seed=0, first=True) == [own[:1] for own in texts]


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
        return {name: {"R@1": len(asked) / 10, "R@10": len(asked) / 5} for name in ("alone", "re-ranked", "matching")}

    monkeypatch.setattr(albef, "found", found)
    arms = albef.run(0)
    assert [noise for noise, _ in asked] == [0.4] * 4 + [0.0] * 2
    for claim in albef.reproduction.claims:
        assert claim.metric in arms[claim.method]
        assert claim.metric in arms[claim.baseline]
    assert arms["gain of distillation, 40 % wrong"]["R@10"] == pytest.approx(0.2)


def test_tcls_arms_and_claims_fit_together(monkeypatch):
    weights = []
    figures = {"alone": {"R@1": 0.1, "R@10": 0.2}, "re-ranked": {"R@1": 0.3}}
    inside = {"image to image R@1": 0.4, "text to text R@1": 0.5}
    monkeypatch.setattr(tcl, "trained", lambda *_, **settings: weights.append(settings["weights"]))
    monkeypatch.setattr(tcl, "retrieved", lambda *_, **__: figures)
    monkeypatch.setattr(tcl, "within", lambda *_: inside)
    arms = tcl.run(0)
    assert [sum(each) for each in weights] == [1, 2, 3]
    for claim in tcl.reproduction.claims:
        assert claim.metric in arms[claim.method]
        assert claim.metric in arms[claim.baseline]
