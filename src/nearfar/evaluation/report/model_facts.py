"""What the model of a report is, as a table: its towers, its size, its data, its time, and how to load it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from nearfar.evaluation.report.blocks import Block, Cell, Table, TableRow, Verbatim


def model_facts(
    encoder: Any, folder: Path, history: Sequence[Mapping[str, Any]], trained_on: str | None, opened: str | None = None
) -> list[Block]:
    """The table, and how to load the model: from `folder`, or else as it was `opened`. Nothing where there is no model
    to tell of."""
    if not hasattr(encoder, "parameters") or not hasattr(encoder, "state_dict"):
        return []
    facts = [*_made_of(encoder), *_training(history, trained_on)]
    rows = [TableRow(name, [Cell(value)]) for name, value in facts]
    blocks: list[Block] = [Table("what it is", ["part", ""], rows)]
    if opened or (folder / "model").is_dir():
        lines = ["import nearfar", "", f"model = nearfar.load({json.dumps(opened or f'{folder.name}/model')})"]
        if hasattr(encoder, "encode_text"):
            lines.append('texts = model.encode_text(model.tokenize(["a red car"]), normalize=True)')
        elif hasattr(encoder, "encode_image"):
            lines.append('vectors = model.encode(["car.png"], normalize_embeddings=True)')
        blocks.append(Verbatim("\n".join(lines)))
    return blocks


def _made_of(encoder: Any) -> Iterator[tuple[str, str]]:
    for side in ("image", "text"):
        tower = getattr(encoder, side, None)
        if tower is not None and (spec := getattr(tower, "spec", None)) is not None:
            trained = sum(p.numel() for p in tower.parameters() if p.requires_grad)
            frozen = "" if trained else ", frozen"
            yield f"{side} tower", f"{_name(spec)}, {_count(tower)} parameters{frozen}"
    if any(True for _ in encoder.parameters()):  # of an exported model there are only files
        yield "parameters", f"{_count(encoder)} in all"
    for name, called, unit in (
        ("embed_dim", "embedding", " numbers"),
        ("image_size", "pictures", " pixels a side"),
        ("max_length", "texts", " tokens at most"),
    ):
        if isinstance(value := getattr(encoder, name, None), int):
            yield called, f"{value}{unit}"
    if isinstance(temperature := getattr(encoder, "temperature", None), float):
        yield "temperature", f"{temperature:.4g}"


def _name(spec: Mapping[str, Any]) -> str:
    """What a tower is called: a name where it has one, else its architecture and its width."""
    config = spec.get("config") or {}
    width = config.get("hidden_size") or config.get("hidden_sizes")
    made = str(spec.get("name") or spec.get("architecture") or config.get("model_type") or spec.get("library"))
    return made if spec.get("name") or width is None else f"{made} of width {width}"


def _count(module: Any) -> str:
    number = sum(p.numel() for p in module.parameters()) + sum(b.numel() for b in module.buffers())
    return f"{number / 1e6:.1f} million" if number >= 1e5 else f"{number:,}"


def _training(history: Sequence[Mapping[str, Any]], trained_on: str | None) -> Iterator[tuple[str, str]]:
    if trained_on:
        yield "trained on", trained_on
    if seconds := max((row.get("seconds", 0) for row in history), default=0):
        minutes, rest = divmod(round(seconds), 60)
        yield "training took", f"{minutes}:{rest:02d} minutes"
    if epochs := max((row.get("epoch", 0) for row in history), default=0):
        yield "epochs", f"{epochs:g}"
