import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nearfar.losses.simctg_loss import SimCTGLoss, simctg_loss

RECORDED = json.loads((Path(__file__).parents[1] / "decoding" / "released" / "simctg.json").read_text())


def slow(hidden, mask, margin, reduction):
    """Pair by pair, with autograd through both states and the self-similarity."""
    sums, counts = [], []
    for states, real in zip(hidden, mask, strict=True):
        total, count = hidden.new_zeros(()), 0
        tokens = [h / h.norm() for h, r in zip(states, real, strict=True) if r]
        for i, a in enumerate(tokens):
            for j, b in enumerate(tokens):
                if i != j:
                    total = total + torch.relu(margin - a @ a + a @ b)
                    count += 1
        sums.append(total)
        counts.append(count)
    if reduction == "pairs":
        return sum(sums) / max(1, sum(counts))
    means = [s / c for s, c in zip(sums, counts, strict=True) if c]
    return sum(means) / max(1, len(means))


@pytest.mark.parametrize("reduction", ["pairs", "sequence"])
@pytest.mark.parametrize("margin", [0.5, 0.9, 0.1])
def test_value_and_gradient_equal_the_slow_formula(reduction, margin, monkeypatch):
    monkeypatch.setattr("nearfar.losses.simctg_loss._TILE", 40)  # several tiles
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(3, 7, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    mask = torch.tensor([[1] * 7, [1, 1, 1, 0, 0, 0, 0], [0, 0, 1, 1, 1, 1, 0]])
    ours = simctg_loss(hidden, mask, margin=margin, reduction=reduction)
    expected = slow(hidden, mask, margin, reduction)
    torch.testing.assert_close(ours, expected)
    gradient, expected_gradient = (torch.autograd.grad(loss, hidden, retain_graph=True)[0] for loss in (ours, expected))
    torch.testing.assert_close(gradient, expected_gradient)
    assert gradient[mask == 0].abs().max() == 0


def test_first_and_second_derivatives():
    hidden = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    assert torch.autograd.gradcheck(lambda h: simctg_loss(h, mask, margin=0.7), hidden)
    assert torch.autograd.gradgradcheck(lambda h: simctg_loss(h, mask, margin=0.7), hidden)


@pytest.mark.parametrize("case", RECORDED["loss"], ids=lambda case: f"margin {case['margin']}")
def test_released_code(case):
    index = torch.arange(2 * 6 * 5, dtype=torch.float64)
    hidden = torch.sin(index * 1.7 + index**2 * 0.13).view(2, 6, 5)
    mask = torch.tensor([[1] * 6, [1, 1, 1, 1, 0, 0]])
    assert simctg_loss(hidden, mask, margin=case["margin"]).item() == pytest.approx(case["value"], abs=1e-12)


def test_known_values():
    equal = torch.ones(2, 6, 3, dtype=torch.float64)
    orthonormal = torch.eye(5, dtype=torch.float64)[None]
    alike = torch.linalg.cholesky(torch.full((4, 4), 0.7).double().fill_diagonal_(1.0))[None]  # all cosines 0.7
    for margin in (0.5, 0.2):
        assert simctg_loss(equal, margin=margin).item() == pytest.approx(margin)
    assert simctg_loss(orthonormal).item() == 0
    assert simctg_loss(alike).item() == pytest.approx(0.2)


@pytest.mark.parametrize("margin", [0.0, -0.3])
def test_no_margin_no_loss(margin):
    hidden = torch.randn(2, 6, 3).repeat_interleave(2, dim=1).requires_grad_()  # equal states among them
    loss = simctg_loss(hidden, margin=margin)
    loss.backward()
    assert loss.item() == 0
    assert hidden.grad.abs().max() == 0


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 5), st.sampled_from(["pairs", "sequence"]))
def test_order_padding_and_rotation_do_not_matter(seed, padding, reduction):
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(2, 6, 4, generator=generator, dtype=torch.float64)
    mask = torch.tensor([[1] * 6, [1, 1, 1, 1, 0, 0]])
    expected = simctg_loss(hidden, mask, margin=0.8, reduction=reduction)
    order = torch.randperm(6, generator=generator)
    torch.testing.assert_close(simctg_loss(hidden[:, order], mask[:, order], margin=0.8, reduction=reduction), expected)
    padded = torch.nn.functional.pad(hidden, (0, 0, padding, 0), value=torch.nan)
    longer = torch.nn.functional.pad(mask, (padding, 0))
    torch.testing.assert_close(simctg_loss(padded, longer, margin=0.8, reduction=reduction), expected)
    rotation = torch.linalg.qr(torch.randn(4, 4, generator=generator, dtype=torch.float64))[0]
    torch.testing.assert_close(simctg_loss(hidden @ rotation, mask, margin=0.8, reduction=reduction), expected)


def test_padded_states_may_be_nan():
    hidden = torch.randn(1, 5, 3)
    hidden[0, 3:] = torch.nan
    hidden.requires_grad_()
    loss = simctg_loss(hidden, torch.tensor([[1, 1, 1, 0, 0]]), margin=0.9)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(hidden.grad[0, :3]).all()


def test_reductions_weigh_sequences_differently():
    hidden = torch.eye(6, dtype=torch.float64).expand(2, 6, 6).clone()
    hidden[1] = 1.0  # the second text collapsed, and has two tokens only
    mask = torch.tensor([[1] * 6, [1, 1, 0, 0, 0, 0]])
    assert simctg_loss(hidden, mask).item() == pytest.approx(0.5 * 2 / 32)
    assert simctg_loss(hidden, mask, reduction="sequence").item() == pytest.approx(0.5 / 2)


def test_texts_of_one_token_cost_nothing():
    hidden = torch.randn(2, 3, 4, requires_grad=True)
    for reduction in ("pairs", "sequence"):
        loss = SimCTGLoss(reduction=reduction)(hidden, torch.tensor([[1, 0, 0], [0, 0, 0]]))
        loss.backward()
        assert loss.item() == 0
        assert hidden.grad.abs().max() == 0


def test_half_precision_is_computed_in_float32():
    hidden = torch.randn(2, 8, 16)
    loss = simctg_loss(hidden.bfloat16(), margin=0.9)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, simctg_loss(hidden.bfloat16().float(), margin=0.9))


def test_bad_shapes():
    with pytest.raises(ValueError, match="batch, length, dim"):
        simctg_loss(torch.randn(3, 4))
    with pytest.raises(ValueError, match="mask has shape"):
        simctg_loss(torch.randn(2, 3, 4), torch.ones(2, 4))
    with pytest.raises(ValueError, match="reduction"):
        simctg_loss(torch.randn(2, 3, 4), reduction="mean")
