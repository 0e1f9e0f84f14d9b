"""Embed pictures and texts with a model that `nearfar export MODEL --onnx --out DIR` wrote: no torch, no nearfar.

    pip install numpy pillow tokenizers onnxruntime
    python examples/embed_onnx.py DIR "a red car" car.png another.jpg

prints the cosine of each text with each picture, or where none is named, with each text.
"""

import json
import os
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageOps
from tokenizers import Tokenizer


class Embedder:
    """A folder of an exported model: unit embeddings `[N, D]` float32 of texts and pictures."""

    def __init__(self, folder):
        folder = Path(folder)
        self.constants = json.loads((folder / "preprocess.json").read_text("utf-8"))
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.towers = {
            side: onnxruntime.InferenceSession(str(folder / f"{side}.onnx"), providers=["CPUExecutionProvider"])
            for side in ("image", "text")
            if (folder / f"{side}.onnx").is_file()
        }

    def texts(self, texts):
        """Embeddings of a list of texts, padded to the longest."""
        encoded = self.tokenizer.encode_batch(list(texts))
        ids = np.array([each.ids for each in encoded], np.int64)
        mask = np.array([each.attention_mask for each in encoded], np.int64)
        return self.towers["text"].run(None, {"input_ids": ids, "attention_mask": mask})[0]

    def pictures(self, pictures):
        """Embeddings of a list of paths or PIL pictures."""
        return self.towers["image"].run(None, {"pixels": np.stack([self.pixels(each) for each in pictures])})[0]

    def pixels(self, picture):
        """A picture upright, on white, scaled and cropped or padded, as the model was trained: `[3, S, S]` float32."""
        how = self.constants["pixels"]
        picture = picture if isinstance(picture, Image.Image) else Image.open(picture)
        picture = ImageOps.exif_transpose(picture)
        if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
            picture = picture.convert("RGBA")
            picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
        square = fitted(picture.convert("RGB"), how["fit"], how["size"], how["resize"], how["resample"])
        values = np.asarray(square, np.float32) / np.float32(255)
        values = (values - np.float32(how["mean"])) / np.float32(how["std"])
        return values.transpose(2, 0, 1)


def fitted(picture, fit, size, side, resample):
    """The square of `size` pixels that a picture becomes."""
    method = Image.Resampling[resample.upper()]
    width, height = picture.size
    if fit == "pad":
        long = max(width, height)
        inner = (max(1, size * width // long), max(1, size * height // long))
        ground = Image.new("RGB", (size, size), "white")
        ground.paste(picture.resize(inner, method), ((size - inner[0]) // 2, (size - inner[1]) // 2))
        return ground
    short = min(width, height)
    crop = (max(1, side * width // short), max(1, side * height // short))
    picture = picture.resize((side, side) if fit == "squash" else crop, method)
    left, top = (picture.width - size) // 2, (picture.height - size) // 2
    return picture.crop((left, top, left + size, top + size))


if __name__ == "__main__":
    model = Embedder(sys.argv[1])
    files = [word for word in sys.argv[2:] if os.path.isfile(word)]
    words = [word for word in sys.argv[2:] if word not in files]
    texts = model.texts(words)
    others = model.pictures(files) if files else texts
    for text, row in zip(words, texts @ others.T, strict=True):
        print(text, *(f"{name} {cosine:.3f}" for name, cosine in zip(files or words, row, strict=True)), sep="\n  ")
