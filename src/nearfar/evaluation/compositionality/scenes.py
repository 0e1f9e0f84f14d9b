"""The tasks of ARO on any source with captions: attribution and relation from its false captions, order from its true
ones. Generated scenes have both kinds; `nearfar.data.mining.swaps.with_hard_captions` gives them to other captions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nearfar.data.sources.record_text import captions
from nearfar.errors import UserError
from nearfar.evaluation.compositionality.choice import ChoiceQuestion
from nearfar.evaluation.compositionality.perturb import ORDER, order_options

ATTRIBUTES = ("colour", "size", "turned")


def scene_tasks(source: Any, *, seed: int = 0, limit: int | None = None) -> dict[str, list[ChoiceQuestion]]:
    """The cases of each task.

    Args:
        source: records with `image` and `text`, the fullest caption first; `negative_text` with `negative_kind` and
            `negative_of`, where there are false captions (`nearfar.data.scenes.scenes` has them).
        seed: of the order perturbations.
        limit: use the first so many records only.

    Returns:
        `{"attribution": [...], "relation": [...], "order": [...]}`: a task for each kind of false caption, and the
        order task, made of the fullest caption. Attribution is grouped by the pair of attributes, relation by the
        relation; the false captions of the order task are named by their perturbation.

    Raises:
        UserError: no record has a caption.

    >>> from nearfar.data.scenes import scenes
    >>> tasks = scene_tasks(scenes("val", vocabulary="shapes", n=1))
    >>> {task: len(cases) for task, cases in tasks.items()}
    {'attribution': 2, 'relation': 2, 'order': 1}
    >>> tasks["relation"][0].captions
    ('the star is tinier than the ring', 'the ring is tinier than the star')
    """
    tasks: dict[str, list[ChoiceQuestion]] = {}
    order: list[ChoiceQuestion] = []
    count = len(source) if limit is None else min(limit, len(source))
    for row in range(count):
        record = source[row]
        texts = captions(record.get("text"))
        if not texts:
            continue
        false = captions(record.get("negative_text"))
        kinds = record.get("negative_kind") or ["hard captions"] * len(false)
        owners = record.get("negative_of") or [0] * len(false)
        for caption, kind, of in zip(false, kinds, owners, strict=True):
            case = ChoiceQuestion(record["image"], (texts[of], caption), _group(record, kind), row=row)
            tasks.setdefault(kind, []).append(case)
        options = tuple(order_options(texts[0], seed=seed))
        order.append(ChoiceQuestion(record["image"], options, "order", kinds=tuple(ORDER), row=row))
    if not order:
        raise UserError(f"compositionality needs captions, and {source.name} has none")
    return {**tasks, "order": order}


def training_captions(source: Any, *, n: int = 1000) -> list[str] | None:
    """Captions of the training split of generated data, whole or a part of it, to fit a text-only baseline on; None for
    other sources."""
    made = source.training() if hasattr(source, "training") else None
    return made.first(n).texts() if made is not None else None


def _group(record: Mapping[str, Any], kind: str) -> str:
    if kind == "relation":
        return str(record.get("relation") or kind)
    things = record.get("objects") or ()
    pairs = [
        sorted(str(thing[attribute]) for thing in things[:2])
        for attribute in ATTRIBUTES
        if all(t.get(attribute) for t in things[:2])
    ]
    return " and ".join(pairs[0]) if kind == "attribution" and pairs else kind
