import io
import json
import math

import numpy as np
import pytest
from rich.console import Console

from nearfar.errors import UserError
from nearfar.evaluation.measures.bootstrap import mean_interval, resample
from nearfar.evaluation.measures.result import Metric, Result, load_results, save_results

RESULT = Result(
    "retrieval",
    {"text_to_image_R@1": Metric(0.312, 0.28, 0.35, 0.0031, 319, "%"), "median_rank": Metric(12.0, n=319)},
    {"domain": {"Noto": {"text_to_image_R@1": Metric(0.4, chance=0.0031, n=60, unit="%")}}},
    {"k": 3},
)


def test_json_there_and_back(tmp_path):
    path = save_results({"retrieval": RESULT}, tmp_path / "deep" / "out.json", model="m", seed=0)
    assert load_results(path) == {"retrieval": RESULT}
    assert json.loads(path.read_text())["about"] == {"model": "m", "seed": 0}
    assert [p.name for p in path.parent.iterdir()] == ["out.json"]


def test_nan_is_valid_json_and_comes_back(tmp_path):
    path = save_results({"x": Result("x", {"a": Metric(math.nan, chance=math.inf)})}, tmp_path / "x.json")
    json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert math.isnan(load_results(path)["x"]["a"])


@pytest.mark.parametrize("content", ["", "[]", '{"results": 3}', '{"results": {"a": {}}}'])
def test_other_files_are_refused_by_name(tmp_path, content):
    path = tmp_path / "other.json"
    path.write_text(content)
    with pytest.raises(UserError, match=r"other\.json"):
        load_results(path)


def test_tables_show_value_interval_and_chance():
    console = Console(file=io.StringIO(), width=200)
    console.print(*RESULT.tables())
    text = " ".join(console.file.getvalue().split())  # a title wraps over a narrow table
    for shown in (
        "text to image R@1, %",
        "31.2",
        "28.0 to 35.0",
        "0.3",
        "319",
        "retrieval text to image by domain",
        "40.0 (0.3)",
    ):
        assert shown in text


def test_mean_interval_is_that_of_plain_resampling():
    values = np.random.default_rng(1).random((40, 2))
    rng = np.random.default_rng(2)
    slow = np.array([values[rng.integers(40, size=40)].mean(axis=0) for _ in range(4000)])
    low, high = mean_interval(values, resamples=4000)
    np.testing.assert_allclose(low, np.percentile(slow, 2.5, axis=0), atol=0.01)
    np.testing.assert_allclose(high, np.percentile(slow, 97.5, axis=0), atol=0.01)


def test_clusters_are_drawn_whole():
    """Ten copies of each value carry no more information than one."""
    values = np.random.default_rng(3).random(30)
    alone = np.concatenate(mean_interval(values))
    copied = np.concatenate(mean_interval(values.repeat(10), cluster=np.arange(30).repeat(10)))
    np.testing.assert_allclose(alone, copied, rtol=1e-9)


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    rng = np.random.default_rng(4)
    covered = 0
    for seed in range(200):
        low, high = mean_interval(rng.random(60) < 0.3, seed=seed, resamples=300)
        covered += low[0] <= 0.3 <= high[0]
    assert 0.89 <= covered / 200 <= 0.99


def test_same_seed_same_interval_and_blocks_are_bounded():
    values = np.arange(50.0)
    assert mean_interval(values, seed=7) == mean_interval(values, seed=7)
    assert mean_interval(values, seed=7) != mean_interval(values, seed=8)
    assert all(block.size <= 1 << 22 for block in resample(100_000, 60, 0))
    assert sum(len(block) for block in resample(100_000, 60, 0)) == 60


def test_no_values_give_nan():
    assert np.isnan(mean_interval([])).all()
