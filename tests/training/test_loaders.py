"""From a source to a loader: a process's part in training, all of the data in validation; and what a launcher sets."""

import pytest
import torch
from PIL import Image
from torch import nn

from nearfar import distributed
from nearfar.data import Records
from nearfar.errors import UserError
from nearfar.training import TrainConfig
from nearfar.training.loop.loaders import make_loader
from nearfar.training.loop.precision import autocast_for, grad_scaler
from nearfar.training.loop.setting_checks import share_of_batch


@pytest.fixture
def four_processes(monkeypatch):
    """This one is the third of four."""
    monkeypatch.setattr(distributed, "world_size", lambda: 4)
    monkeypatch.setattr(distributed, "rank", lambda: 2)


SOURCE = Records([{"image": Image.new("RGB", (8, 8), (i, 9, 9)), "label": i} for i in range(22)])


class Model(nn.Linear):
    image_size = 8

    def __init__(self):
        super().__init__(1, 1)


def labels(loader):
    return [batch["label"].tolist() for batch in loader]


@pytest.mark.usefixtures("four_processes")
def test_training_takes_a_process_s_part_and_validation_all_of_the_data():
    config = TrainConfig(batch_size=8, workers=0)
    part = labels(make_loader(SOURCE, Model(), config, training=True))
    assert [len(batch) for batch in part] == [2, 2], "whole batches alone"
    whole = labels(make_loader(SOURCE, Model(), config, training=False))
    assert whole == [[*range(8)], [*range(8, 16)], [*range(16, 22)]], "in order, the last ones too"


@pytest.mark.usefixtures("four_processes")
def test_a_batch_that_does_not_divide_is_refused():
    assert share_of_batch(TrainConfig(batch_size=12)) == 3
    with pytest.raises(UserError, match="does not divide among 4 processes"):
        share_of_batch(TrainConfig(batch_size=10))


@pytest.mark.parametrize(("launched", "dtype"), [("bf16", torch.bfloat16), ("fp16", torch.float16), ("no", None)])
def test_automatic_precision_is_what_the_launcher_says(launched, dtype, monkeypatch):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", launched)
    device = torch.device("cpu")
    with autocast_for(device, "auto")():
        assert torch.is_autocast_enabled("cpu") == (dtype is not None)
        if dtype is not None:
            assert torch.get_autocast_dtype("cpu") == dtype
    assert (grad_scaler(device, "auto") is not None) == (launched == "fp16")
    with autocast_for(device, "no")():
        assert not torch.is_autocast_enabled("cpu")
