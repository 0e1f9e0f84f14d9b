"""A recipe run once for each domain of its data, left out in turn (DomainBed, arXiv 2007.01434)."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from nearfar import distributed as processes
from nearfar import files
from nearfar.data.batches.left_out_domain import domains_of
from nearfar.errors import UserError
from nearfar.evaluation.measures.result import Result

FILE = "domains.json"
Figures = dict[str, dict[str, float]]
"""By left-out domain, and as `mean` over all of them, each figure `PROTOCOL/FIGURE`."""


def run_each_left_out(
    recipe: str | Path,
    out: Path,
    settings: Sequence[str] = (),
    *,
    trust: Sequence[str] = (),
    resume: bool = False,
    announce: Callable[[Any], None] | None = None,
) -> Figures:
    """Train and measure a recipe once for each domain, in `out/DOMAIN`, and write `out/domains.json`.

    Args:
        recipe: a YAML file, or the name of a shipped recipe; of stages, the last one's figures count.
        out: the folder of all runs.
        settings: overrides, as `section.setting=value`.
        trust: modules whose code the recipe may name.
        resume: go on where a stopped run was; one that has ended is not run again.
        announce: is called with each recipe as it trains.

    Returns:
        Figures of the left-out domain by protocol, for each domain, and their mean over domains. Where a run is
        measured on data of all domains, its figures of the one that it left out.

    Raises:
        UserError: data without domains, with one alone, or domains that would share a folder.
    """
    from nearfar.training.recipe import load
    from nearfar.training.recipe.recipe_data import open_spec

    first = load(recipe, list(settings), trust=trust)
    data = getattr(first, "stages", None)
    section = (data[0].recipe if data else first).data
    source = open_spec("data.train", section.train, limit=section.limit, max_skipped=section.max_skipped)
    held = set(source.column("domain"))
    names = [name for number, name in enumerate(domains_of(source)) if number in held]
    folders = {name: out / (re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-") or "domain") for name in names}
    if len(names) < 2 or len(set(folders.values())) < len(names):
        raise UserError(f"{source.name} has the domains {', '.join(names)}: two or more are needed, of different names")
    figures: Figures = {}
    for name, folder in folders.items():
        own = load(recipe, [*settings, f"data.leave_out={json.dumps(name)}"], trust=trust)
        ran = own.run(folder, resume=resume, announce=announce)
        figures[name] = figures_of(name, (ran[-1] if isinstance(ran, list) else ran).results)
    if processes.is_main():
        shared = [key for key in figures[names[0]] if all(key in each for each in figures.values())]
        figures["mean"] = {key: fmean(figures[name][key] for name in names) for key in shared}
        files.write(out / FILE, json.dumps(figures, indent=1) + "\n")
    processes.barrier()
    return figures


def figures_of(domain: str, results: Mapping[str, Result]) -> dict[str, float]:
    """The figures of a domain: its own where a result has a part for each domain, else those of all that was measured.

    >>> from nearfar.evaluation.measures.result import Metric
    >>> parts = {"domain": {"art": {"top1": Metric(0.25)}, "photo": {"top1": Metric(0.75)}}}
    >>> figures_of("art", {"zero_shot": Result("zero_shot", {"top1": Metric(0.5)}, parts)})
    {'zero_shot/top1': 0.25}
    """
    return {
        f"{protocol}/{name}": metric.value
        for protocol, result in results.items()
        for name, metric in result.by.get("domain", {}).get(domain, result.metrics).items()
    }


def as_table(figures: Figures) -> Any:
    """The figures as a table of `rich`, a row for each domain."""
    from rich.table import Table

    columns = list(figures.get("mean", next(iter(figures.values()), {})))
    table = Table("left out", *columns)
    for name, own in figures.items():
        table.add_row(name, *(f"{own[key]:.3f}" for key in columns))
    return table
