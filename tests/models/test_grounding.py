from __future__ import annotations

import pytest
import torch

from nearfar.errors import UserError
from nearfar.models import create, ground

TEXTS = ["a red fox", "the ship at sea runs on"]


@pytest.fixture
def matcher(vit, bert, tokenizer):
    bert["num_hidden_layers"] = 4
    return create(image=vit, text=bert, tokenizer=tokenizer, embed_dim=16, text_layers=1).eval()


def test_against_finite_differences_of_one_attention_weight(matcher):
    """Grad-CAM by hand: nudge one cross-attention weight, watch the matching score."""
    matcher.double()
    pixels, tokens = torch.randn(1, 3, 32, 32).double(), matcher.tokenize(TEXTS[:1])
    cams = ground(matcher, pixels, tokens, layer=1)
    cross = matcher.text.cross[1]
    caught = {}

    def score(nudge=None):
        def forward(states, image, *_, **__):
            q, k, v = (cross._split(f(x)) for f, x in ((cross.query, states), (cross.key, image), (cross.value, image)))
            weights = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1)
            caught["weights"] = weights
            if nudge is not None:
                weights = weights.clone()
                weights[nudge] += 1e-6
            return cross.norm(states + cross.out((weights @ v).transpose(1, 2).flatten(2)))

        cross.forward = forward
        with torch.no_grad():
            image, states = matcher.image_tokens(pixels), matcher.text_tokens(tokens)
            return matcher.match(image, states, tokens["attention_mask"])[0, 1].item()

    base = score()
    best, none = divmod(int(cams[0].argmax()), 16), divmod(int((cams[0] == 0).flatten().int().argmax()), 16)
    assert cams[0].max() > 1e-5
    for token, patch in (best, none, (2, 9)):
        expected = 0.0
        for head in range(2):
            slope = (score((0, head, token, 1 + patch)) - base) / 1e-6
            expected += caught["weights"][0, head, token, 1 + patch].item() * max(0.0, slope) / 2
        assert cams[0, token].flatten()[patch].item() == pytest.approx(expected, rel=1e-3, abs=1e-9)


def test_shape_padding_and_that_nothing_is_left_behind(matcher):
    pixels, tokens = torch.randn(2, 3, 32, 32), matcher.tokenize(TEXTS)
    for p in matcher.parameters():
        p.requires_grad_(False)
    matcher.train()
    with torch.no_grad():
        cams, again = ground(matcher, pixels, tokens), ground(matcher, pixels, tokens)
    assert cams.shape == (2, 8, 4, 4)
    assert torch.equal(cams, again), "no dropout"
    assert (cams >= 0).all()
    assert cams[0, 5:].abs().sum() == 0, "padding"
    assert (cams[0, :5].sum((1, 2)) > 0).any()
    assert matcher.training
    assert all(p.grad is None for p in matcher.parameters())
    torch.testing.assert_close(cams, ground(matcher, pixels, tokens, layer=1), msg="the middle of three")


def test_a_match_that_does_not_see_gives_nothing(matcher):
    for cross in matcher.text.cross:
        torch.nn.init.zeros_(cross.out.weight)
    assert ground(matcher, torch.randn(2, 3, 32, 32), matcher.tokenize(TEXTS)).abs().sum() == 0


def test_what_cannot_be_grounded_says_so(matcher, vit, bert, tokenizer):
    pixels, tokens = torch.randn(2, 3, 32, 32), matcher.tokenize(TEXTS)
    with pytest.raises(UserError, match="layers 0 to 2"):
        ground(matcher, pixels, tokens, layer=3)
    matcher.image_tokens = lambda pixels: torch.randn(2, 4, 32)
    with pytest.raises(UserError, match="no square grid"):
        ground(matcher, pixels, tokens)
