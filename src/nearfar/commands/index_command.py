"""`nearfar index`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Unpack

from nearfar.signatures.data_columns import Columns, of


def index(
    model: str,
    source: str,
    *,
    out: Path = Path("index"),
    split: str | None = None,
    kind: Literal["flat", "exact", "hnsw", "ivf"] | None = None,
    batch_size: int = 64,
    max_skipped: float = 0.1,
    **columns: Unpack[Columns],
) -> None:
    """Make a search index of a source's pictures, or of its texts where it has no pictures, or bring one up to date.

    Run it again after the source has changed: only new and changed pictures meet the model, and pictures that are gone
    leave the index. Run it with another source and the same --out to hold both in one index.

    Args:
        model: a folder that nearfar or transformers saved, or a model's name.
        source: world/emoji, a folder, a table (.csv .tsv .jsonl .parquet), .tar shards, or hub:NAME.
        out: the index's directory.
        split: which split of the source.
        kind: flat (exact, the default), exact (needs no faiss), hnsw or ivf (approximate, for large indexes).
        batch_size: pictures at a time.
        max_skipped: share of unusable pictures above which this stops.
    """
    from rich.console import Console

    from nearfar.data import open_source
    from nearfar.data.sources.skipped import Skipped
    from nearfar.data.sources.source import readable
    from nearfar.models import load
    from nearfar.search.index.building import build
    from nearfar.search.querying.open_index import resolve

    records = open_source(source, split=split, **of(dict(columns)))
    name = readable(resolve(source) + (f":{split}" if split else ""))
    skipped = Skipped()
    built = build(
        load(model),
        records,
        out,
        model=resolve(model),
        name=name,
        kind=kind,
        batch_size=batch_size,
        max_skipped=max_skipped,
        skipped=skipped,
        progress=True,
    )
    console = Console(soft_wrap=True, highlight=False)
    counts = ", ".join(f"{number:,} {what}" for what, number in built.manifest.sources[name].items() if number)
    console.print(f"{name}: {counts}", markup=False)
    for left_out in (records.skipped, skipped):
        if left_out:
            console.print(str(left_out), markup=False)
    console.print(f"{out}: {built.counted}, {built.dim}-d, {built.manifest.kind}", markup=False)
    console.print(f'try: nearfar search "..." --index {out}, or nearfar serve --index {out}', markup=False)
