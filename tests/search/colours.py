"""A toy encoder whose joint space is colour: a picture is its share of each named colour, a sentence the colours it
names. Untrained, instant, and "red" really finds red pictures."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

from nearfar.data.sources.source import Records

COLOURS = {
    "red": (220, 30, 30),
    "green": (30, 170, 60),
    "blue": (30, 60, 210),
    "yellow": (240, 220, 40),
    "black": (15, 15, 15),
    "white": (245, 245, 245),
}
SHAPES = ("disc", "square", "bar")


class ColourEncoder:
    """[B, 7] embeddings: the share of each colour, and a constant so that no text is the zero vector."""

    image_size, embed_dim = 16, len(COLOURS) + 1
    mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)

    def __init__(self, turn: float = 0.0) -> None:
        self.turn = turn
        self.pictures_read = 0
        self.palette = torch.tensor(list(COLOURS.values())) / 255

    def preprocess(self, images: list[Image.Image]) -> torch.Tensor:
        small = [np.asarray(image.resize((self.image_size,) * 2, Image.Resampling.NEAREST)) for image in images]
        return torch.from_numpy(np.stack(small)).permute(0, 3, 1, 2) / 255

    def tokenize(self, texts: list[str]) -> dict[str, torch.Tensor]:
        words = [text.lower().replace(",", " ").split() for text in texts]
        return {"input_ids": torch.tensor([[row.count(name) for name in COLOURS] for row in words])}

    def encode_image(self, pixels: torch.Tensor, normalize: bool = False) -> torch.Tensor:
        self.pictures_read += len(pixels)
        flat = pixels.flatten(2).transpose(1, 2)  # [B, P, 3]
        nearest = torch.cdist(flat, self.palette.expand(len(flat), -1, -1)).argmin(-1)
        return self._finish(torch.nn.functional.one_hot(nearest, len(COLOURS)).float().mean(1), normalize)

    def encode_text(self, tokens: dict[str, torch.Tensor], normalize: bool = False) -> torch.Tensor:
        return self._finish(tokens["input_ids"].float(), normalize)

    def _finish(self, colours: torch.Tensor, normalize: bool) -> torch.Tensor:
        z = torch.cat([colours, torch.full((len(colours), 1), 0.1)], 1)
        if self.turn:
            z = z + self.turn * z.flip(1)
        return torch.nn.functional.normalize(z, dim=-1) if normalize else z


def draw(colour: str, shape: str = "disc", ground: str = "white", size: int = 48) -> Image.Image:
    """A shape that covers some half of a plain ground."""
    image = Image.new("RGB", (size, size), COLOURS[ground])
    box = {"disc": (3, 3, size - 3, size - 3), "square": (5, 5, size - 5, size - 5), "bar": (0, 10, size, size - 10)}
    getattr(ImageDraw.Draw(image), "ellipse" if shape == "disc" else "rectangle")(box[shape], fill=COLOURS[colour])
    return image


def png(image: Image.Image) -> bytes:
    sink = io.BytesIO()
    image.save(sink, "PNG")
    return sink.getvalue()


def folder_source(folder: Path, name: str = "photos") -> Records:
    """The pictures of a folder as a source, captioned by their file names."""
    files = sorted(folder.glob("*.png"))
    return Records([{"image": str(f), "text": [f"a {f.stem.replace('-', ' ')}"]} for f in files], name=name)
