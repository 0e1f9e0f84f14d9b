"""Settings are chosen, seeds planned, a stopped run goes on, and the verdict comes once all is there."""

import json
from dataclasses import replace

import pytest

from nearfar.errors import UserError
from nearfar.reproductions import find
from nearfar.reproductions.shared.choosing import Grid, at_the_edge
from nearfar.reproductions.shared.claims import Claim, Reproduction
from nearfar.reproductions.shared.code_state import changed, digest
from nearfar.reproductions.shared.fresh_seeds import add_fresh_seeds, fresh_differences
from nearfar.reproductions.shared.harness import reproduce
from nearfar.reproductions.shared.per_query import PerQuery
from nearfar.reproductions.shared.result_tables import as_markdown, changed_words
from nearfar.tally import tally
from reproductions.seed_work import threads_and_seed


def toy(calls, config, fail_at=None, **options):
    def run(seed):
        if seed == fail_at:
            raise KeyboardInterrupt
        calls.append(seed)
        return {"a": {"m": 0.6 + seed / 100}, "b": {"m": 0.5}}

    claims = [Claim("a beats b", "a", "b", "m", effect=0.05)]
    options = {"seeds": (0, 1, 2), "pilot": 0, **options}
    return Reproduction("align", run, claims, config=config, note="what was tried", **options)


def test_a_stopped_run_goes_on(tmp_path):
    path, calls = tmp_path / "align.json", []
    with pytest.raises(KeyboardInterrupt):
        reproduce(toy(calls, {"steps": 3}, fail_at=2), path)
    assert "claims" not in json.loads(path.read_text())
    record = reproduce(toy(calls, {"steps": 3}), path)
    assert calls == [0, 1, 2]
    assert record == json.loads(path.read_text())
    assert record["claims"][0]["verdict"] == "holds"
    assert record["arms"]["a"]["m"]["mean"] == pytest.approx(0.61)
    assert "**holds**" in as_markdown(record)
    assert not list(tmp_path.glob("*.tmp"))


def test_fresh_seeds_stand_beside_the_verdicts_and_change_none(tmp_path):
    """Seeds 0 to 2 differ by 0.10 to 0.12, the fresh 3 and 4 by 0.13 and 0.14, which is above the interval."""
    path, calls, said = tmp_path / "align.json", [], []
    made = toy(calls, {"steps": 3})
    with pytest.raises(UserError, match="holds no verdicts yet: run `nearfar reproduce align`"):
        add_fresh_seeds(made, path, 2)
    before = reproduce(made, path)
    with pytest.raises(UserError, match="1 fresh seeds: at least 2"):
        add_fresh_seeds(made, path, 1)
    record = add_fresh_seeds(made, path, 2, say=said.append)
    assert calls == [0, 1, 2, 3, 4]
    assert said == ["align: fresh seed 3 took 0 s", "align: fresh seed 4 took 0 s"]
    assert {name: record[name] for name in before} == before
    assert fresh_differences(record) == [pytest.approx(0.135)]
    assert record["claims"][0]["high"] == pytest.approx(0.11 + 4.303 * 0.01 / 3**0.5, abs=1e-4)
    assert "inside the interval for 0 of 1 claims; outside: 'a beats b' (+0.135)." in as_markdown(record)
    add_fresh_seeds(made, path, 4)
    assert calls == [0, 1, 2, 3, 4, 5, 6], "no seed is run twice"
    assert reproduce(made, path)["fresh"]["runs"].keys() == {"3", "4", "5", "6"}
    grid = Grid(["a", "b"], {"lr": [1, 2]}, lambda arm, setting, seed: 0.0, "m")
    chosen = replace(made, grid=grid, run=lambda seed, chosen: made.run(seed))
    assert "fresh" not in reproduce(chosen, path), "they ran with other settings"


def test_another_configuration_begins_afresh(tmp_path):
    path, calls, said = tmp_path / "align.json", [], []
    reproduce(toy(calls, {"steps": 3}), path)
    reproduce(toy(calls, {"steps": 4}), path, say=said.append)
    assert calls == [0, 1, 2, 0, 1, 2]
    assert "another configuration: begun afresh" in said[0]


