"""The arms of ALBEF's and TCL's reproductions, without the training."""

import pytest

from nearfar.reproductions import albef, fusion_pairs, tcl


def test_wrong_captions_are_a_share_and_fixed_for_the_seed():
    from nearfar.data import Records

    source = Records([{"image": b"", "text": [f"caption {i}"], "index": i} for i in range(400)])
    noisy, again, other = (fusion_pairs.with_wrong_captions(source, 0.4, seed) for seed in (0, 0, 1))
    wrong = [a["text"] != b["text"] for a, b in zip(source, noisy, strict=True)]
    assert 0.3 < sum(wrong) / 400 < 0.5
    assert [r["text"] for r in noisy] == [r["text"] for r in again] != [r["text"] for r in other]
    clean = fusion_pairs.with_wrong_captions(source, 0.0, 0)
    assert [r["text"] for r in clean] == [r["text"] for r in source]


def test_held_out_concepts_are_the_same_in_every_style():
    one, other = fusion_pairs.held_out_emoji(20, 3), fusion_pairs.held_out_emoji(20, 3, style="noto")
    assert sorted(one.column("group")) == sorted(other.column("group"))
    assert len(one) == 20
    assert set(one.column("style")) == {"fluent-3d"}


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
