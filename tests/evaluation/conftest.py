"""A toy encoder and toy data: plain squares of six colours in two styles, and their names."""

import pytest
import torch
from PIL import Image, ImageDraw

from nearfar.data.sources.source import Records

COLOURS = {
    "red": (220, 30, 30),
    "green": (30, 200, 40),
    "blue": (30, 40, 220),
    "yellow": (230, 220, 40),
    "black": (10, 10, 10),
    "violet": (160, 30, 200),
}


class ColourEncoder(torch.nn.Module):
    """Embeds an image as its mean colour, and a text as the mean of the colours it names."""

    image_size, embed_dim = 16, 3
    mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    tokenizer = None

    def __init__(self):
        super().__init__()
        self.zero = torch.nn.Parameter(torch.zeros(()))
        self.frozen = torch.nn.Dropout(0.5).eval()
        self.texts_read, self.modes = [], []

    def preprocess(self, images):
        pixels = [torch.tensor(list(i.resize((16, 16)).getdata()), dtype=torch.float32) / 255 for i in images]
        return torch.stack(pixels).view(-1, 16, 16, 3).permute(0, 3, 1, 2)

    def encode_image(self, pixels, normalize=False):
        self.modes.append(self.training)
        return pixels.mean(dim=(2, 3)) - 0.5 + self.zero

    def tokenize(self, texts):
        self.texts_read += texts
        names = [[sum(map(ord, name)) * (name in text) for name in COLOURS] for text in texts]
        return {"input_ids": torch.tensor(names), "attention_mask": torch.ones(len(texts), len(COLOURS))}

    def encode_text(self, tokens, normalize=False):
        table = torch.tensor(list(COLOURS.values())) / 255 - 0.5
        named = (tokens["input_ids"] > 0).float()
        return named @ table / named.sum(1, keepdim=True).clamp(min=1) + self.zero


def square(colour, style):
    image = Image.new("RGB", (24, 24), colour)
    if style:
        ImageDraw.Draw(image).rectangle((0, 0, 23, 4), fill="white")
    return image


@pytest.fixture(scope="session")
def make_encoder():
    return ColourEncoder


@pytest.fixture
def encoder(make_encoder):
    return make_encoder()


@pytest.fixture(scope="session")
def colours():
    """12 records: 6 colours, each in two styles, with two captions each; group and label are the colour."""
    records = [
        {
            "image": square(colour, style),
            "text": [f"a {name} square", f"something {name}"],
            "label": i,
            "group": i,
            "domain": style,
            "name": name,
            "category": "dark" if sum(colour) < 300 else "light",
        }
        for style in (0, 1)
        for i, (name, colour) in enumerate(COLOURS.items())
    ]
    return Records(records, name="colours", classes=list(COLOURS), domains=["plain", "striped"])
