"""The reproduction harness: chooses each arm's setting, plans the seeds, runs them, and computes the verdicts.

Whatever was measured is written as soon as it is there, so that a killed run goes on where it stopped. Verdicts are
computed once all planned seeds are there, and not before.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from nearfar.errors import UserError
from nearfar.reproductions.shared.choosing import Grid, chosen, key
from nearfar.reproductions.shared.claims import Reproduction
from nearfar.reproductions.shared.judging import judge
from nearfar.reproductions.shared.planning import plan, sentence, signatures
from nearfar.reproductions.shared.record_file import begin, write
from nearfar.reproductions.shared.running import as_run, each_done

Say = Callable[[str], None]


def reproduce(reproduction: Reproduction, path: Path, *, workers: int = 1, say: Say = print) -> dict[str, Any]:
    """Run what is missing of a reproduction, write the record to `path` and return it.

    A record of the same configuration is continued; one of another configuration is begun afresh. Seeds run one after
    the other, or `workers` at a time, each in a process of its own with its share of the threads.

    Args:
        reproduction: what is run.
        path: the record, a JSON file.
        workers: seeds at a time.
        say: called with a sentence at each step.

    Raises:
        UserError: a setting out of its range, a file that is no record, or claims that changed after the plan.
    """
    if workers < 1:
        raise UserError(f"workers={workers}: at least 1")
    record = begin(reproduction, path, workers, say)
    settings = _choose(reproduction, record, path, workers, say)
    pilot = list(reproduction.seeds[: reproduction.pilot])
    _run(reproduction, record, path, pilot, settings, workers, say)
    _require_same_plan(reproduction, record, path)
    if record["plan"] is None:
        record["plan"] = plan(reproduction, record)
        write(path, record)
    say(f"{reproduction.slug}: {sentence(record['plan'])}")
    _run(reproduction, record, path, record["plan"]["judged"], settings, workers, say)
    finish(reproduction, record)
    write(path, record)
    return record


def finish(reproduction: Reproduction, record: dict[str, Any]) -> None:
    """Put the summary of the judged seeds and the verdicts into a record whose seeds are all there."""
    judged = record["plan"]["judged"]
    record["arms"] = summarise(record["runs"], judged)
    record["claims"] = judge(reproduction.claims, record, judged)
    record["note"] = reproduction.note


def summarise(runs: Mapping[str, Any], seeds: Sequence[int]) -> dict[str, dict[str, dict[str, float]]]:
    """Mean and standard deviation over `seeds`, by arm and metric."""
    collected: dict[str, dict[str, list[float]]] = {}
    for seed in seeds:
        for arm, metrics in runs[str(seed)]["arms"].items():
            for metric, value in metrics.items():
                collected.setdefault(arm, {}).setdefault(metric, []).append(value)
    return {
        arm: {
            metric: {"mean": statistics.fmean(values), "sd": statistics.stdev(values) if len(values) > 1 else 0.0}
            for metric, values in metrics.items()
        }
        for arm, metrics in collected.items()
    }


def _choose(
    reproduction: Reproduction, record: dict[str, Any], path: Path, workers: int, say: Say
) -> dict[str, Any] | None:
    """Each arm's setting, from the grid's trials; None without a grid."""
    grid = reproduction.grid
    if grid is None:
        return None
    if shared := set(grid.seeds) & set(reproduction.seeds):
        raise UserError(f"{reproduction.slug}: the grid's seeds {sorted(shared)} are the reproduction's too")
    _begin_grid(reproduction, grid, record, say)
    figures = record["grid"]["figures"]
    missing = [trial for trial in grid.trials() if key(*trial) not in figures]
    say(f"{reproduction.slug}: {len(grid.trials())} trials for settings, {len(missing)} to run")
    for trial, done in each_done(grid.validate, missing, workers=workers, threads=record["threads"]):
        figures[key(*trial)] = float(done["result"])
        say(f"{reproduction.slug}: {key(*trial)}: {grid.metric} {done['result']:.3f}")
        write(path, record)
    figures = {key(*trial): figures[key(*trial)] for trial in grid.trials()}
    record["grid"] |= {"figures": figures, "chosen": chosen(grid, figures)}
    return record["grid"]["chosen"]


def _begin_grid(reproduction: Reproduction, grid: Grid, record: dict[str, Any], say: Say) -> None:
    """Go on with the recorded trials if they are of this grid; seeds that ran with other settings are of no use."""
    declared, known = grid.declared(), record["grid"] or {}
    if {name: known.get(name) for name in declared} != declared:
        if record["runs"] or known:
            say(f"{reproduction.slug}: the grid is another one: begun afresh")
        record.pop("fresh", None)
        record |= {"grid": {**declared, "figures": {}}, "plan": None, "runs": {}, "queries": {}, "code": {}}


def _run(
    reproduction: Reproduction,
    record: dict[str, Any],
    path: Path,
    seeds: Sequence[int],
    settings: dict[str, Any] | None,
    workers: int,
    say: Say,
) -> None:
    """Run the seeds that are not recorded yet."""
    missing = []
    for seed in seeds:
        known = str(seed) in record["runs"]
        say(f"{reproduction.slug}: seed {seed} {'is recorded already' if known else 'is to run'}")
        missing += [] if known else [seed]
    jobs = [(seed,) if settings is None else (seed, settings) for seed in missing]
    if jobs:
        record.pop("claims", None), record.pop("arms", None)
    for job, done in each_done(reproduction.run, jobs, workers=workers, threads=record["threads"]):
        record["runs"][str(job[0])] = as_run(done, record)
        write(path, record)
        say(f"{reproduction.slug}: seed {job[0]} took {done['seconds']:.0f} s")


def _require_same_plan(reproduction: Reproduction, record: dict[str, Any], path: Path) -> None:
    """Claims and seeds must be those that were fixed: figures that one has looked at suggest others. Seeds that were
    judged without a plan may become the pilot of one."""
    made, seeds, pilot = record["plan"], list(reproduction.seeds), list(reproduction.seeds[: reproduction.pilot])
    if made is None:
        return
    if not made["pilot"] and pilot == made["judged"]:
        record["plan"] = None
    elif made["pilot"] != pilot or (not pilot and made["judged"] != seeds):
        raise UserError(f"{path}: its seeds were fixed otherwise; put them back, or name another file with --out")
    elif pilot and made["signature"] != signatures(reproduction.claims):
        raise UserError(
            f"{path}: the claims are not those that its seeds were planned for; put them back, or name another file"
        )
