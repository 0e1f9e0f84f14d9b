"""Recipes with hard captions and hard images."""

import pytest
import torch

from nearfar.data import Records
from nearfar.errors import UserError
from nearfar.training import recipe
from nearfar.training.recipe.hard_data import mined_images

SMALL = {
    "data.train.n": 40,
    "data.train.size": 32,
    "data.train.vocabulary": "shapes",
    "data.validation.n": 8,
    "data.validation.size": 32,
    "data.validation.vocabulary": "shapes",
    "evaluation.data.n": 8,
    "evaluation.data.size": 32,
    "evaluation.data.vocabulary": "shapes",
    "model.image_size": 32,
    "model.embed_dim": 16,
    "steps": 2,
    "batch_size": 16,
    "warmup": 0,
    "workers": 0,
    "progress": False,
}


def test_the_negclip_recipe_runs_with_hard_images_too(tmp_path, capsys):
    built = recipe.load("negclip", {**SMALL, "data.hard_images": 3}).build()
    assert "hard captions of world/scenes:train" in capsys.readouterr().out
    batch = next(iter(built.loader))
    assert batch["image"].shape[0] == batch["negative_text"]["input_ids"].shape[0] == 16
    assert len(built.loader) == 5  # each of 40 records is drawn once, with a neighbour
    run = recipe.load("negclip", {**SMALL, "data.hard_images": 3}).run(tmp_path)
    assert {"relation_accuracy", "attribution_accuracy", "order_accuracy"} <= set(
        run.results["compositionality"].metrics
    )
    assert "compositionality by relation" in (tmp_path / "report.html").read_text()


def test_neighbours_are_mined_with_the_model_and_never_of_one_group():
    class Looks:
        def encode_image(self, pixels, normalize=False):
            return pixels.flatten(1)

        def preprocess(self, images):
            return torch.tensor([[image.getpixel((0, 0))[0], 100.0] for image in images])

    from PIL import Image

    pictures = [Image.new("RGB", (4, 4), (value, 0, 0)) for value in (10, 11, 200, 210)]
    source = Records([{"image": image, "text": "", "group": i // 2} for i, image in enumerate(pictures)])
    assert mined_images(source, Looks(), 1).flatten().tolist() == [2, 2, 1, 1]


def test_features_that_are_read_ahead_keep_the_hard_captions(capsys):
    """Those that are made, and those that the data bring, are in the batches as in those of pictures."""
    settings = {"data.train": "world/scenes", "data.limit": 12, "data.validation": None, "evaluation.data": None}
    settings |= {"model.freeze": ["image"], "training.batch_size": 4, "data.views": "none", "data.caption": "first"}
    for hard in ({"data.hard_captions": True}, {"data.negatives": 2}):
        read, plain = (
            recipe.load("clip", {**settings, **hard, "data.precompute": views}).build().loader
            for views in (["none"], None)
        )
        for features, pixels in zip(read, plain, strict=True):
            assert features.keys() == pixels.keys()
            assert torch.equal(features["negative_text"]["input_ids"], pixels["negative_text"]["input_ids"])
            assert torch.equal(features["has_negative"], pixels["has_negative"])


def test_what_cannot_be_mined_is_said():
    with pytest.raises(UserError, match="is a stream"):
        mined_images(type("S", (), {"name": "shards"})(), object(), 3)
    with pytest.raises(UserError, match="encode_image"):
        mined_images(Records([{"image": None}]), object(), 3)
