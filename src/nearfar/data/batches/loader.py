"""From a source to batches: decode, choose a caption, augment, tokenise; and go on exactly where one stopped."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nearfar.data.batches.order import BLOCK, Order, Part, Row, Share, SourceOrder, State, StreamOrder, mix
from nearfar.data.batches.paired_order import PairedOrder
from nearfar.data.fields.answers import answer_shares
from nearfar.data.fields.caption_choice import Caption, check_caption, choose_caption
from nearfar.data.fields.images import decode, describe, resize
from nearfar.data.fields.text import tokenize
from nearfar.data.fields.views import Preset, Views
from nearfar.data.sources.skipped import BadRecord, Skipped
from nearfar.data.sources.source import Record, Source, Stream, captions
from nearfar.errors import UserError

ATTEMPTS = 50
"""Records tried for one place in a batch before the data are called unusable."""

_CAPTION, _NEGATIVE, _VIEWS = range(3)  # streams of chance that must not repeat one another


@dataclass
class Sample:
    """A record made ready: its picture on a canvas, its texts chosen, its numbers."""

    index: int
    canvas: Tensor | None
    size: tuple[int, int]
    text: str
    negatives: list[str]
    answers: dict[str, float]
    record: Record


class Loader:
    """Batches of a source; `nearfar.data.batches.batch` lists their keys.

    The same seed and epoch give the same batches, whatever the number of processes and workers: of each global batch of
    `batch_size * world_size` samples a process gives its own `batch_size`. A record that cannot be used is counted and
    listed in `skipped` and another takes its place.

    Args:
        source: a `Source` or `Stream`.
        batch_size: samples of a batch of this process.
        image_size: side of the pictures in pixels; None leaves pictures out.
        mean, std: what the model's pixels are normalised with.
        tokenizer: any tokenizer of `transformers`; None leaves texts out.
        views: a preset of `nearfar.data.fields.views`, or a `Preset`.
        n_views: augmented views of each picture.
        max_length: tokens a caption is cut to (default: what the tokenizer says); `pad_to` pads to a fixed length.
        caption: take one of a record's captions at `random`, another each epoch, or always its `first`; a number such
            as 0.5 takes the first so often, and else one at random. By default `random` if `shuffle`.
        negatives: hard negative captions a sample, by default as many as the first record has. Those that falsify the
            chosen caption come first (`negative_of`).
        answers: give the answers of each question (the record's `text`) with their shares; a record without an answer
            is unusable.
        neighbours: `[N, K]` hard images of each record of a `Source`, by place (`nearfar.data.mine_hard_images` finds
            them). Of each global batch one half is drawn, the other half is a neighbour of each, another each epoch:
            rows `[x_1..x_b, x_j1..x_jb]`.
        shuffle: a new order each epoch; False reads in order.
        seed: all chance depends on it.
        rank, world_size: this process's number and how many there are.
        drop_last: leave out the last batch if it is not full.
        workers: threads that read and decode ahead; 0 does it when a batch is asked for.
        cache: bytes of memory that may keep decoded pictures from epoch to epoch, 0 for none. Only for a `Source`.
        max_skipped: share of records that may be unusable before loading stops.
        replace: put another record in the place of an unusable one; False makes the batch smaller. By default as
            `shuffle`.
        block: records of a `Stream` that are shuffled among themselves.
        device: where batches go. Pictures travel as bytes and are augmented there.

    Raises:
        UserError: the source has no text (or image) though it is asked for, or too much of it is unusable.

    >>> from nearfar.data import Records
    >>> from PIL import Image
    >>> pets = Records([{"image": Image.new("RGB", (8, 8)), "text": "a cat", "label": i} for i in range(4)])
    >>> [batch["image"].shape for batch in Loader(pets, batch_size=2, image_size=16)]
    [torch.Size([2, 3, 16, 16]), torch.Size([2, 3, 16, 16])]
    """

    def __init__(
        self,
        source: Source | Stream,
        *,
        batch_size: int,
        image_size: int | None = None,
        mean: Sequence[float] = (0.5, 0.5, 0.5),
        std: Sequence[float] = (0.5, 0.5, 0.5),
        tokenizer: Any = None,
        views: str | Preset = "clip",
        n_views: int = 1,
        max_length: int | None = None,
        pad_to: int | None = None,
        caption: Caption | None = None,
        negatives: int | None = None,
        answers: bool = False,
        neighbours: Tensor | None = None,
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
    ) -> None:
        if batch_size < 1 or not 0 <= rank < world_size:
            raise ValueError(f"batch_size {batch_size} and rank {rank} of {world_size} do not fit")
        self.source, self.batch_size, self.rank, self.world_size = source, batch_size, rank, world_size
        self.seed, self.workers, self.device, self.max_skipped = seed, workers, device, max_skipped
        self.tokenizer, self.max_length, self.pad_to = tokenizer, max_length, pad_to
        self.caption = check_caption(("random" if shuffle else "first") if caption is None else caption)
        self.replace = shuffle if replace is None else replace
        self.views = Views(views, size=image_size, n_views=n_views, mean=mean, std=std) if image_size else None
        for wanted, key in ((image_size, "image"), (tokenizer, "text"), (answers or None, "answers")):
            if wanted is not None and key not in source.columns:
                raise UserError(f"{source.name} has no {key!r}; its columns are: {', '.join(source.columns)}")
        self.negatives, self.answers = self._count_negatives(negatives), answers
        self._share = Share(batch_size, rank, world_size, drop_last)
        self._order: Order | StreamOrder
        if isinstance(source, Stream):
            if neighbours is not None:
                raise UserError(f"{source.name} is a stream: neighbours are for data that can be asked by number")
            self._order = StreamOrder(source, self._share, seed=seed, shuffle=shuffle, block=block)
        elif neighbours is not None:
            self._order = PairedOrder(source, self._share, neighbours, seed=seed, shuffle=shuffle)
        else:
            self._order = SourceOrder(source, self._share, seed=seed, shuffle=shuffle)
        self._cache = Cache(0 if isinstance(source, Stream) else cache)
        self._unusable, self._bad, self._seen = Skipped(), set[int](), 0
        self.epoch, self._state, self._resume = 0, State(), State()

    def __len__(self) -> int:
        """Batches an epoch; a stream's length is not known (`TypeError`)."""
        if isinstance(self._order, StreamOrder):
            raise TypeError("the length of a stream is not known")
        return len(self._order)

    @property
    def skipped(self) -> Skipped:
        """What could not be used, when the source was opened and since."""
        return Skipped.merged([self.source.skipped, self._unusable])

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch comes next. Without it they follow one another."""
        if epoch != self.epoch:
            self.epoch, self._state, self._resume = epoch, State(), State()

    def state_dict(self) -> dict[str, Any]:
        """The place in the data: the batches handed out so far are not given again after `load_state_dict`."""
        whole = self._share.whole
        return {"epoch": self.epoch, "seed": self.seed, "global_batch": whole, "place": dict(self._state)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there. The number of processes may have changed, the size of the global batch may not."""
        for key, mine in (("seed", self.seed), ("global_batch", self._share.whole)):
            if state[key] != mine:
                raise UserError(f"cannot go on inside an epoch: its {key} was {state[key]} and now is {mine}")
        self.epoch, self._state, self._resume = state["epoch"], dict(state["place"]), dict(state["place"])

    def __iter__(self) -> Iterator[dict[str, Any]]:
        start, self._resume = self._resume, State()
        self._state = dict(start)
        for part, samples in self._ahead(self._order.batches(self.epoch, start)):
            self._state = part.state
            self._seen += len(part.rows)
            self._judge()
            kept = [i for i, sample in enumerate(samples) if sample is not None]
            if kept:
                yield self._batch([s for s in samples if s is not None], part, kept)
        self._judge(at_end=not start)
        self.epoch, self._state = self.epoch + 1, State()

    def _ahead(self, parts: Iterable[Part]) -> Iterator[tuple[Part, list[Sample | None]]]:
        """Each part with its samples, read by threads up to two batches a thread ahead."""
        epoch = self.epoch
        if not self.workers:
            for part in parts:
                yield part, self._samples(part, epoch)
            return
        pool = ThreadPoolExecutor(self.workers, thread_name_prefix="nearfar-loader")
        waiting: deque[tuple[Part, Future[list[Sample | None]]]] = deque()
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

    def _samples(self, part: Part, epoch: int) -> list[Sample | None]:
        return [self._sample(row, epoch) for row in part.rows]

    def _sample(self, row: Row, epoch: int) -> Sample | None:
        for attempt in range(ATTEMPTS if self.replace else 1):
            index, read = row.candidate(attempt)
            if index in self._bad:
                continue
            record: Record = {}
            try:
                record = read()
                return self._prepare(index, record, epoch)
            except BadRecord as problem:
                self._bad.add(index)
                self._unusable.add(_where(self.source, index, record), str(problem))
        if not self.replace:
            return None
        raise UserError(
            f"{self.source.name}: {ATTEMPTS} records in a row could not be used:\n{self.skipped.listing(5)}"
        )

    def _prepare(self, index: int, record: Record, epoch: int) -> Sample:
        canvas, size, text, negatives = None, (0, 0), "", []
        if self.tokenizer is not None:
            texts = captions(record.get("text"))
            if not texts:
                raise BadRecord("no caption")
            chosen = choose_caption(self.caption, len(texts), self.seed, epoch, index, _CAPTION)
            text = texts[chosen]
            if self.negatives:
                wrong = false_captions(record, chosen)
                first = mix(self.seed, epoch, index, _NEGATIVE)
                negatives = [wrong[(first + i) % len(wrong)] for i in range(self.negatives)]
        answers = answer_shares(record.get("answers")) if self.answers else {}
        if self.answers and not answers:
            raise BadRecord("no answer")
        if self.views is not None:
            canvas, size = self._canvas(index, record)
        return Sample(index, canvas, size, text, negatives, answers, record)

    def _canvas(self, index: int, record: Record) -> tuple[Tensor, tuple[int, int]]:
        assert self.views is not None
        kept = self._cache.get(index)
        if kept is None:
            image, size = decode(record.get("image"), near=self.views.canvas)
            pixels = resize(image, self.views.canvas, fit=self.views.preset.fit)
            kept = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1))), size
            self._cache.put(index, *kept)
        return kept

    def _batch(self, samples: list[Sample], part: Part, kept: list[int]) -> dict[str, Any]:
        batch: dict[str, Any] = {"index": torch.tensor([sample.index for sample in samples])}
        groups = [s.record["group"] if s.record.get("group") is not None else s.index for s in samples]
        batch["group"] = torch.tensor(groups)
        for key, absent in (("label", -1), ("domain", -1), ("weight", 1.0)):
            if key in self.source.columns:
                values = [s.record.get(key) for s in samples]
                batch[key] = torch.tensor([absent if value is None else value for value in values])
        if self.tokenizer is not None:
            batch["text"] = self._tokens([sample.text for sample in samples])
            if self.negatives:
                batch["negative_text"] = self._tokens([text for sample in samples for text in sample.negatives])
            if self.answers:
                batch["answers"], batch["answer_weight"] = self._answers([sample.answers for sample in samples])
        if self.device is not None:
            from nearfar.data.batches.batch import to_device

            batch = to_device(batch, self.device)
        if self.views is not None:
            batch |= self._pictures(samples, part, kept)
        return batch

    def _pictures(self, samples: list[Sample], part: Part, kept: list[int]) -> dict[str, Tensor]:
        assert self.views is not None
        generator = torch.Generator().manual_seed(mix(self.seed, self.epoch, part.state["step"], _VIEWS))
        draws = self.views.draw(self._share.whole, generator)
        draws = draws.rows(part.start, part.start + len(part.rows)).take(kept)
        images = torch.stack([sample.canvas for sample in samples if sample.canvas is not None])
        if self.device is not None:
            images = images.to(self.device, non_blocking=True)
        sizes = torch.tensor([sample.size for sample in samples])
        views, matrices = self.views(images, draws, sizes=sizes)
        pictures = {"image": views[0], "geometry": matrices}
        return pictures | {"views": views} if self.views.n_views > 1 else pictures

    def _answers(self, each: list[dict[str, float]]) -> tuple[dict[str, Tensor], Tensor]:
        """K answers a sample, K being the most that one has here: where there are fewer, empty ones of weight 0."""
        most = max(map(len, each))
        texts = [text for answers in each for text in [*answers, *[""] * (most - len(answers))]]
        weights = [[*answers.values(), *[0.0] * (most - len(answers))] for answers in each]
        return self._tokens(texts), torch.tensor(weights)

    def _tokens(self, texts: list[str]) -> dict[str, Tensor]:
        return tokenize(self.tokenizer, texts, self.max_length, pad_to=self.pad_to)

    def _count_negatives(self, wanted: int | None) -> int:
        if "negative_text" not in self.source.columns:
            if wanted:
                raise UserError(
                    f"{self.source.name} has no 'negative_text', of which negatives={wanted} are to be taken"
                )
            return 0
        if wanted is not None:
            return wanted
        return len(captions(next(iter(self.source), {}).get("negative_text")))

    def _judge(self, *, at_end: bool = False) -> None:
        """Stop when too much is unusable: of at least a hundred records in mid-epoch, of all there were at its end."""
        stream = isinstance(self.source, Stream)
        unusable = Skipped.merged([self.source.skipped, self._unusable]) if stream else self._unusable
        if unusable.count:
            total = self._seen if at_end else None if isinstance(self.source, Stream) else len(self.source)
            unusable.check(self._seen, limit=self.max_skipped, name=self.source.name, total=total)


