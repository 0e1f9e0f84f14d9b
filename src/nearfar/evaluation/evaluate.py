"""All protocols by name, on one embedding of the data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module
from typing import Any

from nearfar.embedding.embed_source import embed
from nearfar.embedding.embeddings import Embeddings
from nearfar.errors import UserError
from nearfar.evaluation.measures.result import Result


@dataclass
class Job:
    """What a protocol is given: the model, the data, and their embeddings, which are made when first asked for and then
    shared.

    `train` is labelled data to fit probes on, or questions to fit blind baselines on (None: half of the data),
    `options` holds each protocol's own settings.
    """

    encoder: Any
    source: Any
    train: Any = None
    seed: int = 0
    batch_size: int = 64
    captions: int | None = None
    progress: bool = False
    options: dict[str, dict[str, Any]] = field(default_factory=dict)

    @cached_property
    def embeddings(self) -> Embeddings:
        """The data, embedded."""
        return self._embed(self.source, self.captions)

    @cached_property
    def train_embeddings(self) -> Embeddings | None:
        """The images to fit probes on, embedded."""
        return None if self.train is None else self._embed(self.train, 0)

    def _embed(self, source: Any, captions: int | None) -> Embeddings:
        if isinstance(source, Embeddings):
            return source
        return embed(self.encoder, source, batch_size=self.batch_size, captions=captions, progress=self.progress)


def _retrieval(job: Job, **options: Any) -> Result:
    from nearfar.evaluation.protocols.retrieval import retrieval

    return retrieval(job.embeddings, seed=job.seed, **options)


def _zero_shot(job: Job, **options: Any) -> Result:
    from nearfar.evaluation.protocols.zero_shot import zero_shot

    return zero_shot(job.encoder, job.embeddings, seed=job.seed, batch_size=job.batch_size, **options)


def _knn(job: Job, **options: Any) -> Result:
    from nearfar.evaluation.protocols.probes import knn

    return knn(job.embeddings, job.train_embeddings, seed=job.seed, **options)


def _linear_probe(job: Job, **options: Any) -> Result:
    from nearfar.evaluation.protocols.probes import linear_probe

    return linear_probe(job.embeddings, job.train_embeddings, seed=job.seed, **options)


def _geometry(job: Job, **options: Any) -> Result:
    from nearfar.evaluation.protocols.geometry import geometry

    return geometry(job.embeddings, seed=job.seed, **options)


def _compositionality(job: Job, **options: Any) -> Result:
    from nearfar.evaluation.compositionality.measure import measure

    settings = {"train": job.train, "seed": job.seed, "batch_size": job.batch_size, **options}
    return measure(job.encoder, job.source, **settings)


def _order_probe(job: Job, **options: Any) -> Result:
    from nearfar.evaluation.compositionality.probe import order_probe

    settings = {"embeddings": job.embeddings, "seed": job.seed, "batch_size": job.batch_size, **options}
    return order_probe(job.encoder, job.source, **settings)


def _answering(job: Job, **options: Any) -> Result:
    from nearfar.evaluation.protocols.answering import answering

    settings = {"train": job.train, "seed": job.seed, "batch_size": job.batch_size, **options}
    return answering(job.encoder, job.source, **settings)


def _entailment(job: Job, **options: Any) -> Result:
    from nearfar.evaluation.protocols.entailment import entailment

    settings = {"train": job.train, "seed": job.seed, "batch_size": job.batch_size, **options}
    return entailment(job.encoder, job.source, **settings)


def _grounding(job: Job, **options: Any) -> Result:
    from nearfar.evaluation.protocols.grounding import grounding

    return grounding(job.encoder, job.source, **{"seed": job.seed, "batch_size": job.batch_size, **options})


PROTOCOLS: dict[str, Callable[..., Result] | str] = {
    "retrieval": _retrieval,
    "zero_shot": _zero_shot,
    "knn": _knn,
    "linear_probe": _linear_probe,
    "geometry": _geometry,
    "compositionality": _compositionality,
    "order_probe": _order_probe,
    "answering": _answering,
    "entailment": _entailment,
    "grounding": _grounding,
}
"""Protocols by name: a function `(job, **options) -> Result`, or "module:function", imported when it is used."""


USUAL = ("retrieval", "zero_shot", "geometry")
"""What is measured where no protocol is named, as far as the data allows."""


def evaluate(
    encoder: Any,
    source: Any,
    protocols: Sequence[str] | None = None,
    *,
    train: Any = None,
    seed: int = 0,
    batch_size: int = 64,
    captions: int | None = None,
    progress: bool = False,
    embeddings: Embeddings | None = None,
    options: dict[str, dict[str, Any]] | None = None,
) -> dict[str, Result]:
    """Run protocols on a model and data; the data is embedded once.

    Args:
        encoder: anything with `encode_image`, `encode_text`, `preprocess` and `tokenize`.
        source: the data, or its `Embeddings`.
        protocols: names in `PROTOCOLS`. Default: those of `USUAL` that the data allows; `left_out` tells which are not
            among them, and why.
        train: labelled data to fit the probes on, or answered questions; None: half of the data.
        seed: of splits and bootstraps.
        batch_size: for embedding.
        captions: how many captions of each image count, from the first; None: all.
        progress: show progress bars.
        embeddings: the data's, where they are at hand; made when a protocol asks for them otherwise.
        options: settings of single protocols, as `{"zero_shot": {"templates": "full"}}`.

    Returns:
        A `Result` for each protocol, by name.

    Raises:
        UserError: an unknown protocol, or data that lacks what a protocol needs.
    """
    options = options or {}
    unknown = [name for name in (*(protocols or ()), *options) if name not in PROTOCOLS]
    if unknown:
        raise UserError(f"no protocol {unknown[0]!r}; there are: {', '.join(PROTOCOLS)}")
    job = Job(encoder, source, train, seed, batch_size, captions, progress, options)
    if embeddings is not None:
        job.embeddings = embeddings
    if protocols is None:
        without = left_out(encoder, job.embeddings)
        protocols = [name for name in USUAL if name not in without]
    return {name: _protocol(name)(job, **options.get(name, {})) for name in protocols}


def left_out(encoder: Any, data: Embeddings) -> dict[str, str]:
    """The protocols of `USUAL` that cannot be measured on this data, each with the reason.

    >>> import torch
    >>> pictures = Embeddings(torch.eye(3), torch.zeros(0, 3), torch.zeros(0, dtype=torch.long), source="photos")
    >>> left_out(None, pictures)["retrieval"]
    'photos has no captions'
    """
    reasons = {}
    if not len(data.text):
        reasons["retrieval"] = f"{data.source} has no captions"
    if data.label is None or not bool((data.label >= 0).any()):
        reasons["zero_shot"] = f"{data.source} has no labels"
    elif not data.classes:
        reasons["zero_shot"] = f"{data.source} names no classes"
    elif not hasattr(encoder, "encode_text"):
        reasons["zero_shot"] = "the model reads no text"
    return reasons


def _protocol(name: str) -> Callable[..., Result]:
    found = PROTOCOLS[name]
    if callable(found):
        return found
    module, _, function = found.partition(":")
    return getattr(import_module(module), function)
