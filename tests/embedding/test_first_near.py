"""What is near something earlier: the same as by all pairs in float64, whatever the blocks and tiles."""

import pytest
import torch

from nearfar.embedding.curation.first_near import first_near


def by_all_pairs(vectors, near):
    scores = vectors.double() @ vectors.double().T
    hits = (scores >= near - 1e-6) & torch.ones(scores.shape, dtype=torch.bool).tril(-1)
    return torch.where(hits.any(1), hits.int().argmax(1), torch.tensor(-1))


def by_blocks(vectors, near, block, tile):
    parts, numbers = vectors.split(block), torch.arange(len(vectors)).split(block)
    return torch.cat(
        [
            first_near(parts[i], list(zip(parts[:i], numbers[:i], strict=True)), near, numbers[i], tile=tile)
            for i in range(len(parts))
        ]
    )


@pytest.fixture(scope="module")
def vectors():
    """Forty directions, each many times with some noise, and copies."""
    generator = torch.Generator().manual_seed(0)
    made = torch.randn(40, 16, generator=generator)[torch.randint(40, (300,), generator=generator)]
    made += 0.15 * torch.randn(300, 16, generator=generator)
    made[200:220] = made[:20]
    return torch.nn.functional.normalize(made, dim=1)


@pytest.mark.parametrize(("block", "tile"), [(300, 300), (300, 7), (64, 2048), (64, 10), (25, 3)])
@pytest.mark.parametrize("near", [0.95, 1.0, -1.0])
def test_the_first_near_is_that_of_all_pairs(vectors, near, block, tile):
    expected = by_all_pairs(vectors, near)
    assert torch.equal(by_blocks(vectors, near, block, tile), expected)
    assert (expected >= 0).sum() == {0.95: (expected >= 0).sum(), 1.0: 20, -1.0: 299}[near]


def test_what_rounding_might_call_near_is_scored_again():
    """Two cosines on either side of the bound, nearer to it than float32 products of 512 numbers are sure of."""
    vectors = torch.zeros(3, 512)
    for row, cosine in enumerate((0.9 - 3e-5, 0.9 + 3e-5, 1.0)):
        vectors[row, 0], vectors[row, row + 1] = cosine, (1 - cosine**2) ** 0.5
    assert by_blocks(vectors, 0.9, 3, 2048).tolist() == [-1, -1, 1]
    assert by_blocks(vectors, 0.9, 1, 2048).tolist() == [-1, -1, 1]


def test_no_more_than_a_tile_is_scored_at_a_time(vectors, monkeypatch):
    """Whatever the blocks; each pair is scored once at most."""
    scored, product = [], torch.mm
    monkeypatch.setattr(torch, "mm", lambda *pair: scored.append(made := product(*pair)) or made)
    by_blocks(vectors, 1.0, 100, 16)
    sizes = [each.numel() for each in scored]
    assert max(sizes) == 16 * 16
    assert sum(sizes) <= 300 * 300 / 2 + 300 * 16


def test_nothing_is_near_nothing():
    assert first_near(torch.zeros(0, 1), [(torch.eye(2), torch.arange(2))], 0.5, torch.arange(0)).tolist() == []
    assert first_near(torch.eye(2), [(torch.zeros(0, 1), torch.arange(0))], 0.5, torch.arange(2)).tolist() == [-1, -1]
