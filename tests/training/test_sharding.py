"""Full sharding over two real processes gives the weights of one process, and its checkpoints are whole."""

import numpy as np
import pytest
import torch
from rank_work import train_sharded
from ranks import run
from torch import nn
from toy import Deep

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
        sharding.enabled()


def test_weights_that_two_blocks_share_are_refused_before_anything_is_split():
    method = Deep()
    method.stages[1].layers[0][0].weight = method.stages[0].layers[0][0].weight
    with pytest.raises(
        UserError, match=r"stages.0.layers.0.0.weight and stages.1.layers.0.0.weight are one weight in two"
    ):
        sharding.shard(method)
    method = Deep()
    method.stages[1].layers[1][2].bias = method.image[3].bias
    with pytest.raises(UserError, match=r"image.3.bias and stages.1.layers.1.2.bias are one weight"):
        sharding.shard(method)
    assert not any(hasattr(p, "full_tensor") for p in method.parameters())


def test_weights_that_are_tied_inside_a_unit_may_be():
    """An embedding that is the last layer, too, outside of all blocks; two layers of one block."""
    method = Deep()
    method.head = nn.Linear(16, 50, bias=False)
    method.head.weight = method.text[0].weight
    layer = method.stages[0].layers[0]
    layer.append(nn.Linear(6, 24))
    layer[3].weight = layer[0].weight
    sharding._check_apart(method)
    assert torch.equal(layer[3].weight, layer[0].weight)
