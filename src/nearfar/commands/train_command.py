"""`nearfar train`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nearfar.signatures.flags import Flags

EPILOG = """examples:
  nearfar train world                              a shipped recipe (nearfar recipes lists them)
  nearfar train my.yaml training.lr=3e-4 steps=500 a recipe of your own, with two settings changed
  nearfar train world data.train=photos/           the same recipe on a folder of images with captions
  nearfar train my.yaml --trust my_module          a recipe that names a method or model of your own
  nearfar train --resume runs/world                go on where a stopped run was
  nearfar train two-stages stages.whole.lr=1e-5    a recipe of stages, with a setting of one changed
  accelerate launch -m nearfar train world     on all devices of this machine"""


def train(arguments: Sequence[str]) -> None:
    """Train a method by a recipe, then evaluate and report. The resolved recipe is printed, and kept in the run folder
    as config.yaml, from which the run can be repeated."""
    args = parser().parse_intermixed_args(arguments)
    if (args.recipe is None) == (args.resume is None):
        parser().error("name a recipe, or a run folder with --resume")
    settings = args.setting
    from nearfar import distributed as processes
    from nearfar.training.recipe import load

    if args.each_domain_out:
        each_domain_out(args)
        return
    recipe = load(args.resume or args.recipe, settings, trust=args.trust)
    out = args.resume or args.out or Path("runs") / recipe.name
    processes.start(recipe.device)

    def show(resolved: Any) -> None:
        if processes.is_main():
            print(resolved.as_yaml(), flush=True)

    if args.dry_run:
        show(recipe)
        return
    ran = recipe.run(out, resume=args.resume is not None, announce=show)
    if processes.is_main():
        from rich.console import Console

        console = Console(highlight=False)
        stages = ran if isinstance(ran, list) else [ran]
        for stage in stages:
            if len(stages) > 1:
                console.print(f"stage {stage.name}", style="bold", markup=False)
            if measured_on := getattr(stage, "measured_on", None):
                console.print(f"measured on {measured_on}", markup=False, soft_wrap=True)
            for result in stage.results.values():
                for table in result.tables():
                    console.print(table)
            for remark in getattr(stage, "remarks", ()):
                console.print(f"note: {remark}", style="yellow", markup=False, soft_wrap=True)
        for written in ("report.html", "model", "skipped.txt"):
            if (out / written).exists():
                console.print(f"{written}: {out / written}", markup=False, soft_wrap=True)


def each_domain_out(args: Any) -> None:
    """Run the recipe once for each domain, and print the table of all."""
    from nearfar import distributed as processes
    from nearfar.training.stages.left_out_runs import FILE, as_table, run_each_left_out

    if args.recipe is None or args.dry_run:
        parser().error("--each-domain-out runs a recipe: name one, with --out where its runs lie or are to lie")
    out = args.out or Path("runs") / Path(args.recipe).stem
    figures = run_each_left_out(args.recipe, out, args.setting, trust=args.trust, resume=out.exists())
    if processes.is_main():
        from rich.console import Console

        console = Console(highlight=False)
        console.print(as_table(figures))
        console.print(f"{FILE}: {out / FILE}", markup=False, soft_wrap=True)


# A recipe's settings are words of their own, key=value, not flags.
train.raw = True  # type: ignore[attr-defined]


def parser() -> Flags:
    """The flags."""
    flags = Flags("nearfar train", description=train.__doc__ or "", epilog=EPILOG)
    flags.add_argument("recipe", nargs="?", help="a YAML file, a run folder, or the name of a shipped recipe")
    flags.add_argument(
        "setting",
        nargs="*",
        help="section.setting=value; without a section it is one of training; stages.NAME.section.setting=value in "
        "one stage",
    )
    flags.add_argument("--out", type=Path, help="the run folder (default: runs/NAME)")
    flags.add_argument("--resume", type=Path, metavar="RUN", help="go on with the run in this folder")
    flags.add_argument(
        "--trust",
        action="append",
        default=[],
        metavar="MODULE",
        help="run code of this module, an installed one or a file here, where the recipe names it (method.name: "
        "my_module:Mine); may be given several times",
    )
    flags.add_argument(
        "--each-domain-out",
        action="store_true",
        help="run it once for each domain of its data, left out of training and measured on; stopped runs in the same "
        "--out go on",
    )
    flags.add_argument("--dry-run", action="store_true", help="check and print the resolved recipe, and stop")
    return flags
