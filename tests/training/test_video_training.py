"""A model of videos trains from a source: in chunks with the same gradient, stopped inside an epoch with the same bits,
and with what could not be read in `skipped.txt`."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from nearfar import train
from nearfar.data import FrameChoice, Records, VideoField
from nearfar.methods.base import EmbeddingMethod
from nearfar.training.config import TrainConfig
from nearfar.training.loop.loaders import make_loader

QUIET = {"progress": False, "report": False, "warmup": 0, "schedule": "constant", "batch_size": 4}


class Eye(nn.Module):
    def __init__(self):
        super().__init__()
        self.tower = nn.Linear(4 * 3, 4)

    def fields(self, training):
        return [VideoField(8, FrameChoice(4), views="moco", random=training, n_views=2)]


class Watching(EmbeddingMethod):
    """Whether a video becomes lighter or darker, from the mean colour of its frames, of two views."""

    def __init__(self):
        super().__init__()
        self.model = Eye()

    def embed(self, batch):
        return {"first": self.of(batch["video"]), "second": self.of(batch["video_views"][1])}

    def of(self, video):
        return self.model.tower(video.mean((-2, -1)).flatten(1))

    def objective(self, embeddings, batch):
        return {"loss": sum(nn.functional.cross_entropy(each, batch["label"]) for each in embeddings.values())}


def clips(n=14, broken=()):
    ramps = np.linspace(0, 200, 8)[None] + np.arange(n)[:, None]
    pixels = np.broadcast_to(ramps[:, :, None, None, None], (n, 8, 12, 12, 3)).astype(np.uint8)
    videos = [each[:: 1 - 2 * (i % 2)].copy() for i, each in enumerate(pixels)]
    return Records([{"video": b"broken" if i in broken else v, "label": i % 2} for i, v in enumerate(videos)])


def trained(source, **options):
    torch.manual_seed(0)
    method = Watching()
    run = train(method, source, lr=0.05, **QUIET, **options)
    return method.model.tower.weight.detach().clone(), run


def test_chunks_change_no_weight():
    whole, _ = trained(clips(), steps=3)
    pieces, _ = trained(clips(), steps=3, chunk=3)
    torch.testing.assert_close(pieces, whole, rtol=1e-5, atol=1e-6)


def test_stopped_inside_an_epoch_it_goes_on_to_the_same_bits(tmp_path):
    """14 records in batches of 4 make 3 steps an epoch: it stops after the second step of the second one."""
    whole, _ = trained(clips(), steps=8, out=tmp_path / "whole")
    options = {"out": tmp_path / "stopped", "save_every": 1, "workers": 2}
    trained(clips(), steps=5, **options)
    resumed, _ = trained(clips(), steps=8, resume=True, **options)
    assert torch.equal(resumed, whole)


def test_a_model_with_a_frame_choice_gets_videos_in_the_place_of_pictures():
    """Frames at random in training and in the middles in validation, augmented as the method says."""
    model = nn.Linear(1, 1)
    model.image_size, model.mean, model.std, model.frame_choice = 8, (0.0,) * 3, (1.0,) * 3, FrameChoice(4)
    config = TrainConfig(batch_size=4, steps=1)
    training, validation = (make_loader(clips(), model, config, training=each) for each in (True, False))
    batches = [next(iter(training)) for _ in range(2)]
    assert batches[0]["video"].shape == (4, 4, 3, 8, 8)
    assert "image" not in batches[0]
    assert len({tuple(row) for batch in batches for row in batch["frame_number"].tolist()}) > 1
    assert next(iter(validation))["frame_number"].tolist() == [[1, 3, 5, 7]] * 4


def test_what_cannot_be_read_is_listed_with_the_run(tmp_path):
    pytest.importorskip("av")
    _, run = trained(clips(broken=(3,)), steps=4, out=tmp_path)
    assert run.skipped.count == 1
    listed = (tmp_path / "skipped.txt").read_text()
    assert "record 3: video of 6 bytes: not a video that can be read" in listed
    assert "write it anew" in listed


def test_one_frame_trains_as_more_do(tmp_path):
    Image.new("RGB", (12, 12), (90, 0, 0)).save(tmp_path / "still.gif")
    source = Records([{"video": str(tmp_path / "still.gif"), "label": i % 2} for i in range(8)])
    _, run = trained(source, steps=2)
    assert run.skipped is None or run.skipped.count == 0
    assert np.isfinite(run.history[-1]["loss"])
