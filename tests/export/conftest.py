"""A small model of pictures and texts, and what the command exports of it as ONNX."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from nearfar.data import train_tokenizer
from nearfar.models import create

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


@pytest.fixture(scope="session")
def export_command(exported_model, tmp_path_factory):
    """The command on a saved model, in a process of its own as its user runs it, and where it wrote."""
    out = tmp_path_factory.mktemp("exported") / "onnx"
    saved = exported_model.save_pretrained(out.parent / "mine")
    words = [sys.executable, "-m", "nearfar", "export", str(saved), "--onnx", "--out", str(out)]
    return subprocess.run(words, capture_output=True, text=True, check=True), out


@pytest.fixture(scope="session")
def exported(export_command):
    """The exported folder; the saved model lies beside it as `mine`."""
    return export_command[1]


@pytest.fixture
def pictures():
    """Of odd shapes and modes."""
    noise = np.random.default_rng(0)
    shapes = [(40, 60, 3), (33, 33, 3), (90, 32, 3), (50, 41, 4), (1, 70), (70, 1, 3), (20, 20)]
    coloured = [Image.fromarray(noise.integers(0, 256, shape, dtype=np.uint8)) for shape in shapes]
    turned = [coloured[0].convert(mode) for mode in ("CMYK", "P", "1", "LA", "I;16", "F")]
    return [*coloured, *turned]
