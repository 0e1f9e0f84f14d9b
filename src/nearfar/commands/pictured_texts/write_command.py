"""`nearfar write`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Unpack

from nearfar.signatures.data_columns import Columns, of

if TYPE_CHECKING:
    from nearfar.data.sources.skipped import Skipped

Decoding = Literal["plain", "ritual", "ritual-plus", "vcd", "m3id", "ritual-vcd", "ritual-m3id"]


def write(
    model: str,
    source: str,
    *,
    prompt: str | None = None,
    decoding: Decoding = "plain",
    exclude: str | None = None,
    temperature: float | None = None,
    max_tokens: int | None = None,
    out: Path | None = None,
    limit: int | None = None,
    split: str | None = None,
    batch_size: int = 32,
    max_skipped: float = 0.1,
    seed: int = 0,
    **columns: Unpack[Columns],
) -> None:
    """Write captions of pictures, or answers to questions about them, by a vision-language model.

    Each text is printed after its picture's file, or number. With --out they go to a table of picture, prompt and text
    that every command opens.

    Args:
        model: a folder that nearfar saved: a vision-language model, or a run of one.
        source: pictures: a file, a folder, a table, .tar shards, hub:NAME or world/scenes.
        prompt: what to go on from; {} stands for the record's own text, such as a question. By default the model's own.
        decoding: against things that are not there: ritual adds what the model says of a randomly changed picture,
            ritual-plus of the one it is surest of; vcd and m3id subtract what it says of a noisy picture, or of none.
        exclude: with ritual, changes that are left out, with commas between: horizontal_flip, vertical_flip, rotation,
            colour_jitter, gaussian_blur, random_resized_crop.
        temperature: draw tokens at this temperature; where none is named the likeliest is taken.
        max_tokens: tokens of a text at most; by default as many as the captions of its training may have.
        out: a .jsonl file to write instead of printing.
        limit: use the first so many pictures.
        split: which split of the source.
        batch_size: pictures at a time.
        max_skipped: share of unusable pictures above which this stops.
        seed: of drawn tokens and changed pictures.
    """
    from nearfar import files
    from nearfar.console import track, with_remark
    from nearfar.data import open_source
    from nearfar.data.sources.skipped import Skipped
    from nearfar.errors import UserError, at_least
    from nearfar.models import load

    at_least(1, limit=limit, batch_size=batch_size, max_tokens=max_tokens)
    if temperature is not None and not temperature > 0:
        raise UserError(f"--temperature {temperature}: a number above 0; leave it out for the likeliest tokens")
    if exclude and not decoding.startswith("ritual"):
        raise UserError(f"--exclude is of ritual's changes, and --decoding is {decoding}: leave it out")
    if out is not None:
        if out.suffix != ".jsonl":
            raise UserError(f"--out {out}: texts are written as .jsonl; name the file {out.stem}.jsonl")
        files.place(out)
    data: Any = _one_picture(source)
    if data is None:
        named = of(dict(columns))
        if "{}" not in (prompt or "") and "text" not in named:  # what is written of needs no text of its own
            named = {"captions": "none", **named}
        data = with_remark(open_source(source, split=split, world_split="test", **named))
    excluded = [name.strip() for name in exclude.split(",")] if exclude else []
    writer = writer_under(decoding, load(model), model, exclude=excluded, seed=seed)
    options: dict[str, Any] = {"max_tokens": max_tokens}
    if temperature is not None:
        options |= {"do_sample": True, "temperature": temperature, "top_k": 0}
    skipped = Skipped()
    rows = written(
        writer,
        data,
        prompt,
        limit,
        batch_size=batch_size,
        skipped=skipped,
        max_skipped=max_skipped,
        seed=seed,
        **options,
    )
    if out is None:
        for row in rows:
            print(f"{row['image'] or row['row']}\t{' '.join(row['text'].split())}", flush=True)
    else:
        total = len(data) if hasattr(data, "__len__") else None
        if limit is not None:
            total = limit if total is None else min(limit, total)
        lines = [json.dumps(row, ensure_ascii=False) for row in track(rows, "writing", total=total)]
        files.write(out, "".join(f"{line}\n" for line in lines))
        print(f"{len(lines):,} texts written to {out}")
    if skipped:
        print(skipped.listed_in(out.with_suffix(".skipped.txt")) if out else str(skipped), file=sys.stderr)


def writer_under(decoding: str, loaded: Any, called: str, *, exclude: Sequence[str] = (), seed: int = 0) -> Any:
    """The model that was loaded, under the conditions of a decoding.

    Raises:
        UserError: it writes nothing.
    """
    from nearfar.decoding import ImageConditions
    from nearfar.errors import UserError

    if not hasattr(loaded, "caption"):
        kind = type(loaded).__name__
        raise UserError(f"{called} holds a {kind}, which writes no captions: train one with `nearfar train captioning`")
    return loaded if decoding == "plain" else ImageConditions.of(decoding, exclude=exclude, seed=seed).on(loaded)


def written(
    writer: Any,
    data: Any,
    prompt: str | None,
    limit: int | None,
    *,
    batch_size: int,
    skipped: Skipped,
    max_skipped: float,
    seed: int,
    **options: Any,
) -> Iterator[dict[str, Any]]:
    """Of each record that has a picture: its number, the picture's file where it is one, the prompt where there is one,
    and the text."""
    from nearfar.data.pictures.images import BadImage, load_image

    tried, batch = 0, list[tuple[dict[str, Any], Any]]()
    for row, record in enumerate(islice(data, limit)):
        tried += 1
        image = record.get("image")
        about: dict[str, Any] = {"row": row, "image": str(image) if isinstance(image, str | Path) else None}
        if prompt is not None:
            about["prompt"] = _filled(prompt, record, f"{data.name}, record {row}")
        try:
            batch.append((about, load_image(image, near=writer.image_size)))
        except BadImage as error:
            skipped.add(f"{data.name}, record {row}", str(error))
        if len(batch) == batch_size:
            yield from _texts(writer, batch, seed, options)
            batch = []
    if batch:
        yield from _texts(writer, batch, seed, options)
    skipped.check(tried, limit=max_skipped, name=data.name, total=tried)


def _texts(
    writer: Any, batch: list[tuple[dict[str, Any], Any]], seed: int, options: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    pixels = writer.preprocess([picture for _, picture in batch])
    prompts = [about["prompt"] for about, _ in batch] if "prompt" in batch[0][0] else None
    # Each batch draws from a state of its own.
    texts = writer.caption(pixels, prompts, seed=seed + batch[0][0]["row"], **options)
    for (about, _), text in zip(batch, texts, strict=True):
        yield {**about, "text": text}


def _filled(prompt: str, record: dict[str, Any], where: str) -> str:
    """The prompt with the record's first text in place of {}."""
    from nearfar.data.sources.record_text import captions
    from nearfar.errors import UserError

    if "{}" not in prompt:
        return prompt
    texts = captions(record.get("text"))
    if not texts:
        raise UserError(f"{where} has no text to stand for {{}}: name its column with --text, or write a prompt")
    return prompt.replace("{}", texts[0])


def _one_picture(source: str) -> Any:
    """A source of one picture where a picture's file is named; else None."""
    from nearfar.data import Records
    from nearfar.data.pictures.images import EXTENSIONS

    path = Path(source)
    if path.suffix.lower() not in EXTENSIONS or not path.is_file():
        return None
    return Records([{"image": source}], name=source)
