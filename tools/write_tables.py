"""Write the tables that are generated from code and recorded runs into README and docs; `--check` only compares.

A table stands between `<!-- table: NAME -->` and `<!-- end -->`. Names: `papers` is the table of papers,
`reproduction SLUG` the arms and claims of a recorded reproduction, `commands` the command line,
`benchmark NAME` the Markdown that `benchmarks/results/NAME.md` holds.
"""

from __future__ import annotations

import json
import re
import sys
from os.path import relpath
from pathlib import Path

from nearfar.cli import COMMANDS
from nearfar.papers import PAPERS, as_markdown
from nearfar.reproductions import tables

ROOT = Path(__file__).resolve().parent.parent
MARK = re.compile(r"(<!-- table: (?P<name>[^>]+?) -->\n).*?(<!-- end -->)", re.DOTALL)


def table(name: str, page: Path) -> str:
    """The Markdown of one table, with links as seen from `page`."""
    kind, _, argument = name.partition(" ")
    if kind == "papers":
        return as_markdown(PAPERS, Path(relpath(ROOT / "docs" / "papers", page.parent)).as_posix() + "/")
    if kind == "commands":
        return "\n".join(
            ["| command | what it does |", "|---|---|", *(f"| `nearfar {c}` | {w} |" for c, w in COMMANDS.items())]
        )
    if kind == "reproduction":
        record = ROOT / "src" / "nearfar" / "reproductions" / "results" / f"{argument}.json"
        if not record.is_file():
            return "_No recorded run yet._"
        return tables.as_markdown(json.loads(record.read_text("utf-8")))
    if kind == "benchmark":
        return (ROOT / "benchmarks" / "results" / f"{argument}.md").read_text("utf-8").strip()
    raise ValueError(f"no table {name!r}")


def filled(text: str, page: Path) -> str:
    """The page with its tables as they are now."""
    return MARK.sub(lambda m: f"{m[1]}{table(m['name'], page)}\n{m[3]}", text)


def main() -> int:
    stale = []
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]:
        text = page.read_text("utf-8")
        new = filled(text, page)
        if new == text:
            continue
        stale.append(page.relative_to(ROOT))
        if "--check" not in sys.argv:
            page.write_text(new, "utf-8")
    for page in stale:
        print(f"{'stale' if '--check' in sys.argv else 'written'}: {page}")
    return 1 if stale and "--check" in sys.argv else 0


if __name__ == "__main__":
    sys.exit(main())
