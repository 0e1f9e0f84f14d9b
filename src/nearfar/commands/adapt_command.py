"""`nearfar adapt`."""

from __future__ import annotations

from pathlib import Path
from shlex import quote
from typing import Literal, Unpack

from nearfar.signatures.data_columns import Columns, of


def adapt(
    data: str,
    *,
    model: str = "starter",
    test: str | None = None,
    out: Path | None = None,
    minutes: float | None = None,
    train: Literal["auto", "none", "lora", "towers"] = "auto",
    device: str | None = None,
    share: float = 0.2,
    keep_worse: bool = False,
    split: str | None = None,
    test_split: str | None = None,
    batch_size: int = 32,
    max_skipped: float = 0.1,
    seed: int = 0,
    **columns: Unpack[Columns],
) -> None:
    """Fit a model to your own pairs of pictures and texts, measure it on pairs held out, and index them for search.

    Towers read the pictures once; what suits the pairs best, maps on frozen towers or (on a GPU) trained towers, is
    chosen on a part of them, and measured on pairs that took no part in it. Writes the model with its card,
    report.html, results.json and a search index.

    Args:
        data: your pairs: a folder, a table (.csv .tsv .jsonl .parquet), .tar shards, or hub:NAME.
        model: what to start from: a folder that nearfar or transformers saved, a run's folder, or a model's name.
        test: other data to measure on; by default a share of the pairs is held out.
        out: the folder for all of it (default: runs/adapt; where it is taken, a number is added). A run that was
            killed goes on there.
        minutes: roughly how long it may take; takes fewer pairs, and trains less, where there is no time for all.
        train: auto tries low-rank adapters on a GPU, from 10,000 pairs on also whole towers; none trains nothing; lora
            and towers (all weights) are tried on a CPU, too.
        device: where the model runs: cpu, cuda, ...; by default the accelerator if there is one.
        share: how much is held out: whole things, always the same ones.
        keep_worse: keep the adapted model even where the held-out pairs say that it is worse.
        split: which split of the data.
        test_split: which split of --test.
        batch_size: pictures at a time.
        max_skipped: share of unusable pictures above which this stops.
        seed: of folds and draws.
    """
    from rich.console import Console

    from nearfar.adaptation import adapt
    from nearfar.search.index.stored_index import Index
    from nearfar.search.querying.next_searches import search_commands

    console = Console(highlight=False, soft_wrap=True)
    folder = usual_folder() if out is None else out
    outcome = adapt(
        data,
        model,
        folder,
        test=test,
        test_split=test_split,
        minutes=minutes,
        train=train,
        device=device,
        share=share,
        keep_worse=keep_worse,
        split=split,
        batch_size=batch_size,
        max_skipped=max_skipped,
        seed=seed,
        progress=True,
        say=lambda sentence: console.print(sentence, markup=False),
        **of(dict(columns)),
    )
    console.print()
    console.print(outcome.table(), soft_wrap=False)
    for warning in outcome.warnings():
        console.print(f"note: {warning}", style="yellow", markup=False)
    if outcome.skipped:
        console.print(f"{outcome.skipped.count:,} skipped, listed in {folder / 'skipped.txt'}", markup=False)
    console.print(f"\nDone in {outcome.seconds:.0f} s. The report: {folder / 'report.html'}", markup=False)
    console.print("Next, try", style="bold")
    for line in search_commands(Index(folder / "index")):
        console.print(f"  {line}", markup=False)
    written = str(folder / "model")
    console.print("To measure it on other data, or use it in Python", style="bold")
    console.print(f"  nearfar evaluate {quote(written)} --on DATA\n  nearfar.load({written!r})", markup=False)


def usual_folder(base: Path = Path("runs/adapt")) -> Path:
    """Where it goes if nobody says so: the last folder, if a run there was killed, else the next that is free."""
    from nearfar.adaptation.kept_reading import is_killed
    from nearfar.commands.demo_command import vacant

    free = vacant(base)
    number = int(free.name.removeprefix(f"{base.name}-")) if free != base else 1
    last = base if number == 2 else base.with_name(f"{base.name}-{number - 1}")
    return last if number > 1 and is_killed(last) else free
