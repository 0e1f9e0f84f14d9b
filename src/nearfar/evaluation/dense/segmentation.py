"""Segmentation: what a linear map finds in a model's frozen map of a picture, cell by cell."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nearfar import console
from nearfar.classifiers.cell_probe import CellProbe, class_of_pixels, class_shares
from nearfar.data.pictures.images import load_image
from nearfar.data.pictures.mask_field import MaskField
from nearfar.data.sources.record_groups import Groups
from nearfar.data.sources.skipped import BadRecord, Skipped
from nearfar.errors import UserError
from nearfar.evaluation.measures.overlap import Overlaps
from nearfar.evaluation.measures.result import Metric, Result
from nearfar.evaluation.protocols.picture_batches import as_source
from nearfar.modes import evaluating

EXAMPLES, EXAMPLE_SIDE = 8, 64
"""Pictures that are kept for the report, and the most pixels a side of their masks there."""


def segmentation(
    encoder: Any,
    source: Any,
    *,
    train: Any = None,
    labelled: Sequence[int] = (),
    limit: int | None = None,
    penalty: float = 1e-4,
    max_iter: int = 100,
    seed: int = 0,
    batch_size: int = 64,
    max_skipped: float = 0.1,
) -> Result:
    """The mean intersection over union (mIoU) of masks that a linear probe of frozen maps predicts: a 1 x 1
    convolution, fitted cell by cell to the share that each class has of the cell, its logits drawn out to pixels.

    Pictures are seen as the model's `preprocess` makes them, and pixels are counted in that frame. The model is in
    evaluation mode and stays as it was.

    Args:
        encoder: anything with `preprocess` and `encode_image_map(pixels) -> [B, D, H, W]`.
        source: records with `image` and `mask`, the class of each pixel (`nearfar.data.pictures.mask_field`): 0 is the
            ground, i + 1 the source's `classes[i]`.
        train: such records to fit the probe on, or what names a source, of the same classes. Default: those that the
            source's own `training()` names, as scenes do, if they show the same classes; else half of the things
            (`group`) of `source`.
        labelled: numbers of training pictures to fit on beside all of them, the first ones, for what few labels give.
        limit: records that are used of each, from the first; None: all.
        penalty, max_iter: of the probe; see `nearfar.classifiers.cell_probe.CellProbe`.
        seed: of the half that is held out, and of the bootstrap, which resamples things with all their pictures.
        batch_size: pictures at a time.
        max_skipped: the share of broken records above which this stops.

    Returns:
        `miou`, over the classes that the test pictures show, `pixel_accuracy`, and for each n of `labelled`
        `miou_of_N`; the IoU of each class under `by["class"]`. Chance is the ground everywhere. Beside them
        `cells_miou`, which the true shares of the cells would reach: no probe of this grid can do much better.

    Raises:
        UserError: a model without maps, data without masks, pictures too few to hold half of them out, or training
            pictures whose masks number other classes.
    """
    if not hasattr(encoder, "encode_image_map"):
        raise UserError(f"a {type(encoder).__name__} gives no maps of pictures: segmentation reads encode_image_map")
    skipped = Skipped()
    read = _Reader(encoder, limit, batch_size, skipped, max_skipped)
    own = _training(source) if train is None else _of_the_same_classes(as_source(train), source)
    test = read(source)
    fit, test = (read(own), test) if own is not None else _halves(test, seed, getattr(source, "name", "the data"))
    names = _names(source, max(fit.classes, test.classes))
    shares = class_shares(fit.masks, len(names), fit.grid)

    def measured(count: int) -> tuple[Overlaps, Tensor]:
        probe = CellProbe(penalty=penalty, max_iter=max_iter).fit(fit.maps[:count], shares[:count])
        predicted = probe.masks(test.maps, test.side)
        return Overlaps.of(predicted, test.masks, len(names)), predicted

    overlaps, predicted = measured(len(fit.maps))
    ground = Overlaps.of(torch.zeros_like(test.masks), test.masks, len(names))
    of_cells = class_shares(test.masks, len(names), test.grid)
    best = class_of_pixels(of_cells, test.side)
    interval, by_class = overlaps.intervals(cluster=test.group, seed=seed)
    n = len(test.masks)

    def mean(each: Overlaps) -> Metric:
        low, high = interval if each is overlaps else each.intervals(cluster=test.group, seed=seed)[0]
        return Metric(each.mean_iou(), low, high, chance=ground.mean_iou(), n=n, unit="%")

    metrics = {"miou": mean(overlaps)}
    for count in _numbers(labelled, len(fit.maps)):
        metrics[f"miou_of_{count}"] = mean(measured(count)[0])
    metrics["pixel_accuracy"] = Metric(overlaps.accuracy(), chance=ground.accuracy(), n=n, unit="%")
    metrics["cells_miou"] = Metric(Overlaps.of(best, test.masks, len(names)).mean_iou(), n=n, unit="%")
    shown = overlaps.true.sum(0) > 0
    iou = overlaps.iou()

    def of_class(i: int) -> Metric:
        low, high = by_class[:, i].tolist()
        return Metric(float(iou[i]), low, high, n=int((overlaps.true[:, i] > 0).sum()), unit="%")

    by = {names[i]: {"iou": of_class(i)} for i in np.flatnonzero(shown).tolist()}
    details = {
        "train": len(fit.maps),
        "grid": list(fit.grid),
        "side": test.side,
        "penalty": penalty,
        "skipped": skipped.count,
        "classes": names,
        "examples": _examples(test, predicted),
    }
    return Result("segmentation", metrics, {"class": by}, details)


@dataclass(frozen=True)
class DenseData:
    """Frozen maps `[N, D, H, W]` of pictures, their masks `[N, S, S]`, and of each its row and its group."""

    maps: Tensor
    masks: Tensor
    row: Tensor
    group: np.ndarray

    @property
    def grid(self) -> tuple[int, int]:
        return self.maps.shape[2], self.maps.shape[3]

    @property
    def side(self) -> int:
        return self.masks.shape[1]

    @property
    def classes(self) -> int:
        """One more than the highest class."""
        return int(self.masks.max()) + 1

    def select(self, rows: Tensor) -> DenseData:
        """Some of the pictures, by their places."""
        return DenseData(self.maps[rows], self.masks[rows], self.row[rows], self.group[rows.numpy()])


@dataclass(frozen=True)
class _Reader:
    """Reads a source into `DenseData`."""

    encoder: Any
    limit: int | None
    batch_size: int
    skipped: Skipped
    max_skipped: float

    def __call__(self, source: Any) -> DenseData:
        parts = list(self._parts(source))
        if not parts or not any(bool((masks >= 0).any()) for _, masks, _, _ in parts):
            name = getattr(source, "name", "the data")
            raise UserError(f"{name} holds no picture with a mask that can be read\n{self.skipped.reasons(5)}")
        maps, masks, rows, groups = zip(*parts, strict=True)
        numbers = np.unique([str(group) for part in groups for group in part], return_inverse=True)[1]
        return DenseData(torch.cat(maps), torch.cat(masks), torch.tensor([r for part in rows for r in part]), numbers)

    def _parts(self, source: Any) -> Iterator[tuple[Tensor, Tensor, list[int], list[Any]]]:
        name, group_of, count = getattr(source, "name", "the data"), Groups(source), 0
        window = getattr(getattr(self.encoder, "pixels", None), "window", None)
        field = MaskField(self.encoder.image_size, window=window)
        batch: list[tuple[Any, Tensor, int, Any]] = []
        rows = len(source) if hasattr(source, "__len__") else None
        for row, record in enumerate(console.track(source, f"{name}: pictures with masks", total=rows)):
            if row == self.limit:
                break
            count += 1
            try:
                batch.append(
                    (load_image(record.get("image")), field.prepare(record, None), row, group_of(record, row, row))
                )
            except BadRecord as error:
                self.skipped.add(f"{name}, record {row}", str(error))
            if len(batch) == self.batch_size:
                yield self._embedded(batch)
                batch = []
        if batch:
            yield self._embedded(batch)
        self.skipped.check(count, limit=self.max_skipped, name=name, total=count)

    def _embedded(self, batch: list[tuple[Any, Tensor, int, Any]]) -> tuple[Tensor, Tensor, list[int], list[Any]]:
        pictures, masks, rows, groups = map(list, zip(*batch, strict=True))
        with evaluating(self.encoder), torch.no_grad():
            maps = self.encoder.encode_image_map(self.encoder.preprocess(pictures)).float().cpu()
        return maps, torch.stack(masks), rows, groups


def _training(source: Any) -> Any:
    """What the source names to learn from, if it shows the same classes: scenes of any noun show others in each
    split."""
    own = source.training() if hasattr(source, "training") else None
    return own if own is not None and _classes(own) == _classes(source) else None


def _classes(source: Any) -> list[str]:
    return list(getattr(source, "classes", None) or ())


def _of_the_same_classes(train: Any, source: Any) -> Any:
    """`train`, unless its masks number other classes than the source's do."""
    numbered = zip(_classes(train), _classes(source), strict=False)
    if other := next(((i + 1, one, two) for i, (one, two) in enumerate(numbered) if one != two), None):
        raise UserError(
            f"segmentation: class {other[0]} of the masks is {other[1]!r} in the training pictures and {other[2]!r} in "
            "the others: give both the same classes in the same order"
        )
    return train


