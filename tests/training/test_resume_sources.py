"""A run on any kind of source, stopped inside an epoch, goes on to the same bits: with workers, with broken pictures,
with one process and with two."""

import numpy as np
import pytest
from ranks import run
from source_work import KINDS, trained, write


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs")
    write(folder)
    return str(folder)


def assert_same(actual, expected):
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(actual[name], value, err_msg=name)


@pytest.mark.parametrize("kind", KINDS)
def test_stopped_inside_an_epoch(kind, root, tmp_path):
    whole, skipped = trained(root, kind, str(tmp_path / "whole"), 0, 0)
    assert skipped == 2
    for stop, workers in ((2, 2), (5, 0)):
        resumed, _ = trained(root, kind, str(tmp_path / f"stopped-{stop}"), stop, workers)
        assert_same(resumed, whole)


def test_stopped_inside_an_epoch_with_two_ranks(root, tmp_path):
    whole = run(trained, 2, root, "shards", str(tmp_path / "whole"), 0, 0)
    resumed = run(trained, 2, root, "shards", str(tmp_path / "stopped"), 4, 2)
    for rank in range(2):
        assert_same(resumed[rank][0], whole[0][0])
