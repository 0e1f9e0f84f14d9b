"""The loop: it learns, logs, validates without a trace, and stops when something is wrong."""

import json
import math
import random

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from toy import Pairs, Plain, batch, loader

from nearfar import train
from nearfar.data import train_tokenizer
from nearfar.errors import UserError
from nearfar.methods.base import Method
from nearfar.methods.image_text.clip import CLIP
from nearfar.models import create
from nearfar.training import NotFinite, TrainConfig
from nearfar.training.loop.validation import validate
from nearfar.training.state import random_state
from nearfar.training.state.moving_average import MovingAverage

QUIET = {"progress": False, "report": False}


def weights(method):
    return {name: value.clone() for name, value in method.state_dict().items()}


def test_it_learns_and_logs(tmp_path):
    run = train(Pairs(), loader(), out=tmp_path, steps=150, lr=0.03, log_every=5, **QUIET)
    assert run.step == 150
    assert run.history[-1]["loss"] < 0.3 * run.history[0]["loss"]
    rows = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert rows == run.history
    assert [row["step"] for row in rows] == list(range(5, 151, 5))
    assert rows[-1]["epoch"] == 37
    assert {"loss", "temperature", "lr", "grad_norm", "samples_per_s", "seconds"} <= rows[0].keys()


def test_data_may_be_what_open_source_opens(tmp_path):
    (tmp_path / "photos").mkdir()
    for i, name in enumerate(["red", "green", "blue", "white"]):
        Image.new("RGB", (32, 32), name).save(tmp_path / "photos" / f"{i}.png")
        (tmp_path / "photos" / f"{i}.txt").write_text(f"a {name} square")
    model = create("tiny", tokenizer=train_tokenizer(["a red green blue white square"], 300), image_size=32)
    for data in (tmp_path / "photos", str(tmp_path / "photos")):
        assert train(CLIP(model), data, steps=1, batch_size=4, **QUIET).step == 1
    with pytest.raises(UserError, match="nowhere"):
        train(CLIP(model), tmp_path / "nowhere", steps=1, **QUIET)


def test_a_step_is_the_step_of_torch():
    """Three steps by hand: AdamW, clipping, the schedule."""
    config = TrainConfig(steps=3, lr=0.1, warmup=1, schedule="linear", clip_norm=0.5, weight_decay=0.2)
    run = train(Plain(), loader(3), config=config, **QUIET)

    method = Plain()
    groups = method.param_groups(0.2)
    optimizer = torch.optim.AdamW(groups, lr=0.1, betas=config.betas, eps=config.eps)
    for data, lr in zip(loader(3), (0.1, 0.1, 0.05), strict=True):
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.zero_grad()
        method(data)["loss"].backward()
        nn.utils.clip_grad_norm_(method.parameters(), 0.5)
        optimizer.step()
    for name, value in run.method.state_dict().items():
        torch.testing.assert_close(value, method.state_dict()[name])


def test_epochs_and_steps():
    assert train(Plain(), loader(4), epochs=2, **QUIET).step == 8
    assert train(Plain(), loader(4), epochs=0.5, **QUIET).step == 2
    assert train(Plain(), loader(4), epochs=3, accumulate=2, **QUIET).step == 6
    assert train(Plain(), loader(4), steps=7, **QUIET).step == 7
    with pytest.raises(UserError, match="length of this data is not known"):
        train(Plain(), (batch() for _ in range(3)), **QUIET)


def test_accumulated_batches_are_one_big_batch():
    big = {key: torch.cat([data[key] for data in loader(4)]) for key in ("index", "image")}
    one = weights(train(Plain(), [big], steps=1, **QUIET).method)
    four = weights(train(Plain(), loader(4), steps=1, accumulate=4, **QUIET).method)
    for name, value in one.items():
        torch.testing.assert_close(four[name], value)


def test_accumulated_batches_of_unequal_sizes_are_one_big_batch():
    """A small batch must not weigh as much as a large one: the mean of means is another gradient."""
    settings = {"steps": 1, "optimizer": "sgd", "lr": 1e-3, "clip_norm": None, "warmup": 0, "log_every": 1}
    unequal = [batch(12, 0), batch(3, 1)]
    big = {key: torch.cat([data[key] for data in unequal]) for key in ("index", "image")}
    one, two = train(Plain(), [big], **settings, **QUIET), train(Plain(), unequal, accumulate=2, **settings, **QUIET)
    for name, value in weights(one.method).items():
        torch.testing.assert_close(weights(two.method)[name], value)
    assert two.history[0]["loss"] == pytest.approx(one.history[0]["loss"], rel=1e-6)
    assert two.history[0]["grad_norm"] == pytest.approx(one.history[0]["grad_norm"], rel=1e-5)


