"""A small model of pictures and texts, and what the command exports of it as ONNX."""

import json
import shutil
import subprocess
import sys
import types

import numpy as np
import pytest
import torch
from PIL import Image

from nearfar.data import train_tokenizer
from nearfar.export import onnx_towers
from nearfar.models import create
from nearfar.models.image.image_encoder import ImageEncoder
from nearfar.models.language.text_model import TextEncoder
from nearfar.models.towers.pixels import Pixels
from once import once

VIT = {"model_type": "vit", "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "patch_size": 8}
BERT = {"model_type": "bert", "hidden_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
TEXTS = ["a red fox", "ship", "the blue cat on the mat, and a dog", "dog runs"]


@pytest.fixture(scope="session")
def texts():
    return TEXTS


@pytest.fixture(scope="session")
def exported_model():
    torch.manual_seed(0)
    tokenizer = train_tokenizer(TEXTS * 9, 300)
    bert = {**BERT, "max_position_embeddings": 40}
    made = create(image=VIT, text=bert, image_size=32, tokenizer=tokenizer, embed_dim=16, temperature=0.05).eval()
    made.matryoshka = (8, 16)
    return made


CODE = """
import json, sys
from nearfar import cli
for model, out in json.loads(sys.argv[1]):
    cli.main(["export", model, "--onnx", "--out", out])
"""


@pytest.fixture(scope="session")
def one_sided(exported_model):
    """The towers of the model alone, with constants of their own."""
    return {
        "text": TextEncoder(exported_model.text, tokenizer=exported_model.tokenizer, max_length=12).eval(),
        "image": ImageEncoder(exported_model.image, pixels=Pixels(32, fit="pad")).eval(),
    }


@pytest.fixture(scope="session")
def export_command(exported_model, one_sided, tmp_path_factory):
    """The command on a saved model, in a process of its own as its user runs it, and where it wrote; after it, on each
    model of one side. Once a run and all in one process: what the exporter imports takes longer than all else here."""

    def make(folder):
        models = {"mine": exported_model, **one_sided}
        written = {"mine": "onnx", "text": "text-onnx", "image": "image-onnx"}
        calls = [
            (str(made.save_pretrained(folder / name)), str(folder / written[name])) for name, made in models.items()
        ]
        child = [sys.executable, "-c", CODE, json.dumps(calls)]
        done = subprocess.run(child, capture_output=True, text=True, check=True)
        (folder / "said.json").write_text(json.dumps({"stdout": done.stdout, "stderr": done.stderr}))

    folder = once(tmp_path_factory, "exported", make)
    return types.SimpleNamespace(**json.loads((folder / "said.json").read_text())), folder / "onnx"


@pytest.fixture(scope="session")
def exported(export_command):
    """The exported folder; the saved model lies beside it as `mine`."""
    return export_command[1]


@pytest.fixture
def towers_are_there(exported, monkeypatch):
    """An export takes the towers that were exported before: what it does with them is tested, and not the exporter."""
    monkeypatch.setattr(
        onnx_towers, "_write_tower", lambda model, side, file: shutil.copy(exported / f"{side}.onnx", file)
    )


@pytest.fixture
def pictures():
    """Of odd shapes and modes."""
    noise = np.random.default_rng(0)
    shapes = [(40, 60, 3), (33, 33, 3), (90, 32, 3), (50, 41, 4), (1, 70), (70, 1, 3), (20, 20)]
    coloured = [Image.fromarray(noise.integers(0, 256, shape, dtype=np.uint8)) for shape in shapes]
    turned = [coloured[0].convert(mode) for mode in ("CMYK", "P", "1", "LA", "I;16", "F")]
    return [*coloured, *turned]
