"""`nearfar curate`."""

from __future__ import annotations

from pathlib import Path
from typing import Unpack

from nearfar.signatures.data_columns import Columns, of


def curate(
    source: str,
    *,
    out: Path = Path("curated"),
    model: str | None = None,
    alt_text: bool = False,
    min_score: float | None = None,
    near_pictures: float | None = None,
    near_captions: float | None = None,
    split: str | None = None,
    batch_size: int = 64,
    max_skipped: float = 0.1,
    block: int | None = None,
    ray: bool | str = False,
    workers: int | None = None,
    **columns: Unpack[Columns],
) -> None:
    """Keep the good pairs of a source: by rules, by the score of caption and picture, and each picture or caption once.

    In this order, each looking at what is left; all in blocks, so that a run that was stopped goes on where it was. The
    folder is a source: nearfar train clip data.train=curated/

    Args:
        source: world/emoji, a folder, a table (.csv .tsv .jsonl .parquet), .tar shards, or hub:NAME.
        out: the folder to write: the blocks of every step, with what was dropped and why.
        model: embeds pictures and captions for the three flags below: a saved folder, or a model's name.
        alt_text: by ALIGN's rules for alt-texts: small or thin pictures, short, long and shared captions.
        min_score: drop captions whose cosine with their picture is below this.
        near_pictures: drop records whose picture has this cosine, or more, with one before it: 0.95, say.
        near_captions: drop captions that have this cosine, or more, with one before them.
        split: which split of the source.
        batch_size: pictures, and captions, at a time.
        max_skipped: share of unusable pictures above which this stops.
        block: records of a block, 4096 where none are named; tar shards are a block each.
        ray: have workers of a Ray cluster curate: that at HOST:PORT, or without an address processes of this machine.
        workers: with --ray how many; one a core where none are named.
    """
    from rich.console import Console

    from nearfar.data import AltTextFilter
    from nearfar.embedding.blocks.ray_workers import engine_of
    from nearfar.embedding.curation.curate import curate as curate_source

    report = curate_source(
        source,
        out,
        model=model,
        alt_text=AltTextFilter() if alt_text else None,
        min_score=min_score,
        near_pictures=near_pictures,
        near_captions=near_captions,
        options={key: value for key, value in {"split": split, **of(dict(columns))}.items() if value is not None},
        block=4096 if block is None else block,
        batch_size=batch_size,
        max_skipped=max_skipped,
        engine=engine_of(ray, workers),
        progress=True,
    )
    console = Console(soft_wrap=True, highlight=False)
    console.print(str(report), markup=False)
    console.print(f"{report.made:,} blocks made, {report.there:,} were there", markup=False)
    if listed := report.skipped.listed_in(out / "skipped.txt"):
        console.print(listed, markup=False)
    console.print(f"written to {out}, which is a source: nearfar train clip data.train={out}", markup=False)
