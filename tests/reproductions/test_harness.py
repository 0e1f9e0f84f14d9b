"""The verdict is computed, a stopped run goes on, and a changed configuration begins afresh."""

import json

import pytest

from nearfar.errors import UserError
from nearfar.reproductions import find
from nearfar.reproductions.shared.harness import Claim, Reproduction, interval, judge, reproduce
from nearfar.reproductions.shared.result_tables import as_markdown
from reproductions.seed_work import threads_and_seed


def runs(a, b):
    return {str(i): {"arms": {"a": {"m": x}, "b": {"m": y}}} for i, (x, y) in enumerate(zip(a, b, strict=True))}


@pytest.mark.parametrize(
    ("a", "direction", "margin", "verdict"),
    [
        ([0.60, 0.61, 0.62], "higher", 0.0, "holds"),
        ([0.60, 0.61, 0.62], "lower", 0.0, "reversed"),
        ([0.40, 0.55, 0.62], "higher", 0.0, "not shown"),
        ([0.60, 0.61, 0.62], "higher", 0.2, "reversed"),
        ([0.49, 0.49, 0.48], "higher", -0.05, "holds"),
        ([0.42, 0.43, 0.44], "higher", 0.0, "reversed"),
    ],
)
def test_verdicts(a, direction, margin, verdict):
    claim = Claim("a against b", "a", "b", "m", direction=direction, margin=margin)
    assert judge(claim, runs(a, [0.5, 0.5, 0.5]))["verdict"] == verdict


def test_interval_against_the_textbook():
    mean, low, high = interval([2.0, 4.0, 6.0, 8.0])
    assert mean == 5
    assert high - mean == pytest.approx(3.182 * (20 / 3) ** 0.5 / 2)
    assert mean - low == pytest.approx(high - mean)


def toy(calls, config, fail_at=None):
    def run(seed):
        if seed == fail_at:
            raise KeyboardInterrupt
        calls.append(seed)
        return {"a": {"m": 0.6 + seed / 100}, "b": {"m": 0.5}}

    return Reproduction("align", run, [Claim("a beats b", "a", "b", "m")], config=config, note="what was tried")


def test_a_stopped_run_goes_on(tmp_path):
    path, calls = tmp_path / "align.json", []
    with pytest.raises(KeyboardInterrupt):
        reproduce(toy(calls, {"steps": 3}, fail_at=2), path)
    record = reproduce(toy(calls, {"steps": 3}), path)
    assert calls == [0, 1, 2]
    assert record == json.loads(path.read_text())
    assert record["claims"][0]["verdict"] == "holds"
    assert record["arms"]["a"]["m"]["mean"] == pytest.approx(0.61)
    assert "**holds**" in as_markdown(record)
    assert not list(tmp_path.glob("*.tmp"))


def test_another_configuration_begins_afresh(tmp_path):
    path, calls = tmp_path / "align.json", []
    reproduce(toy(calls, {"steps": 3}), path)
    reproduce(toy(calls, {"steps": 4}), path)
    assert calls == [0, 1, 2, 0, 1, 2]


def test_two_seeds_are_too_few(tmp_path):
    few = Reproduction("align", lambda seed: {}, [], seeds=(0, 1))
    with pytest.raises(UserError, match="at least 3 seeds"):
        reproduce(few, tmp_path / "x.json")


def test_unknown_slug_lists_what_there_is():
    with pytest.raises(UserError, match="no reproduction of 'nothing'"):
        find("nothing")


def test_seeds_side_by_side(tmp_path):
    """In processes of their own, with their share of the threads, recorded in the order of the seeds."""
    import os

    import torch

    claims = [Claim("a beats itself", "a", "a", "m")]
    made = Reproduction("align", threads_and_seed, claims, seeds=(2, 0, 1), config={"side": "by side"})
    record = reproduce(made, tmp_path / "align.json", workers=2)
    assert list(record["runs"]) == ["0", "1", "2"]
    each = [run["arms"]["a"] for run in record["runs"].values()]
    assert [arm["m"] for arm in each] == [0, 1, 2]
    assert os.getpid() not in [arm["process"] for arm in each]
    assert {arm["threads"] for arm in each} == {record["threads"]} == {max(1, torch.get_num_threads() // 2)}
    assert all(run["cpu_seconds"] >= 0 for run in record["runs"].values())
    assert "CPU minutes, each seed on" in as_markdown(record)
    with pytest.raises(UserError, match="at least 1"):
        reproduce(made, tmp_path / "none.json", workers=0)
