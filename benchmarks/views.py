"""Does augmentation starve the trainer? Images a CPU second of every preset, of kornia's generic pipeline with the same
operations, and of the whole loader, beside a training step of a ViT-Ti/16; all interleaved in one run.

    OMP_NUM_THREADS=1 python benchmarks/views.py --size 64 --batch 128 --rounds 5 --output views.json
"""

from __future__ import annotations

import argparse
import io
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from nearfar.data import Loader, Records
from nearfar.data.pictures.views import PRESETS, Views

Step = Callable[[], Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()

    size, batch = options.size, options.batch
    steps: dict[str, Step] = {"training step, ViT-Ti/16": training_step(size, min(batch, 32))}
    counts = {"training step, ViT-Ti/16": min(batch, 32)}
    for name in PRESETS:
        steps[f"views {name}"] = ours(name, size, batch)
        if name in ("clip", "simclr", "moco"):
            steps[f"kornia {name}"] = kornias(name, size, batch)
    for cache in (0, 1 << 30):
        steps[f"loader clip, {'cached' if cache else 'decoding PNG'}"] = loading(size, batch, cache)
    counts = {name: counts.get(name, batch) for name in steps}

    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for step in steps.values():
        step()  # imports, memory, and the loader's cache
    for _ in range(options.rounds):
        for name, step in steps.items():
            start = time.process_time()
            step()
            seconds[name].append(time.process_time() - start)

    rate = {name: counts[name] / statistics.median(times) for name, times in seconds.items()}
    trained = rate["training step, ViT-Ti/16"]
    for name, images in rate.items():
        print(f"{name:<28} {images:>9.0f} images/s {images / trained:>8.1f} x the training step")
    for name in ("clip", "simclr", "moco"):
        print(f"{name}: {rate[f'views {name}'] / rate[f'kornia {name}']:.1f} times kornia's generic pipeline")
    if options.output is not None:
        facts = {"size": size, "batch": batch, "rounds": options.rounds, "threads": torch.get_num_threads()}
        facts |= {"load": os.getloadavg()[0], "torch": torch.__version__}
        options.output.write_text(json.dumps(facts | {"images_per_cpu_second": rate}, indent=1) + "\n")


def ours(name: str, size: int, batch: int) -> Step:
    views = Views(name, size=size, mean=(0.5,) * 3, std=(0.5,) * 3)
    images = torch.randint(0, 256, (batch, 3, views.canvas, views.canvas), dtype=torch.uint8)
    generator = torch.Generator().manual_seed(0)
    return lambda: views(images, views.draw(batch, generator))


def kornias(name: str, size: int, batch: int) -> Step:
    """The same operations through kornia's own containers, on pictures of the same size."""
    from kornia import augmentation as K

    preset = PRESETS[name]
    assert preset.crop is not None
    parts: list[Any] = [K.RandomResizedCrop((size, size), scale=preset.crop)]
    if preset.flip:
        parts.append(K.RandomHorizontalFlip(p=preset.flip))
    if preset.jitter:
        parts.append(K.ColorJitter(*preset.jitter, p=preset.jitter_chance))
        parts.append(K.RandomGrayscale(p=preset.grey))
        width = max(3, size // 10 | 1)
        parts.append(K.RandomGaussianBlur((width, width), preset.sigma, p=preset.blur[0]))
    parts.append(K.Normalize(mean=torch.full((3,), 0.5), std=torch.full((3,), 0.5)))
    pipeline = K.AugmentationSequential(*parts)
    side = Views(name, size=size).canvas
    images = torch.randint(0, 256, (batch, 3, side, side), dtype=torch.uint8)
    return lambda: pipeline(images.float() / 255)


def loading(size: int, batch: int, cache: int) -> Step:
    """A batch of the loader from 64-pixel PNGs: read, decoded and resized anew, or from the cache."""
    rng = np.random.default_rng(0)
    records = []
    for _ in range(batch):
        small = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        buffer = io.BytesIO()
        small.resize((64, 64), Image.Resampling.BICUBIC).save(buffer, "PNG")
        records.append({"image": buffer.getvalue()})
    loader = Loader(Records(records), batch_size=batch, image_size=size, views="clip", cache=cache)
    return lambda: list(loader)


def training_step(size: int, batch: int) -> Step:
    """Forward, backward and AdamW of a ViT-Ti/16 on pictures of this size."""
    from transformers import ViTConfig, ViTModel

    model = ViTModel(
        ViTConfig(
            image_size=size,
            patch_size=16,
            hidden_size=192,
            num_hidden_layers=12,
            num_attention_heads=3,
            intermediate_size=768,
        )
    )
    optimiser = torch.optim.AdamW(model.parameters())
    images = torch.randn(batch, 3, size, size)

    def step() -> None:
        model(images).last_hidden_state.square().mean().backward()
        optimiser.step()
        optimiser.zero_grad()

    return step


if __name__ == "__main__":
    main()
