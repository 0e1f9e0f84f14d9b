"""Retrieval among texts: does one text of a pair find the other? What pairs without scores can say of an encoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from nearfar.data.sources.record_groups import Groups
from nearfar.data.sources.record_text import captions
from nearfar.embedding.embed_source import embed_texts
from nearfar.embedding.embeddings import Embeddings, Side
from nearfar.errors import UserError
from nearfar.evaluation.measures.result import Result
from nearfar.evaluation.protocols.retrieval import retrieval

DIRECTIONS = {"image_to_text_": "first_to_second_", "text_to_image_": "second_to_first_"}
"""As `retrieval` calls the two sides, and as they are called here."""


def pair_retrieval(
    encoder: Any,
    source: Any,
    *,
    ks: Sequence[int] = (1, 5, 10),
    seed: int = 0,
    batch_size: int = 64,
) -> Result:
    """Recall at k, median rank and mean reciprocal rank, from the first text to the second and back, as retrieval of
    texts is reported (MTEB, arXiv 2210.07316).

    The same text twice is one, with all that it is paired with; texts of one `group` fit all of it. Ties count at their
    expectation.

    Args:
        encoder: anything with `encode_text` and `tokenize`.
        source: records with `text` (of several the first) and `text2` (each of several fits).
        ks: the k of R@k.
        seed: of the bootstrap.
        batch_size: texts at a time.

    Returns:
        `first_to_second_R@k`, `first_to_second_MRR`, `first_to_second_median_rank`, and the same for
        `second_to_first`, with 95 % intervals. Chance is the exact expectation of a random order. Records without a
        second text are left out, and counted in the details.

    Raises:
        UserError: no record with two texts, or pairs of one text or one group alone, where every order is right.

    >>> from nearfar.data.sources.source import Records
    >>> class Letters:
    ...     def tokenize(self, texts):
    ...         return torch.tensor([[float(letter in text) for letter in "abcde"] for text in texts])
    ...     def encode_text(self, tokens):
    ...         return tokens
    >>> source = Records([{"text": letter, "text2": letter * 2} for letter in "abcde"])
    >>> pair_retrieval(Letters(), source)["first_to_second_R@1"]
    1.0
    """
    first: list[str] = []
    second: list[str] = []
    owner: list[int] = []
    group: list[int] = []
    group_of, blank = Groups(source), 0
    for place, record in enumerate(source):
        texts, others = captions(record.get("text")), captions(record.get("text2"))
        blank += not (texts and others)
        if texts and others:
            owner += [len(first)] * len(others)
            group.append(int(group_of(record, place, place)))
            first.append(texts[0])
            second += others
    name = str(getattr(source, "name", "the data"))
    if not first:
        raise UserError(f"{name} holds no pairs: pair_retrieval needs 'text' and 'text2'")
    if len(set(group)) < 2 or len(set(first)) < 2:
        raise UserError(
            f"{name} holds {len(second)} pairs of one text or group: whatever is picked is right, and nothing can be "
            "measured; bring pairs of two texts at least"
        )
    embedded = embed_texts(encoder, [*first, *second], batch_size=batch_size)
    places = {text: place for place, text in reversed(list(enumerate(first)))}
    data = Embeddings(
        embedded[: len(first)],
        sides={"text": Side(embedded[len(first) :], torch.tensor(owner))},
        group=torch.tensor(group),
        picture=torch.tensor([places[text] for text in first]),
        captions=second,
        source=name,
    )
    details: dict[str, Any] = {"pairs": len(second), "texts": len(places)}
    if blank:
        details["left_out"] = {"without two texts": blank}
    metrics = {_called(key): metric for key, metric in retrieval(data, ks=ks, seed=seed).metrics.items()}
    return Result("pair_retrieval", metrics, details=details)


def _called(key: str) -> str:
    for theirs, ours in DIRECTIONS.items():
        key = key.replace(theirs, ours)
    return key
