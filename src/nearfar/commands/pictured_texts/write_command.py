"""`nearfar write`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple, Unpack

from nearfar.signatures.data_columns import Columns, of

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
    that every command opens; a run that was stopped goes on where it was.

    Args:
        model: a vision-language model: a folder that nearfar saved, a run of one, or a folder or name of one of
            transformers.
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
    from nearfar.data.sources.skipped import Skipped
    from nearfar.errors import UserError, at_least
    from nearfar.models import load_captioner

    at_least(1, limit=limit, batch_size=batch_size, max_tokens=max_tokens)
    if temperature is not None and not temperature > 0:
        raise UserError(f"--temperature {temperature}: a number above 0; leave it out for the likeliest tokens")
    if exclude and not decoding.startswith("ritual"):
        raise UserError(f"--exclude is of ritual's changes, and --decoding is {decoding}: leave it out")
    if out is not None:
        if out.suffix != ".jsonl":
            raise UserError(f"--out {out}: texts are written as .jsonl; name the file {out.stem}.jsonl")
        files.place(out)
    data = open_pictures(source, split, of(dict(columns)), with_texts="{}" in (prompt or ""))
    excluded = [name.strip() for name in exclude.split(",")] if exclude else []
    writer = writer_under(decoding, load_captioner(model), model, exclude=excluded, seed=seed)
    options: dict[str, Any] = {"max_tokens": max_tokens}
    if temperature is not None:
        options |= {"do_sample": True, "temperature": temperature, "top_k": 0}
    skipped, read = Skipped(), 0
    options |= {"batch_size": batch_size, "seed": seed}
    if out is None:
        for batch in batches(writer, data, prompt, limit, **options):
            for row in batch.rows:
                print(f"{row['image'] or row['row']}\t{' '.join(row['text'].split())}", flush=True)
            read = batch.noted_in(skipped)
    else:
        settings = {"decoding": [decoding, excluded], "prompt": prompt, "limit": limit, **options}
        made = list(resumed(out, settings | {"model": stamp_of_model(model)}, writer, data, prompt, limit, **options))
        for batch in made:
            read = batch.noted_in(skipped)
    skipped.check(read, limit=max_skipped, name=data.name, total=read)
    if out is not None:
        lines = [json.dumps(row, ensure_ascii=False) for batch in made for row in batch.rows]
        files.write(out, "".join(f"{line}\n" for line in lines))
        part_of(out).unlink()
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
    from nearfar.models.vlm.transformers_captioner import TransformersCaptioner

    if not hasattr(loaded, "caption"):
        kind = type(loaded).__name__
        raise UserError(f"{called} holds a {kind}, which writes no captions: train one with `nearfar train captioning`")
    if decoding == "plain":
        return loaded
    if isinstance(loaded, TransformersCaptioner):
        raise UserError(
            f"{called} is a model of transformers, and --decoding {decoding} needs one that nearfar saved: leave it out"
        )
    return ImageConditions.of(decoding, exclude=exclude, seed=seed).on(loaded)


class Batch(NamedTuple):
    """The rows of some records, how many records were read so far, and of which of them nothing is written, and why."""

    read: int
    rows: list[dict[str, Any]]
    problems: list[tuple[str, str]]

    def noted_in(self, skipped: Any) -> int:
        """Add the problems to those of a run; how many records were read."""
        for problem in self.problems:
            skipped.add(*problem)
        return self.read


def part_of(out: Path) -> Path:
    """Where batches lie until a table is whole."""
    return out.with_name(f"{out.name}.part")


def stamp_of_model(model: str) -> str:
    """A name, or of a folder what its files are."""
    from nearfar.embedding.blocks.source_stamp import source_stamp

    return source_stamp(model, {}) if Path(model).is_dir() else model


def resumed(
    out: Path,
    settings: Mapping[str, Any],
    writer: Any,
    data: Any,
    prompt: str | None,
    limit: int | None,
    **options: Any,
) -> Iterator[Batch]:
    """All batches of a table: those that an earlier run with these settings left beside it, of the same records, and
    the others, each kept as soon as it is written."""
    from nearfar import console
    from nearfar.data.tables.appended_lines import AppendedLines

    total = len(data) if hasattr(data, "__len__") else None
    total = limit if total is None else total if limit is None else min(limit, total)
    with AppendedLines(part_of(out), "writing") as part, console.progress("writing", total) as step:
        if part.lines[:1] != [dict(settings)] or not _of_these(part.lines[1:], data, prompt):
            if part.lines:
                print(f"{part_of(out)} is of other settings or pictures: begun afresh", file=sys.stderr)
            part.begin_afresh()
            part.add(dict(settings))
        start = 0
        for line in list(part.lines[1:]):
            batch = Batch(line["read"], line["rows"], [tuple(problem) for problem in line["problems"]])
            step(batch.read - start)
            start = batch.read
            yield batch
        for batch in batches(writer, data, prompt, limit, start=start, **options):
            part.add(batch._asdict())
            step(batch.read - start)
            start = batch.read
            yield batch


def _of_these(lines: Sequence[Mapping[str, Any]], data: Any, prompt: str | None) -> bool:
    """Whether rows that an earlier run wrote are of the records that are here now."""
    rows = {row["row"]: row for line in lines for row in line["rows"]}
    read = lines[-1]["read"] if lines else 0
    count = 0
    for place, record in enumerate(islice(data, read)):
        count += 1
        before = {key: value for key, value in rows.get(place, {}).items() if key != "text"}
        if before and before != _about(place, record, prompt, data.name):
            return False
    return count == read


def batches(
    writer: Any,
    data: Any,
    prompt: str | None,
    limit: int | None,
    *,
    batch_size: int,
    seed: int,
    start: int = 0,
    **options: Any,
) -> Iterator[Batch]:
    """Of each record from `start` on that has a picture: its number, the picture's file where it is one, the prompt
    where there is one, and the text; `batch_size` pictures at a time."""
    from nearfar.data.pictures.images import BadImage, load_image, reading_size

    read, waiting, problems = start, list[tuple[dict[str, Any], Any]](), list[tuple[str, str]]()
    for row, record in enumerate(islice(data, limit)):
        if row < start:
            continue
        read = row + 1
        about = _about(row, record, prompt, data.name)
        try:
            waiting.append((about, load_image(record.get("image"), near=reading_size(writer))))
        except BadImage as error:
            problems.append((f"{data.name}, record {row}", str(error)))
        if len(waiting) == batch_size:
            yield Batch(read, _texts(writer, waiting, seed, options), problems)
            waiting, problems = [], []
    if waiting or problems:
        yield Batch(read, _texts(writer, waiting, seed, options) if waiting else [], problems)


def _about(row: int, record: Mapping[str, Any], prompt: str | None, name: str) -> dict[str, Any]:
    """What a row says beside its text."""
    image = record.get("image")
    about: dict[str, Any] = {"row": row, "image": str(image) if isinstance(image, str | Path) else None}
    return about if prompt is None else about | {"prompt": _filled(prompt, record, f"{name}, record {row}")}


def _texts(
    writer: Any, batch: list[tuple[dict[str, Any], Any]], seed: int, options: dict[str, Any]
) -> list[dict[str, Any]]:
    pixels = writer.preprocess([picture for _, picture in batch])
    prompts = [about["prompt"] for about, _ in batch] if "prompt" in batch[0][0] else None
    # Each batch draws from a state of its own.
    texts = writer.caption(pixels, prompts, seed=seed + batch[0][0]["row"], **options)
    return [{**about, "text": text} for (about, _), text in zip(batch, texts, strict=True)]


def _filled(prompt: str, record: Mapping[str, Any], where: str) -> str:
    """The prompt with the record's first text in place of {}."""
    from nearfar.data.sources.record_text import captions
    from nearfar.errors import UserError

    if "{}" not in prompt:
        return prompt
    texts = captions(record.get("text"))
    if not texts:
        raise UserError(f"{where} has no text to stand for {{}}: name its column with --text, or write a prompt")
    return prompt.replace("{}", texts[0])


def open_pictures(source: str, split: str | None, columns: dict[str, Any], *, with_texts: bool = False) -> Any:
    """The pictures that a word names, one where it is a picture's file. What is written of needs no text of its own,
    unless `with_texts` says so, or a column of them is named."""
    from nearfar.console import with_remark
    from nearfar.data import Records, open_source
    from nearfar.data.pictures.images import EXTENSIONS

    path = Path(source)
    if path.suffix.lower() in EXTENSIONS and path.is_file():
        return Records([{"image": source}], name=source)
    if not with_texts and "text" not in columns:
        columns = {"captions": "none", **columns}
    return with_remark(open_source(source, split=split, world_split="test", **columns))
