"""Lets the processes that the tests start import `toy` and `ranks` by name; pictures in a folder, and a recipe."""

import sys
from pathlib import Path

import pytest
import yaml
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder of 24 pictures with captions, one of them broken."""
    folder = tmp_path_factory.mktemp("photos")
    names = ["red", "green", "blue", "white"]
    for i in range(24):
        colour = names[i % 4]
        Image.new("RGB", (20, 20), colour).save(folder / f"{i:02d}.png")
        (folder / f"{i:02d}.txt").write_text(f"a {colour} square number {i}")
    (folder / "07.png").write_bytes(b"not a picture")
    return folder


@pytest.fixture
def recipe(photos, tmp_path):
    """A recipe that runs in a moment."""
    return squares(photos, tmp_path)


@pytest.fixture(scope="module")
def lasting_recipe(photos, tmp_path_factory):
    """The same, for a run that several tests of a file compare with."""
    return squares(photos, tmp_path_factory.mktemp("recipe"))


def squares(photos, folder):
    path = folder / "squares.yaml"
    values = {
        "data": {"train": str(photos), "validation": str(photos), "views": "none", "max_skipped": 0.2},
        "model": {
            "image": {"model_type": "convnext", "num_stages": 2, "hidden_sizes": [8, 16], "depths": [1, 1]},
            "text": {
                "model_type": "bert",
                "hidden_size": 16,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "intermediate_size": 32,
                "hidden_dropout_prob": 0.0,  # processes draw their own dropout
                "attention_probs_dropout_prob": 0.0,
            },
            "image_size": 16,
            "embed_dim": 16,
            "vocab_size": 300,
        },
        "method": {"name": "align", "temperature": 0.5},
        "training": {"steps": 6, "batch_size": 8, "chunk": 4, "lr": "1e-2", "log_every": 1, "save_every": 2},
        "evaluation": {"data": str(photos), "watch": ["retrieval"]},
    }
    path.write_text("# Squares of four colours.\n" + yaml.safe_dump(values))
    return path
