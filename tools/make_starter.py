"""Make the heads of the starter model, `src/nearfar/models/starter.safetensors`, or check that this makes them.

    python tools/make_starter.py            # train, and write the file (a few minutes)
    python tools/make_starter.py --check    # train, and compare

The demo's recipe with linear heads and half as many epochs again: a small file, on the same towers and the same
training data.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import torch
from torch.nn.functional import cosine_similarity

from nearfar.data import open_source
from nearfar.evaluation import evaluate
from nearfar.machine import prepare
from nearfar.models.starter import FILE, starter, write_heads
from nearfar.training.loop.run import Run
from nearfar.training.recipe import load

CHANGES = {
    "model.image_projection": "linear",
    "training.epochs": 15,
    "training.report": False,
    "evaluation.data": None,
}
CLOSE = 0.99
"""Cosine of the pictures' embeddings: sums in another order, on another machine, move the last digits of each step."""


def trained() -> Run:
    with tempfile.TemporaryDirectory() as folder:
        return load("demo", CHANGES).build().run(Path(folder))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--check", action="store_true", help="compare the file with what is made, and write nothing")
    options = parser.parse_args()
    prepare()
    run = trained()
    made = run.model.eval()
    if not options.check:
        write_heads(made, run.metrics["temperature"])
        print(f"{FILE}: {FILE.stat().st_size / 2**20:.1f} MiB")
    packaged = starter()
    features = torch.nn.functional.normalize(torch.randn(512, made.image.width, generator=torch.manual_seed(0)), dim=1)
    size = made.image_projection[0][-1].in_features ** 0.5
    with torch.no_grad():
        ours, theirs = made.encode_image(features * size), packaged.encode_image(features * size)
    cosine = cosine_similarity(ours, theirs).mean().item()
    held = open_source("world/emoji", split="test", styles=["noto"])
    figures = [evaluate(model, held, ["retrieval"])["retrieval"]["text_to_image_R@10"] for model in (packaged, made)]
    print(f"cosine {cosine:.4f}; R@10 on held-out emoji: {figures[0]:.3f} packaged, {figures[1]:.3f} made now")
    if cosine < CLOSE or abs(figures[0] - figures[1]) > 0.03:
        sys.exit("the packaged heads are not what this makes: run it without --check, and commit the file")


if __name__ == "__main__":
    main()