def test_accumulation_takes_the_mean_and_not_the_sum():
    """Plain gradient descent without clipping: what Adam and clipping would forgive shows here."""
    settings = {"steps": 2, "optimizer": "sgd", "betas": (0.0, 0.9), "lr": 1e-3, "clip_norm": None, "warmup": 0}
    settings |= {"weight_decay": 0.0, "schedule": "constant", "log_every": 1}
    big = [{key: torch.cat([data[key] for data in part]) for key in ("index", "image")} for part in _pairs(loader(4))]
    one, two = train(Plain(), big, **settings, **QUIET), train(Plain(), loader(4), accumulate=2, **settings, **QUIET)
    for name, value in weights(one.method).items():
        torch.testing.assert_close(weights(two.method)[name], value)
    for mine, theirs in zip(two.history, one.history, strict=True):
        assert mine["loss"] == pytest.approx(theirs["loss"], rel=1e-6)
        assert mine["grad_norm"] == pytest.approx(theirs["grad_norm"], rel=1e-5)


def _pairs(batches):
    return [batches[i : i + 2] for i in range(0, len(batches), 2)]


class Restless(Pairs):
    """Changes its buffers whenever it is run and draws from every random stream."""

    def __init__(self):
        super().__init__(dropout=0.5)
        self.norm = nn.BatchNorm1d(5)
        self.register_buffer("queue", torch.zeros(4))

    def embed(self, data):
        self.queue += random.random() + float(np.random.rand()) + torch.rand(4)  # noqa: NPY002
        return super().embed(data | {"image": self.norm(data["image"])})


def test_validation_leaves_no_trace():
    def figures(method):
        assert not method.training
        method.train()
        outputs = [method(data) for data in loader(2)]
        method.eval()
        method.norm.train()
        return {"loss": outputs[0]["loss"].item()}

    def final(**options):
        return weights(train(Restless(), loader(), steps=10, ema=0.9, **options, **QUIET).method)

    alone, watched = final(), final(validation=figures, eval_every=1)
    assert all(torch.equal(watched[name], alone[name]) for name in alone)
    measured = final(validation=loader(2), eval_every=1)
    assert all(torch.equal(measured[name], alone[name]) for name in alone)


def test_validation_loss_is_the_mean_over_samples():
    method = Plain().eval()
    data = [batch(12, 0), batch(4, 1)]
    loss = validate(method, data, None)["val_loss"]
    with torch.no_grad():
        expected = (12 * method(data[0])["loss"] + 4 * method(data[1])["loss"]) / 16
    assert loss == pytest.approx(expected.item(), rel=1e-6)


def test_best_follows_the_monitored_figure(tmp_path):
    scores = iter([0.1, 0.5, 0.3])
    train(
        Plain(),
        loader(2),
        epochs=3,
        out=tmp_path,
        validation=lambda method: {"recall": next(scores)},
        monitor="val_recall",
        keep=1,
        **QUIET,
    )
    assert (tmp_path / "checkpoints" / "best").resolve().name == "step-00000004"
    with pytest.raises(UserError, match="validation gave only val_recall"):
        train(Plain(), loader(2), epochs=1, validation=lambda method: {"recall": 1.0}, monitor="val_typo", **QUIET)


def test_a_figure_that_is_none_is_never_the_best(tmp_path):
    """A model that collapsed may have NaN for a figure: before the best, after it, and as the only one."""
    for number, (figures, best) in enumerate(
        [([0.5, math.nan, 0.3], 4), ([math.nan, 0.1, math.nan], 8), ([math.nan], 4)]
    ):
        scores = iter(figures)
        out = tmp_path / str(number)
        watch = {"validation": lambda method, scores=scores: {"recall": next(scores)}, "monitor": "val_recall"}
        train(Plain(), loader(4), epochs=len(figures), out=out, keep=1, **watch, **QUIET)
        assert (out / "checkpoints" / "best").resolve().name == f"step-{best:08d}"


