"""Sentence pairs with people's scores, as STS benchmarks are published: SemEval's folders and STS-B's files. SICK, and
what the hub has of them, are tables with a header, which `table` and `hub` read."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from nearfar.data.sources.skipped import Skipped
from nearfar.data.sources.source import Record, Records
from nearfar.data.tables.encoding import REMEDY, line_not_utf8
from nearfar.errors import UserError

INPUT, GOLD = "STS.input.", "STS.gs."
WIDTH = 7
"""Fields of a line of STS-B: genre, file, year, number, score, two sentences; some lines have sources behind."""


def sts(path: str | os.PathLike[str]) -> Records:
    """Pairs of an STS set: SemEval's folder of `STS.input.NAME.txt` and `STS.gs.NAME.txt` (STS 2012 to 2016), or a file
    of STS-B (`sts-train.csv`, `sts-dev.csv`, `sts-test.csv`: tabs, no header, quotes as they stand).

    Args:
        path: the folder or file.

    Returns:
        a `Source` of `text`, `text2`, `score` and `domain`, the subset or genre. Pairs without a score are counted
        in `skipped`.

    Raises:
        UserError: a file or line is missing or broken, with its number.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> _ = (folder / "STS.input.news.txt").write_text("a cat\\ta tabby\\na cat\\ta car\\n")
    >>> _ = (folder / "STS.gs.news.txt").write_text("4.5\\n0.2\\n")
    >>> sts(folder)[0]
    {'text': 'a cat', 'text2': 'a tabby', 'score': 4.5, 'domain': 0}
    """
    place = Path(path)
    skipped = Skipped()
    lines = _of_folder(place, skipped) if place.is_dir() else _of_file(place, skipped)
    records: list[Record] = []
    domains: list[str] = []
    for subset, first, second, score in lines:
        if subset not in domains:
            domains.append(subset)
        records.append({"text": first, "text2": second, "score": score, "domain": domains.index(subset)})
    if not records:
        raise UserError(f"{place}: no pairs with a score in it")
    return Records(records, name=place.name, domains=domains, skipped=skipped)


def is_sts(path: Path) -> bool:
    """Whether a path is a folder or file that `sts` reads."""
    if path.is_dir():
        return next(path.glob(f"{INPUT}*.txt"), None) is not None
    if path.suffix.lower() not in (".csv", ".tsv", ".txt") or not path.is_file():
        return False
    with open(path, encoding="utf-8", errors="replace") as lines:
        fields = next(lines, "").rstrip("\n").split("\t")
    return len(fields) >= WIDTH and fields[2].strip()[:4].isdigit() and _number(fields[4]) is not None


Line = tuple[str, str, str, float]
"""Subset, two sentences, score."""


def _of_folder(folder: Path, skipped: Skipped) -> Iterator[Line]:
    for file in sorted(folder.glob(f"{INPUT}*.txt")):
        name = file.name.removeprefix(INPUT).removesuffix(".txt")
        gold = folder / f"{GOLD}{name}.txt"
        if not gold.is_file():
            raise UserError(f"{file} has no scores beside it: {gold.name} is missing")
        pairs, scores = list(_lines(file)), list(_lines(gold))
        while len(scores) > len(pairs) and not scores[-1].strip():
            scores.pop()
        if len(pairs) != len(scores):
            raise UserError(f"{file} has {len(pairs)} lines and {gold.name} {len(scores)}: line by line they are one")
        for number, (pair, score) in enumerate(zip(pairs, scores, strict=True), start=1):
            if not score.strip():  # SemEval published more pairs than people scored
                skipped.add(f"{file}, line {number}", "no score")
                continue
            yield name, *_two(file, number, pair.split("\t")), _score(gold, number, score)


def _of_file(file: Path, skipped: Skipped) -> Iterator[Line]:
    for number, line in enumerate(_lines(file), start=1):
        fields = line.split("\t")
        if len(fields) < WIDTH:
            raise UserError(f"{file}: line {number} has {len(fields)} fields with tabs between, and STS-B's {WIDTH}")
        if not fields[4].strip():
            skipped.add(f"{file}, line {number}", "no score")
            continue
        yield fields[0], *_two(file, number, fields[5:]), _score(file, number, fields[4])


def _two(file: Path, number: int, fields: list[str]) -> tuple[str, str]:
    first, second = (field.strip() for field in (*fields, "", "")[:2])
    if not (first and second):
        raise UserError(f"{file}: line {number} does not hold two sentences with a tab between")
    return first, second


def _lines(file: Path) -> Iterator[str]:
    if (line := line_not_utf8(file)) is not None:
        raise UserError(f"{file}: line {line} is not UTF-8 text: {REMEDY}")
    with open(file, encoding="utf-8-sig", newline="\n") as lines:
        for text in lines:
            yield text.rstrip("\r\n")


def _score(file: Path, number: int, text: str) -> float:
    score = _number(text)
    if score is None:
        raise UserError(f"{file}: line {number} has {text!r} where the score stands, which is no number")
    return score


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if abs(number) < float("inf") else None
