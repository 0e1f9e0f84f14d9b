"""`nearfar embed`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Unpack

from nearfar.signatures.data_columns import Columns, of

if TYPE_CHECKING:
    from nearfar.embedding.blocks.embed_blocks import Engine


def embed(
    model: str,
    source: str,
    *,
    out: Path | None = None,
    format: Literal["safetensors", "parquet"] | None = None,
    split: str | None = None,
    dim: int | None = None,
    batch_size: int = 64,
    max_skipped: float = 0.1,
    block: int | None = None,
    ray: bool | str = False,
    workers: int | None = None,
    **columns: Unpack[Columns],
) -> None:
    """Embed every picture and caption of a source to one file, or to a folder of files, block by block.

    A safetensors file holds `image` [N, D] and `text` [M, D], unit rows of float32, `image_of_text` [M], the numbers of
    the records, and the captions. A Parquet file has a row a vector: `id`, `row`, `side`, `text`, `vector`, a list of D
    numbers, and what else is known. Read both with `nearfar.evaluation.Embeddings.load`, or from any language.

    A folder (--out without an ending) takes a file a block. Run again, the command makes the blocks that are not
    there. With --ray workers of a Ray cluster make them, and the blocks are the same.

    Args:
        model: a folder that nearfar or transformers saved, or a model's name.
        source: world/emoji, a folder, a table (.csv .tsv .jsonl .parquet), .tar shards, or hub:NAME.
        out: the file to write, embeddings.safetensors where none is named, or the folder of blocks, embeddings with
            --ray or --block.
        format: safetensors or parquet; by the ending of --out where none is named, and safetensors without one.
        split: which split of the source.
        dim: keep only the first so many numbers of each embedding, at unit length again.
        batch_size: pictures, and captions, at a time.
        max_skipped: share of unusable pictures above which this stops.
        block: records of a block, 4096 where none are named; tar shards are a block each.
        ray: have workers of a Ray cluster embed: that at HOST:PORT, or without an address processes of this machine.
        workers: with --ray how many; one a core where none are named.
    """
    from rich.console import Console

    from nearfar import files
    from nearfar.console import with_remark
    from nearfar.data import open_source
    from nearfar.data.sources.skipped import Skipped
    from nearfar.embedding.blocks.ray_workers import engine_of
    from nearfar.embedding.embed_source import embed as embed_source
    from nearfar.errors import UserError
    from nearfar.models import load
    from nearfar.models.shorter import doubt_of, shortened

    engine = engine_of(ray, workers)
    out = out or Path("embeddings" if ray or block is not None else f"embeddings.{format or 'safetensors'}")
    if out.suffix not in (".safetensors", ".parquet", ""):
        raise UserError(
            f"--out {out}: embeddings are written as .safetensors or .parquet; name the file {out.stem}.safetensors"
        )
    if format is not None and out.suffix not in ("", f".{format}"):
        raise UserError(f"--out {out} is no .{format} file: leave out --format, or name the file {out.stem}.{format}")
    if out.suffix == "":
        chosen = {"split": split, **of(dict(columns))}
        embed_to_folder(
            model,
            source,
            out,
            options={key: value for key, value in chosen.items() if value is not None},
            dim=dim,
            file_format=format or "safetensors",
            batch_size=batch_size,
            max_skipped=max_skipped,
            block=block,
            engine=engine,
        )
        return
    if ray or block is not None:
        raise UserError(f"--out {out} is one file, and blocks are written to a folder: name a folder")
    files.place(out)
    records = with_remark(open_source(source, split=split, max_skipped=max_skipped, **of(dict(columns))))
    encoder = load(model)
    if doubt := doubt_of(encoder, dim):
        print(doubt, file=sys.stderr)
    embeddings = embed_source(
        shortened(encoder, dim), records, batch_size=batch_size, max_skipped=max_skipped, progress=True
    )
    embeddings.save(out)
    console = Console(soft_wrap=True, highlight=False)
    console.print(f"{embeddings!r}", markup=False)
    left_out = Skipped.merged([records.skipped, embeddings.skipped])
    if listed := left_out.listed_in(out.with_suffix(".skipped.txt")):
        console.print(listed, markup=False)
    console.print(f"written to {out}", markup=False)


def embed_to_folder(
    model: str,
    source: str,
    out: Path,
    *,
    options: dict[str, Any],
    dim: int | None,
    file_format: Literal["safetensors", "parquet"],
    batch_size: int,
    max_skipped: float,
    block: int | None,
    engine: Engine,
) -> None:
    """Embed block by block, and print what was done."""
    from rich.console import Console

    from nearfar.embedding.blocks.embed_blocks import embed_blocks

    run = embed_blocks(
        model,
        source,
        out,
        options=options,
        block=4096 if block is None else block,
        batch_size=batch_size,
        dim=dim,
        file_format=file_format,
        max_skipped=max_skipped,
        engine=engine,
        progress=True,
    )
    vectors: dict[str, int] = {}
    for result in run.results:
        for side, count in result.vectors.items():
            vectors[side] = vectors.get(side, 0) + count
    counts = ", ".join(f"{count:,} of {side}" for side, count in vectors.items() if count)
    console = Console(soft_wrap=True, highlight=False)
    console.print(f"{sum(result.kept for result in run.results):,} records; vectors: {counts}", markup=False)
    console.print(f"{run.made:,} blocks made, {run.kept:,} were there", markup=False)
    if listed := run.skipped.listed_in(out / "skipped.txt"):
        console.print(listed, markup=False)
    console.print(f"written to {out}; read them with nearfar.embedding.load_blocks", markup=False)