def test_a_pilot_plans_and_is_not_judged(tmp_path):
    """Differences grow by 0.01 a seed: a spread of 0.01, so that the effect of 0.05 needs few; the plan is kept to."""
    path, calls, said = tmp_path / "align.json", [], []
    made = toy(calls, {}, seeds=range(12), pilot=3)
    with pytest.raises(KeyboardInterrupt):
        reproduce(toy(calls, {}, seeds=range(12), pilot=3, fail_at=4), path)
    assert json.loads(path.read_text())["plan"]["judged"] == [3, 4, 5, 6]
    record = reproduce(made, path, say=said.append)
    assert calls == [0, 1, 2, 3, 4, 5, 6], "no seed is run twice"
    assert "align: 4 seeds, planned from the spread of 3 others for 80% power" in "\n".join(said)
    assert record["claims"][0]["difference"] == pytest.approx(0.145), "of seeds 3 to 6"
    assert reproduce(made, path) == record
    assert calls == [0, 1, 2, 3, 4, 5, 6]
    other = replace(made, claims=[Claim("a beats b", "a", "b", "m", effect=0.01)])
    with pytest.raises(UserError, match="not those that its seeds were planned for"):
        reproduce(other, path)
    with pytest.raises(UserError, match="its seeds were fixed otherwise"):
        reproduce(replace(made, pilot=4), path)
    words = replace(made, claims=[Claim("a is better", "a", "b", "m", effect=0.05)])
    assert reproduce(words, path)["claims"][0]["text"] == "a is better"


def test_seeds_without_a_plan_may_become_a_pilot_and_may_not_just_be_more(tmp_path):
    path, calls = tmp_path / "align.json", []
    reproduce(toy(calls, {}), path)
    with pytest.raises(UserError, match="fixed otherwise"):
        reproduce(toy(calls, {}, seeds=(0, 1, 2, 3)), path)
    record = reproduce(toy(calls, {}, seeds=range(12), pilot=3), path)
    assert calls == [0, 1, 2, 3, 4, 5, 6]
    assert record["plan"]["pilot"] == [0, 1, 2]


def test_each_arm_gets_its_best_setting_and_trials_are_never_run_again(tmp_path):
    path, tried, ran = tmp_path / "align.json", [], []

    def validate(arm, setting, seed, fail_at=None):
        if len(tried) == fail_at:
            raise KeyboardInterrupt
        tried.append((arm, setting["lr"], setting["steps"], seed))
        best = {"a": 0.1, "b": 0.2}[arm]
        return 1 - abs(setting["lr"] - best) - (setting["steps"] if arm == "b" else 0) / 1000 + seed / 1e6

    def run(seed, chosen):
        ran.append((seed, chosen))
        return {arm: {"m": chosen[arm]["lr"] + seed / 100} for arm in "ab"}

    options = {"lr": [0.05, 0.1, 0.2], "steps": [10, 20]}
    grid = Grid("ba", options, validate, "R@1", seeds=(100, 101))
    made = replace(toy([], {}), run=run, grid=grid)
    stopping = replace(grid, validate=lambda *trial: validate(*trial, fail_at=7))
    with pytest.raises(KeyboardInterrupt):
        reproduce(replace(made, grid=stopping), path)
    record = reproduce(made, path)
    assert tried == [
        (arm, lr, steps, seed)
        for arm in "ba"
        for lr in options["lr"]
        for steps in options["steps"]
        for seed in (100, 101)
    ]
    chosen = {"b": {"lr": 0.2, "steps": 10}, "a": {"lr": 0.1, "steps": 10}}
    assert record["grid"]["chosen"] == chosen, "of equal settings the first"
    assert ran == [(seed, chosen) for seed in (0, 1, 2)]
    assert len(record["grid"]["figures"]) == 24
    assert at_the_edge(record["grid"]) == ["b (lr 0.2)"]
    assert "b: lr 0.2, steps 10; a: lr 0.1, steps 10 (at the edge of the grid: b (lr 0.2))" in as_markdown(record)
    reproduce(replace(made, grid=replace(grid, options={"lr": [0.1], "steps": [10]})), path)
    assert len(ran) == 6, "seeds of other settings are of no use"
    with pytest.raises(UserError, match=r"the grid's seeds \[0\] are the reproduction's too"):
        reproduce(replace(made, grid=replace(grid, seeds=(0,))), path)


def test_values_of_queries_are_kept_beside_the_figure(tmp_path):
    def run(seed):
        return {"a": {"m": PerQuery([1, 1, 0, 1], range(4))}, "b": {"m": PerQuery([0, 1, 0, 1], range(4))}}

    record = reproduce(replace(toy([], {}), run=run), tmp_path / "align.json")
    assert record["runs"]["0"]["arms"] == {"a": {"m": 0.75}, "b": {"m": 0.5}}
    ((name, groups),) = record["queries"].items()
    assert groups == "0 1 2 3"
    assert record["runs"]["2"]["queries"]["a"]["m"] == [name, "1101"]
    assert record["claims"][0]["about"] == "seeds and queries"


