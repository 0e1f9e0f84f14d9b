"""Adapters and whole towers among the candidates: measured like the maps, saved, never kept where they are worse."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import nearfar
from nearfar.adaptation import best_model, trained_trials, training_plan
from nearfar.adaptation.kept_reading import is_killed
from nearfar.adaptation.outcome import mean_rank
from nearfar.adaptation.training_plan import NAMES, TrainSetting
from nearfar.adaptation.trials import Trial, ranked
from nearfar.data import hold_out, open_source
from nearfar.data.sources.source import Records
from nearfar.embedding.embed_source import embed
from nearfar.errors import UserError
from nearfar.evaluation import load_results, retrieval
from nearfar.methods.image_text.clip import CLIP
from nearfar.search import Index

pytestmark = pytest.mark.usefixtures("few_maps")
HERE = Path(__file__).parent
SHORT = {"lora": TrainSetting("lora", 1e-3, 16, 2.0), "towers": TrainSetting("towers", 1e-3, 16, 2.0)}


@pytest.fixture
def short(monkeypatch):
    """One setting of each kind, trained for two passes."""
    monkeypatch.setattr(training_plan, "settings_for", lambda kind, pairs: [SHORT[kind]])


@pytest.fixture
def always_best(monkeypatch):
    """What was trained wins on the first fold, whatever it is worth."""
    monkeypatch.setattr(trained_trials, "score", lambda embedded: 2.0)


@pytest.mark.parametrize("kind", ["lora", "towers"])
def test_what_was_trained_is_measured_saved_and_indexed(kind, short, always_best, emoji, small, tmp_path):
    before, said = {name: value.clone() for name, value in small.state_dict().items()}, []
    outcome = nearfar.adapt(emoji, small, tmp_path / "run", share=0.3, train=kind, keep_worse=True, say=said.append)
    assert outcome.chosen.name == NAMES[kind]
    assert all(torch.equal(value, before[name]) for name, value in small.state_dict().items())
    moved = [torch.equal(p, before[name]) for name, p in outcome.model.image.state_dict(prefix="image.").items()]
    assert not all(moved)
    assert not any(p.requires_grad for p in outcome.model.parameters())
    assert not outcome.model.adapters  # folded in: it loads without peft

    model = nearfar.load(tmp_path / "run" / "model")
    _, held = hold_out(open_source(emoji), 0.3)
    again, shown = retrieval(embed(model, held)), load_results(tmp_path / "run" / "results.json")["retrieval"]
    for name, metric in shown.metrics.items():
        assert again[name] == pytest.approx(metric.value), name
    about = json.loads((tmp_path / "run" / "adapt.json").read_text("utf-8"))
    assert about["chosen"]["kind"] == kind
    assert about["chosen"]["lr"] == 1e-3
    assert NAMES[kind] in (tmp_path / "run" / "model" / "README.md").read_text("utf-8")
    assert NAMES[kind] in (tmp_path / "run" / "report.html").read_text("utf-8")
    vectors = embed(model, open_source(emoji)).image
    assert len(Index(tmp_path / "run" / "index")) == len(vectors)
    assert any(line.startswith("training: ") and "2 passes in batches of 16" in line for line in said)
    assert any("on the first fold" in line for line in said)
    assert not (tmp_path / "run" / "reading").exists()


def test_the_held_out_pairs_have_the_last_word(short, always_best, emoji, small, monkeypatch):
    """Wrong captions to train on, right ones to measure on, and a start that knows the right ones."""
    source = open_source(emoji)
    good = nearfar.adapt(source, small, share=0.3).model
    texts = [record["text"] for record in source]
    wrong = Records([{**record, "text": texts[(row + 7) % 60]} for row, record in enumerate(source)], name="wrong")
    monkeypatch.setitem(SHORT, "towers", TrainSetting("towers", 1e-2, 16, 10.0))
    outcome = nearfar.adapt(wrong, good, test=source, train="towers")
    assert outcome.chosen.name == NAMES["towers"]
    assert mean_rank(outcome.after) < mean_rank(outcome.before)
    assert outcome.kept_start
    assert any("stays as it was" in warning for warning in outcome.warnings())


def test_the_first_fold_decides_between_maps_and_what_was_trained():
    maps = [Trial("a", 0.5, first=0.9), Trial("b", 0.6, first=0.4)]
    worse, better = (Trial("c", first, SHORT["lora"], first=first) for first in (0.3, 0.5))
    assert [trial.name for trial in ranked([*maps, worse])] == ["b", "c"]
    assert [trial.first for trial in ranked([*maps, worse, better])] == [0.5, 0.4, 0.3]


def test_what_is_trained_never_reads_the_pairs_held_out(short, emoji, small, monkeypatch):
    read, plain = [], trained_trials.train
    monkeypatch.setattr(
        trained_trials,
        "train",
        lambda method, source, **s: read.append(set(source.ids())) or plain(method, source, **s),
    )
    monkeypatch.setattr(trained_trials, "score", lambda embedded: read.append(set(embedded.index.tolist())) or 2.0)
    nearfar.adapt(emoji, small, share=0.3, train="lora")
    fitted_on, held = hold_out(open_source(emoji), 0.3)
    trained, measured, final = read
    assert not trained & measured
    assert trained | measured == final == set(fitted_on.ids())
    assert not final & set(held.ids())


def test_a_rate_that_diverges_is_named_and_left_out(emoji, small, monkeypatch):
    wild = [TrainSetting("towers", 1e30, 16, 4.0)]
    monkeypatch.setattr(training_plan, "settings_for", lambda kind, pairs: wild)
    said = []
    outcome = nearfar.adapt(emoji, small, share=0.3, train="towers", say=said.append)
    assert any("learning rate of 1e+30 diverged: it is left out" in line for line in said)
    assert outcome.chosen.name not in NAMES.values()
    assert NAMES["towers"] not in [trial.name for trial in outcome.tried]


def test_where_the_last_training_fails_the_next_best_is_taken(short, always_best, emoji, small, monkeypatch):
    monkeypatch.setattr(trained_trials.Training, "final", lambda self, setting: None)
    outcome = nearfar.adapt(emoji, small, share=0.3, train="lora")
    assert NAMES["lora"] in [trial.name for trial in outcome.tried]
    assert outcome.chosen.name not in NAMES.values()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"train": "heads"}, "train='heads': choose among auto, none, lora, towers"),
        ({"device": "abacus"}, "device 'abacus' cannot be used"),
    ],
)
def test_what_cannot_be_is_refused_before_the_reading(change, words, emoji, small, monkeypatch):
    monkeypatch.setattr(best_model.FrozenFeatures, "read", None)
    with pytest.raises(UserError, match=words):
        nearfar.adapt(emoji, small, **change)


def test_training_that_is_killed_goes_on_and_ends_as_one_that_was_not(emoji, small, tmp_path, monkeypatch):
    start, out = small.save_pretrained(tmp_path / "small"), tmp_path / "run"
    child = subprocess.Popen(
        [sys.executable, HERE / "killed_training.py", str(emoji), str(start), str(out)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    for line in child.stdout:
        if line.startswith("saved 4"):
            break
    child.send_signal(signal.SIGKILL)
    assert child.wait(60) == -signal.SIGKILL
    assert is_killed(out)
    assert not (out / "model").exists()

    steps, plain = [], CLIP.after_step
    monkeypatch.setattr(CLIP, "after_step", lambda self, step: steps.append(step) or plain(self, step))
    monkeypatch.setattr(training_plan, "settings_for", lambda kind, pairs: [TrainSetting("lora", 1e-3, 16, 4.0)])
    monkeypatch.setattr(trained_trials, "score", lambda embedded: 2.0)
    settings = {"share": 0.3, "train": "lora", "keep_worse": True, "index": False}
    theirs = nearfar.adapt(emoji, start, **settings).model.state_dict()
    assert steps == [*range(1, 9), *range(1, 9)]  # tried, then on all pairs
    del steps[:]
    nearfar.adapt(emoji, start, out, **settings)
    assert steps[0] >= 5
    assert steps == [*range(1, 9), *range(1, 9)][-len(steps) :]
    ours = nearfar.load(out).state_dict()
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, atol=1e-5, rtol=1e-4)
    assert not (out / "reading").exists()
