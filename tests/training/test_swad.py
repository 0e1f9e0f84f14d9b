"""SWAD (arXiv 2102.08604): which steps are averaged, by figures worked out by hand; a run that ends with the valley."""

import json

import pytest
import torch
from killed import Shuffled
from torch import nn
from toy import Pairs, batch

from nearfar import train
from nearfar.errors import UserError
from nearfar.training import Stage, TrainConfig, run_stages
from nearfar.training.state import run_checkpoint
from nearfar.training.state.dense_average import DenseAverage, put_in_from


class Weight(nn.Module):
    """One number, and one that is frozen."""

    def __init__(self, value=0.0):
        super().__init__()
        self.trained = nn.Parameter(torch.tensor(float(value)))
        self.frozen = nn.Parameter(torch.tensor(7.0), requires_grad=False)


def averaged(segments, figures, **settings):
    """The average after segments of weights, each measured at its end."""
    average = DenseAverage("val_loss", **settings)
    for weights, figure in zip(segments, figures, strict=True):
        for weight in weights:
            average.update(Weight(weight))
        average.check(figure)
    return average


def value(average):
    module = Weight(-1.0)
    average.put_in(module)
    assert module.frozen == 7
    return module.trained.item()


def test_rising_figures_converge_at_the_first_check():
    average = averaged([[0.0], [1.0], [2.0]], [1.0, 2.0, 3.0], ratio=1.5)
    assert average.threshold == pytest.approx(3.0)
    assert value(average) == pytest.approx(1.0)
    assert averaged([[0.0], [1.0], [2.0]], [1.0, 2.0, 3.0]).threshold == pytest.approx(2.6)


def test_weights_that_stay_average_to_themselves():
    average = averaged([[0.5, 0.5]] * 8, [1.0] * 8)
    assert value(average) == 0.5
    assert average.valley.steps == 16


def test_every_step_counts_the_same_whatever_its_segment():
    average = averaged([[1.0], [2.0, 3.0, 4.0], [5.0, 6.0]], [1.0, 1.1, 1.2])
    assert value(average) == pytest.approx(21 / 6)


def test_before_the_valley_nothing_is_averaged():
    average = averaged([[0.0], [1.0], [2.0], [3.0]], [4.0, 3.0, 2.0, 1.0])
    assert average.threshold is None
    assert value(average) == -1.0
    assert len(average.waiting) == 2


def test_the_valley_begins_at_its_least_figure_and_ends_after_so_many_above():
    """The least of three comes at the third check, threshold 1.3 * (1 + 1.1 + 1.2) / 3 = 1.43."""
    figures = [3.0, 2.0, 1.0, 1.1, 1.2, 1.5, 1.4, 1.5, 1.6, 1.5, 0.5]
    average = averaged([[float(i)] for i in range(11)], figures, tolerance=3)
    assert average.threshold == pytest.approx(1.43)
    # 1.5 at check 5 came back under the threshold at check 6; checks 7, 8 and 9 end it, and 10 comes too late.
    assert average.ended
    assert average.valley.steps == 5
    assert value(average) == pytest.approx((2 + 3 + 4 + 5 + 6) / 5)


def test_what_lies_above_at_the_end_of_the_run_is_left_out():
    average = averaged([[float(i)] for i in range(5)], [1.0, 1.0, 1.0, 9.0, 9.0])
    assert not average.ended
    assert value(average) == pytest.approx(1.0)


def test_equal_figures_are_a_valley_from_the_first_on():
    assert averaged([[1.0], [2.0], [6.0]], [1.0, 1.0, 1.0]).valley.steps == 3


def test_a_check_without_a_step_counts_nothing():
    average = averaged([[1.0], [], [2.0], [6.0]], [1.0, 0.1, 1.0, 1.0])
    assert value(average) == pytest.approx(3.0)


@pytest.mark.parametrize("figure", [0.0, -0.5, float("nan"), float("inf")])
def test_a_figure_that_has_no_valley_is_named(figure):
    with pytest.raises(UserError, match=r"training\.swad looks for the valley of val_loss.* must be above 0"):
        averaged([[1.0]], [figure])


def test_its_state_goes_on_to_the_bit():
    figures = [3.0, 1.0, 1.1, 1.2, 1.9, 1.2, 1.8]
    segments = [[float(i) / 3, float(i) / 7] for i in range(7)]
    whole = averaged(segments, figures)
    for cut in range(7):
        first = averaged(segments[:cut], figures[:cut])
        first.update(Weight(segments[cut][0]))
        then = DenseAverage("val_loss")
        then.load_state_dict(first.state_dict())
        then.update(Weight(segments[cut][1]))
        then.check(figures[cut])
        for weights, figure in zip(segments[cut + 1 :], figures[cut + 1 :], strict=True):
            for weight in weights:
                then.update(Weight(weight))
            then.check(figure)
        assert value(then) == value(whole)


