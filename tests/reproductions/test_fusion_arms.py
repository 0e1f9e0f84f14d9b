"""The arms of ALBEF's reproduction, without the training."""

import pytest

from nearfar.reproductions.image_text import albef_reproduction as albef
from nearfar.reproductions.setups import coloured_shapes, fusion_pairs


def test_wrong_captions_are_a_share_and_fixed_for_the_seed():
    texts = [[f"caption {i}", f"tag {i}"] for i in range(400)]
    noisy, again, other = (fusion_pairs.training_texts(texts, noise=0.4, seed=seed) for seed in (0, 0, 1))
    assert 0.3 < sum(a != b for a, b in zip(texts, noisy, strict=True)) / 400 < 0.5
    assert noisy == again != other
    assert fusion_pairs.training_texts(texts, noise=0.0, seed=0) == texts


def test_albefs_arms_and_claims_fit_together(monkeypatch):
    calls = []

    def trained(name, seed, data, *, noise, training, **settings):
        calls.append((noise, training["lr"]))
        return len(calls)

    def examined(number, data, *, k):
        figures = {"R@1": number**2 / 100, "R@5": number / 10, "swap": 0.5}
        return dict.fromkeys(("alone", "re-ranked", "matching"), figures)

    monkeypatch.setattr(albef, "trained", trained)
    monkeypatch.setattr(albef, "examined", examined)
    monkeypatch.setattr(albef, "shapes", lambda seed, **_: coloured_shapes.ShapeSplits(None, None, []))
    rates = [0.001 * number for number in range(1, 7)]
    arms = albef.run(0, {arm: {"lr": lr} for arm, lr in zip(albef.ARMS, rates, strict=True)})
    assert calls == list(zip([0.2] * 4 + [0.0] * 2, rates, strict=True))
    for claim in albef.reproduction.claims:
        assert claim.metric in arms[claim.method]
        assert claim.metric in arms[claim.baseline]
    assert arms["gain of distillation, 20 % wrong"]["R@1"] == pytest.approx(0.07)
    assert albef.validated("+ distillation, clean", {"lr": 0.5}, 1000) == pytest.approx(0.49)
    assert calls[-1] == (0.0, 0.5)
    assert set(albef.reproduction.grid.arms) == set(albef.ARMS)


def test_held_out_shapes_come_with_their_swaps_and_are_never_trained_on():
    data = coloured_shapes.shapes(3, scenes=60, size=32, held_out=30)
    assert set(data.train.numbers["group"].tolist()).isdisjoint(data.test.numbers["group"].tolist())
    assert len(data.test.numbers["group"].unique()) == len(data.test.texts) == len(data.swapped)
    taught = {own[0] for own in data.train.texts}
    for (caption,), swapped in zip(data.test.texts, data.swapped, strict=True):
        assert sorted(caption.split()) == sorted(swapped.split())
        assert caption != swapped
        assert taught.isdisjoint((caption, swapped))
