"""The stages that look at one record at a time: counting for ALIGN's rules, then the rules and the scores."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nearfar import files
from nearfar.data.mining.filters import AltTextFilter, Outliers, PairCounts
from nearfar.data.sources.record_numbers import record_id
from nearfar.data.sources.record_text import captions
from nearfar.data.sources.skipped import BadRecord, Skipped
from nearfar.embedding.blocks.block_folder import BlockResult, MadeOf, stem
from nearfar.embedding.blocks.block_records import BlockRecords, check_same
from nearfar.embedding.blocks.embed_blocks import open_for_blocks
from nearfar.embedding.curation.kept_blocks import DroppedRow, KeptRow, reasons, save
from nearfar.embedding.embeddings import Embeddings

OUTLIERS = "outliers.json"


@dataclass(frozen=True)
class CountJob:
    """To count, of each block, what ALIGN's rules need to know of all."""

    made_of: MadeOf
    out: str

    def worker(self) -> BlockCounter:
        return BlockCounter(self)


class BlockCounter:
    """A worker: opens the data once, then counts any block."""

    def __init__(self, job: CountJob) -> None:
        self.job, self.source = job, open_for_blocks(job.made_of.source, job.made_of.options)
        check_same(job.made_of.plan, self.source)

    def __call__(self, number: int) -> BlockResult:
        out, counts = Path(self.job.out), PairCounts()
        records = BlockRecords(self.source, self.job.made_of.plan, number)
        for _, record in readable_records(records, Skipped()):
            counts.add(record)
        images = {text: sorted(identities) for text, identities in counts.images.items()}
        content = json.dumps([counts.texts, images, counts.grams], ensure_ascii=False)
        files.write(stem(out, number).with_suffix(".counts"), content)
        result = BlockResult.of(number, read=len(records), kept=len(records))
        result.save(out)
        return result


def write_outliers(rules: AltTextFilter, folder: Path, blocks: int) -> None:
    """Add up the counts of all blocks, in order, and write what they say against beside them."""
    counts = PairCounts()
    for number in range(blocks):
        texts, images, grams = json.loads(stem(folder, number).with_suffix(".counts").read_text("utf-8"))
        each = {text: set(identities) for text, identities in images.items()}
        counts.merge(PairCounts(Counter(texts), each, Counter(grams)))
    outliers = rules.outliers(counts)
    frequent = None if outliers.frequent is None else sorted(outliers.frequent)
    files.write(folder / OUTLIERS, json.dumps([sorted(outliers.images), sorted(outliers.texts), frequent]))


def read_outliers(folder: Path) -> Outliers:
    """What `write_outliers` wrote."""
    images, texts, frequent = json.loads((folder / OUTLIERS).read_text("utf-8"))
    return Outliers(frozenset(images), frozenset(texts), None if frequent is None else frozenset(frequent))


@dataclass(frozen=True)
class FilterJob:
    """To judge each block's records by the rules and their captions by their score; `embedded` and `counts` are folders
    of blocks."""

    made_of: MadeOf
    out: str
    embedded: str | None
    counts: str
    rules: AltTextFilter | None
    min_score: float | None

    def worker(self) -> BlockFilter:
        return BlockFilter(self)


class BlockFilter:
    """A worker: opens the data once, where it needs them, then judges any block."""

    def __init__(self, job: FilterJob) -> None:
        self.job, self.source = job, None
        self.outliers = None if job.rules is None else read_outliers(Path(job.counts))
        if job.rules is not None or job.embedded is None:
            self.source = open_for_blocks(job.made_of.source, job.made_of.options)
            check_same(job.made_of.plan, self.source)

    def __call__(self, number: int) -> BlockResult:
        job, skipped = self.job, Skipped()
        records = None if self.source is None else BlockRecords(self.source, job.made_of.plan, number)
        embedded = None if job.embedded is None else _embedded(Path(job.embedded), number)
        rows = list(self._rows(number, records, embedded, skipped))
        scores = _scores(embedded) if job.min_score is not None and embedded is not None else []
        kept, dropped = list[KeptRow](), list[DroppedRow]()
        for row in rows:
            faults = self._faults(row, records, scores)
            dropped += [DroppedRow(row.place, row.id, text, why) for text, why in faults if why is not None]
            left = [at for at, (_, why) in enumerate(faults) if why is None]
            if left:
                numbers = tuple(row.captions[at] for at in left) if row.captions else ()
                kept.append(KeptRow(row.place, row.id, [faults[at][0] for at in left], row.row, numbers))
            elif not faults and job.rules is None and job.min_score is None:
                kept.append(row)
            elif not faults:
                dropped.append(DroppedRow(row.place, row.id, None, "no caption"))
        save(Path(job.out), number, kept, dropped)
        result = BlockResult.of(
            number, read=len(rows) + skipped.count, kept=len(kept), dropped=reasons(dropped), skipped=skipped
        )
        result.save(Path(job.out))
        return result

    def _faults(self, row: KeptRow, records: BlockRecords | None, scores: list[float]) -> list[tuple[str, str | None]]:
        """The captions of a record, each with what is against it, or None."""
        job, verdict = self.job, dict[str, str | None]()
        if job.rules is not None and self.outliers is not None and records is not None:
            verdict = dict(job.rules.judge(dict(records[row.place - records.place(0)]), self.outliers))
        faults = []
        for at, text in enumerate(row.text or ()):
            why = verdict.get(text)
            if why is None and scores and job.min_score is not None and scores[row.captions[at]] < job.min_score:
                why = f"score below {job.min_score:g}"
            faults.append((text, why))
        return faults

    def _rows(
        self, number: int, records: BlockRecords | None, embedded: Embeddings | None, skipped: Skipped
    ) -> Iterator[KeptRow]:
        """The records of a block before anything is dropped: those that are embedded, or without a model all that can
        be read."""
        if self.job.embedded is None:
            assert records is not None
            for place, record in readable_records(records, skipped):
                whole = records.place(place)
                yield KeptRow(whole, record_id(record, whole), captions(record.get("text")) or None)
            return
        if embedded is None:
            return
        of_record: dict[int, list[int]] = {}
        for caption, owner in enumerate(embedded.image_of_text.tolist()):
            of_record.setdefault(owner, []).append(caption)
        for at, (row, identity) in enumerate(zip(embedded.row.tolist(), embedded.index.tolist(), strict=True)):
            own = of_record.get(at, [])
            texts = [embedded.captions[caption] for caption in own]
            yield KeptRow(self.job.made_of.plan.place(number, row), identity, texts or None, at, tuple(own))


def _embedded(folder: Path, number: int) -> Embeddings | None:
    """The embeddings of a block; None where none of its records could be embedded."""
    path = stem(folder, number).with_suffix(".safetensors")
    return Embeddings.load(path) if path.exists() else None


def _scores(embedded: Embeddings) -> list[float]:
    """The cosine of each caption with its picture."""
    pictures, texts = embedded.image.double(), embedded.text.double()
    scores: list[float] = (pictures[embedded.image_of_text] * texts).sum(1).tolist() if len(pictures) else []
    return scores


def readable_records(records: BlockRecords, skipped: Skipped) -> Iterator[tuple[int, Any]]:
    """The records of a block that can be read, with their places in it."""
    for place in range(len(records)):
        try:
            record = records[place]
            captions(record.get("text"))
        except (BadRecord, OSError) as error:
            skipped.add(f"{records.name}, {records.where(place)}", str(error))
        else:
            yield place, record