def test_a_run_may_end_with_its_best_weights(tmp_path):
    kept = []

    def validation(method):
        kept.append({name: value.clone() for name, value in method.state_dict().items()})
        return {"recall": [0.1, 0.5, 0.3][len(kept) - 1]}

    quick = {"epochs": 3, "monitor": "val_recall", "keep": 1, **QUIET}
    run = train(Plain(), loader(2), out=tmp_path / "run", validation=validation, final="best", **quick)
    assert all(torch.equal(value, kept[1][name]) for name, value in run.method.state_dict().items())
    assert any(not torch.equal(value, kept[2][name]) for name, value in run.method.state_dict().items())
    with pytest.raises(UserError, match=r"training\.final is best, but there is no validation data to find it by"):
        train(Plain(), loader(2), out=tmp_path / "blind", final="best", **QUIET)
    with pytest.raises(UserError, match="but there is no run folder to keep it in"):
        train(Plain(), loader(2), validation=validation, final="best", **quick)


class Breaks(Plain):
    def __init__(self, value, where):
        super().__init__()
        self.value, self.where = value, where

    def forward(self, data):
        loss = super().forward(data)["loss"]
        if 200 in data["index"]:
            if self.where == "loss":
                loss = loss * self.value
            else:
                loss.register_hook(lambda grad: grad * self.value)
        return {"loss": loss}


@pytest.mark.parametrize("where", ["loss", "gradient"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_the_run(value, where, tmp_path):
    method = Breaks(value, where)
    with pytest.raises(NotFinite, match=f"the {where} is not finite in step 3"):
        train(method, loader(), out=tmp_path, steps=10, save_every=1, **QUIET)
    record = json.loads((tmp_path / "not-finite-0.json").read_text())
    assert record["index"] == [batch(12, 2)["index"].tolist()]
    assert all(value.isfinite().all() for value in method.state_dict().values())
    assert (tmp_path / "checkpoints" / "last").resolve().name == "step-00000002"


def test_moving_average_of_the_weights():
    method = Plain()
    average = MovingAverage(method, 0.5)
    start = method.net[0].weight.detach().clone()
    with torch.no_grad():
        method.net[0].weight += 1
    average.update(method)  # the decay after one update: min(0.5, 2 / 11)
    with average.swapped_in(method):
        torch.testing.assert_close(method.net[0].weight, start + 9 / 11)
    assert torch.equal(method.net[0].weight, start + 1)
    run = train(Pairs(), loader(), steps=5, ema=0.999, lr=0.5, warmup=0, **QUIET)
    other = train(Pairs(), loader(), steps=5, lr=0.5, warmup=0, **QUIET)
    assert not torch.equal(run.method.image[0].weight, other.method.image[0].weight)


def test_what_does_not_fit_is_said_at_once():
    with pytest.raises(UserError, match="no training setting 'learning_rate'"):
        train(Pairs(), loader(), learning_rate=1)
    with pytest.raises(UserError, match="Did you mean 'batch_size'"):
        train(Pairs(), loader(), batchsize=1)
    with pytest.raises(UserError, match="raise batch_size and set chunk"):
        train(Pairs(), loader(), accumulate=2)
    with pytest.raises(UserError, match="use accumulate"):
        train(Plain(), loader(), chunk=2)
    with pytest.raises(UserError, match="gives no batch"):
        train(Plain(), [])
    with pytest.raises(UserError, match="gives no batch"):
        train(Plain(), iter(()), steps=2)
    with pytest.raises(UserError, match="no trainable parameter"):
        train(Plain().requires_grad_(False), loader())
    with pytest.raises(UserError, match="no tracker 'tensorbored'"):
        train(Plain(), loader(), trackers=["tensorbored"])
    with pytest.raises(UserError, match="at least 1"):
        TrainConfig(chunk=0)
    with pytest.raises(UserError, match=r"training\.lr must be above 0"):
        TrainConfig(lr=-1)
    with pytest.raises(UserError, match="between 0 and 1"):
        TrainConfig(ema=1.5)


def test_parameters_that_get_no_gradient():
    """An unused head must neither fail nor move."""
    method = Pairs()
    method.unused = nn.Linear(3, 3)
    before = method.unused.weight.detach().clone()
    train(method, loader(), steps=3, weight_decay=0.0, **QUIET)
    assert torch.equal(method.unused.weight, before)


def test_trackers(tmp_path):
    train(Plain(), loader(), out=tmp_path, steps=4, log_every=1, trackers=["tensorboard"], **QUIET)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "trackers"))
    events.Reload()
    assert [event.step for event in events.Scalars("loss")] == [1, 2, 3, 4]


