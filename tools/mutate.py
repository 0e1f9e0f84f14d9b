"""Put each bug of `tools/mutants/*.toml` into a copy of the code, run the tests that should catch it, print the score.

    python tools/mutate.py                          # all of them; the record is tools/mutants/record.json
    python tools/mutate.py --room ops --only ring   # those of one list, whose file or description holds a word
    python tools/mutate.py --again                  # those that the record does not hold as caught

A list has a table `[tests]`, from a file to the tests that its bugs are caught by, and one `[[mutant]]` a bug: `file`
(below src/nearfar), `was` (text that stands there exactly once), `now` (what takes its place), `breaks` (in a few
words), and where need be `tests` of its own, or `equivalent`: why no test can tell it from the right code, so that it
does not count. Nothing is written into the working tree but the record.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import importlib
import io
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
LISTS = ROOT / "tools" / "mutants"
RECORD = LISTS / "record.json"
ENOUGH = 0.95
"""The share of bugs that tests should catch."""
LEFT_OUT = "not compile and not killed and not inductor"
"""Tests that take long and look at other things than these bugs."""
MODULES = "modules.txt"
SECONDS = 240
"""Longest run of one bug's tests; a bug that hangs them is caught."""


@dataclass(frozen=True)
class Mutant:
    """One plausible bug."""

    room: str
    file: str
    was: str
    now: str
    breaks: str
    tests: tuple[str, ...]
    equivalent: str = ""

    @property
    def name(self) -> str:
        return f"{self.room}: {self.file}: {self.breaks}"

    def applied(self, root: Path) -> str:
        """The file's text with the bug in it. Raises ValueError where the list no longer fits the code."""
        path = root / "src" / "nearfar" / self.file
        if not path.is_file():
            raise ValueError(f"{self.name}: there is no file {self.file}")
        text = path.read_text("utf-8")
        if text.count(self.was) != 1:
            raise ValueError(f"{self.name}: its old text stands {text.count(self.was)} times in the file, not once")
        return text.replace(self.was, self.now)


def mutants() -> list[Mutant]:
    """All lists, in the order of their names."""
    listed = []
    for path in sorted(LISTS.glob("*.toml")):
        values = tomllib.loads(path.read_text("utf-8"))
        for each in values["mutant"]:
            tests = each.get("tests") or values["tests"].get(each["file"])
            if not tests:
                raise ValueError(f"{path.name}: no tests are named for {each['file']}")
            rest = {name: each[name] for name in ("file", "was", "now", "breaks")}
            listed.append(Mutant(path.stem, **rest, tests=tuple(tests), equivalent=each.get("equivalent", "")))
    return listed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--room", help="one list only: ops, losses, methods, training ...")
    parser.add_argument("--only", default="", help="those whose file or description holds this word")
    parser.add_argument("--again", action="store_true", help="those that the record does not hold as caught")
    parser.add_argument("--verbose", action="store_true", help="show the end of what the tests print")
    options = parser.parse_args()
    bugs = mutants()
    for bug in bugs:
        compile(bug.applied(ROOT), bug.file, "exec")
    before = {row["bug"] for row in recorded() if row["caught"]} if options.again else set()
    chosen = [bug for bug in bugs if options.room in (None, bug.room) and options.only in bug.name]
    chosen = [bug for bug in chosen if not bug.equivalent and bug.name not in before]
    right: set[str] = set()
    print(f"{len(chosen)} bugs", flush=True)
    with copy_of_the_tree() as copy:
        for bug in chosen:
            check_without(copy, [test for test in bug.tests if test not in right])
            right |= set(bug.tests)
            keep(bugs, {"bug": bug.name, "caught": judge(copy, bug, options.verbose)})
    report = json.loads(RECORD.read_text("utf-8"))
    print(f"{report['caught']} of {report['bugs']} caught: {100 * report['score']:.1f} %")
    return 0 if report["score"] >= ENOUGH else 1


def check_without(copy: Path, tests: list[str]) -> None:
    """Tests must pass as the code is: else nothing that they fail on would say anything."""
    if not tests:
        return
    status, output = run(copy, tests, 5 * SECONDS)
    if status != 0:
        print(output[-3000:])
        raise SystemExit(f"{', '.join(tests)} do not pass as the code is: no score")
    preload(copy / MODULES)


