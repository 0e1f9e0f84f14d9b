"""X-CLIP's recipe from training to figures and back from its folder; and videos that have a class and no caption."""

import json

import numpy as np
import pytest
import torch

import nearfar
from nearfar.data import Records
from nearfar.data.fields.text import train_tokenizer
from nearfar.errors import UserError
from nearfar.methods import XCLIP
from nearfar.models import VideoEncoder, create, video_encoder
from nearfar.training.recipe import load

TINY = {"image": {"model_type": "vit", "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}}
TINY["image"] |= {"intermediate_size": 32, "patch_size": 16}
TINY["text"] = {"model_type": "bert", "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
TINY["text"] |= {"intermediate_size": 32, "max_position_embeddings": 16}
TINY |= {"image_size": 32, "embed_dim": 32}
SMALL = {
    "data.train.n": 24,
    "data.validation.n": 8,
    "model.pair": TINY,
    "model.frames": 4,
    "training.steps": 2,
    "training.batch_size": 8,
    "training.warmup": 0,
    "training.workers": 0,
    "training.report": False,
    "evaluation.data.n": 12,
}


def test_the_recipe_trains_is_measured_and_loads(tmp_path):
    run = load("xclip", SMALL).run(tmp_path / "run")
    rows = [json.loads(line) for line in (tmp_path / "run" / "history.jsonl").read_text().splitlines()]
    assert rows[-1]["step"] == 2
    assert 0 <= rows[-1]["val_accuracy"] <= 1
    assert run.results["video_classes"].metrics["top1"].n == 12
    model = nearfar.load(tmp_path / "run")
    assert isinstance(model, VideoEncoder)
    assert model.temperature == run.method.temperature
    source = nearfar.data.open_source("world/video", split="val", n=6, size=32, vocabulary="basic")
    videos = model.preprocess_video([record["video"] for record in source])
    tokens = model.tokenize(source.classes)
    with torch.no_grad():
        torch.testing.assert_close(model(videos, tokens), run.model.eval()(videos, tokens), rtol=0, atol=1e-6)
    assert nearfar.evaluation.evaluate(model, source, ["video_classes"], progress=False)["video_classes"].metrics


def videos(n=8, **more):
    films = torch.randint(0, 255, (n, 4, 16, 16, 3), dtype=torch.uint8).numpy()
    return [{"video": film, "label": i % 2, **more} for i, film in enumerate(films)]


@pytest.fixture
def method():
    tokenizer = train_tokenizer(["up", "down"], 300)
    pair = create(**TINY | {"image_size": 16, "image": {**TINY["image"], "patch_size": 8}}, tokenizer=tokenizer)
    return XCLIP(video_encoder(pair, frames=2))


QUIET = {"steps": 2, "batch_size": 4, "lr": 1e-3, "warmup": 0, "progress": False, "report": False}


def test_videos_with_a_class_and_no_caption_are_enough(method):
    """What a video is compared with are the names of classes: captions of single videos are not read, not even broken
    ones."""
    source = Records(videos(), classes=["up", "down"])
    run = nearfar.train(method, source, validation=source, **QUIET)
    assert all(np.isfinite(row[name]) for row in run.history for name in ("loss", "val_loss") if name in row)
    assert "val_loss" in run.history[-1]
    captioned = Records(videos(text=""), classes=["up", "down"])
    run = nearfar.train(method, captioned, **QUIET)
    assert run.skipped is None or run.skipped.count == 0


def test_without_names_it_says_what_to_set(method):
    with pytest.raises(UserError, match=r"names no classes, which xclip compares videos with: set method\.classes"):
        nearfar.train(method, Records(videos()), **QUIET)
    named = XCLIP(method.model, classes=["up", "down"])
    assert nearfar.train(named, Records(videos()), **QUIET).step == 2


def test_without_labels_it_says_so(method):
    source = Records([{"video": each["video"], "text": "up"} for each in videos()], classes=["up", "down"])
    with pytest.raises(UserError, match="needs the class of each video, and these data have no labels"):
        nearfar.train(method, source, **QUIET)
