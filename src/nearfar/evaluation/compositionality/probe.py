"""Retrieval under lost order (ARO, section 3): R@1 when captions are shuffled, and when pictures are cut up.

A model whose R@1 hardly falls matched its pairs without the order of words or the places of things; so did, then, the
training data that rewarded it.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from nearfar.data.mining.grammar import sentence, words
from nearfar.embedding.embed_source import embed, embed_texts
from nearfar.embedding.embeddings import Embeddings
from nearfar.evaluation.compositionality.perturb import ORDER, normalise, shuffle_all, shuffle_patches
from nearfar.evaluation.measures.result import Metric, Result
from nearfar.evaluation.protocols.retrieval import retrieval

GRIDS = {"rows": (4, 1), "columns": (1, 4), "patches": (3, 3)}
"""The paper's cuts of a picture: four rows, four columns, nine patches."""

DIRECTIONS = ("text_to_image_R@1", "image_to_text_R@1")


def order_probe(
    encoder: Any,
    source: Any,
    *,
    embeddings: Embeddings | None = None,
    seed: int = 0,
    batch_size: int = 64,
    captions: int | None = None,
) -> Result:
    """R@1 with everything in place, under each perturbation of all captions, and of all pictures.

    Args:
        encoder: anything with `encode_image`, `encode_text`, `preprocess` and `tokenize`.
        source: the data.
        embeddings: those of `source`, if they are at hand.
        seed: of the perturbations.
        batch_size: for embedding.
        captions: how many captions of each image count; None: all.

    Returns:
        the two `R@1`, and `by["perturbation"]` both again for "none", the four of the order task, "all words", and
        the three cuts of pictures.

    Raises:
        UserError: the data has no captions.
    """
    plain = embeddings
    if plain is None:
        plain = embed(encoder, source, batch_size=batch_size, captions=captions)
    whole = retrieval(plain, ks=(1,), seed=seed)
    results = {"none": whole, **_texts(encoder, plain, seed=seed, batch_size=batch_size)}
    for name, grid in GRIDS.items():
        shuffled = embed(ShuffledPatches(encoder, grid, seed=seed), source, ["image"], batch_size=batch_size)
        results[f"{name} of pictures"] = retrieval(plain.with_side("image", shuffled.image), ks=(1,), seed=seed)
    parts = {name: {key: _bare(result.metrics[key]) for key in DIRECTIONS} for name, result in results.items()}
    return Result("order_probe", {key: whole.metrics[key] for key in DIRECTIONS}, {"perturbation": parts})


class ShuffledPatches:
    """An encoder that sees pictures cut into `grid` = (rows, columns) patches that changed places. A remainder that
    does not divide stays at the border as zeros, the mean colour."""

    def __init__(self, encoder: Any, grid: tuple[int, int], *, seed: int = 0) -> None:
        self.encoder, self.grid = encoder, grid
        self.generator = torch.Generator().manual_seed(seed)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.encoder, name)

    def encode_image(self, pixels: Tensor, normalize: bool = False) -> Tensor:
        shuffled = shuffle_patches(pixels, *self.grid, self.generator)
        down, right = (pixels.shape[i] - shuffled.shape[i] for i in (-2, -1))
        padding = (right // 2, right - right // 2, down // 2, down - down // 2)
        return self.encoder.encode_image(F.pad(shuffled, padding), normalize=normalize)


def _texts(encoder: Any, plain: Embeddings, *, seed: int, batch_size: int) -> dict[str, Result]:
    perturbations: dict[str, Callable[..., list[str]]] = {**ORDER, "all words": shuffle_all}
    results = {}
    for name, perturbation in perturbations.items():
        texts = [
            sentence(perturbation(words(normalise(caption)), random.Random(f"{seed}:{name}:{caption}")))
            for caption in plain.captions
        ]
        text = embed_texts(encoder, texts, batch_size=batch_size)
        results[name] = retrieval(plain.with_side("text", text), ks=(1,), seed=seed)
    return results


def _bare(metric: Metric) -> Metric:
    return replace(metric, low=None, high=None)
