"""Matchmap similarity and the contrast over it: against loops in float64, by hand, and what must not matter."""

import math

import pytest
import torch
from torch.nn.functional import cross_entropy

from nearfar import losses
from nearfar.errors import UserError
from nearfar.losses import functional as F
from nearfar.ops import matchmap, matchmap_contrast


def drawn(n=5, p=7, length=6, d=4, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    cells = torch.randn(n, p, d, generator=generator, dtype=torch.float64)
    words = torch.randn(n, length, d, generator=generator, dtype=torch.float64)
    counts = torch.randint(1, length + 1, (n,), generator=generator)
    return cells.to(dtype), words.to(dtype), torch.arange(length) < counts[:, None]


def looped(cells, words, mask):
    """Every picture, caption, word and cell in turn."""
    return torch.stack(
        [
            torch.stack(
                [
                    torch.stack([(picture @ word).max() for word, r in zip(caption, real, strict=True) if r]).mean()
                    for caption, real in zip(words, mask, strict=True)
                ]
            )
            for picture in cells
        ]
    )


@pytest.mark.parametrize("backend", ["auto", "dense"])
def test_scores_and_loss_are_those_of_loops(backend):
    cells, words, mask = drawn()
    expected = looped(cells, words, mask)
    torch.testing.assert_close(matchmap(cells, words, mask, backend=backend), expected)
    own = torch.arange(5)
    loss = cross_entropy(expected / 0.1, own) + cross_entropy(expected.T / 0.1, own)
    torch.testing.assert_close(F.matchmap_info_nce(cells, words, mask=mask, backend=backend), loss)


def test_by_hand():
    cells = torch.tensor([[[1.0, 0], [0, 1]], [[1, 0], [1, 0]]], dtype=torch.float64)
    words = torch.tensor([[[1.0, 0], [0, 1]], [[1, 0], [9, 9]]], dtype=torch.float64)
    mask = torch.tensor([[1, 1], [1, 0]])
    assert matchmap(cells, words, mask).tolist() == [[1, 1], [0.5, 1]]
    each = (math.log(2) + math.log(1 + math.exp(-0.5))) / 2
    of_pictures, of_captions = matchmap_contrast(cells, words, mask)
    assert (of_pictures.mean().item(), of_captions.mean().item()) == pytest.approx((each, each), rel=1e-12)
    assert each == pytest.approx(0.583612, abs=1e-6)


def test_gradients_of_first_and_second_order():
    cells, words, mask = drawn(4, 5, 3, 3)
    cells, words = cells.requires_grad_(), words.requires_grad_()
    scale = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    group = torch.tensor([0, 1, 1, 2])
    assert torch.autograd.gradcheck(lambda a, b: matchmap(a, b, mask), (cells, words))
    contrast = lambda a, b, s: matchmap_contrast(a, b, mask, s, group=group)  # noqa: E731
    assert torch.autograd.gradcheck(contrast, (cells, words, scale))
    assert torch.autograd.gradgradcheck(contrast, (cells, words, scale))
    one_side = lambda a, b: matchmap_contrast(a, b, mask, scale)[0]  # noqa: E731
    assert torch.autograd.gradcheck(one_side, (cells, words))


@pytest.mark.parametrize(("products", "p"), [(1, 7), (64, 7), (1 << 22, 300), (500, 300)])
def test_any_tile_gives_the_same(products, p, monkeypatch):
    """More cells than a byte can count, tiles of one picture and one word, and whole ones."""
    monkeypatch.setitem(matchmap.__globals__, "PRODUCTS", products)
    cells, words, mask = drawn(6, p)
    results = []
    for backend in ("auto", "dense"):
        a, b = cells.clone().requires_grad_(), words.clone().requires_grad_()
        loss = F.matchmap_info_nce(a, b, mask=mask, backend=backend)
        results.append((loss.detach(), *torch.autograd.grad(loss, (a, b))))
    for actual, expected in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected)


def test_words_beyond_the_caption_never_matter():
    cells, words, mask = drawn()
    results = []
    for junk in (0.0, 1e6, torch.nan):
        filled = words.masked_fill(~mask[..., None], junk).requires_grad_()
        loss = F.matchmap_info_nce(cells, filled, mask=mask)
        results.append((loss.detach(), torch.autograd.grad(loss, filled)[0]))
    for loss, gradient in results:
        assert torch.equal(loss, results[0][0])
        assert torch.equal(gradient, results[0][1])
        assert gradient[~mask].abs().max() == 0


