"""A folder of drawings with names, as a user has it; a small model that was never trained; towers that cost nothing."""

import pytest
import torch

from nearfar.adaptation import maps, trials
from nearfar.data import train_tokenizer, world
from nearfar.models import create

SHADES = ["red", "green", "blue", "white", "black", "yellow", "pink", "grey", "brown", "orange"]


@pytest.fixture(scope="session")
def emoji(tmp_path_factory):
    """60 emoji as PNG files with their names in text files beside them."""
    folder = tmp_path_factory.mktemp("emoji")
    source = world.emoji("val", styles=["noto"], tags=False)
    for row in range(60):
        record = source[row]
        (folder / f"{row:02d}.png").write_bytes(record["image"])
        (folder / f"{row:02d}.txt").write_text(record["text"][0], "utf-8")
    return folder


@pytest.fixture(scope="session")
def small():
    """A dual encoder that embeds in milliseconds, with weights of chance."""
    torch.manual_seed(0)
    names = [record["text"][0] for record in world.emoji("val", styles=["noto"], tags=False).first(60)]
    tokenizer = train_tokenizer(names, 300)
    return create("tiny", tokenizer=tokenizer, image_size=32, embed_dim=16).eval()


@pytest.fixture
def few_maps(monkeypatch, no_drawings):
    """Maps and drawings take most of the time of an adaptation, and are not what is tested everywhere."""
    monkeypatch.setattr(trials, "GAMMAS", (1.0,))
    monkeypatch.setattr(maps, "PENALTIES", (0.1, 1.0))
