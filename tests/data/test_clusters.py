"""Clusters of features, and one number a sample of the clusters of several stages (MCL)."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from nearfar.data import cluster_codes, combine_codes
from nearfar.data.mining.clusters import fit_clusters, unit_rows
from nearfar.errors import UserError


def blobs(scale=1.0):
    """Ten far apart directions, thirty samples each, of any lengths."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.eye(16)[:10].repeat_interleave(30, 0)
    lengths = torch.rand(300, 1, generator=generator) + 0.5
    return scale * lengths * (centres + 0.02 * torch.randn(300, 16, generator=generator))


@pytest.mark.parametrize("batch", [None, 150])
def test_separated_blobs_are_the_clusters(batch):
    codes = cluster_codes(blobs(), 10, starts=5, batch=batch)
    true = np.arange(10).repeat(30)
    assert codes.dtype == np.int64
    assert len(set(zip(codes.tolist(), true.tolist(), strict=True))) == len(set(codes.tolist())) == 10


def test_lengths_do_not_count():
    assert (cluster_codes(blobs(), 10) == cluster_codes(blobs(7.0), 10)).all()
    assert (cluster_codes(blobs().half(), 10, starts=5) == cluster_codes(blobs(), 10, starts=5)).all(), (
        "computed in float32"
    )


def test_the_same_seed_gives_the_same_bits():
    rows = unit_rows(torch.randn(400, 8, generator=torch.Generator().manual_seed(1)))
    first, again = (fit_clusters(rows, 7, seed=3).cluster_centers_ for _ in range(2))
    assert first.tobytes() == again.tobytes()
    assert first.tobytes() != fit_clusters(rows, 7, seed=4).cluster_centers_.tobytes()


def test_fewer_samples_than_clusters():
    with pytest.raises(UserError, match="2 records cannot be put into 3 clusters"):
        cluster_codes(torch.eye(2), 3)


def test_mixed_radix():
    assert combine_codes([[3], [7]], [10, 10]).tolist() == [37]
    assert combine_codes([[3], [7], [2]], [10, 10, 10]).tolist() == [372]
    assert combine_codes([[3], [7]], [5, 9]).tolist() == [3 * 9 + 7], "each stage has its own K"


def test_the_released_code_counts_the_last_stage_alone():
    """It reads the last stage's clusters for each stage: 77 in place of 37, 222 in place of 372."""
    assert combine_codes([[3], [7]], [10, 10], accumulate="last").tolist() == [77]
    assert combine_codes([[3], [7], [2]], [10, 10, 10], accumulate="last").tolist() == [222]
    last = torch.arange(10)
    assert combine_codes([last, last], [10, 10], accumulate="last").tolist() == list(range(0, 100, 11))


def test_equal_numbers_mean_equal_clusters_in_every_stage():
    draw = torch.Generator().manual_seed(2)
    codes = [torch.randint(4, (200,), generator=draw), torch.randint(3, (200,), generator=draw)]
    y = combine_codes(codes, [4, 3])
    equal = y[:, None] == y
    assert torch.equal(equal, (codes[0][:, None] == codes[0]) & (codes[1][:, None] == codes[1]))
    before = combine_codes(codes[:1], [4])
    assert (equal <= (before[:, None] == before)).all(), "a later stage only refines"
    compact = combine_codes(codes, [4, 3], compact=True)
    assert sorted(set(compact.tolist())) == list(range(len(set(y.tolist()))))
    assert torch.equal(compact[:, None] == compact, equal)


@pytest.mark.parametrize(
    ("codes", "clusters", "message"),
    [
        ([], [], "0 stages' clusters and 0 numbers"),
        ([[1]], [2, 2], "1 stages' clusters and 2 numbers"),
        ([[1], [1, 0]], [2, 2], r"stage 1 has clusters \(2,\): one a sample, \[1\]"),
        ([[2]], [2], "stage 0 has a cluster outside of 0 to 1"),
    ],
)
def test_codes_that_do_not_fit(codes, clusters, message):
    with pytest.raises(UserError, match=message):
        combine_codes(codes, clusters)


def test_the_released_accumulation_is_reproduced_by_name():
    """Numbers of the released code's own loop; the file names its origin and commit."""
    released = json.loads((Path(__file__).parent / "mcl_released.json").read_text())["labels"]
    codes, k = released["codes"], released["clusters"]
    for stages, theirs in enumerate(released["after"], start=1):
        own = codes[:stages]
        assert combine_codes(own, [k] * stages, accumulate="last").tolist() == theirs
        assert (combine_codes(own, [k] * stages).tolist() == theirs) == (stages == 1)