def _halves(data: DenseData, seed: int, name: str) -> tuple[DenseData, DenseData]:
    """The pictures of one half of the groups, and those of the other."""
    groups = int(data.group.max()) + 1
    if groups < 2:
        raise UserError(f"{name} shows a single thing, so none can be held out: pass train=...")
    first = torch.randperm(groups, generator=torch.Generator().manual_seed(seed))[: groups // 2]
    chosen = torch.isin(torch.from_numpy(data.group), first)
    return data.select(chosen.nonzero().flatten()), data.select((~chosen).nonzero().flatten())


def _names(source: Any, count: int) -> list[str]:
    """The classes' names: the ground's and the source's, or numbers where the masks hold more."""
    names = ["ground", *_classes(source)]
    return names if len(names) >= count else [str(number) for number in range(count)]


def _numbers(labelled: Sequence[int] | int, most: int) -> list[int]:
    numbers = sorted({labelled} if isinstance(labelled, int) else set(labelled))
    if any(not isinstance(n, int) or not 1 <= n <= most for n in numbers):
        raise UserError(f"segmentation: labelled={labelled}: numbers of training pictures, of which there are {most}")
    return numbers


def _examples(test: DenseData, predicted: Tensor) -> list[dict[str, Any]]:
    """The first pictures for the report: rows, and both masks, coarsened."""
    step = -(-test.side // EXAMPLE_SIDE)
    kept = range(min(EXAMPLES, len(predicted)))
    return [
        {
            "row": int(test.row[i]),
            "true": test.masks[i, ::step, ::step].tolist(),
            "predicted": predicted[i, ::step, ::step].tolist(),
        }
        for i in kept
    ]
