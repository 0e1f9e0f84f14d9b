"""`nearfar index`."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Unpack

from nearfar.signatures.data_columns import Columns, of

if TYPE_CHECKING:
    from nearfar.search import Index


def index(
    model: str,
    source: str,
    *,
    out: Path = Path("index"),
    split: str | None = None,
    keep: str | None = None,
    kind: Literal["flat", "exact", "hnsw", "ivf", "fp16", "sq8", "pq", "ivf-sq8", "ivf-pq"] | None = None,
    recall: float | None = None,
    dim: int | None = None,
    batch_size: int = 64,
    max_skipped: float = 0.1,
    block: int | None = None,
    ray: bool | str = False,
    workers: int | None = None,
    onnx: bool = False,
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
        keep: columns whose values stay with the items, separated by commas: --keep sku,price. Left out: as at the last
            run over this source; --keep "" keeps none any more.
        kind: flat (exact, the default), exact (needs no faiss), hnsw or ivf (approximate, for large indexes), fp16,
            sq8, pq (less memory a vector), ivf-sq8 or ivf-pq (the same for millions; docs/search.md has the figures).
        recall: the share of the ten nearest that ivf, ivf-sq8 and ivf-pq aim to find, by comparing as many clusters as
            that takes: --recall 0.99. Left out: as at the last run, or 0.95.
        dim: keep only the first so many numbers of each embedding; queries of this index are cut alike.
        batch_size: pictures at a time.
        max_skipped: share of unusable pictures above which this stops.
        block: embed so many records at a time, each block kept until the index is whole; 4096 with --ray.
        ray: have workers of a Ray cluster embed: that at HOST:PORT, or without an address processes of this machine.
        workers: with --ray how many; one a core where none are named.
        onnx: keep the model in the index as ONNX files, too: a single search from a shell starts in less than half the
            time, with the same hits.
    """
    from rich.console import Console

    from nearfar.console import with_remark
    from nearfar.data import open_source
    from nearfar.data.sources.record_text import readable
    from nearfar.data.sources.skipped import Skipped
    from nearfar.embedding.blocks.ray_workers import engine_of
    from nearfar.models import load
    from nearfar.models.shorter import doubt_of
    from nearfar.search.index.block_vectors import FOLDER, vectors_by_blocks
    from nearfar.search.index.building import build, check_chosen
    from nearfar.search.querying.next_searches import search_commands
    from nearfar.search.querying.open_index import resolve

    records = with_remark(open_source(source, split=split, max_skipped=max_skipped, **of(dict(columns))))
    name = readable(resolve(source) + (f":{split}" if split else ""))
    skipped, before = Skipped(), kept_before(out, name)
    check_chosen(out, kind, recall, len(records) if hasattr(records, "__len__") else None)
    encoder = load(model)
    if doubt := doubt_of(encoder, dim):
        print(doubt, file=sys.stderr)
    if onnx:
        from nearfar.search.querying.carried_model import carry

        for tower in carry(encoder, out, name=model, dim=dim):
            print(tower)
    stored = None
    if ray or block is not None or workers is not None:
        stored = vectors_by_blocks(
            encoder,
            resolve(model),
            resolve(source),
            out,
            name=name,
            options={**({"split": split} if split else {}), **of(dict(columns))},
            block=4096 if block is None else block,
            batch_size=batch_size,
            dim=dim,
            max_skipped=max_skipped,
            engine=engine_of(ray, workers),
            progress=True,
        )
    built = build(
        encoder,
        records,
        out,
        model=resolve(model),
        name=name,
        kind=kind,
        recall=recall,
        keep=None if keep is None else [column.strip() for column in keep.split(",") if column.strip()],
        dim=dim,
        batch_size=batch_size,
        max_skipped=max_skipped,
        skipped=skipped,
        stored=stored,
        progress=True,
    )
    if stored is not None:
        shutil.rmtree(out / FOLDER)
    console = Console(soft_wrap=True, highlight=False)
    counts = ", ".join(f"{number:,} {what}" for what, number in built.manifest.sources[name].items() if number)
    console.print(f"{name}: {counts}", markup=False)
    for sentence in kept_sentences(built.manifest.kept, before, name):
        console.print(sentence, markup=False)
    if listed := Skipped.merged([records.skipped, skipped]).listed_in(out / "skipped.txt"):
        console.print(listed, markup=False)
    console.print(f"{out}: {built.counted}, {built.dim}-d, {built.manifest.kind}", markup=False)
    console.print(about_kind(built), markup=False)
    console.print("Next, try", style="bold")
    for line in search_commands(built, by="text" if hasattr(encoder, "encode_text") else "image"):
        console.print(f"  {line}", markup=False)


def about_kind(index: Index) -> str:
    """How much the index's kind finds and needs."""
    from nearfar.search.kinds.graphs import EXACT, LEAST

    kind, count = index.manifest.kind, len(index)
    if kind not in ("flat", "exact") and not index.manifest.graph:
        return f"exact for now: {kind} learns its codes from {LEAST.get(kind, 1):,} items, and there are {count:,}"
    exact = kind in EXACT or not index.manifest.graph
    share = "exact" if exact else f"recall@10 {index.recall:.3f} against exact search (items as queries)"
    size = f"{index.bytes_per_vector:,} bytes a vector" + (f" (float32: {4 * index.dim:,})" if index.graph else "")
    return f"{share}; {size}"


def kept_before(out: Path, name: str) -> list[str]:
    """The columns that the index in `out` keeps of a source."""
    from nearfar.search.index.manifest import NAME, load_manifest

    return load_manifest(out).kept.get(name, []) if (out / NAME).is_file() else []


def kept_sentences(kept: dict[str, list[str]], before: list[str], name: str) -> list[str]:
    """What is kept of a source from now on, what is not any more, and what its items do not have.

    >>> kept_sentences({"a.csv": ["price", "size"], "b.csv": ["sku"]}, ["price", "colour"], "a.csv")
    ['kept with each item: price, size', 'no longer kept: colour', 'null for these items: sku']
    """
    now = kept.get(name, [])
    others = {column for columns in kept.values() for column in columns}
    lists = {
        "kept with each item": now,
        "no longer kept": [column for column in before if column not in now],
        "null for these items": sorted(others - {*now}),
    }
    return [f"{what}: {', '.join(columns)}" for what, columns in lists.items() if columns]
