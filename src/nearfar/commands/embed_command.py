"""`nearfar embed`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Unpack

from nearfar.signatures.data_columns import Columns, of


def embed(
    model: str,
    source: str,
    *,
    out: Path = Path("embeddings.safetensors"),
    split: str | None = None,
    dim: int | None = None,
    batch_size: int = 64,
    max_skipped: float = 0.1,
    **columns: Unpack[Columns],
) -> None:
    """Embed every picture and caption of a source to one safetensors file.

    The file holds `image` [N, D] and `text` [M, D], unit rows of float32, `image_of_text` [M], the numbers of the
    records, and the captions. Read it with `nearfar.evaluation.Embeddings.load`, or with safetensors from any language.

    Args:
        model: a folder that nearfar or transformers saved, or a model's name.
        source: world/emoji, a folder, a table (.csv .tsv .jsonl .parquet), .tar shards, or hub:NAME.
        out: the file to write.
        split: which split of the source.
        dim: keep only the first so many numbers of each embedding, at unit length again.
        batch_size: pictures, and captions, at a time.
        max_skipped: share of unusable pictures above which this stops.
    """
    from rich.console import Console

    from nearfar import files
    from nearfar.console import with_remark
    from nearfar.data import open_source
    from nearfar.data.sources.skipped import Skipped
    from nearfar.embedding.embed_source import embed as embed_source
    from nearfar.errors import UserError
    from nearfar.models import load
    from nearfar.models.shorter import doubt_of, shortened

    if out.suffix != ".safetensors":
        raise UserError(f"--out {out}: embeddings are written as .safetensors; name the file {out.stem}.safetensors")
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
