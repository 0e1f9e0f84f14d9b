"""The check of a whole record: seeds that took no part in it, run afterwards, beside the intervals that it gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from nearfar.errors import UserError
from nearfar.reproductions.shared.claims import Claim, Reproduction
from nearfar.reproductions.shared.estimates import difference
from nearfar.reproductions.shared.harness import Say
from nearfar.reproductions.shared.record_file import is_whole, read, write
from nearfar.reproductions.shared.running import as_run, each_done


def add_fresh_seeds(
    reproduction: Reproduction, path: Path, count: int, *, workers: int = 1, say: Say = print
) -> dict[str, Any]:
    """Run `count` seeds beyond the reproduction's own with the recorded settings, add them to the record at `path`
    under "fresh", and return the record. No verdict changes.

    Seeds that were added before count; only the missing ones run.

    Args:
        reproduction: what is run.
        path: a record with its verdicts.
        count: how many seeds, at least 2.
        workers: seeds at a time.
        say: called with a sentence at each step.

    Raises:
        UserError: fewer than two seeds, no record at `path`, or one without verdicts.
    """
    if count < 2:
        raise UserError(f"{count} fresh seeds: at least 2, so that they have a mean and a spread")
    record = read(path) if path.is_file() else {}
    if not record or not is_whole(record):
        raise UserError(f"{path} holds no verdicts yet: run `nearfar reproduce {reproduction.slug}` to its end first")
    fresh = record.setdefault("fresh", {"runs": {}})
    last = max(reproduction.seeds)
    seeds = [last + number for number in range(1, count + 1)]
    settings = record["grid"] and record["grid"]["chosen"]
    missing = [seed for seed in seeds if str(seed) not in fresh["runs"]]
    jobs = [(seed, settings) if settings else (seed,) for seed in missing]
    for (seed, *_), done in each_done(reproduction.run, jobs, workers=workers, threads=record["threads"]):
        fresh["runs"][str(seed)] = as_run(done, record)
        write(path, record)
        say(f"{reproduction.slug}: fresh seed {seed} took {done['seconds']:.0f} s")
    return record


def fresh_differences(record: Mapping[str, Any]) -> list[float]:
    """Of each recorded claim its difference over the fresh seeds."""
    runs = record["fresh"]["runs"]
    whole = {"runs": runs, "queries": record.get("queries", {})}
    claims = [Claim(**{each.name: row[each.name] for each in fields(Claim)}) for row in record["claims"]]
    return [difference(claim, whole, sorted(map(int, runs))).mean for claim in claims]


def fresh_words(record: Mapping[str, Any]) -> str:
    """What fresh seeds gave beside the intervals, as a sentence without its full stop; '' where none ran.

    >>> from dataclasses import asdict
    >>> made = Claim("a beats b", "a", "b", "r", effect=0.1)
    >>> record = {"claims": [{**asdict(made), "low": 0.1, "high": 0.3}, {**asdict(made), "low": 0.0, "high": 0.1}]}
    >>> fresh_words(record)
    ''
    >>> seed = {"arms": {"a": {"r": 0.6}, "b": {"r": 0.4}}}
    >>> fresh_words({**record, "fresh": {"runs": {"7": seed, "8": seed}}})
    "2 fresh seeds, run after the verdicts: inside the interval for 1 of 2 claims; outside: 'a beats b' (+0.200)"
    """
    if "fresh" not in record:
        return ""
    values, rows = fresh_differences(record), record["claims"]
    outside = [
        f"{row['text']!r} ({value:+.3f})"
        for row, value in zip(rows, values, strict=True)
        if not row["low"] <= value <= row["high"]
    ]
    words = f"{len(record['fresh']['runs'])} fresh seeds, run after the verdicts: inside the interval for "
    words += f"{len(rows) - len(outside)} of {len(rows)} claims"
    return "; outside: ".join(filter(None, (words, ", ".join(outside))))