def judge(copy: Path, mutant: Mutant, verbose: bool) -> bool:
    """Whether the tests catch one bug; the copy is as before afterwards."""
    path, began = copy / "src" / "nearfar" / mutant.file, time.perf_counter()
    right = path.read_text("utf-8")
    path.write_text(mutant.applied(copy), "utf-8")
    try:
        status, output = run(copy, mutant.tests, SECONDS)
    finally:
        path.write_text(right, "utf-8")
    if status is not None and (status < 0 or status in (3, 4, 5)):  # killed, pytest's own fault, wrong words, no tests
        raise SystemExit(f"{mutant.name}: pytest ended with {status}, which judges nothing:\n{output[-2000:]}")
    how = {0: "SURVIVED", None: "caught (hangs)"}.get(status, "caught")
    print(f"{how:14} {time.perf_counter() - began:5.1f} s  {mutant.name}", flush=True)
    if verbose:
        print(output[-1500:])
    return status != 0


def recorded() -> list[dict[str, Any]]:
    """What the record holds of each bug."""
    return json.loads(RECORD.read_text("utf-8"))["results"] if RECORD.is_file() else []


def keep(bugs: list[Mutant], result: dict[str, Any]) -> None:
    """Put one result into the record, in the place of an older one, and count anew. Bugs that have left the lists
    leave the record; several runs may write to it in turn."""
    import torch

    with (LISTS / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        latest = {row["bug"]: row["caught"] for row in [*recorded(), result]}
        results = [
            {"bug": bug.name, "room": bug.room, "caught": latest[bug.name]}
            for bug in bugs
            if bug.name in latest and not bug.equivalent
        ]
        rooms = dict.fromkeys(row["room"] for row in results)
        record = {
            "command": "python tools/mutate.py",
            "with": {"python": platform.python_version(), "torch": torch.__version__},
            "listed": sum(not bug.equivalent for bug in bugs),
            **share(results),
            "rooms": {room: share([row for row in results if row["room"] == room]) for room in rooms},
            "survivors": [row["bug"] for row in results if not row["caught"]],
            "equivalent": {bug.name: bug.equivalent for bug in bugs if bug.equivalent},
            "results": results,
        }
        whole = LISTS / f".record.{os.getpid()}.tmp"
        whole.write_text(json.dumps(record, indent=1) + "\n", "utf-8")
        whole.replace(RECORD)  # in one step: others may be reading it


def share(rows: list[dict[str, Any]]) -> dict[str, Any]:
    caught = sum(row["caught"] for row in rows)
    return {"bugs": len(rows), "caught": caught, "score": caught / max(1, len(rows))}


@contextlib.contextmanager
def copy_of_the_tree() -> Iterator[Path]:
    """What git tracks of code and tests, and new files beside them, in a folder of its own."""
    listed = ["git", "ls-files", "-co", "--exclude-standard", "src", "tests", "tools", "pyproject.toml", "README.md"]
    names = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    with tempfile.TemporaryDirectory(prefix="nearfar-mutants-") as folder:
        for name in names:
            if (ROOT / name).is_file():
                target = Path(folder) / name
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, target)
        yield Path(folder)


def preload(names: Path) -> None:
    """Import once what the tests imported and is not ours: every later run is a fork of this process."""
    for name in names.read_text("utf-8").split():
        with contextlib.suppress(Exception):
            importlib.import_module(name)
    import torch

    torch.set_num_threads(1)


def imported() -> str:
    """The installed modules of this process, a line each."""
    modules = sorted(sys.modules.items())
    return "\n".join(n for n, m in modules if "site-packages" in str(getattr(m, "__file__", "")) and "pytest" not in n)


def run(copy: Path, tests: tuple[str, ...] | list[str], seconds: float) -> tuple[int | None, str]:
    """pytest's exit status (None: it took too long), and what it printed, of tests in the copy."""
    with tempfile.TemporaryFile("w+") as output:
        child = os.fork()
        if child == 0:
            in_the_fork(copy, list(tests), output)
        status = wait(child, seconds)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child, signal.SIGKILL)  # processes that the tests started and left behind
        output.seek(0)
        return status, output.read()


def in_the_fork(copy: Path, tests: list[str], output: io.TextIOBase) -> None:
    """Run pytest on the copy's code, in a group of its own, and end."""
    status = 1
    try:
        os.setsid()
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
        os.chdir(copy)
        os.environ |= {"PYTHONPATH": str(copy / "src"), "PYTHONDONTWRITEBYTECODE": "1", "OMP_WAIT_POLICY": "passive"}
        sys.dont_write_bytecode = True
        sys.path.insert(0, str(copy / "src"))
        import pytest

        quiet = ["-k", LEFT_OUT, "-q", "-x", "-p", "no:cacheprovider", "-p", "no:xdist", "--tb=short", "--no-header"]
        status = int(pytest.main([*quiet, *tests]))
        Path(MODULES).write_text(imported(), "utf-8")
    finally:
        sys.stdout.flush()
        os._exit(status)


def wait(child: int, seconds: float) -> int | None:
    """The exit status of a child; None, and it is killed, where it takes longer."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.05)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


if __name__ == "__main__":
    sys.exit(main())
