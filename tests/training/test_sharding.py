"""Full sharding over two real processes gives the weights of one process, and its checkpoints are whole."""

import numpy as np
import pytest
from rank_work import train_sharded
from ranks import run

from nearfar.errors import UserError
from nearfar.training.state import run_checkpoint, sharding

FSDP = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}


@pytest.mark.parametrize("chunk", [2, pytest.param(None, marks=pytest.mark.slow)])
def test_two_shards_give_the_weights_of_one_process(chunk, tmp_path):
    options = {"chunk": chunk, "lr": 0.02, "ema": 0.9, "save_every": 2}
    alone = train_sharded("", 0, 6, options)
    assert alone.pop("split") == 0
    both = run(train_sharded, 2, str(tmp_path / "run"), 5, 6, options, env=FSDP)
    for rank in both:
        assert rank.pop("split") > 8
        for name, value in alone.items():
            np.testing.assert_allclose(rank[name], value, rtol=1e-4, atol=1e-5, err_msg=name)
    kept = run_checkpoint.load(tmp_path / "run" / "checkpoints" / "last")["method"]
    assert {name: value.shape for name, value in kept.items()} == {name: value.shape for name, value in alone.items()}


def test_the_first_version_is_refused(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_VERSION", "1")
    with pytest.raises(UserError, match="--fsdp_version 2"):
        sharding.wanted()
