"""Logits of several conditions joined: by hand, and what must hold whatever they are."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nearfar.decoding import (
    ConditionRule,
    diffusion_noise,
    m3id_logits,
    plausibility_mask,
    ritual_logits,
    vcd_logits,
)
from nearfar.decoding.conditions.diffusion_noise import noise_scales
from nearfar.decoding.conditions.transform_selectors import entropy
from nearfar.errors import UserError

L = torch.tensor([2.0, 1.0, 0.0], dtype=torch.float64)
OTHER = L.flip(0)


def shares(logits):
    return logits.softmax(-1).tolist()


def drawn(seed, *shape):
    return 3 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_ritual_by_hand():
    assert ritual_logits(L, OTHER).tolist() == [2, 4, 6]
    assert shares(ConditionRule()(L, OTHER)) == pytest.approx([0.01588, 0.11731, 0.86681], abs=5e-6)
    assert shares(L) == pytest.approx([0.66524, 0.24473, 0.09003], abs=5e-6)
    # The same picture twice is a temperature of 1/4, unless it is normalised.
    assert shares(ritual_logits(L, L)) == pytest.approx([0.98169, 0.01798, 0.00033], abs=5e-6)
    assert shares(ritual_logits(L, L)) == pytest.approx(shares(L / 0.25))
    torch.testing.assert_close(ritual_logits(L, L, normalise=True), L)
    torch.testing.assert_close(ritual_logits(L, OTHER, normalise=True), torch.tensor([0.5, 1, 1.5]).double())
    assert ritual_logits(L, OTHER, alpha=0).tolist() == L.tolist()


def test_vcd_by_hand():
    assert vcd_logits(L, OTHER).tolist() == [4, 1, -2]
    assert shares(vcd_logits(L, OTHER)) == pytest.approx([0.95033, 0.04731, 0.00236], abs=5e-6)
    assert vcd_logits(L, OTHER, a=0.5).tolist() == [3, 1, -1]
    torch.testing.assert_close(vcd_logits(L, L), L)


def test_m3id_counts_the_picture_the_more_the_longer_the_text():
    rule = ConditionRule(contrast="m3id")
    assert [rule.coefficient(t) for t in (0, 1, 35, 50, 100)] == pytest.approx(
        [0, 0.0202, 1.0138, 1.7183, 6.3891], abs=5e-5
    )
    assert ConditionRule(contrast="m3id", max_coefficient=2.0).coefficient(100) == 2.0
    assert ConditionRule(contrast="m3id", max_coefficient=2.0).coefficient(10**6) == 2.0
    assert ConditionRule(contrast="m3id").coefficient(10**6) == math.inf
    assert m3id_logits(L, OTHER, 0).tolist() == L.tolist()
    torch.testing.assert_close(m3id_logits(L, OTHER, 50), L + math.expm1(1.0) * (L - OTHER))
    torch.testing.assert_close(m3id_logits(L, OTHER, 100, max_coefficient=1.0), vcd_logits(L, OTHER))
    torch.testing.assert_close(m3id_logits(L, OTHER, 50, decay=0.0), L)


def test_what_the_picture_rules_out_stays_out_whatever_others_say():
    logits = torch.tensor([3.0, 1.0, 0.0])
    assert math.log(0.1) + 3 == pytest.approx(0.69741, abs=1e-5)
    assert plausibility_mask(logits).tolist() == [True, True, False]
    joined = ConditionRule()(logits, torch.tensor([0.0, 0.0, 100.0]), torch.tensor([0.0, 0.0, -100.0]))
    assert joined.tolist()[2] == -math.inf
    assert joined.softmax(-1)[2] == 0
    assert plausibility_mask(L).all()  # the cut is -0.30259
    assert plausibility_mask(logits, 0.0).all()
    assert plausibility_mask(torch.tensor([0.0, -math.inf]), 0.0).tolist() == [True, False]
    # A token that both rule out is no NaN.
    shut = torch.tensor([0.0, -math.inf])
    assert ConditionRule(contrast="vcd", beta=0.0)(shut, shut, shut).tolist() == [0, -math.inf]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.floats(0, 1), st.floats(0, 5), st.floats(-50, 50))
def test_what_holds_for_any_logits(seed, beta, alpha, shift):
    own, pos, neg = (drawn(3 * seed + i, 2, 7) for i in range(3))
    for contrast in ("none", "vcd", "m3id"):
        rule = ConditionRule(alpha=alpha, contrast=contrast, beta=beta)
        joined = rule(own, pos, neg, 40)
        assert (joined > -math.inf).any(-1).all()
        assert ((joined > -math.inf) <= plausibility_mask(own, beta)).all()
        moved = rule(own + shift, pos - 2 * shift, neg + 3 * shift, 40)
        torch.testing.assert_close(moved.softmax(-1), joined.softmax(-1), rtol=1e-9, atol=1e-12)
    sharp = ConditionRule(alpha=alpha, contrast="vcd", beta=1.0)(own, pos, neg)
    assert torch.equal(sharp.argmax(-1), own.argmax(-1))
    assert ((sharp > -math.inf).sum(-1) == 1).all()


@pytest.mark.parametrize("step", [0, 40])
def test_together_they_are_each_alone_with_the_others_weight_0(step):
    own, pos, neg = (drawn(i, 4, 9) for i in range(3))
    keep = plausibility_mask(own)

    def masked(logits):
        return logits.masked_fill(~keep, -math.inf)

    def joined(**settings):
        return ConditionRule(**settings)(own, pos, neg, step)

    torch.testing.assert_close(joined(contrast="vcd", a=0.0), masked(ritual_logits(own, pos)))
    torch.testing.assert_close(joined(contrast="m3id", decay=0.0), masked(ritual_logits(own, pos)))
    torch.testing.assert_close(joined(alpha=0.0, contrast="vcd"), masked(vcd_logits(own, neg)))
    torch.testing.assert_close(joined(alpha=0.0, contrast="m3id"), masked(m3id_logits(own, neg, step)))
    torch.testing.assert_close(joined(alpha=0.0), masked(own))
    torch.testing.assert_close(joined(contrast="vcd", a=0.7), masked(own + 3 * pos + 0.7 * (own - neg)))
    torch.testing.assert_close(joined(alpha=0.0, beta=0.0).softmax(-1), own.softmax(-1))
    torch.testing.assert_close(joined(contrast="vcd", normalise=True), joined(contrast="vcd") / 4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_the_dtype_stays_and_masked_tokens_are_ruled_out(dtype):
    joined = ConditionRule()(torch.tensor([30.0, 1.0], dtype=dtype), torch.tensor([1.0, 60.0], dtype=dtype))
    assert joined.dtype == dtype
    assert joined[1] == -math.inf


@pytest.mark.parametrize(
    ("values", "words"),
    [({"beta": 1.5}, "beta=1.5"), ({"beta": math.nan}, "beta=nan"), ({"alpha": -1}, "alpha=-1"),
     ({"a": math.inf}, "a=inf"), ({"decay": -0.1}, "decay=-0.1"), ({"contrast": "vdc"}, "contrast='vdc'"),
     ({"max_coefficient": -2}, "max_coefficient=-2")],
)  # fmt: skip
def test_settings_that_cannot_be_are_named(values, words):
    with pytest.raises(UserError, match=words):
        ConditionRule(**values)


def test_noise_is_that_of_the_released_schedule():
    expected = {0: (0.99999, 0.00473), 100: (0.99829, 0.05841), 500: (0.86302, 0.50517), 999: (0.28504, 0.95851)}
    for step, scales in expected.items():
        assert noise_scales(step) == pytest.approx(scales, abs=5.1e-6)
        assert sum(scale**2 for scale in noise_scales(step)) == pytest.approx(1, abs=1e-12)
    for step in (-1, 1000):
        with pytest.raises(UserError, match="a step of the diffusion, from 0 to 999"):
            noise_scales(step)
    pixels = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    noisy, again = (diffusion_noise(pixels, generator=torch.Generator().manual_seed(1)) for _ in range(2))
    epsilon = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    assert torch.equal(noisy, again)
    signal, noise = noise_scales(500)
    torch.testing.assert_close(noisy, signal * pixels + noise * epsilon)
    torch.testing.assert_close(diffusion_noise(pixels, 0), pixels, rtol=0, atol=0.03)
    assert diffusion_noise(pixels.half()).dtype == torch.float16


def test_entropy_is_in_doubt_of_even_shares_and_sure_of_one():
    assert entropy(torch.zeros(3, 8)).tolist() == pytest.approx([math.log(8)] * 3)
    assert entropy(torch.tensor([[0.0, -math.inf], [50.0, 0.0]])).tolist() == pytest.approx([0, 0], abs=1e-6)
