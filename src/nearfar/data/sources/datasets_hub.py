"""Data in the format of the `datasets` library: a name, or a folder that `save_to_disk` wrote."""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from nearfar.data.sources.source import Source, Stream
from nearfar.data.tables.arrow import ArrowSource, ArrowStream, find_roles, undecoded
from nearfar.data.tables.first_row import LOOKED_AT, check_first, top_row
from nearfar.data.tables.table_files import quiet
from nearfar.errors import UserError
from nearfar.files import why

UNREADABLE = "check its name, its configuration and its split, and that its files are whole"

SAVED = ("dataset_info.json", "state.json", "dataset_dict.json")
"""Files that tell a folder written by `save_to_disk`."""


TRAIN = "train"
"""The split that is read where several are there and none is named."""


def is_saved_dataset(path: str | os.PathLike[str]) -> bool:
    """Whether a folder was written by `save_to_disk`."""
    return any((Path(path) / name).is_file() for name in SAVED)


def hub(
    name: str | os.PathLike[str],
    *,
    split: str | None = None,
    config: str | None = None,
    image: str | None = None,
    text: str | Sequence[str] | None = None,
    label: str | None = None,
    domain: str | None = None,
    group: str | None = None,
    answers: str | Sequence[str] | None = None,
    streaming: bool = False,
    cache_dir: str | os.PathLike[str] | None = None,
) -> Source | Stream:
    """A dataset by its name in the `datasets` library, or by its folder on disk.

    Args:
        name: `owner/name`, or a folder that `save_to_disk` wrote.
        split: which split, such as `train` or `train[:10%]`; may be left out if there is one only, or one `train`.
        config: which configuration, where a dataset has several.
        image, text, label, domain, group, answers: columns, guessed by their usual names as in `table`.
        streaming: read it in order without downloading it whole; gives a `Stream`.
        cache_dir: where `datasets` keeps what it downloads.

    Raises:
        UserError: there is no such dataset or split, or no column could be the image or the text.
    """
    from datasets import load_dataset, load_from_disk

    where, picked = os.fspath(name), split
    try:
        with quiet():
            if is_saved_dataset(where):
                dataset: Any = load_from_disk(where)
            else:
                dataset = load_dataset(
                    where, config, split=split, streaming=streaming, cache_dir=cache_dir and str(cache_dir)
                )
                picked = None
    except Exception as error:  # Many kinds: no connection, no such name, no such configuration, broken files.
        raise UserError(f"the dataset {where!r} cannot be loaded: {why(error, UNREADABLE)}") from error
    named: dict[str, Any] = {"image": image, "text": text, "label": label, "domain": domain, "group": group}
    return of_dataset(dataset, name=Path(where).name, split=picked, streaming=streaming, answers=answers, **named)


def of_dataset(
    dataset: Any,
    *,
    name: str = "dataset",
    split: str | None = None,
    image: str | None = None,
    text: str | Sequence[str] | None = None,
    label: str | None = None,
    domain: str | None = None,
    group: str | None = None,
    answers: str | Sequence[str] | None = None,
    streaming: bool = False,
) -> Source | Stream:
    """A source over a `datasets.Dataset`, a stream over an `IterableDataset`; of a dict of splits the one named, else
    the only one or `train`, which its `remark` says."""
    rows = _pick(dataset, split, name)
    if streaming and not hasattr(rows, "num_shards"):
        rows = rows.to_iterable_dataset()
    first = top_row(list(islice(undecoded(rows), LOOKED_AT)))
    named: dict[str, Any] = {"image": image, "text": text, "label": label, "domain": domain, "group": group}
    chosen = find_roles(rows.column_names or list(first), where=name, row=first, answers=answers, **named)
    made: Source | Stream
    if hasattr(rows, "select"):
        made = ArrowSource(rows, chosen, name=name)
    else:
        check_first(first, chosen.image, chosen.text, name)
        made = ArrowStream(rows, chosen, name=name)
    if isinstance(dataset, dict) and split is None and len(dataset) > 1:
        others = ", ".join(each for each in dataset if each != TRAIN)
        split_read = f"{name}: its split {TRAIN!r} is read, and not {others}, which split= would name"
        made.remark = "\n".join(filter(None, [split_read, made.remark]))
    return made


def _pick(dataset: Any, split: str | None, where: str) -> Any:
    """One split of a dict of splits; what is no dict is the split already."""
    if not isinstance(dataset, dict):
        own = getattr(dataset, "split", None)
        if split is not None and split != str(own):
            raise UserError(f"{where}: a dataset that was saved alone has no splits: leave out split={split!r}")
        return dataset
    chosen_split = split or (next(iter(dataset)) if len(dataset) == 1 else TRAIN)
    if chosen_split not in dataset:
        raise UserError(f"{where}: no split {chosen_split!r}; name one of these with split=: {', '.join(dataset)}")
    return dataset[chosen_split]
