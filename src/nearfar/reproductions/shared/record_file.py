"""A reproduction's record on disk: begun, continued, written whole after each seed."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from nearfar import files
from nearfar.errors import UserError
from nearfar.reproductions.shared.claims import Reproduction

FORMAT = 2
"""1 had no plan, no grid and no values of queries."""


def begin(reproduction: Reproduction, path: Path, workers: int, say: Callable[[str], None]) -> dict[str, Any]:
    """The record at `path` if it is of this configuration, else a new one.

    Raises:
        UserError: the file is no record.
    """
    expected = declared(reproduction)
    if not path.is_file():
        return _new(reproduction, expected, workers)
    record = read(path)
    if record.get("format", 1) == 1:
        if record.get("config") == expected["config"] and reproduction.grid is None:
            say(f"{path} was recorded before seeds were planned: its {len(record['runs'])} seeds are kept")
            return converted(record)
    elif {name: record.get(name) for name in expected} == expected:
        return record
    say(f"{path} is of another configuration: begun afresh")
    return _new(reproduction, expected, workers)


def read(path: Path) -> dict[str, Any]:
    """The record at `path`.

    Raises:
        UserError: the file is no record, or a newer nearfar wrote it.
    """
    try:
        record = json.loads(path.read_text("utf-8"))
        known = record.get("format", 1)
        is_record = isinstance(record["runs"], dict) and "config" in record
    except (ValueError, KeyError, AttributeError, TypeError):
        is_record, known = False, 1
    if not is_record:
        raise UserError(f"{path} is no record of a reproduction: name another file with --out, or move it away")
    if known > FORMAT:
        raise UserError(f"{path} has format {known}, and this nearfar reads up to {FORMAT}: install a newer nearfar")
    return record


def converted(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record of format 1 in the present one: its seeds and figures as they were, without verdicts. How many files
    changed since cannot be known, as it did not say which it came from."""
    kept = {name: record[name] for name in ("slug", "config", "versions", "threads", "runs")}
    return {"format": FORMAT, **kept, "grid": None, "plan": None, "queries": {}, "code": {}}


def declared(reproduction: Reproduction) -> dict[str, Any]:
    """What decides whether a record is continued: the configuration. The grid's part is compared where it is used."""
    return {"config": json.loads(json.dumps(dict(reproduction.config)))}


def write(path: Path, record: Mapping[str, Any]) -> None:
    """Whole or not at all; seeds in their order."""
    runs = dict(sorted(record["runs"].items(), key=lambda item: int(item[0])))
    text = json.dumps({**record, "runs": runs}, indent=1, ensure_ascii=False, allow_nan=False)
    files.write(path, text + "\n")


def is_whole(record: Mapping[str, Any]) -> bool:
    """Whether all planned seeds are there and the claims are judged."""
    return "claims" in record


def _new(reproduction: Reproduction, expected: Mapping[str, Any], workers: int) -> dict[str, Any]:
    import torch
    import transformers

    return {
        "format": FORMAT,
        "slug": reproduction.slug,
        **expected,
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
        "threads": max(1, torch.get_num_threads() // workers),
        "grid": None,
        "plan": None,
        "runs": {},
        "queries": {},
        "code": {},
    }
