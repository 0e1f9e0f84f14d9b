"""The folder that blocks are written to: what they were made of, which are finished, and all of them as one.

    blocks.json                 what every block was made of: model, data, batch size
    block-000003.safetensors    the embeddings of a block, or a .parquet file; none where no record could be used
    block-000003.json           written last: the block is finished

A block is finished or not there, whenever a worker was killed; a run that is started again makes those that are not.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nearfar import files
from nearfar.data.sources.skipped import Problem, Skipped
from nearfar.embedding.blocks.block_records import BlockPlan
from nearfar.embedding.embeddings import Embeddings, Side
from nearfar.errors import UserError

NAME = "blocks.json"
FORMAT = "nearfar.embedding.blocks"


@dataclass(frozen=True, kw_only=True)
class MadeOf:
    """What the blocks of a folder were made of: `weights` and `stamp` are digests of the model and of the data's
    files; `options` are those that the source is opened with, `file_format` the ending of the blocks' files."""

    model: str
    weights: str
    source: str
    options: dict[str, Any]
    stamp: str
    plan: BlockPlan
    batch_size: int
    dim: int | None = None
    file_format: str = "safetensors"
    settings: dict[str, Any] = field(default_factory=dict)

    def save(self, folder: Path) -> None:
        content = {"format": FORMAT, **asdict(self)}
        files.write(folder / NAME, json.dumps(content, indent=1, ensure_ascii=False) + "\n")

    @classmethod
    def load(cls, folder: Path) -> MadeOf:
        """Read what `save` wrote.

        Raises:
            UserError: the folder holds no blocks, or its manifest is damaged.
        """
        try:
            content = json.loads((folder / NAME).read_text("utf-8"))
            if content.pop("format") != FORMAT:
                raise ValueError("another format")
            return cls(**{**content, "plan": BlockPlan(**content["plan"])})
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{folder} holds no blocks of embeddings: make them with `nearfar embed`") from error

    def check(self, folder: Path) -> None:
        """Raise a `UserError` where the blocks in a folder were made of something else."""
        before = MadeOf.load(folder)
        remedy = f"name another --out, or remove {folder}"
        if before.weights != self.weights:
            raise UserError(f"the blocks in {folder} were made by another model than {self.model} is now: {remedy}")
        if before.source == self.source and before.options == self.options and before.stamp != self.stamp:
            raise UserError(f"the files of {self.source} have changed since the blocks in {folder} were made: {remedy}")
        names = ("source", "options", "stamp", "batch_size", "dim", "plan", "file_format")
        pairs = {name: (getattr(before, name), getattr(self, name)) for name in names}
        keys = {**before.settings, **self.settings}
        pairs |= {key: (before.settings.get(key), self.settings.get(key)) for key in keys}
        for name, (then, now) in pairs.items():
            if then != now:
                what = f"{name.replace('_', ' ')} {_words(then)}, not {_words(now)}"
                raise UserError(f"the blocks in {folder} were made with {what}: {remedy}")


def _words(value: Any) -> str:
    return f"{value.size:,} records a block" if isinstance(value, BlockPlan) else str(value)


@dataclass(frozen=True, kw_only=True)
class BlockResult:
    """A finished block: how many records it has, how many of them are embedded, or kept, how many vectors there are of
    each side, what could not be used, and how many were dropped for what."""

    number: int
    read: int
    kept: int
    vectors: dict[str, int]
    own_groups: bool
    left_out: int
    problems: list[tuple[str, str]]
    dropped: dict[str, int] = field(default_factory=dict)

    @classmethod
    def of(
        cls, number: int, *, read: int, kept: int, dropped: dict[str, int] | None = None, skipped: Skipped | None = None
    ) -> BlockResult:
        """A result of a job that makes no vectors."""
        skipped = skipped or Skipped()
        return cls(
            number=number,
            read=read,
            kept=kept,
            vectors={},
            own_groups=False,
            left_out=skipped.count,
            problems=[(problem.where, problem.why) for problem in skipped.problems],
            dropped=dropped or {},
        )

    @property
    def skipped(self) -> Skipped:
        skipped = Skipped()
        skipped.count = self.left_out
        skipped.problems = [Problem(*problem) for problem in self.problems]
        return skipped

    def save(self, folder: Path) -> None:
        files.write(stem(folder, self.number).with_suffix(".json"), json.dumps(asdict(self), ensure_ascii=False) + "\n")