def false_captions(record: Record, chosen: int) -> list[str]:
    """The hard negatives of a record's caption number `chosen`; all of the record's where it has none of its own, and
    an empty one where the record has none at all.

    >>> record = {"negative_text": ["b a", "d c"], "negative_of": [0, 2]}
    >>> false_captions(record, 2), false_captions(record, 1), false_captions({}, 0)
    (['d c'], ['b a', 'd c'], [''])
    """
    wrong = captions(record.get("negative_text"))
    owners = record.get("negative_of") or []
    own = [text for text, of in zip(wrong, owners, strict=False) if of == chosen]
    return own or wrong or [""]


class Cache:
    """Decoded pictures, until the memory they may take is full."""

    def __init__(self, budget: int) -> None:
        self._left, self._kept = budget, dict[int, tuple[Tensor, tuple[int, int]]]()
        self._lock = threading.Lock()

    def get(self, index: int) -> tuple[Tensor, tuple[int, int]] | None:
        return self._kept.get(index)

    def put(self, index: int, canvas: Tensor, size: tuple[int, int]) -> None:
        with self._lock:
            if canvas.nbytes <= self._left and index not in self._kept:
                self._kept[index] = (canvas, size)
                self._left -= canvas.nbytes


def _where(source: Source | Stream, index: int, record: Record) -> str:
    """Which record it is, as precisely as it says itself: its number, and its file or key."""
    image = record.get("image")
    what = getattr(image, "name", None) or record.get("key") or (describe(image) if image is not None else "")
    number = f"record {index}" if isinstance(source, Source) else f"part {index >> 32}, record {index & 0xFFFFFFFF}"
    return f"{source.name}, {number}" + (f" ({what})" if what and what != "image" else "")
