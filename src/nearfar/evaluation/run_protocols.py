"""Protocols run by name, on one embedding of the data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from nearfar import console, lookup
from nearfar.data.sources.skipped import Skipped
from nearfar.embedding.embed_source import embed
from nearfar.embedding.embeddings import Embeddings
from nearfar.errors import UserError
from nearfar.evaluation.measures.result import Result
from nearfar.evaluation.needs import missing_in_embeddings, unembedded_side
from nearfar.evaluation.protocols import PROTOCOLS


@dataclass
class EvaluationInputs:
    """What a protocol is given: the model, the data, and their embeddings, which are made when first used and then
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
    max_skipped: float = 0.1
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
        reading = {"batch_size": self.batch_size, "progress": self.progress, "max_skipped": self.max_skipped}
        return embed(self.encoder, source, captions=captions, **reading)  # type: ignore[arg-type]


USUAL = tuple(name for name, protocol in PROTOCOLS.items() if protocol.usual)
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
    max_skipped: float = 0.1,
    embeddings: Embeddings | None = None,
    options: dict[str, dict[str, Any]] | None = None,
    skipped: Skipped | None = None,
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
        max_skipped: share of records that may be unusable where data are embedded.
        embeddings: the data's, where they are at hand; made when a protocol asks for them otherwise.
        options: settings of single protocols, as `{"zero_shot": {"templates": "full"}}`.
        skipped: takes what could not be read of the data that were embedded.

    Returns:
        A `Result` for each protocol, by name.

    Raises:
        UserError: an unknown protocol or option, or a model or data without what a protocol needs.
    """
    options = options or {}
    lookup.check("protocol", (*(protocols or ()), *options), PROTOCOLS)
    for name, settings in options.items():
        PROTOCOLS[name].check_options(settings)
    inputs = EvaluationInputs(encoder, source, train, seed, batch_size, captions, progress, max_skipped, options)
    if embeddings is not None:
        inputs.embeddings = embeddings
    if protocols is None:
        without = left_out(encoder, inputs.embeddings)
        protocols = [name for name in USUAL if name not in without]
    elif embeddings is None and not isinstance(source, Embeddings):  # what the model lacks is no fault of the data
        for name in protocols:
            if why := unembedded_side(name, encoder):
                raise UserError(f"{name} cannot be measured: {why}")
    with console.showing(progress):
        results = {name: PROTOCOLS[name].run(inputs, **options.get(name, {})) for name in protocols}
    if skipped is not None and "embeddings" in vars(inputs):
        for problem in inputs.embeddings.skipped:
            skipped.add(*problem)
    return results


def left_out(encoder: Any, data: Embeddings) -> dict[str, str]:
    """The protocols of `USUAL` that cannot be measured on this data, each with the reason.

    >>> import torch
    >>> pictures = Embeddings(torch.eye(3), torch.zeros(0, 3), torch.zeros(0, dtype=torch.long), source="photos")
    >>> left_out(None, pictures)["retrieval"]
    'photos has no captions'
    """
    reasons = {name: missing_in_embeddings(name, data, encoder) for name in USUAL}
    return {name: why for name, why in reasons.items() if why}
