"""The lists of bugs of `tools/mutate.py` fit the code as it is: each old text stands where it is sought, once, and the
code with the bug in it compiles. Whether tests catch them, `make mutate` says; this keeps the lists from rotting."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
spec = importlib.util.spec_from_file_location("mutate", ROOT / "tools" / "mutate.py")
mutate = importlib.util.module_from_spec(spec)
sys.modules["mutate"] = mutate
spec.loader.exec_module(mutate)


def test_every_bug_still_fits_the_code():
    misfits = []
    for mutant in mutate.mutants():
        try:
            compile(mutant.applied(ROOT), mutant.file, "exec")
        except (ValueError, SyntaxError) as error:
            misfits.append(f"{mutant.name}: {error}")
    assert not misfits, "\n".join(misfits)


def test_no_bug_stands_twice_and_each_says_what_it_breaks():
    bugs = mutate.mutants()
    assert len({(bug.file, bug.was, bug.now) for bug in bugs}) == len({bug.name for bug in bugs}) == len(bugs) >= 100
    assert all(len(bug.breaks) > 10 and bug.now != bug.was for bug in bugs)


def test_the_tests_that_are_named_are_there():
    for path in sorted({test.partition("::")[0] for bug in mutate.mutants() for test in bug.tests}):
        assert (ROOT / path).is_file(), path


def test_the_record_says_what_the_page_says_and_is_good_enough():
    record = json.loads(mutate.RECORD.read_text("utf-8"))
    assert record["bugs"] == len(record["results"]) >= 100
    assert record["caught"] == sum(row["caught"] for row in record["results"])
    assert record["score"] >= mutate.ENOUGH


def test_an_old_text_that_is_not_there_once_is_an_error_that_names_the_bug():
    bug = mutate.Mutant("ops", "errors.py", "no such text", "x", "nothing at all", ("tests/test_mutants.py",))
    with pytest.raises(ValueError, match=r"ops: errors\.py: nothing at all: its old text stands 0 times"):
        bug.applied(ROOT)
