"""Captions for the labelled pictures of a source, block by block, as a source that training reads (GIST, arXiv
2307.11315).

embedded/         the blocks of `nearfar embed`
texts/            embedded descriptions
matched-DIGEST-4/ captions of each block's pictures, 4 each, by the descriptions of this digest
captions.jsonl    all of them: a line a picture, a table that can be opened anywhere
cut.txt           texts whose end the model does not read, if there are any
curated.json      written last: which folder is the result, and of which data
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

from nearfar import files
from nearfar.embedding.blocks.block_folder import MadeOf, stem
from nearfar.embedding.blocks.block_records import BlockPlan
from nearfar.embedding.blocks.embed_blocks import (
    Engine,
    embed_blocks,
    in_this_process,
    load_planned,
    open_for_blocks,
    run_job,
)
from nearfar.embedding.blocks.ray_workers import connection
from nearfar.embedding.curation.kept_blocks import end_curation, reopen_curation
from nearfar.embedding.text_bank import TextBank
from nearfar.errors import UserError, at_least
from nearfar.prompting.cut_texts import cut_texts
from nearfar.prompting.image_texts.class_descriptions import ClassDescriptions
from nearfar.prompting.image_texts.match_block import DESCRIPTIONS, MatchJob, save_descriptions

TABLE, CUT = "captions.jsonl", "cut.txt"


@dataclass(frozen=True)
class CaptionReport:
    """What a run did: pictures that were read and those that got captions; descriptions, and how many of them are among
    the captions of some picture; the mean cosine of a picture's best; descriptions, and captions, whose end the model
    does not read, as "class: text"; blocks that were made now and that were there; what could not be used."""

    pictures: int
    captioned: int
    descriptions: int
    matched: int
    mean_cosine: float
    cut_descriptions: list[str]
    cut_captions: list[str]
    made: int
    there: int
    skipped: Any = field(repr=False)


def caption_source(
    model: str,
    source: str,
    out: str | Path,
    descriptions: ClassDescriptions,
    *,
    top: int = 4,
    options: Mapping[str, Any] | None = None,
    block: int = 4096,
    batch_size: int = 64,
    max_skipped: float = 0.1,
    engine: Engine = in_this_process,
    progress: bool | None = None,
) -> CaptionReport:
    """Match each labelled picture of a source with the descriptions of its class (GIST); what is finished in `out` is
    kept. `nearfar.data.open_source(out)` opens the pictures with their captions, the best first.

    Args:
        model: a folder or name of a model of pictures and texts, which stays as it is.
        source: a word that `nearfar.data.open_source` opens, with classes that have names.
        out: the folder. With other descriptions, or another `top`, the pictures that are embedded there are taken.
        descriptions: of all classes that have pictures.
        top: captions of a picture (paper: 4).
        options: of `open_source`: split, columns.
        block, batch_size, max_skipped, engine, progress: as of `nearfar.embedding.embed_blocks`.

    Raises:
        UserError: the data name no classes, or a class with pictures has no descriptions; `out` holds blocks of
            another model, or of data that has changed since.
    """
    at_least(1, top=top, block=block, batch_size=batch_size)
    out, options = Path(out).absolute(), dict(options or {})
    opened = open_for_blocks(source, options)
    own = for_data(descriptions, opened)
    reopen_curation(out)
    with connection(engine):
        embedded = embed_blocks(
            model, source, out / "embedded", options=options, block=block, batch_size=batch_size,
            max_skipped=max_skipped, engine=engine, progress=progress,
        )  # fmt: skip
        made_of = MadeOf.load(out / "embedded")
        encoder = load_planned(made_of)
        settings: dict[str, Any] = {"descriptions": _digest(own), "top": top}
        matched_in = files.folder(out / f"matched-{settings['descriptions']}-{top}")
        texts = [text for own_texts in own.texts for text in own_texts]
        vectors = TextBank(encoder, folder=out / "texts", batch_size=batch_size)(texts)
        save_descriptions(matched_in / DESCRIPTIONS, own, vectors)
        job = MatchJob(replace(made_of, settings=settings), str(matched_in), str(out / "embedded"), top)
        matched = run_job(job, opened, 1.0, engine, progress, doing="matching texts of")
    cut_descriptions, cut_captions = write_cut(encoder, own, out / CUT)
    used, mean_cosine = _write_table(matched_in, len(made_of.plan), out / TABLE)
    end_curation(out, made_of, matched_in.name)
    return CaptionReport(
        pictures=sum(each.read for each in matched.results),
        captioned=sum(each.kept for each in matched.results),
        descriptions=sum(map(len, own.texts)),
        matched=used,
        mean_cosine=mean_cosine,
        cut_descriptions=cut_descriptions,
        cut_captions=cut_captions,
        made=embedded.made + matched.made,
        there=embedded.kept + matched.kept,
        skipped=embedded.skipped,
    )


def for_data(descriptions: ClassDescriptions, opened: Any) -> ClassDescriptions:
    """The descriptions in the order of the classes of an opened source.

    Raises:
        UserError: a stream, no names of classes, no labels, or a class with pictures and without descriptions.
    """
    remedy = "name the column with label=NAME, or use class folders"
    if BlockPlan.of(opened, block=1, batch_size=1).records is None:
        raise UserError(
            f"{opened.name} is a stream, and the names of its classes are known once all of it is read: list the "
            "pictures in a table with a column of classes"
        )
    classes = opened.classes
    if not classes:
        raise UserError(f"{opened.name} names no classes, and a picture gets texts of its class: {remedy}")
    numbers = {int(label) for label in opened.column("label") if label is not None and label >= 0}
    if not numbers:
        raise UserError(f"{opened.name} has no labels: {remedy}")
    return descriptions.for_names(classes, needed=[classes[number] for number in sorted(numbers)])


def write_cut(encoder: Any, descriptions: ClassDescriptions, path: Path) -> tuple[list[str], list[str]]:
    """Descriptions, and captions, whose end a model does not read, as "class: text"; and a file that lists them, where
    there are any."""
    of_class = [(name, text) for name, own in zip(descriptions.names, descriptions.texts, strict=True) for text in own]
    unread = set(cut_texts(encoder, list(dict.fromkeys(text for _, text in of_class))))
    long = [f"{name}: {text}" for name, text in of_class if text in unread]
    captions = [text for number in range(len(descriptions.names)) for text in descriptions.captions(number)]
    cut = cut_texts(encoder, list(dict.fromkeys(captions)))
    path.unlink(missing_ok=True)
    if long or cut:
        heads = "# descriptions whose end is not compared with pictures", "# captions whose end is not trained on"
        files.write(path, "\n".join([heads[0], *long, "", heads[1], *cut]) + "\n")
    return long, cut


def _digest(descriptions: ClassDescriptions) -> str:
    words = json.dumps([descriptions.names, descriptions.texts, descriptions.short])
    return blake2b(words.encode(), digest_size=6).hexdigest()


def _write_table(folder: Path, blocks: int, path: Path) -> tuple[int, float]:
    """Write the lines of all blocks to one file; how many different descriptions stand there, and the mean cosine of
    the best of each picture."""
    used, cosines, count = set[tuple[str, str]](), 0.0, 0
    with files.whole(files.place(path)) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as table:
        for number in range(blocks):
            lines = stem(folder, number).with_suffix(".jsonl").read_text("utf-8")
            table.write(lines)
            for line in map(json.loads, filter(None, lines.split("\n"))):
                used |= {(line["label"], text) for text in line["matched"]}
                cosines, count = cosines + line["cosine"][0], count + 1
    return len(used), cosines / max(1, count)
