"""Curating a source block by block: counts, embeddings, filters, near-duplicates, each a folder of blocks that is kept.

counts/      what ALIGN's rules need to know of all pairs
embedded/    the blocks of `nearfar embed`
filtered/    what rules and scores keep
pictures/    of that, the records whose picture is near no earlier one
captions/    of that, the captions that are near no earlier one
curated.json written last: which of these is the result, and of which data
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from nearfar.data.mining.filters import AltTextFilter
from nearfar.data.sources.skipped import Skipped
from nearfar.embedding.blocks.block_folder import MadeOf
from nearfar.embedding.blocks.block_records import BlockPlan
from nearfar.embedding.blocks.embed_blocks import (
    BlockRun,
    Engine,
    Job,
    embed_blocks,
    in_this_process,
    open_for_blocks,
    run_job,
)
from nearfar.embedding.blocks.ray_workers import connection
from nearfar.embedding.blocks.source_stamp import source_stamp
from nearfar.embedding.curation.filter_block import CountJob, FilterJob, write_outliers
from nearfar.embedding.curation.kept_blocks import Of, end_curation, reopen_curation
from nearfar.embedding.curation.near_block import NearJob
from nearfar.embedding.embeddings import MEDIA
from nearfar.errors import UserError, at_least


@dataclass(frozen=True)
class CurationReport:
    """What a curation did: records that could be used and records kept, how many captions or records each reason
    dropped, the blocks that were made now and those that were there, and what could not be used."""

    records: int
    kept: int
    dropped: dict[str, int]
    made: int
    there: int
    skipped: Skipped

    def __str__(self) -> str:
        rows = [f"{self.kept:,} of {self.records:,} records kept"]
        return "\n".join(rows + [f"  {count:>10,}  {why}" for why, count in self.dropped.items()])


def curate(
    source: str,
    out: str | Path,
    *,
    model: str | None = None,
    alt_text: AltTextFilter | None = None,
    min_score: float | None = None,
    near_pictures: float | None = None,
    near_captions: float | None = None,
    options: Mapping[str, Any] | None = None,
    block: int = 4096,
    batch_size: int = 64,
    max_skipped: float = 0.1,
    engine: Engine = in_this_process,
    progress: bool | None = None,
) -> CurationReport:
    """Filter a source and remove what is nearly the same, block by block; blocks that are finished in `out` are kept.

    In this order: ALIGN's rules, scores, near pictures, near captions; each looks at what is left. A record goes with
    the last of its captions, and with its picture.

    Args:
        source: a word that `nearfar.data.open_source` opens, at every worker.
        out: the folder, which all workers must reach. `nearfar.data.open_source(out)` opens what is kept.
        model: embeds pictures and captions, for scores and near-duplicates.
        alt_text: ALIGN's rules; None leaves them out.
        min_score: the least cosine of a caption with its picture.
        near_pictures: a record goes whose picture has at least this cosine with one before it.
        near_captions: likewise a caption, with any before it.
        options: of `open_source`: split, columns.
        block, batch_size, max_skipped, engine, progress: as of `nearfar.embedding.embed_blocks`.

    Raises:
        UserError: nothing to do, or no model for it; a bound outside -1 to 1; `out` holds blocks of another model, of
            data that has changed since or of other settings.
    """
    bounds = {"min_score": min_score, "near_pictures": near_pictures, "near_captions": near_captions}
    _check(model, alt_text, bounds)
    at_least(1, block=block, batch_size=batch_size)
    out, options = Path(out).absolute(), dict(options or {})
    opened = open_for_blocks(source, options)
    runs: dict[str, BlockRun] = {}
    made_of = MadeOf(
        model=model or "none",
        weights="",
        source=source,
        options=options,
        stamp=source_stamp(source, options),
        plan=BlockPlan.of(opened, block=block, batch_size=batch_size),
        batch_size=batch_size,
    )
    reopen_curation(out)
    rules = None if alt_text is None else asdict(alt_text)

    def run(job: Job, doing: str) -> None:
        runs[Path(job.out).name] = run_job(job, opened, max_skipped, engine, progress, doing=doing)

    with connection(engine):
        if alt_text is not None:
            counted = replace(made_of, settings={"stage": "counts"})
            run(CountJob(counted, str(out / "counts")), "counting the words of")
            write_outliers(alt_text, out / "counts", len(made_of.plan))
        embedded = None
        if model is not None:
            embedded = out / "embedded"
            runs["embedded"] = embed_blocks(
                model, source, embedded, options=options, block=block, batch_size=batch_size, max_skipped=max_skipped,
                engine=engine, progress=progress,
            )  # fmt: skip
            _check_sides(runs["embedded"], opened.name, bounds)
            made_of = replace(made_of, weights=MadeOf.load(embedded).weights)
        settings: dict[str, Any] = {"alt_text": rules, "min_score": min_score}
        result, filtered = "filtered", replace(made_of, settings=dict(settings))
        run(
            FilterJob(
                filtered,
                str(out / result),
                None if embedded is None else str(embedded),
                str(out / "counts"),
                alt_text,
                min_score,
            ),
            "filtering",
        )
        stages: list[tuple[Of, float | None]] = [("pictures", near_pictures), ("captions", near_captions)]
        for of, near in stages:
            if near is not None and embedded is not None:
                settings[f"near_{of}"] = near
                stage = replace(made_of, settings=dict(settings))
                run(NearJob(stage, str(out / of), str(embedded), str(out / result), of, near), f"finding near {of} of")
                result = of
    end_curation(out, made_of, result)
    return _report(runs)


def _check(model: str | None, alt_text: AltTextFilter | None, bounds: Mapping[str, float | None]) -> None:
    """Refuse what cannot be done before anything is written."""
    compared = [name for name, bound in bounds.items() if bound is not None]
    if alt_text is None and not compared:
        raise UserError("nothing to curate by: take alt_text, min_score, near_pictures or near_captions")
    if compared and model is None:
        raise UserError(f"{compared[0]} compares embeddings: name a model")
    if model is not None and not compared:
        raise UserError("alt_text needs no model: leave it out, or take min_score, near_pictures or near_captions")
    for name, bound in bounds.items():
        if bound is not None and not -1 <= bound <= 1:
            raise UserError(f"{name} is {bound:g}, but a cosine lies between -1 and 1")


def _check_sides(run: BlockRun, name: str, bounds: Mapping[str, float | None]) -> None:
    """Refuse scores and near-duplicates of what the data do not have."""
    held = {side for result in run.results for side, count in result.vectors.items() if count}
    needs = {"min_score": ("pictures", "captions"), "near_pictures": ("pictures",), "near_captions": ("captions",)}
    there = {"captions"} if "text" in held else set[str]()
    there |= {"pictures"} if held & {*MEDIA} else set()
    for name_of, sides in needs.items():
        if bounds[name_of] is not None and (lacks := [side for side in sides if side not in there]):
            raise UserError(f"{name_of} needs {lacks[0]}, and {name} has none that are embedded")


def _report(runs: Mapping[str, BlockRun]) -> CurationReport:
    dropped: Counter[str] = Counter()
    for run in runs.values():
        for each in run.results:
            dropped.update(each.dropped)
    *_, last = runs.values()
    read = runs.get("embedded", runs["filtered"])
    return CurationReport(
        records=sum(each.read - each.left_out for each in runs["filtered"].results),
        kept=sum(each.kept for each in last.results),
        dropped=dict(dropped),
        made=sum(run.made for run in runs.values()),
        there=sum(run.kept for run in runs.values()),
        skipped=read.skipped,
    )
