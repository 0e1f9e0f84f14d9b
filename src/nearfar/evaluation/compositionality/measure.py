"""Compositionality as a protocol of `nearfar.evaluation`: on the data itself, or on a copy of ARO's files."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from nearfar.embedding.embeddings import Embeddings
from nearfar.errors import UserError
from nearfar.evaluation.compositionality.aro import SYMMETRIC, aro_tasks
from nearfar.evaluation.compositionality.blind import NgramBaseline
from nearfar.evaluation.compositionality.multiple_choice import compositionality
from nearfar.evaluation.compositionality.scenes import scene_tasks, training_captions
from nearfar.evaluation.measures.result import Result

FEWEST = {"attribution": 25}
"""The paper's smallest group of ARO's own files, where it has one."""


def measure(
    encoder: Any,
    source: Any,
    *,
    train: Any = None,
    aro: str | Path | None = None,
    leave_out: Collection[str] | None = None,
    limit: int | None = 2000,
    seed: int = 0,
    batch_size: int = 64,
) -> Result:
    """All tasks that the data allow.

    Args:
        encoder: anything with `encode_image`, `encode_text`, `preprocess` and `tokenize`.
        source: what `scene_tasks` takes. Not used with `aro`.
        train: a source whose captions the text-only baseline is fitted on. By default the training split for generated
            scenes, otherwise half of the captions that are measured, for the other half.
        aro: a folder with ARO's files; see `aro_tasks`.
        leave_out: of ARO's relations, those that do not count; None: those that stay true when swapped.
        limit: records of `source` that are used; None: all.
        seed: of perturbations and bootstraps.
        batch_size: for embedding.

    Raises:
        UserError: no captions, no files of ARO in the folder, or `leave_out` without `aro`.
    """
    if leave_out is not None and aro is None:
        raise UserError("leave_out is for ARO's relations: name the folder of its files too")
    if aro is not None:
        tasks: Any = aro_tasks(aro, leave_out=SYMMETRIC if leave_out is None else leave_out, seed=seed)
    elif isinstance(source, Embeddings) or not hasattr(source, "__getitem__"):
        raise UserError("compositionality shows captions beside images: give it records that can be read by number")
    else:
        tasks = scene_tasks(source, seed=seed, limit=limit)
    texts = train.texts() if hasattr(train, "texts") else None if aro is not None else training_captions(source)
    blind = NgramBaseline().fit(texts) if texts else None
    fewest = FEWEST if aro is not None else {}
    return compositionality(encoder, tasks, blind=blind, fewest=fewest, batch_size=batch_size, seed=seed)
