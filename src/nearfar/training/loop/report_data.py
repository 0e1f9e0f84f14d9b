"""What the report of a run shows where no evaluation was asked for: the validation data, else some of the training
data, each called what it is."""

from __future__ import annotations

from itertools import islice
from typing import Any

import numpy as np

from nearfar.data.sources.source import Records, Source, Stream

SAMPLE = 500
"""Training records that are embedded for the report: enough for a gallery and a map, little beside the training."""

VALIDATION = "the validation data"
TRAINING = "training data, which the model has seen"


def report_contents(
    model: Any, validation: Any, training: Any, *, seed: int = 0, captions: int | None = None
) -> dict[str, Any]:
    """The part of `write_report`'s arguments that is measured now.

    Args:
        model: what was trained.
        validation: the validation data, a source or its loader; taken whole, as each validation took it.
        training: the training data likewise; `SAMPLE` records of it are taken where there are no validation data: drawn
            by `seed`, or the first of a stream.
        seed: of the sample and the intervals.
        captions: how many captions of each image count; None: all.

    Returns:
        Embeddings, results, and `about`: what the data is to the model. Nothing where the model reads no texts, or
        where neither data has what it reads: pictures, or texts for a model of texts alone.
    """
    if not hasattr(model, "encode_text"):
        return {}
    from nearfar.evaluation import embed, evaluate

    side = "image" if hasattr(model, "encode_image") else "text"

    for data, about, most in ((validation, VALIDATION, None), (training, TRAINING, SAMPLE)):
        source = _source(data)
        if source is None or side not in source.columns:
            continue
        source = sample_of(source, most, seed=seed)
        # Whether too many are broken was judged in training, on all of them.
        found = embed(model, source, captions=captions, max_skipped=1.0)
        results = evaluate(model, source, embeddings=found, seed=seed)
        return {"encoder": model, "source": source, "embeddings": found, "results": results, "about": about}
    return {}


def sample_of(source: Source | Stream, most: int | None, *, seed: int = 0) -> Source:
    """At most so many records: of a source drawn by `seed`, in their order; of a stream the first. None takes all, but
    of a stream no more than `SAMPLE`, as they are held in memory.

    >>> numbers = Records([{"text": str(i)} for i in range(1000)], name="numbers")
    >>> sample = sample_of(numbers, 3, seed=1)
    >>> sample.name, [int(record["text"]) for record in sample] == sorted(int(text) for text in sample.texts())
    ('3 of the 1,000 records of numbers', True)
    >>> sample_of(numbers, 1000) is numbers
    True
    """
    if isinstance(source, Stream):
        first = list(islice(source, most or SAMPLE))
        name = f"the first {len(first):,} records of {source.name}"
        return Records(first, name=name, classes=source.classes, domains=source.domains)
    if most is None or len(source) <= most:
        return source
    rows = sorted(np.random.default_rng(seed).choice(len(source), most, replace=False).tolist())
    return source.select(rows, name=f"{most:,} of the {len(source):,} records of {source.name}")


def _source(data: Any) -> Source | Stream | None:
    """The source itself, or that of a loader; None for other batches, and for functions."""
    data = getattr(data, "source", data) if not isinstance(data, Source | Stream) else data
    return data if isinstance(data, Source | Stream) else None
