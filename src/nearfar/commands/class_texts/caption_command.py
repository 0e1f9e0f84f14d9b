"""`nearfar caption`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from shlex import join
from textwrap import shorten
from typing import TYPE_CHECKING, Any, Unpack

from nearfar.signatures.data_columns import Columns, of

if TYPE_CHECKING:
    from nearfar.prompting.image_texts.class_descriptions import ClassDescriptions


def caption(
    data: str,
    *,
    descriptions: Path | None = None,
    short: Path | None = None,
    model: str = "starter",
    out: Path = Path("captions"),
    top: int = 4,
    split: str | None = None,
    batch_size: int = 64,
    max_skipped: float = 0.1,
    block: int | None = None,
    ray: bool | str = False,
    workers: int | None = None,
    seed: int = 0,
    **columns: Unpack[Columns],
) -> None:
    """Give labelled pictures captions: of the descriptions of their class those that fit each best (GIST).

    A frozen model compares each picture with the descriptions of its own class, and of no other. The folder is a
    source, each picture with its captions, "class: text": nearfar train gist data.train=captions/. Beside it
    captions.jsonl, the same as a table, and report.html, pictures beside their captions. A run that was stopped goes
    on; other descriptions, or another --top, do not embed the pictures again.

    Args:
        data: labelled pictures: a folder of class folders, a table, hub:NAME or world/emoji.
        descriptions: a JSON or YAML file that maps classes to texts; by default the captions of each class's own
            pictures.
        short: a file of the same form with the shortened form of each description, in the same order: what is trained
            on in its place.
        model: a folder that nearfar or transformers saved, or a model's name.
        out: the folder for all of it.
        top: captions of a picture, the best first.
        split: which split of the data.
        batch_size: pictures, and texts, at a time.
        max_skipped: share of unusable pictures above which this stops.
        block: records of a block, 4096 where none are named.
        ray: have workers of a Ray cluster match: that at HOST:PORT, or without an address processes of this machine.
        workers: with --ray how many; one a core where none are named.
        seed: of the pictures that the report shows.
    """
    from rich.console import Console

    from nearfar.embedding.blocks.embed_blocks import open_for_blocks
    from nearfar.embedding.blocks.ray_workers import engine_of
    from nearfar.errors import UserError
    from nearfar.evaluation.report.captions_report import write_captions_report
    from nearfar.prompting.image_texts.caption_source import CUT, TABLE, caption_source
    from nearfar.prompting.image_texts.class_descriptions import ClassDescriptions

    console = Console(soft_wrap=True, highlight=False)
    options = {key: value for key, value in {"split": split, **of(dict(columns))}.items() if value is not None}
    if descriptions is not None:
        texts = ClassDescriptions.load(descriptions, short)
    elif short is not None:
        raise UserError("--short has the shortened forms of --descriptions: name that file, too")
    else:
        texts = own_captions(open_for_blocks(data, options))
    report = caption_source(
        model,
        data,
        out,
        texts,
        top=top,
        options=options,
        block=4096 if block is None else block,
        batch_size=batch_size,
        max_skipped=max_skipped,
        engine=engine_of(ray, workers),
        progress=True,
    )
    page = write_captions_report(out, report, title=f"Captions for {data} by {model}", seed=seed)
    console.print(
        f"{report.captioned:,} of {report.pictures:,} pictures captioned; {report.matched:,} of "
        f"{report.descriptions:,} descriptions are a caption of some; the best of each picture has a cosine of "
        f"{report.mean_cosine:.3f} with it on average",
        markup=False,
    )
    long = ((report.cut_descriptions, "descriptions", "compared"), (report.cut_captions, "captions", "trained on"))
    for cut, called, use in long:
        if cut:
            what = f"{len(cut):,} {called} are longer than {model} reads, and their end is not {use}"
            console.print(
                f"{what}, such as {shorten(cut[0], 80, placeholder=' ...')!r}; all in {out / CUT}", markup=False
            )
    if listed := report.skipped.listed_in(out / "skipped.txt"):
        console.print(listed, markup=False)
    console.print(f"{report.made:,} blocks made, {report.there:,} were there", markup=False)
    console.print(f"captions: {out / TABLE}; the report: {page}", markup=False)
    words = ["nearfar", "train", "gist", f"data.train={out}"]
    console.print(f"written to {out}, which is a source: {join(words)}", markup=False)


def own_captions(source: Any) -> ClassDescriptions:
    """The captions of each class's pictures as its descriptions, each once.

    Raises:
        UserError: a stream, no classes, no captions, or a class of which there is none but its name.
    """
    from nearfar.data.sources.record_text import captions
    from nearfar.data.sources.source import Source
    from nearfar.errors import UserError
    from nearfar.prompting.image_texts.class_descriptions import ClassDescriptions

    remedy = "name a file of texts by class, --descriptions"
    if not isinstance(source, Source) or not source.classes or "text" not in source.columns:
        raise UserError(f"{source.name} has no captions by class to take for descriptions: {remedy}")
    texts: dict[str, dict[str, None]] = {}
    for label, own in zip(source.column("label"), source.column("text"), strict=True):
        if label is not None and 0 <= label < len(source.classes):
            of_class = texts.setdefault(source.classes[label], {})
            of_class |= dict.fromkeys(without_name(captions(own), source.classes[label]))
    if not any(texts.values()):
        raise UserError(f"{source.name} has no captions but the names of its classes: {remedy}")
    if bare := [name for name, own in texts.items() if not own]:
        raise UserError(f"{source.name} has no captions of {bare[0]!r} but this name: {remedy}")
    return ClassDescriptions.of({name: list(own) for name, own in texts.items()})


def without_name(captions: Sequence[str], name: str) -> list[str]:
    """Captions that say more than the name of the class.

    >>> without_name(["Red cat", "it purrs"], "red_cat")
    ['it purrs']
    """
    from nearfar.prompting.image_texts.class_descriptions import name_key

    return [caption for caption in captions if name_key(caption) != name_key(name)]
