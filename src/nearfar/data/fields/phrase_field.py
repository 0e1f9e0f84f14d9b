"""Things in a picture, each named by a phrase, and how they are related: Visual Genome's kind of annotation, and what
scenes know of themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from nearfar.data.batches.batch import BatchKey
from nearfar.data.fields.field import BatchChance, Field, RecordChance
from nearfar.data.fields.text import tokenize
from nearfar.data.scenes.layout import INVERSE
from nearfar.data.sources.skipped import BadRecord
from nearfar.data.sources.source import Record
from nearfar.errors import UserError


@dataclass(frozen=True)
class Phrases:
    """Of one picture: a phrase and a label of each thing, and the labelled relations (from, label, to)."""

    texts: list[str]
    things: list[int]
    relations: list[tuple[int, int, int]]


class PhraseField(Field):
    """`phrases`: `input_ids` and `attention_mask` `[B, N, L]`, `object_label` `[B, N]` and `relation_label`
    `[B, N, N]`, all long. N and L are always the same; what a picture has fewer of is 0.

    A record has `objects`, a list of `{"name": "cat", "attribute": "red"}` (the attribute may be left out, and `colour`
    does as well), and `relations`, a list of `{"subject": 0, "predicate": "left of", "object": 1}`, or of such triples:
    from which thing, which, to which. Scenes have `relation` in its place, of the first thing to the second, and its
    inverse is added.

    Args:
        tokenizer: any tokenizer of `transformers`.
        relations: names of the relations; the first has label 1. Others are left out, as a pair without one.
        objects: names of the things that are told apart; the first has label 1, others 0.
        most_objects: N; of a picture with more, the first count.
        phrase_length: L, tokens that a phrase is cut to.

    >>> from nearfar.data import train_tokenizer
    >>> field = PhraseField(train_tokenizer(["a red cat"], 300), relations=["on"], objects=["cat"], most_objects=3)
    >>> record = {"objects": [{"name": "mat"}, {"name": "cat", "attribute": "red"}], "relations": [[1, "on", 0]]}
    >>> batch = field.collate([field.prepare(record, None)], None)
    >>> batch["phrases"]["input_ids"].shape, batch["object_label"].tolist(), batch["relation_label"][0, 1].tolist()
    (torch.Size([1, 3, 10]), [[0, 1, 0]], [1, 0, 0])
    """

    columns = ("objects",)
    optional_columns = ("relations", "relation")
    keys = {name: BatchKey() for name in ("phrases", "object_label", "relation_label")}  # noqa: RUF012

    def __init__(
        self,
        tokenizer: Any,
        *,
        relations: Sequence[str],
        objects: Sequence[str],
        most_objects: int = 32,
        phrase_length: int = 10,
    ) -> None:
        if most_objects < 1 or phrase_length < 1:
            raise UserError(f"most_objects={most_objects}, phrase_length={phrase_length}: whole numbers from 1 on")
        self.tokenizer, self.most_objects, self.phrase_length = tokenizer, most_objects, phrase_length
        self.relation_of = {name: number for number, name in enumerate(relations, 1)}
        self.thing_of = {name: number for number, name in enumerate(objects, 1)}

    def prepare(self, record: Record, chance: RecordChance | None) -> Phrases:
        things = record.get("objects")
        if not isinstance(things, Sequence) or isinstance(things, str) or not things:
            raise BadRecord("no objects")
        if not all(isinstance(thing, Mapping) and isinstance(thing.get("name"), str) for thing in things):
            raise BadRecord('an object is not of the form {"name": "cat"}')
        things = things[: self.most_objects]
        relations = []
        for start, name, end in _relations(record):
            if not (isinstance(start, int) and isinstance(end, int) and start >= 0 and end >= 0):
                raise BadRecord(f"a relation is from {start!r} to {end!r}, which are no numbers of objects")
            if name in self.relation_of and max(start, end) < len(things) and start != end:
                relations.append((start, self.relation_of[name], end))
        return Phrases(
            [phrase_of(thing) for thing in things], [self.thing_of.get(thing["name"], 0) for thing in things], relations
        )

    def collate(self, parts: list[Phrases], chance: BatchChance | None) -> dict[str, Any]:
        shape = len(parts), self.most_objects
        texts = [text for part in parts for text in part.texts]
        read = tokenize(self.tokenizer, texts, self.phrase_length, pad_to=self.phrase_length)
        real = torch.tensor([[n < len(part.texts) for n in range(self.most_objects)] for part in parts])
        tokens = {}
        for name, value in read.items():
            tokens[name] = value.new_zeros(*shape, self.phrase_length)
            tokens[name][real] = value
        things = torch.zeros(shape, dtype=torch.long)
        things[real] = torch.tensor([thing for part in parts for thing in part.things])
        relations = torch.zeros(*shape, self.most_objects, dtype=torch.long)
        for row, part in enumerate(parts):
            for start, label, end in part.relations:
                relations[row, start, end] = label
        return {"phrases": tokens, "object_label": things, "relation_label": relations}


def phrase_of(thing: Mapping[str, Any]) -> str:
    """Attribute and name.

    >>> phrase_of({"name": "cat", "attribute": "red"}), phrase_of({"name": "cat", "colour": None})
    ('red cat', 'cat')
    """
    attribute = thing.get("attribute") or thing.get("colour")
    return f"{attribute} {thing['name']}" if attribute else thing["name"]


def _relations(record: Record) -> list[tuple[Any, Any, Any]]:
    listed = record.get("relations")
    if listed is not None:
        return [_triple(each) for each in listed]
    name = record.get("relation")
    return [] if name is None else [(0, name, 1), (1, INVERSE.get(name), 0)]


def _triple(relation: Any) -> tuple[Any, Any, Any]:
    if isinstance(relation, Mapping) and relation.keys() >= {"subject", "predicate", "object"}:
        return relation["subject"], relation["predicate"], relation["object"]
    if isinstance(relation, Sequence) and not isinstance(relation, str) and len(relation) == 3:
        return relation[0], relation[1], relation[2]
    raise BadRecord('a relation is not of the form {"subject": 0, "predicate": "left of", "object": 1}')
