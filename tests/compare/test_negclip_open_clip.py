"""NegCLIP fine-tunes an open_clip model as it is."""

from __future__ import annotations

import pytest
import torch

import nearfar
from nearfar.data import Loader, PairedOrder, mine_hard_images
from nearfar.data.scenes import scenes
from nearfar.evaluation import embed_images
from nearfar.methods.image_text.negclip import NegCLIP

open_clip = pytest.importorskip("open_clip")


def test_an_open_clip_model_learns_from_hard_captions_and_images():
    vision = {"image_size": 32, "layers": 1, "width": 64, "head_width": 32, "patch_size": 8}
    words = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
    model = open_clip.CLIP(16, vision_cfg=vision, text_cfg=words)
    encoder = nearfar.models.load(
        model,
        tokenizer=open_clip.get_tokenizer("ViT-B-32"),
        preprocess=open_clip.image_transform((32, 32), is_train=False),
    )
    source = scenes("train", vocabulary="shapes", n=32, size=32)
    batches = Loader(
        source,
        batch_size=16,
        image_size=encoder.image_size,
        mean=encoder.mean,
        std=encoder.std,
        tokenizer=encoder.tokenizer,
        negatives=1,
        order=PairedOrder(mine_hard_images(embed_images(encoder, source.column("image")), k=3)),
        views="none",
    )
    method = NegCLIP(encoder)
    assert method.loss.temperature().item() == pytest.approx(encoder.temperature)
    batch = next(iter(batches))
    first = method(batch)["loss"].item()
    before = [parameter.clone() for parameter in (model.visual.proj, model.text_projection)]
    nearfar.train(method, batches, steps=6, lr=3e-3, progress=False, report=False)
    assert method(batch)["loss"].item() < first
    assert not any(torch.equal(a, b) for a, b in zip(before, (model.visual.proj, model.text_projection), strict=True))
