"""The stage that drops what is near something earlier: pictures, or captions, of a block against its own and against
those of every block before it, one at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from nearfar.embedding.blocks.block_folder import BlockResult, MadeOf, stem
from nearfar.embedding.curation.first_near import first_near
from nearfar.embedding.curation.kept_blocks import DroppedRow, KeptRow, Of, chosen, load, reasons, save
from nearfar.embedding.embeddings import MEDIA


@dataclass(frozen=True)
class NearJob:
    """To drop of each block what is at least so `near` something earlier; `embedded` and `before`, the stage whose
    records are looked at, are folders of blocks."""

    made_of: MadeOf
    out: str
    embedded: str
    before: str
    of: Of
    near: float

    def worker(self) -> BlockNear:
        return BlockNear(self)


class BlockNear:
    """A worker. Memory holds two blocks of vectors and one tile of scores, however many blocks there are."""

    def __init__(self, job: NearJob) -> None:
        self.job = job

    def __call__(self, number: int) -> BlockResult:
        job, rows = self.job, load(Path(self.job.before), number)
        query, own = self._vectors(number)
        first = first_near(query, self._earlier(number), job.near, own).tolist()
        kept, dropped = self._pictures(rows, first) if job.of == "pictures" else self._captions(rows, first)
        save(Path(job.out), number, kept, dropped)
        result = BlockResult.of(number, read=len(rows), kept=len(kept), dropped=reasons(dropped))
        result.save(Path(job.out))
        return result

    def _earlier(self, number: int) -> Iterator[tuple[Tensor, Tensor]]:
        return map(self._vectors, range(number))

    def _vectors(self, number: int) -> tuple[Tensor, Tensor]:
        """The vectors `[n, D]` of a block that are still there, and the places `[n]` of their records."""
        from safetensors import safe_open

        rows, places = chosen(Path(self.job.before), number, self.job.of)
        path = stem(Path(self.job.embedded), number).with_suffix(".safetensors")
        if not len(rows) or not path.exists():
            return torch.zeros(0, 1), torch.zeros(0, dtype=torch.long)
        with safe_open(path, framework="pt") as file:
            sides = [*MEDIA] if self.job.of == "pictures" else ["text"]
            vectors: Tensor = file.get_tensor(next(side for side in sides if side in file.keys()))  # noqa: SIM118
        return vectors[torch.tensor(rows)], torch.tensor(places)

    def _pictures(self, rows: list[KeptRow], first: list[int]) -> tuple[list[KeptRow], list[DroppedRow]]:
        kept = [row for row, near in zip(rows, first, strict=True) if near < 0]
        return kept, [
            DroppedRow(row.place, row.id, None, f"picture within {self.job.near:g} of an earlier one", near)
            for row, near in zip(rows, first, strict=True)
            if near >= 0
        ]

    def _captions(self, rows: list[KeptRow], first: list[int]) -> tuple[list[KeptRow], list[DroppedRow]]:
        """A record goes with the last of its captions."""
        kept, dropped, near_of = list[KeptRow](), list[DroppedRow](), iter(first)
        why = f"caption within {self.job.near:g} of an earlier one"
        for row in rows:
            near = [next(near_of) for _ in row.captions]
            texts = row.text or []
            dropped += [
                DroppedRow(row.place, row.id, text, why, place)
                for text, place in zip(texts, near, strict=True)
                if place >= 0
            ]
            left = [at for at, place in enumerate(near) if place < 0]
            if left or not texts:
                captions = tuple(row.captions[at] for at in left)
                kept.append(KeptRow(row.place, row.id, [texts[at] for at in left] or row.text, row.row, captions))
        return kept, dropped
