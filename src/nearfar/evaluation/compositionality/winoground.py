"""Winoground (arXiv 2204.03162): two pictures and two captions of the very same words, in another order."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from nearfar.data.sources.record_text import captions
from nearfar.embedding.embed_source import embed_images, embed_texts
from nearfar.errors import UserError
from nearfar.evaluation.measures.bootstrap import mean_interval
from nearfar.evaluation.measures.result import Metric, Result

CHANCE = {"text": 1 / 4, "image": 1 / 4, "group": 1 / 6}
"""Of scores at random, all different."""


class TwoPairs(NamedTuple):
    """Two pictures, their captions in the same order, and what the example is about ("" where nothing says it)."""

    images: tuple[Any, Any]
    texts: tuple[str, str]
    tag: str = ""


def winoground(
    encoder: Any,
    source: Any,
    *,
    examples: str | Path | None = None,
    seed: int = 0,
    batch_size: int = 64,
) -> Result:
    """Does each caption find its picture, and each picture its caption, where only the order of words differs?

    Args:
        encoder: anything with `encode_image`, `encode_text`, `preprocess` and `tokenize`.
        source: records with `image`, `text` and `pair`, a number that exactly two records share. Not used with
            `examples`.
        examples: a folder with Winoground's `examples.jsonl` and its pictures in `images/`.
        seed: of the bootstrap.
        batch_size: for embedding.

    Returns:
        A `Result` of `winoground_scores`.

    Raises:
        UserError: no such files, a damaged one, or records that are not two a pair.
    """
    pairs = winoground_examples(examples) if examples is not None else list(_of_records(source))
    if not pairs:
        raise UserError("winoground needs pairs, and there is none")
    images = embed_images(encoder, (each for pair in pairs for each in pair.images), batch_size=batch_size)
    texts = embed_texts(encoder, [each for pair in pairs for each in pair.texts], batch_size=batch_size)
    # In double precision and one by one: equal embeddings give exactly equal scores.
    two = (len(pairs), 2, -1)
    cosine = (texts.double().view(two)[:, :, None] * images.double().view(two)[:, None]).sum(-1)
    tags = [pair.tag for pair in pairs]
    return winoground_scores(cosine, tags if any(tags) else None, seed=seed)


def winoground_scores(scores: Tensor, tags: Sequence[str] | None = None, *, seed: int = 0) -> Result:
    """Winoground's three scores. With s_ij that of caption i and picture j an example is right by

        text    s_00 > s_10  and  s_11 > s_01        each picture prefers its caption
        image   s_00 > s_01  and  s_11 > s_10        each caption prefers its picture
        group   both

    Ties are wrong.

    Args:
        scores: `[N, 2, 2]`, floating point.
        tags: of each example, for figures by tag.
        seed: of the bootstrap.

    Returns:
        A `Result` with `text`, `image` and `group`; by tag the same.

    Raises:
        UserError: another shape, no example, or a score that is NaN.

    >>> import torch
    >>> result = winoground_scores(torch.tensor([[[0.9, 0.1], [0.2, 0.8]], [[0.9, 0.5], [0.8, 0.4]]]))
    >>> result["text"], result["image"], result["group"]
    (0.5, 0.5, 0.5)
    """
    if scores.ndim != 3 or scores.shape[1:] != (2, 2) or not len(scores):
        raise UserError(f"scores of captions and pictures must be [N, 2, 2], got {tuple(scores.shape)}")
    if scores.isnan().any():
        raise UserError("a score is NaN")
    if tags is not None and len(tags) != len(scores):
        raise UserError(f"{len(tags)} tags for {len(scores)} examples: one an example")
    s = scores.detach().cpu().numpy()
    text = (s[:, 0, 0] > s[:, 1, 0]) & (s[:, 1, 1] > s[:, 0, 1])
    image = (s[:, 0, 0] > s[:, 0, 1]) & (s[:, 1, 1] > s[:, 1, 0])
    right = np.stack([text, image, text & image], axis=1).astype(np.float64)
    low, high = mean_interval(right, seed=seed)
    metrics = {
        name: Metric(float(right[:, i].mean()), float(low[i]), float(high[i]), CHANCE[name], len(right), "%")
        for i, name in enumerate(CHANCE)
    }
    by: dict[str, dict[str, dict[str, Metric]]] = {}
    if tags is not None:
        own = np.asarray(tags)
        for tag in np.unique(own):
            part = right[own == tag]
            by.setdefault("tag", {})[str(tag)] = {
                name: Metric(float(part[:, i].mean()), chance=chance, n=len(part), unit="%")
                for i, (name, chance) in enumerate(CHANCE.items())
            }
    return Result("winoground", metrics, by)


def winoground_examples(folder: str | Path) -> list[TwoPairs]:
    """The examples of a copy of Winoground: `examples.jsonl`, with `caption_0`, `caption_1`, `image_0`, `image_1` and
    `collapsed_tag` in each line, and the pictures in `images/`, unpacked.

    Raises:
        UserError: no such file, a line that is none of its, or a picture that is not there.
    """
    path = Path(folder) / "examples.jsonl"
    if not path.is_file():
        raise UserError(f"{path}: no such file; the folder is to hold Winoground's examples.jsonl and images/")
    lines = path.read_text("utf-8").split("\n")  # texts may hold what `splitlines` takes for the end of one
    return [_example(line, f"{path}, line {n}", path.parent) for n, line in enumerate(lines, 1) if line.strip()]


def _example(line: str, where: str, folder: Path) -> TwoPairs:
    keys = ("image_0", "image_1", "caption_0", "caption_1")
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        row = None
    if not isinstance(row, dict) or not all(isinstance(row.get(key), str) for key in keys):
        raise UserError(f"{where}: not an example of Winoground ({', '.join(keys)}); is this the published file?")
    pictures = []
    for key in keys[:2]:
        own = folder / "images" / row[key]
        named = [own, own.with_name(f"{own.name}.png"), own.with_name(f"{own.name}.jpg")]
        there = [each for each in named if each.is_file()]
        if not there:
            raise UserError(f"{where}: no picture {own}.png; unpack images.zip beside examples.jsonl")
        pictures.append(there[0])
    return TwoPairs((pictures[0], pictures[1]), (row["caption_0"], row["caption_1"]), str(row.get("collapsed_tag", "")))


def _of_records(source: Any) -> Iterator[TwoPairs]:
    """The pairs of records that share a `pair`, in the order of their first."""
    held: dict[Any, list[Any]] = {}
    for record in source:
        if record.get("pair") is not None:
            held.setdefault(record["pair"], []).append(record)
    for pair, records in held.items():
        if len(records) != 2:
            raise UserError(f"{source.name}: {len(records)} records have pair={pair!r}, and a pair is of two")
        texts = [captions(record.get("text")) for record in records]
        if not all(texts):
            raise UserError(f"{source.name}: a record of pair={pair!r} has no caption")
        one, other = records
        yield TwoPairs((one["image"], other["image"]), (texts[0][0], texts[1][0]))