def stem(folder: Path, number: int) -> Path:
    """
    >>> stem(Path("out"), 3).name
    'block-000003'
    """
    return folder / f"block-{number:06}"


def finished(folder: Path, plan: BlockPlan) -> dict[int, BlockResult]:
    """The finished blocks by number, in order."""
    results = {}
    for path in sorted(folder.glob("block-*.json")):
        content = json.loads(path.read_text("utf-8"))
        result = BlockResult(**{**content, "problems": [(where, why) for where, why in content["problems"]]})
        if result.number < len(plan):
            results[result.number] = result
    return results


def load_blocks(folder: str | Path) -> Embeddings:
    """The blocks that `nearfar embed` wrote to a folder, as one `Embeddings`, in the order of the data.

    A record has its place and id in the whole; records that show the same picture in different blocks know it, where
    it is the same file or the same bytes in the table or shard.

    Raises:
        UserError: the folder holds no blocks, or not all of them yet.
    """
    folder = Path(folder)
    made_of = MadeOf.load(folder)
    results = finished(folder, made_of.plan)
    if len(results) < len(made_of.plan):
        raise UserError(
            f"{folder} holds {len(results):,} of {len(made_of.plan):,} blocks: run `nearfar embed` again, which makes "
            "the rest"
        )
    first, starts = 0, []
    for number in range(len(made_of.plan)):
        starts.append(first)
        first += results[number].read
    used = [number for number in results if results[number].kept]
    if not used:
        raise UserError(f"none of the records of {made_of.source} could be embedded")
    parts = [Embeddings.load(stem(folder, number).with_suffix(f".{made_of.file_format}")) for number in used]
    own_groups = any(result.own_groups for result in results.values())
    skipped = Skipped.merged(result.skipped for result in results.values())
    return joined(parts, [starts[number] for number in used], own_groups=own_groups, skipped=skipped)


def joined(parts: Sequence[Embeddings], starts: Sequence[int], *, own_groups: bool, skipped: Skipped) -> Embeddings:
    """The blocks' embeddings as one: `starts` are the places of the blocks' first records among all that were read."""
    offsets = torch.tensor([0, *(len(part) for part in parts)]).cumsum(0).tolist()
    sides = {
        name: Side(
            torch.cat([part.sides[name].vectors for part in parts]),
            torch.cat([part.sides[name].owner + first for part, first in zip(parts, offsets, strict=False)]),
        )
        for name in parts[0].sides
    }
    group = torch.cat([part.group for part in parts if part.group is not None])
    picture = torch.cat([part.picture for part in parts if part.picture is not None])
    names = [
        f"record {row + start}" if name == f"record {row}" else name
        for part, start in zip(parts, starts, strict=True)
        for name, row in zip(part.names, part.row.tolist(), strict=True)
    ]
    columns = dict.fromkeys(name for part in parts for name in part.columns)
    return Embeddings(
        sides=sides,
        row=torch.cat([part.row + start for part, start in zip(parts, starts, strict=True)]),
        index=torch.cat([part.index for part in parts]),
        group=group if own_groups else None,
        picture=_first_rows(picture if own_groups else group) if {*sides} != {"text"} else None,
        label=_numbers(parts, "label"),
        domain=_numbers(parts, "domain"),
        classes=parts[0].classes,
        domains=parts[0].domains,
        names=names,
        captions=[caption for part in parts for caption in part.captions],
        columns={name: [v for p in parts for v in p.columns.get(name, [None] * len(p))] for name in columns},
        source=parts[0].source,
        skipped=skipped,
    )


def _first_rows(numbers: Tensor) -> Tensor | None:
    """The first row with each number; None where all differ."""
    first: dict[int, int] = {}
    rows = [first.setdefault(number, row) for row, number in enumerate(numbers.tolist())]
    return None if len(first) == len(rows) else torch.tensor(rows)


def _numbers(parts: Sequence[Embeddings], key: str) -> Tensor | None:
    """One number a record, -1 where a block has none; None where none has."""
    values: list[Tensor | None] = [getattr(part, key) for part in parts]
    if all(value is None for value in values):
        return None
    blank = [torch.full((len(part),), -1) for part in parts]
    return torch.cat([none if value is None else value for value, none in zip(values, blank, strict=True)])