def test_an_older_record_is_kept_or_refused_with_a_sentence(tmp_path):
    path, calls, said = tmp_path / "align.json", [], []
    whole = reproduce(toy(calls, {"steps": 3}), path)
    old = {name: whole[name] for name in ("slug", "config", "versions", "threads", "runs")} | {"seeds": [0, 1, 2]}
    path.write_text(json.dumps(old))
    record = reproduce(toy(calls, {"steps": 3}), path, say=said.append)
    assert "recorded before seeds were planned: its 3 seeds are kept" in said[0]
    assert (record["format"], calls) == (2, [0, 1, 2])
    assert changed_words({**record, "code": {}}) == "files changed since: not known"
    path.write_text(json.dumps({**record, "format": 3}))
    with pytest.raises(UserError, match="install a newer nearfar"):
        reproduce(toy(calls, {"steps": 3}), path)
    path.write_text("[]")
    with pytest.raises(UserError, match="no record of a reproduction"):
        reproduce(toy(calls, {"steps": 3}), path)


def test_the_record_knows_its_code(tmp_path, monkeypatch):
    from nearfar.reproductions.shared import code_state

    record = reproduce(toy([], {}), tmp_path / "align.json")
    (files,) = record["code"].values()
    assert "evaluation/measures/bootstrap.py" in files, "what the process had loaded"
    assert not any(name.startswith(("commands/", "reproductions/shared/h")) for name in files)
    monkeypatch.setattr(code_state, "ROOT", tmp_path)
    for name, text in (("one.py", "1"), ("two.py", "2")):
        (tmp_path / name).write_text(text)
    record["code"] = {"x": {name: digest(tmp_path / name) for name in ("one.py", "two.py")}}
    assert changed(record) == (0, 2)
    (tmp_path / "one.py").rename(tmp_path / "moved.py")
    assert changed(record) == (0, 2), "a file that only moved is no change"
    (tmp_path / "two.py").write_text("3")
    assert changed(record) == (1, 2)
    assert "files changed since: 1 of 2" in as_markdown(record)


def test_claims_premises_and_constants_stand_apart(tmp_path):
    claims = [
        Claim("a beats b", "a", "b", "m"),
        Claim("a and b differ by a tenth at least", "a", "b", "m", margin=0.1),
        Claim("a retrieves", "a", "b", "m", premise=True),
        Claim("a beats the table", "a", "b", "m", constant=True),
    ]
    record = reproduce(replace(toy([], {}), claims=claims), tmp_path / "align.json")
    assert tally(record["claims"]) == "1 of 2 decided: 1 holds; against constants: 1 of 1 holds; premises: 1 of 1 holds"
    page = as_markdown(record)
    assert [line.split(" | ")[0] for line in page.splitlines() if "| metric |" in line] == [
        "| claim",
        "| claim against a constant",
        "| premise",
    ]
    assert "a and b differ by a tenth at least: above +0." in page
    assert "would have been found with 80 % power" in page


def test_two_seeds_are_too_few():
    with pytest.raises(UserError, match="at least 3 seeds"):
        Reproduction("align", lambda seed: {}, [], seeds=(0, 1), pilot=0)


def test_unknown_slug_lists_what_there_is():
    with pytest.raises(UserError, match=r"no reproduction 'nothing'\. There are: albef, align"):
        find("nothing")


def test_seeds_side_by_side(tmp_path):
    """In processes of their own, with their share of the threads, recorded in the order of the seeds."""
    import os

    import torch

    claims = [Claim("a beats itself", "a", "a", "m")]
    made = Reproduction("align", threads_and_seed, claims, seeds=(2, 0, 1), pilot=0, config={"side": "by side"})
    reproduce(made, tmp_path / "align.json", workers=2)
    record = json.loads((tmp_path / "align.json").read_text())
    assert list(record["runs"]) == ["0", "1", "2"]
    each = [run["arms"]["a"] for run in record["runs"].values()]
    assert [arm["m"] for arm in each] == [0, 1, 2]
    assert os.getpid() not in [arm["process"] for arm in each]
    assert {arm["threads"] for arm in each} == {record["threads"]} == {max(1, torch.get_num_threads() // 2)}
    assert all(run["cpu_seconds"] >= 0 for run in record["runs"].values())
    assert "CPU minutes, each seed on" in as_markdown(record)
    with pytest.raises(UserError, match="at least 1"):
        reproduce(made, tmp_path / "none.json", workers=0)
