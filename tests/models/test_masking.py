from __future__ import annotations

import types

import pytest
import torch

from nearfar.errors import UserError
from nearfar.models import mask_tokens


@pytest.fixture
def ids(tokenizer):
    """20,000 tokens: a class token, words, a separator, padding, in each row."""
    words = torch.randint(5, 20, (1000, 20))
    words[:, 0], words[:, 15], words[:, 16:] = tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.pad_token_id
    return words


def test_shares_of_what_is_chosen(ids, tokenizer):
    before = ids.clone()
    masked, labels = mask_tokens(ids, tokenizer, generator=torch.Generator().manual_seed(0))
    assert torch.equal(ids, before)
    chosen = labels != -100
    open_to_choice = (ids != tokenizer.pad_token_id) & (ids != tokenizer.cls_token_id)
    assert not chosen[~open_to_choice].any()
    assert torch.equal(labels[chosen], ids[chosen])
    assert torch.equal(masked[~chosen], ids[~chosen])
    n = int(open_to_choice.sum())
    assert chosen.sum().item() / n == pytest.approx(0.15, abs=0.015)
    fate = masked[chosen]
    hidden = fate == tokenizer.mask_token_id
    kept = fate == ids[chosen]
    # A random word is the mask token, or the word itself, once in 20 draws.
    assert hidden.float().mean().item() == pytest.approx(0.8 + 0.1 / 20, abs=0.03)
    assert kept.float().mean().item() == pytest.approx(0.1 + 0.1 / 20, abs=0.03)
    assert (~hidden & ~kept).float().mean().item() == pytest.approx(0.1 * 18 / 20, abs=0.03)
    assert chosen[:, 15].any()  # the separator may be masked


def test_probability_zero_and_one(ids, tokenizer):
    masked, labels = mask_tokens(ids, tokenizer, probability=0.0)
    assert torch.equal(masked, ids)
    assert labels.eq(-100).all()
    _, labels = mask_tokens(ids, tokenizer, probability=1.0)
    assert torch.equal(labels != -100, (ids != tokenizer.pad_token_id) & (ids != tokenizer.cls_token_id))


def test_the_generator_repeats_the_mask(ids, tokenizer):
    pairs = [mask_tokens(ids, tokenizer, generator=torch.Generator().manual_seed(7)) for _ in range(2)]
    assert torch.equal(pairs[0][0], pairs[1][0])
    assert torch.equal(pairs[0][1], pairs[1][1])


def test_a_tokenizer_without_a_mask_token_is_explained(ids):
    with pytest.raises(UserError, match="mask_token"):
        mask_tokens(ids, types.SimpleNamespace(mask_token_id=None))
