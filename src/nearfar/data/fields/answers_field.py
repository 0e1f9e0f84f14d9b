"""The answers to a question, with the share of each."""

from __future__ import annotations

from typing import Any

import torch

from nearfar.data.batches.batch import BatchKey
from nearfar.data.fields.answers import answer_shares
from nearfar.data.fields.field import BatchChance, Field, RecordChance
from nearfar.data.fields.text_field import FieldTokenizer
from nearfar.data.sources.skipped import BadRecord
from nearfar.data.sources.source import Record


class AnswersField(Field):
    """`answers`, tokens `[B * K, L]` long, sample-major, and `answer_weight` `[B, K]` float32. K is the most that one
    question of the batch has: where there are fewer, empty answers of weight 0 fill up.

    Args:
        tokens: how texts become tokens.
    """

    columns = ("answers",)

    def __init__(self, tokens: FieldTokenizer) -> None:
        self.tokens = tokens
        self.keys = {"answers": BatchKey(many=True), "answer_weight": BatchKey()}

    def prepare(self, record: Record, chance: RecordChance) -> dict[str, float]:
        answers = answer_shares(record.get("answers"))
        if not answers:
            raise BadRecord("no answer")
        return answers

    def collate(self, parts: list[dict[str, float]], chance: BatchChance) -> dict[str, Any]:
        most = max(map(len, parts))
        texts = [text for answers in parts for text in [*answers, *[""] * (most - len(answers))]]
        weights = [[*answers.values(), *[0.0] * (most - len(answers))] for answers in parts]
        return {"answers": self.tokens(texts), "answer_weight": torch.tensor(weights)}
