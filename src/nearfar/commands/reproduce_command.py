"""`nearfar reproduce`."""

from __future__ import annotations

from pathlib import Path


def reproduce(slug: str, out: Path | None = None, workers: int = 1, fresh: int = 0) -> None:
    """Run a paper's reproduction: settings chosen on validation data, seeds planned, then the verdict of each claim.

    A run that was stopped goes on where it was. The record holds configuration, grid, plan, seeds, figures, the commit
    and the files that the figures came from.

    Args:
        slug: the paper's, as `nearfar papers` lists it.
        out: where to write the record. Default: `runs/reproductions/SLUG.json` below the current folder.
        workers: seeds at a time, each in a process of its own with its share of the cores.
        fresh: once the verdicts are there, run this many seeds more, which they do not count, and say whether their
            mean differences lie inside the intervals.
    """
    from rich.console import Console

    from nearfar.reproductions import find
    from nearfar.reproductions.shared.fresh_seeds import add_fresh_seeds
    from nearfar.reproductions.shared.harness import reproduce as run
    from nearfar.reproductions.shared.result_tables import arms_table, claims_table, facts, remark

    path = out or Path("runs") / "reproductions" / f"{slug}.json"
    record = run(find(slug), path, workers=workers)
    if fresh:
        record = add_fresh_seeds(find(slug), path, fresh, workers=workers)
    console = Console()
    console.print(arms_table(record))
    console.print(claims_table(record))
    for words in [*filter(None, map(remark, record["claims"])), *facts(record)]:
        console.print(f"{words}.", highlight=False)
    if record["note"]:
        console.print(record["note"])
    console.print(f"recorded in {path}")
