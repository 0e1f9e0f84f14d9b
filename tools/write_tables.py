"""Write the tables that are generated from code and recorded runs into README and docs; `--check` only compares.

A table stands between `<!-- table: NAME -->` and `<!-- end -->`. Names: `papers` is the table of papers, `claims` the
claims of all recorded reproductions with their verdicts, `reproduction SLUG` the arms and claims of a recorded
reproduction (`--check` leaves out how many files changed since), `settings PART` the settings of a recipe
(`settings_tables.py`), `billion PART` what a billion pairs cost (`billion_tables.py`), `ahead` where a peer is faster
(`ahead_tables.py`), `targets` what was aimed at and what is reached (`target_tables.py`), `commands` the command
line, `benchmark NAME` the Markdown that `benchmarks/results/NAME.md` holds, `mutants` the score of the recorded run
of `tools/mutate.py`.
"""

from __future__ import annotations

import json
import re
import sys
from os.path import relpath
from pathlib import Path
from typing import Any

import ahead_tables
import billion_tables
import settings_tables
import target_tables
from nearfar.cli import COMMANDS
from nearfar.papers import PAPERS, as_markdown
from nearfar.reproductions.shared import record_file
from nearfar.reproductions.shared import result_tables as tables

ROOT = Path(__file__).resolve().parent.parent
SINCE = re.compile(r"files changed since: (\d+ of \d+|not known)")
MARK = re.compile(r"(<!-- table: (?P<name>[^>]+?) -->\n).*?(<!-- end -->)", re.DOTALL)


def table(name: str, page: Path) -> str:
    """The Markdown of one table, with links as seen from `page`."""
    kind, _, argument = name.partition(" ")
    if kind == "papers":
        return as_markdown(PAPERS, Path(relpath(ROOT / "docs" / "papers", page.parent)).as_posix() + "/")
    if kind == "claims":
        return claims(page)
    if kind == "billion":
        return billion_tables.table(argument)
    if name == "ahead":
        return ahead_tables.table()
    if name == "targets":
        return target_tables.table()
    if kind == "settings":
        return settings_tables.table(argument)
    if kind == "commands":
        return "\n".join(
            ["| command | what it does |", "|---|---|", *(f"| `nearfar {c}` | {w} |" for c, w in COMMANDS.items())]
        )
    if kind == "reproduction":
        recorded = record(argument)
        return tables.as_markdown(recorded) if recorded else "_No recorded run yet._"
    if kind == "benchmark":
        return (ROOT / "benchmarks" / "results" / f"{argument}.md").read_text("utf-8").strip()
    if kind == "mutants":
        return mutants(json.loads((ROOT / "tools" / "mutants" / "record.json").read_text("utf-8")))
    raise ValueError(f"no table {name!r}")


def claims(page: Path) -> str:
    """Every claim that was re-run, with its verdict."""
    rows = ["| paper | claim | kind | verdict at our small scale |", "|---|---|---|---|"]
    for paper in PAPERS:
        link = Path(relpath(ROOT / "docs" / "papers" / f"{paper.slug}.md", page.parent)).as_posix()
        for kind, some in tables.sections(record(paper.slug) or {"claims": []}):
            rows += [f"| [{paper.name}]({link}) | {each['text']} | {kind} | **{each['verdict']}** |" for each in some]
    return "\n".join(rows)


def mutants(report: dict[str, Any]) -> str:
    """How many bugs put in by hand the tests caught, by room, and which they did not."""
    rows = ["| bugs in | tried | caught | score |", "|---|--:|--:|--:|"]
    for name, room in [*report["rooms"].items(), (f"**all**, of {report['listed']} listed", report)]:
        rows.append(f"| {name} | {room['bugs']} | {room['caught']} | {100 * room['score']:.1f} % |")
    missed = [f"- {name}" for name in report["survivors"]]
    same = [f"- {name}; {why}" for name, why in report["equivalent"].items()]
    parts = [("Not caught:", missed), ("Not counted, since no test can tell them from the right code:", same)]
    lists = [f"\n{title}\n\n" + "\n".join(lines) for title, lines in parts if lines]
    return "\n".join([*rows, *lists])


def record(slug: str) -> dict[str, Any] | None:
    """The recorded reproduction of a paper, if there is one."""
    file = ROOT / "src" / "nearfar" / "reproductions" / "results" / f"{slug}.json"
    if not file.is_file():
        return None
    content = record_file.read(file)
    if not record_file.is_whole(content):
        raise ValueError(f"{file} is not whole: finish it with `nearfar reproduce {slug} --out {file}`")
    return content


def filled(text: str, page: Path) -> str:
    """The page with its tables as they are now."""
    return MARK.sub(lambda m: f"{m[1]}{table(m['name'], page)}\n{m[3]}", text)


def main() -> int:
    stale = []
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]:
        text = page.read_text("utf-8")
        new = filled(text, page)
        # How many files changed since a record was made moves with every change of the code: as of the last writing.
        if (SINCE.sub("", new) == SINCE.sub("", text)) if "--check" in sys.argv else (new == text):
            continue
        stale.append(page.relative_to(ROOT))
        if "--check" not in sys.argv:
            page.write_text(new, "utf-8")
    for page in stale:
        print(f"{'stale' if '--check' in sys.argv else 'written'}: {page}")
    return 1 if stale and "--check" in sys.argv else 0


if __name__ == "__main__":
    sys.exit(main())