FIGURES = {2: 2.0, 4: 1.0, 6: 1.1, 8: 1.2} | dict.fromkeys(range(10, 40, 2), 2.0)


class Measured:
    """Figures by step, and the weights that they were measured with."""

    def __init__(self):
        self.step, self.weights = 0, {}

    def __call__(self, method):
        step = int(method.last_steps.max())
        self.weights[step] = method.logit_scale.item()
        return {"cross_entropy": FIGURES[step], "other": 1.0}


def go(out, steps=40, **options):
    torch.set_num_threads(1)
    measured = Measured()
    quiet = {"progress": False, "report": False, "lr": 0.02, "eval_every": 2, "save_every": 3}
    settings = {"swad": "val_cross_entropy", **quiet, **options}
    return train(Pairs(dropout=0.3), Shuffled(), out=out, steps=steps, validation=measured, **settings), measured


def test_a_run_ends_with_its_valley_and_has_the_mean_of_its_steps(tmp_path, monkeypatch):
    weights = {}
    update = DenseAverage.update

    def noting(self, method):
        weights[len(weights) + 1] = method.logit_scale.item()
        update(self, method)

    monkeypatch.setattr(DenseAverage, "update", noting)
    run, measured = go(tmp_path / "run")
    # The valley begins at step 4 with the segment of 3 and 4; the sixth validation above it is that of step 20.
    assert run.step == 20
    assert run.method.logit_scale.item() == pytest.approx(sum(weights[step] for step in range(3, 9)) / 6, rel=1e-6)
    assert measured.weights == {step: weights[step] for step in range(2, 22, 2)}, "of the weights as they are"
    latest = run_checkpoint.weights((tmp_path / "run" / "checkpoints" / "last").resolve())
    assert latest["logit_scale"].item() == weights[20]
    method = Pairs()
    put_in_from((tmp_path / "run" / "checkpoints" / "last").resolve(), method)
    assert torch.equal(method.logit_scale, run.method.logit_scale)


class Stop(BaseException):
    """Stands for a kill."""


@pytest.mark.parametrize("at", [1, 4, 7, 9, 19, 20])
def test_stopped_and_resumed_it_ends_the_same(at, tmp_path, monkeypatch):
    whole, _ = go(tmp_path / "whole")
    original = Pairs.after_step

    def after_step(self, step):
        if step == at:
            raise Stop
        original(self, step)

    with monkeypatch.context() as patch:
        patch.setattr(Pairs, "after_step", after_step)
        with pytest.raises(Stop):
            go(tmp_path / "run")
    again, _ = go(tmp_path / "run", resume=True)
    assert again.step == whole.step
    for name, parameter in whole.method.named_parameters():
        assert torch.equal(parameter, again.method.get_parameter(name)), name
    resumed, _ = go(tmp_path / "run", resume=True)
    assert (resumed.step, resumed.method.logit_scale) == (20, whole.method.logit_scale)


def test_a_run_without_a_valley_keeps_its_last_weights_and_says_so(tmp_path, capsys):
    run, _ = go(tmp_path / "run", steps=4, progress=True)
    assert "val_cross_entropy was in no valley yet" in capsys.readouterr().out
    saved = run_checkpoint.weights((tmp_path / "run" / "checkpoints" / "last").resolve())
    assert torch.equal(saved["logit_scale"], run.method.logit_scale)


def test_a_later_stage_goes_on_with_the_average(tmp_path):
    kept = {}

    def second(previous):
        kept["average"] = previous.restore(Pairs()).logit_scale.item()
        return Pairs()

    config = {"progress": False, "report": False, "lr": 0.02, "eval_every": 2}
    first = TrainConfig(steps=40, swad="val_cross_entropy", **config)
    stages = [
        Stage("one", lambda previous: Pairs(), Shuffled(), Measured(), first),
        Stage("two", second, Shuffled(), None, TrainConfig(steps=1, **config)),
    ]
    run_stages(stages, out=tmp_path / "run")
    rows = [json.loads(line) for line in (tmp_path / "run" / "1-one" / "history.jsonl").read_text().splitlines()]
    assert max(row["step"] for row in rows) == 20
    average = DenseAverage("")
    last = (tmp_path / "run" / "1-one" / "checkpoints" / "last").resolve()
    average.load_state_dict(run_checkpoint.load_optimizer(last)["dense"])
    assert kept["average"] == average.valley.mean["logit_scale"].item()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"ema": 0.9}, "training.swad is 'val_cross_entropy', and so is training.ema"),
        ({"final": "best"}, "and so is training.final: best"),
        ({"swad": "val_accuracy"}, "training.swad is 'val_accuracy', but validation gave only val_cross_entropy, val_"),
    ],
)
def test_what_is_refused(options, words, tmp_path):
    with pytest.raises(UserError, match=words):
        go(tmp_path / "run", **options)


def test_without_validation_there_is_no_valley():
    with pytest.raises(UserError, match="no validation data to find the valley by"):
        train(Pairs(), [batch()], steps=1, swad="val_loss", progress=False)