def test_order_does_not_matter():
    cells, words, mask = drawn()
    loss = F.matchmap_info_nce(cells, words, mask=mask)
    torch.testing.assert_close(F.matchmap_info_nce(cells[:, torch.randperm(7)], words, mask=mask), loss)
    within = torch.randperm(6)
    torch.testing.assert_close(F.matchmap_info_nce(cells, words[:, within], mask=mask[:, within]), loss)
    batch = torch.randperm(5)
    torch.testing.assert_close(F.matchmap_info_nce(cells[batch], words[batch], mask=mask[batch]), loss)


def test_one_cell_and_one_word_of_unit_length_are_clip_both_directions_summed():
    cells, words, _ = drawn(p=1, length=1)
    cells, words = (torch.nn.functional.normalize(x, dim=2) for x in (cells, words))
    group = torch.tensor([0, 1, 1, 2, 3])
    for extra in ({}, {"group": group}):
        expected = F.info_nce(cells[:, 0], words[:, 0], temperature=0.1, directions="sum", **extra)
        torch.testing.assert_close(F.matchmap_info_nce(cells, words, **extra), expected)


def test_one_sample_has_no_loss():
    cells, words, mask = drawn(1)
    assert F.matchmap_info_nce(cells, words, mask=mask).item() == 0


def test_a_caption_without_a_word_scores_nothing():
    cells, words, mask = drawn()
    mask[2] = False
    scores = matchmap(cells, words, mask)
    assert scores[:, 2].tolist() == [0] * 5
    assert torch.isfinite(F.matchmap_info_nce(cells, words, mask=mask))


def test_large_scores_stay_finite():
    cells, words, mask = drawn(dtype=torch.float32)
    for x in (cells, words):
        x.mul_(300).requires_grad_()
    loss = F.matchmap_info_nce(cells, words, mask=mask)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(cells.grad).all()
    assert torch.isfinite(words.grad).all()


def test_the_products_of_all_words_and_cells_are_never_held(monkeypatch):
    """Nor are the cells that words took, with all their numbers."""
    sizes = {"product": [], "embedding_bag": []}

    def measured(name):
        function = matchmap.__globals__[name]

        def call(*args, **options):
            made = function(*args, **options)
            sizes[name].append(max(x.numel() for x in (made, *args) if isinstance(x, torch.Tensor)))
            return made

        return call

    for name in sizes:
        monkeypatch.setitem(matchmap.__globals__, name, measured(name))
    cells, words, _ = drawn(48, 196, 24, 4, torch.float32)
    F.matchmap_info_nce(cells.requires_grad_(), words.requires_grad_()).backward()
    assert len(sizes["product"]) > 1
    assert max(sizes["product"]) <= matchmap.__globals__["PRODUCTS"] < 48 * 48 * 196 * 24 / 2
    assert max(sizes["embedding_bag"]) <= 48 * 48 * 24, "a number a picture and word"


def test_a_temperature_is_trained_or_not_and_the_directions_are_two():
    cells, words, mask = drawn(dtype=torch.float32)
    module = losses.MatchmapInfoNCE(0.3, directions="mean")
    loss = module(cells, words, mask=mask)
    torch.testing.assert_close(2 * loss, F.matchmap_info_nce(cells, words, mask=mask, temperature=0.3))
    loss.backward()
    assert module.temperature.value.grad.abs() > 1e-6
    assert not losses.MatchmapInfoNCE(learnable=False).temperature.value.requires_grad


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cells": torch.ones(5, 7)}, "cells must be"),
        ({"words": torch.ones(5, 0, 4)}, "words must be"),
        ({"words": torch.ones(5, 6, 3)}, "same width"),
        ({"mask": torch.ones(5, 3)}, "mask must be"),
        ({"words": torch.ones(4, 6, 4), "mask": None}, "picture i belongs to caption i"),
        ({"group": torch.ones(5)}, "group"),
        ({"scale": torch.ones(2)}, "scale must be one number"),
        ({"backend": "ring"}, "backend"),
    ],
)
def test_what_does_not_fit_is_named(change, message):
    cells, words, mask = drawn()
    with pytest.raises(UserError, match=message):
        matchmap_contrast(**{"cells": cells, "words": words, "mask": mask, **change})
