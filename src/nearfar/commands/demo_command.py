"""`nearfar demo`."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

UNSEEN = " (not in training)"
"""What is added to the name of a style that was left out."""

WELCOME = """[bold]nearfar demo[/bold]: an image-text model, trained, measured and put to use on the embedded world.

Two pretrained towers stay as they are; heads on one learn to bring drawings to their names.
Then the model meets concepts that it has seen in no style, and one style that it has never seen.
At the end it is adapted to a small folder of pictures and captions, as you may have one.
Everything is written to {out}."""

FOLDER = """That was the world. Now a folder as you may have one: {folder}, {count} pieces of clip art
that took no part in it, each with its captions in a text file of the same name.

[bold]$ nearfar adapt {folder} --model {out}/model --out {out}/adapted[/bold]"""

PAIRS = 150
"""In the folder that the demo adapts to: enough for a figure, read in seconds."""

TRY = """[bold]Next, try[/bold]
  nearfar search "a tropical drink" --index {out}/index
  nearfar serve --index {out}/adapted/index       [dim]a page in the browser, of the small folder[/dim]
  nearfar evaluate {out}/model --on world/clipart --split test --protocols retrieval
  nearfar adapt photos/                                [dim]the same with a folder of your own[/dim]
  nearfar train demo epochs=30 --out runs/mine         [dim]the demo's training with a setting changed[/dim]
  nearfar recipes copy demo mine.yaml                  [dim]then change what you like[/dim]"""


def demo(out: Path = Path("runs/demo"), *, recipe: str = "demo", seed: int = 0) -> None:
    """Train an image-text model on the embedded world, measure it on held-out concepts, and index them for search.

    Takes under five minutes on two CPU cores. Writes the model, report.html with curves, figures and a gallery,
    results.json, and a search index; adapts the model to a small folder of pictures and captions; prints the figures,
    chance beside each, and what to try next.

    Args:
        out: the folder for all of it. Where it is taken, a number is added to its name.
        recipe: what to train: a shipped recipe or a YAML file.
        seed: all chance depends on it.
    """
    from rich.console import Console
    from rich.markup import escape

    from nearfar.training.recipe import load

    began = time.perf_counter()
    console = Console(highlight=False, soft_wrap=True)
    out = vacant(out)
    console.print(WELCOME.format(out=escape(str(out))), end="\n\n")
    job = load(recipe, {"training.seed": seed}).build()
    if job.held_out.domains:
        job.held_out.domains = mark(job.held_out.domains, job.recipe.data.train)
    run = job.run(out)
    index(run.model, job.held_out, out)
    console.print()
    for table in tables(run.results):
        console.print(table, soft_wrap=False)
        console.print()
    adapt_to_a_folder(out, console)
    minutes, seconds = divmod(round(time.perf_counter() - began), 60)
    console.print(
        f"Done in {minutes}:{seconds:02d}. The report: [bold]{escape(str(out / 'report.html'))}[/bold]", end="\n\n"
    )
    console.print(TRY.format(out=escape(quote(str(out)))))


def adapt_to_a_folder(out: Path, console: Console) -> None:
    """Write a small folder of pictures and captions, and adapt the model to it as `nearfar adapt` does."""
    from rich.markup import escape

    from nearfar.adaptation import adapt

    folder = write_folder(out / "photos", PAIRS)
    console.print(FOLDER.format(folder=escape(quote(str(folder))), count=PAIRS, out=escape(quote(str(out)))))
    adapted = adapt(
        folder,
        out / "model",
        out / "adapted",
        progress=True,
        say=lambda sentence: console.print(sentence, markup=False, soft_wrap=False),
    )
    console.print()
    console.print(adapted.table(), soft_wrap=False)
    for warning in adapted.warnings():
        console.print(f"note: {warning}", style="yellow", markup=False, soft_wrap=False)
    console.print()


def write_folder(folder: Path, count: int) -> Path:
    """Clip art of the world's test split as files, each with its title in a text file beside it."""
    from nearfar import files
    from nearfar.data import world

    source = world.clipart("test")
    with files.new_folder(folder) as made:
        for number in range(count):
            record = source[number * len(source) // count]
            (made / f"{number:03d}.webp").write_bytes(record["image"])
            texts = record["text"] if isinstance(record["text"], list) else [record["text"]]
            (made / f"{number:03d}.txt").write_text("\n".join(texts) + "\n", "utf-8")
    return folder


def vacant(out: Path) -> Path:
    """`out` itself if nothing is there yet, else the first of out-2, out-3, ... that is free.

    >>> vacant(Path("no/such/folder")).as_posix()
    'no/such/folder'
    """
    number, free = 1, out
    while free.exists() and not (free.is_dir() and not any(free.iterdir())):
        number += 1
        free = out.with_name(f"{out.name}-{number}")
    return free


def mark(styles: list[str], train: Any) -> list[str]:
    """The names of styles, with a remark at those that the training data leave out.

    >>> mark(["noto", "fluent-3d"], {"spec": "world/emoji", "styles": ["noto"]})
    ['noto', 'fluent-3d (not in training)']
    """
    trained_on = train.get("styles", styles) if isinstance(train, Mapping) else styles
    return [style if style in trained_on else style + UNSEEN for style in styles]


def index(model: Any, source: Any, out: Path) -> None:
    """Make a search index of the held-out pictures in `out/index`."""
    from nearfar.search.index.building import build

    build(model, source, out / "index", model=str((out / "model").resolve()), progress=True)


def tables(results: Mapping[str, Any]) -> list[Table]:
    """The figures of `Result`s for the terminal, a row a style and one for all styles together, chance in brackets."""
    from rich.table import Table

    retrieval, zero_shot = results["retrieval"], results["zero_shot"]
    recalls = ["R@1", "R@5", "R@10"]
    measured = {
        "A name finds its picture (text to image)": (retrieval, [f"text_to_image_{name}" for name in recalls]),
        "A picture finds its name (image to text)": (retrieval, [f"image_to_text_{name}" for name in recalls]),
        "Zero-shot classification": (zero_shot, ["top1", "top5"]),
    }
    made = []
    for title, (result, metrics) in measured.items():
        table = Table(title=f"{title}, %, chance in brackets", title_justify="left", title_style="bold")
        table.add_column("style", min_width=32)
        for name in metrics:
            table.add_column(name.rpartition("_")[2], justify="right", min_width=11)
        parts = {**result.by.get("domain", {}), "all styles together": result.metrics}
        for part, part_metrics in parts.items():
            cells = [
                f"[bold]{m.show(m.value)}[/bold] ({m.show(m.chance)})" for m in map(part_metrics.get, metrics) if m
            ]
            table.add_row(part, *cells)
        made.append(table)
    return made
