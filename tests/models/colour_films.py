"""Films of plain colours, and a model that sees their mean colour."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn


class Colours(nn.Module):
    """A picture is its mean colour, a text the colour it names."""

    image_size, embed_dim = 8, 3

    def preprocess(self, pictures):
        return torch.stack([torch.tensor(np.asarray(p.resize((8, 8)))).permute(2, 0, 1) / 255 for p in pictures])

    def encode_image(self, pixels, normalize=False):
        return pixels.mean((2, 3))

    def tokenize(self, texts):
        names = ("red", "green", "blue")
        return {"input_ids": torch.tensor([[float(name in text) for name in names] for text in texts])}

    def encode_text(self, tokens, normalize=False):
        return tokens["input_ids"] + 0.01


def film(*colours, frames=8):
    shown = [colours[i * len(colours) // frames] for i in range(frames)]
    return np.stack([np.full((12, 16, 3), colour, np.uint8) for colour in shown])


RED, GREEN, BLUE = (250, 0, 0), (0, 250, 0), (0, 0, 250)