def test_plain_lines_where_there_is_no_terminal(capsys):
    train(Plain(), loader(), steps=4, log_every=2, report=False)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("step 2/4  loss ")
    assert "samples_per_s" in lines[0]
    assert lines[0].endswith("left")


def test_random_state_survives_a_save(tmp_path):
    random_state.seed_everything(3)
    torch.save(random_state.state_dict(), tmp_path / "state.pt")
    expected = random.random(), np.random.rand(), torch.rand(1)  # noqa: NPY002
    random_state.seed_everything(4)
    random_state.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert (random.random(), np.random.rand(), torch.rand(1)) == expected  # noqa: NPY002


def test_objectives_draw_the_same_numbers_on_every_rank_and_each_step_others():
    drawn = []

    class Draws(Pairs):
        def objective(self, embeddings, data):
            drawn.append(torch.rand(1).item())
            return super().objective(embeddings, data)

    train(Draws(), loader(), steps=3, **QUIET)
    train(Draws(), loader(), steps=3, **QUIET)
    assert drawn[:3] == drawn[3:]
    assert len(set(drawn)) == 3


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_mixed_precision(precision):
    """bfloat16 and, with a loss scaler, float16: the towers run in it, the objective in float32, the weights stay."""
    calls = {}

    class Looks(Pairs):
        def embed(self, data):
            embeddings = super().embed(data)
            calls["embed"] = embeddings["image"].dtype
            return embeddings

        def objective(self, embeddings, data):
            calls["objective"] = embeddings["image"].dtype
            return super().objective(embeddings, data)

    run = train(Looks(), loader(), steps=40, lr=0.03, precision=precision, chunk=5, device="cpu", **QUIET)
    assert calls == {"embed": {"bf16": torch.bfloat16, "fp16": torch.float16}[precision], "objective": torch.float32}
    assert run.history[-1]["loss"] < 0.8 * run.history[0]["loss"]
    assert all(p.dtype == torch.float32 for p in run.method.parameters())


class Alone(Method):
    """One parameter, gradient 1: shows what the optimiser does."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.tensor([[2.0, 0.0], [0.0, 0.0]]))

    def forward(self, data):
        return {"loss": self.w.sum()}


def test_lamb_scales_the_step_to_the_weights():
    """First step of LAMB: m_hat / sqrt(v_hat) = 1 everywhere; with decay 0.5 the direction is [[2, 1], [1, 1]]."""
    run = train(
        Alone(), [{"index": torch.arange(1)}], steps=1, optimizer="lamb", lr=0.1, warmup=0, weight_decay=0.5, **QUIET
    )
    direction = torch.tensor([[2.0, 1.0], [1.0, 1.0]])
    expected = torch.tensor([[2.0, 0.0], [0.0, 0.0]]) - 0.1 * 2.0 / direction.norm() * direction
    torch.testing.assert_close(run.method.w.detach(), expected, rtol=1e-5, atol=1e-6)


def test_groups_with_their_own_rate():
    class Slow(Plain):
        def param_groups(self, weight_decay):
            return [
                {"params": list(self.net[0].parameters()), "weight_decay": 0.0, "lr_scale": 0.0},
                {"params": list(self.net[2].parameters()), "weight_decay": 0.0},
            ]

    method = Slow()
    before = weights(method)
    after = weights(train(method, loader(), steps=2, optimizer="sgd", **QUIET).method)
    assert torch.equal(after["net.0.weight"], before["net.0.weight"])
    assert not torch.equal(after["net.2.weight"], before["net.2.weight"])


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [("cosine", [0.5, 1, 1, 0.75, 0.25]), ("linear", [0.5, 1, 1, 2 / 3, 1 / 3]), ("constant", [0.5, 1, 1, 1, 1])],
)
def test_schedules(schedule, expected):
    config = {"steps": 5, "warmup": 2, "schedule": schedule, "lr": 1.0, "log_every": 1}
    rows = train(Plain(), loader(), **config, **QUIET).history
    np.testing.assert_allclose([row["lr"] for row in rows], expected, rtol=1e-12)
