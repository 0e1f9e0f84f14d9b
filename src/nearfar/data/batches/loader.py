"""From a source to batches: read in order, prepared and collated by fields; and go on exactly where one stopped."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any, Unpack

import torch

from nearfar.data.batches.batch import declare
from nearfar.data.batches.order import BLOCK, BatchRow, BatchSplit, LocalBatch, Order, OrderPlan, State, usual_order
from nearfar.data.batches.part_cache import PartCache
from nearfar.data.fields.field import BatchChance, Field, RecordChance
from nearfar.data.fields.number_field import numbers_of
from nearfar.data.fields.usual import FieldOptions, usual_fields
from nearfar.data.pictures.images import describe
from nearfar.data.sources.record_groups import Groups
from nearfar.data.sources.record_numbers import numbered, record_id
from nearfar.data.sources.skipped import BadRecord, Skipped, judged_over
from nearfar.data.sources.source import Record, Source, Stream
from nearfar.errors import UserError
from nearfar.modes import to_device
from nearfar.signatures.data_columns import NAMES

ATTEMPTS = 50
"""Records tried for one place in a batch before the data are called unusable."""


@dataclass
class Sample:
    """A record made ready: what each field prepared of it, and its row in the whole batch."""

    row: int
    parts: list[Any]


class Loader:
    """Batches of a source; `nearfar.data.batches.batch` lists their keys.

    The same seed and epoch give the same batches, whatever the number of processes and workers: of each global batch of
    `batch_size * world_size` samples a process gives its own `batch_size`. A record that cannot be used is counted and
    listed in `skipped` and another takes its place.

    Args:
        source: a `Source` or `Stream`.
        fields: what batches hold beside `index`, `group`, `label`, `domain` and `weight`, and beside the usual fields:
            a `nearfar.data.fields.field.Field` for each kind of data.
        order: which record comes when, such as a `PairedOrder`; by default a permutation of a source each epoch, blocks
            of a stream.
        batch_size: samples of a batch of this process.
        shuffle: a new order each epoch; False reads in order.
        seed: all chance depends on it.
        rank, world_size: this process's number and how many there are.
        drop_last: leave out the last batch if it is not full.
        workers: threads that read and decode ahead; 0 does it when a batch is needed.
        cache: bytes of memory that may keep decoded pictures (and what else is `fixed`) from epoch to epoch, 0 for
            none. Only for a `Source`.
        max_skipped: share of records that may be unusable before loading stops.
        replace: put another record in the place of an unusable one; False makes the batch smaller. By default as
            `shuffle`.
        block: records of a `Stream` that are shuffled among themselves.
        device: where batches go. Pictures travel as bytes and are augmented there.
        usual: `image_size`, `mean`, `std`, `views`, `n_views`, `small_views`, `small_size` for pictures; `tokenizer`,
            `max_length`, `pad_to`, `caption`, `caption_lengths`, `negatives`, `answers`, `text_pairs`, `text_views`,
            `label_texts` for texts; `boxes`; `picture_pairs`: see `nearfar.data.fields.usual.usual_fields`.

    Raises:
        UserError: the source lacks what a field reads, the order does not fit it, two fields make one key, or too much
            of the data is unusable.

    >>> from nearfar.data import Records
    >>> from PIL import Image
    >>> pets = Records([{"image": Image.new("RGB", (8, 8)), "text": "a cat", "label": i} for i in range(4)])
    >>> [batch["image"].shape for batch in Loader(pets, batch_size=2, image_size=16)]
    [torch.Size([2, 3, 16, 16]), torch.Size([2, 3, 16, 16])]
    """

    def __init__(
        self,
        source: Source | Stream,
        fields: Sequence[Field] = (),
        order: Order | None = None,
        *,
        batch_size: int,
        shuffle: bool = True,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        drop_last: bool = True,
        workers: int = 0,
        cache: int = 512 << 20,
        max_skipped: float = 0.1,
        replace: bool | None = None,
        block: int = BLOCK,
        device: torch.device | str | None = None,
        **usual: Unpack[FieldOptions],
    ) -> None:
        if batch_size < 1 or not 0 <= rank < world_size:
            raise ValueError(f"batch_size {batch_size} and rank {rank} of {world_size} do not fit")
        self.source, self.batch_size, self.rank, self.world_size = source, batch_size, rank, world_size
        self.seed, self.workers, self.device, self.max_skipped = seed, workers, device, max_skipped
        self.replace = shuffle if replace is None else replace
        self.fields = [
            *numbers_of(source.columns),
            *usual_fields(source, shuffle=shuffle, **usual),
            *fields,
        ]
        self._check_fields()
        self.order = usual_order(source, block) if order is None else order
        self._plan = OrderPlan(source, BatchSplit(batch_size, rank, world_size, drop_last), seed, shuffle)
        self.order.check(self._plan)
        self._total = len(source) if isinstance(source, Source) else None
        self._groups = Groups(source)
        self._cache = PartCache(cache if self._total is not None else 0)
        self._unusable, self._bad, self._rows_read = Skipped(), set[int](), 0
        self.epoch, self._state, self._resume = 0, State(), State()
        self._gave_all = False

    def __len__(self) -> int:
        """Batches an epoch; a stream's length is not known (`TypeError`)."""
        length = self.order.length(self._plan)
        if length is None:
            raise TypeError("the length of a stream is not known")
        return length

    @property
    def skipped(self) -> Skipped:
        """What could not be used, when the source was opened and since."""
        return Skipped.merged([self.source.skipped, self._unusable])

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch comes next. Without it they follow one another."""
        self._gave_all = False
        if epoch != self.epoch:
            self.epoch, self._state, self._resume = epoch, State(), State()

    def state_dict(self) -> dict[str, Any]:
        """The place in the data: the batches handed out so far are not given again after `load_state_dict`."""
        whole = self._plan.split.global_batch_size
        return {"epoch": self.epoch, "seed": self.seed, "global_batch": whole, "place": dict(self._state)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there. The number of processes may have changed, the size of the global batch may not."""
        for key, mine in (("seed", self.seed), ("global_batch", self._plan.split.global_batch_size)):
            if state[key] != mine:
                raise UserError(f"cannot go on inside an epoch: its {key} was {state[key]} and now is {mine}")
        self.epoch, self._state, self._resume = state["epoch"], dict(state["place"]), dict(state["place"])
        self._gave_all = False

    def __iter__(self) -> Iterator[dict[str, Any]]:
        if self._gave_all:  # who counts batches does not come back for the end (Lightning): the next epoch begins
            self.epoch, self._gave_all = self.epoch + 1, False
        start, self._resume = self._resume, State()
        self._state = dict(start)
        self._groups.ready()
        whole = self.order.length(self._plan)
        for part, samples in self._ahead(self.order.batches(self._plan, self.epoch, start)):
            self._state = part.state
            self._rows_read += len(part.rows)
            self._judge()
            if samples:
                self._gave_all = part.state["step"] == whole
                yield self._batch(samples, part.state["step"])
        self._judge(at_end=not start)
        self.epoch, self._state, self._gave_all = self.epoch + 1, State(), False

    def check_first(self, most: int = 100) -> None:
        """Raise a `UserError` where none of the first `most` records can be used; reads until one can."""
        source, why = self.source, Skipped()
        reads: Iterator[tuple[int, Callable[[], Record]]] = (
            ((place, partial(dict, record)) for place, record in numbered(source))
            if isinstance(source, Stream)
            else ((place, partial(source.record, place)) for place in range(len(source)))
        )
        for place, read in islice(reads, most):
            record: Record = {}
            try:
                record = read()
                # No group: to find those, all records are looked through.
                whole = {**record, "index": record_id(record, place, name=source.name), "group": place}
                for field in self.fields:
                    field.prepare(whole, RecordChance(self.seed, 0, place))
                return
            except BadRecord as problem:
                why.add(_where(self.source, place, record), str(problem))
        if why:
            raise UserError(f"{self.source.name}: none of its first {why.count} records can be used:\n{why.reasons(5)}")

    def _ahead(self, parts: Iterable[LocalBatch]) -> Iterator[tuple[LocalBatch, list[Sample]]]:
        """Each part with its samples, read by threads up to two batches a thread ahead."""
        epoch = self.epoch
        if not self.workers:
            for part in parts:
                yield part, self._samples(part, epoch)
            return
        pool = ThreadPoolExecutor(self.workers, thread_name_prefix="nearfar-loader")
        waiting: deque[tuple[LocalBatch, Future[list[Sample]]]] = deque()
        try:
            for part in parts:
                waiting.append((part, pool.submit(self._samples, part, epoch)))
                if len(waiting) > 2 * self.workers:
                    first, samples = waiting.popleft()
                    yield first, samples.result()
            while waiting:
                first, samples = waiting.popleft()
                yield first, samples.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _samples(self, part: LocalBatch, epoch: int) -> list[Sample]:
        """The part's samples, without those that cannot be used."""
        prepared = [(part.start + i, self._prepared(row, epoch)) for i, row in enumerate(part.rows)]
        return [Sample(row, parts) for row, parts in prepared if parts is not None]

    def _prepared(self, row: BatchRow, epoch: int) -> list[Any] | None:
        for attempt in range(ATTEMPTS if self.replace else 1):
            place, read = row.candidate(attempt)
            if place in self._bad:
                continue
            record: Record = {}
            try:
                record = read()
                return self._prepare(place, record, epoch)
            except BadRecord as problem:
                self._bad.add(place)
                self._unusable.add(_where(self.source, place, record), str(problem))
        if not self.replace:
            return None
        raise UserError(
            f"{self.source.name}: {ATTEMPTS} records in a row could not be used:\n{self.skipped.reasons(5)}"
        )

    def _prepare(self, place: int, record: Record, epoch: int) -> list[Any]:
        identity = record_id(record, place, name=self.source.name)
        whole = {**record, "index": identity, "group": self._groups(record, place, identity)}
        chance = RecordChance(self.seed, epoch, place)
        return [
            self._cache.get((number, place), partial(field.prepare, whole, chance))
            if field.fixed
            else field.prepare(whole, chance)
            for number, field in enumerate(self.fields)
        ]

    def _batch(self, samples: list[Sample], step: int) -> dict[str, Any]:
        rows = [sample.row for sample in samples]
        chance = BatchChance(self.seed, self.epoch, step, self._plan.split.global_batch_size, rows, self.device)
        batch: dict[str, Any] = {}
        for number, field in enumerate(self.fields):
            made = field.collate([sample.parts[number] for sample in samples], chance)
            if extra := made.keys() - field.keys.keys():
                raise UserError(f"{type(field).__name__} made {min(extra)!r}, which its 'keys' do not declare")
            batch |= made
        return batch if self.device is None else to_device(batch, self.device)

    def _check_fields(self) -> None:
        """Refuse fields that read what is not there, or that make one key twice; make their keys known."""
        known, made = {*self.source.columns, "index", "group"}, set[str]()
        for field in self.fields:
            for column in field.columns:
                if column not in known:
                    columns = ", ".join(self.source.columns)
                    remedy = f": name the one that is it, {column}=COLUMN" if column in NAMES else ""
                    raise UserError(f"{self.source.name} has no {column!r}; its columns are: {columns}{remedy}")
            for name, key in field.keys.items():
                if name in made:
                    raise UserError(f"two fields make the batch's {name!r}: leave one out, or rename its key")
                made.add(name)
                declare(name, key)

    def _judge(self, *, at_end: bool = False) -> None:
        """Stop when too much is unusable: of at least a hundred records in mid-epoch, of all there were at its end."""
        unusable, listed = self._unusable, self.source.skipped
        if self._total is None and listed.usable:  # whole shards were listed, the rows not yet read among them
            records = listed.usable + listed.count
            listed.check(records, limit=self.max_skipped, name=self.source.name, total=records if at_end else None)
        elif self._total is None:
            unusable = self.skipped  # a stream finds them as it is read
        if unusable.count:
            whole, own = judged_over(self.source), self._total or 0
            is_share = whole is not None and 2 * own < whole  # held out of its data, and judged with the rest
            total = whole if is_share else self._rows_read if at_end else self._total
            unusable.check(self._rows_read, limit=self.max_skipped, name=self.source.name, total=total)


def _where(source: Source | Stream, place: int, record: Record) -> str:
    """Which record it is, as precisely as it says itself: its number, and its file or key."""
    image = record.get("image")
    image_name = getattr(image, "name", None) or record.get("key") or (describe(image) if image is not None else "")
    return f"{source.name}, {source.where(place)}" + (
        f" ({image_name})" if image_name and image_name != "image" else ""
    )
