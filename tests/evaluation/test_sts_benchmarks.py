"""Published STS sets: all pairs together or by subset, the sets' average, and the shape of the space."""

import json
import math

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from nearfar import cli
from nearfar.data import Records
from nearfar.errors import UserError
from nearfar.evaluation import evaluate
from nearfar.evaluation.language.sts_benchmarks import sts
from nearfar.models import image_encoder


class Numbers:
    """A sentence is an angle in degrees."""

    def tokenize(self, texts):
        return torch.tensor([float(text) for text in texts])

    def encode_text(self, tokens):
        return torch.stack([tokens.deg2rad().cos(), tokens.deg2rad().sin()], 1)


def pairs(angles, scores, domain=None, name="set"):
    records = [{"text": "0", "text2": str(a), "score": s} for a, s in zip(angles, scores, strict=True)]
    if domain is not None:
        records = [record | {"domain": d} for record, d in zip(records, domain, strict=True)]
    return Records(records, name=name, domains=None if domain is None else ["a", "b"])


ANGLES, SCORES, DOMAIN = [10, 20, 30, 40, 50, 60, 70], [5, 3, 4, 1, 2, 5, 0], [0, 0, 0, 0, 0, 1, 1]


def test_all_pairs_together_differ_from_the_mean_over_subsets():
    result = sts(Numbers(), pairs(ANGLES, SCORES, DOMAIN), resamples=50)
    cosine = np.cos(np.deg2rad(ANGLES))
    parts = [spearmanr(cosine[:5], SCORES[:5])[0], 1.0]
    assert result["spearman"] == pytest.approx(spearmanr(cosine, SCORES)[0])
    assert result["spearman_mean"] == pytest.approx(np.mean(parts))
    assert result["spearman_wmean"] == pytest.approx((5 * parts[0] + 2 * parts[1]) / 7)
    assert len({round(result[name], 6) for name in ("spearman", "spearman_mean", "spearman_wmean")}) == 3
    assert result.by["domain"]["b"]["spearman"].value == pytest.approx(1)


def test_the_shape_of_the_space():
    """Positives are the pairs in the upper fifth of the scores; every sentence counts once."""
    result = sts(Numbers(), pairs([0, 90, 180], [5, 4, 0]), resamples=10)
    assert result["alignment"] == pytest.approx((0 + 2) / 2)
    distances = [2.0, 4.0, 2.0]  # squared, between 0, 90 and 180 degrees
    expected = math.log(np.mean(np.exp(-2 * np.array(distances))))
    assert result["uniformity"] == pytest.approx(expected, abs=1e-6)
    assert result["isotropy"] == pytest.approx(1 - (0 - 1 + 0) / 3, abs=1e-6)
    assert sts(Numbers(), pairs([0, 90, 180], [5, 4, 0]), alike=1.0, resamples=10)["alignment"] == pytest.approx(0)


def test_several_sets_and_their_average(tmp_path):
    for name, scores in (("one", [5, 4, 0]), ("two", [1, 3, 2])):
        rows = [{"sentence1": "0", "sentence2": str(a), "score": s} for a, s in zip((10, 50, 90), scores, strict=True)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = sts(Numbers(), sets=[str(tmp_path)], resamples=10)
    assert {name: round(each["spearman"].value, 3) for name, each in result.by["set"].items()} == {
        "one.jsonl": 1.0,
        "two.jsonl": -0.5,
    }
    assert result["spearman"] == pytest.approx(0.25)
    assert result.details["pairs"] == 6
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no STS set"):
        sts(Numbers(), sets=[str(tmp_path / "empty")])


def test_a_collapsed_model_has_no_figure():
    class Same(Numbers):
        def encode_text(self, tokens):
            return torch.ones(len(tokens), 2)

    result = sts(Same(), pairs(ANGLES, SCORES), resamples=10)
    assert np.isnan(result["spearman"])
    assert [result["alignment"], result["isotropy"]] == pytest.approx([0, 0], abs=1e-6)


def test_wrong_values_are_named():
    with pytest.raises(UserError, match=r"sts\.alike is a share"):
        sts(Numbers(), pairs(ANGLES, SCORES), alike=4.0)
    with pytest.raises(UserError, match="sts needs a source"):
        sts(Numbers())
    with pytest.raises(UserError, match="no option 'second'"):
        evaluate(Numbers(), pairs(ANGLES, SCORES), ["sts"], options={"sts": {"second": "b"}})


def test_on_the_command_line(tmp_path, capsys):
    """A file as STS-B is published, and a folder of sets."""
    words = ["a red car", "a blue car", "two dogs", "the sea"]
    lines = [f"g\tf\t2012test\t{i}\t{i % 3}.0\ta red car\t{word}\n" for i, word in enumerate(words)]
    (tmp_path / "sets").mkdir()
    for name in ("sts-dev.csv", "sts-test.csv"):
        (tmp_path / "sets" / name).write_text("".join(lines))
    file = tmp_path / "results.json"
    cli.main(["evaluate", "minilm", "--on", str(tmp_path / "sets" / "sts-test.csv"), "--protocols", "sts",
              "--json", str(file)])  # fmt: skip
    alone = json.loads(file.read_text())["results"]["sts"]
    assert alone["details"]["pairs"] == 4
    cli.main(["evaluate", "minilm", "--protocols", "sts", "--sts-sets", str(tmp_path / "sets"), "--json", str(file)])
    both = json.loads(file.read_text())["results"]["sts"]
    assert set(both["by"]["set"]) == {"sts-dev.csv", "sts-test.csv"}
    assert both["metrics"]["spearman"]["value"] == pytest.approx(alone["metrics"]["spearman"]["value"])
    capsys.readouterr()
    for words in (["--sts-sets", str(tmp_path)], ["--options", "sts.alike=0.5"]):
        with pytest.raises(SystemExit, match="sts has settings here and is not measured: add it, --protocols"):
            cli.main(["evaluate", "minilm", *words])


def test_a_model_of_pictures_is_refused():
    with pytest.raises(UserError, match="this ImageEncoder does not embed texts: take a model with a text tower"):
        evaluate(image_encoder("tiny"), pairs(ANGLES, SCORES), ["sts"])
