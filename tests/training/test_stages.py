"""Stages in Python: killed at any moment and resumed, they end with the bits of ones that were never stopped."""

import json
import random
import shutil
import signal
import time
from dataclasses import replace

import pytest
import ranks
import torch
from stage_work import STEPS, Slow, in_hand
from toy import Pairs, batch, loader

from nearfar import files
from nearfar.data import Records
from nearfar.errors import UserError
from nearfar.training import Stage, TrainConfig, run_stages
from nearfar.training.stages import columns
from nearfar.training.stages.joined_columns import fields_of, join
from nearfar.training.state import run_checkpoint

QUICK = TrainConfig(steps=2, progress=False, report=False, lr=0.05)


def weights(out):
    """All that the two stages end with."""
    names = ("method.safetensors", "average.safetensors", "optimizer.pt")
    folders = (out / "1-first", out / "2-second")
    return {(f.name, name): (f / "checkpoints" / "last" / name).read_bytes() for f in folders for name in names}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The run that was never stopped."""
    out = tmp_path_factory.mktemp("whole") / "run"
    in_hand(out)
    return out


class Stop(BaseException):
    """Stands for a kill: nothing catches it."""


def test_the_second_stage_begins_where_the_first_ended(whole, monkeypatch):
    """Also where a moving average is what the first ended with; else the second stage would show nothing."""
    first = Pairs(dropout=0.3)
    run_checkpoint.load_weights(whole / "1-first" / "checkpoints" / "last", first)
    began = {}

    def take(self, batch):
        began.update({name: value.clone() for name, value in self.state_dict().items()})
        raise Stop

    monkeypatch.setattr(Slow, "embed", take)
    other = whole.parent / "other"
    shutil.copytree(whole / "1-first", other / "1-first", symlinks=True)
    with pytest.raises(Stop):
        in_hand(other)
    for name in ("image.0.weight", "text.3.bias"):
        assert torch.equal(began[name], first.state_dict()[name])


@pytest.mark.parametrize("seed", range(3))
def test_killed_outright_in_the_second_stage(seed, whole, tmp_path):
    """SIGKILL at random moments after the first stage's last step: at the boundary, in steps, while writing."""
    out, draw, left = tmp_path / "run", random.Random(seed), 3
    while left:
        process = ranks.server().Process(target=in_hand, args=(out,), kwargs={"slow": 0.03})
        process.start()
        deadline = time.monotonic() + 100
        while not (out / "1-first/checkpoints/step-00000004").exists() and time.monotonic() < deadline:
            time.sleep(0.002)
        time.sleep(draw.uniform(0.0, 0.5))
        process.kill()  # SIGKILL, unless it has ended
        process.join()
        assert process.exitcode in (0, -signal.SIGKILL)
        left -= 1
        if process.exitcode == 0:  # it came to its end before
            shutil.rmtree(out / "2-second")
    in_hand(out)
    assert weights(out) == weights(whole)


@pytest.mark.parametrize("call", range(3, 66, 7))
def test_stopped_at_a_write(call, whole, tmp_path, monkeypatch):
    """Stops in the `call`-th operation on the disk, wherever that is: model, mark, checkpoint, link."""
    out, count = tmp_path / "run", 0

    def counted(original):
        def operation(*args, **options):
            nonlocal count
            count += 1
            if count == call:
                raise Stop
            return original(*args, **options)

        return operation

    with monkeypatch.context() as patch:
        for name in ("sync", "point", "replace_folder", "write"):
            patch.setattr(files, name, counted(getattr(files, name)))
        with pytest.raises(Stop):
            in_hand(out)
    in_hand(out)
    assert weights(out) == weights(whole)


def test_a_finished_stage_is_never_run_again(whole, tmp_path, monkeypatch):
    out = tmp_path / "run"
    shutil.copytree(whole, out, symlinks=True)
    shutil.rmtree(out / "2-second")
    written = (out / "1-first" / "history.jsonl").stat().st_mtime_ns
    ran = []
    monkeypatch.setattr(Slow, "after_step", lambda self, step: ran.append(step))
    monkeypatch.setattr(Pairs, "after_step", lambda self, step: pytest.fail("the first stage was trained again"))
    in_hand(out)
    assert ran == list(range(1, STEPS + 1))
    assert (out / "1-first" / "history.jsonl").stat().st_mtime_ns == written
    in_hand(out)
    assert len(ran) == STEPS


def test_a_stage_that_fails_leaves_the_first_whole(tmp_path):
    def broken(previous):
        raise RuntimeError("no such thing")

    first = Stage("first", Pairs(), loader(), config=QUICK)
    with pytest.raises(RuntimeError, match="no such thing"):
        run_stages([first, Stage("second", broken, loader(), config=QUICK)], tmp_path / "run")
    mark = json.loads((tmp_path / "run/1-first/stage.json").read_text())
    assert mark == {"stage": "first", "finished": True}
    kept = {path: path.read_bytes() for path in (tmp_path / "run/1-first").rglob("*.safetensors")}
    assert kept
    second = Stage("second", lambda previous: previous.restore(Pairs()), loader(), config=QUICK)
    with pytest.raises(UserError, match="already holds a run: resume it"):
        run_stages([first, second], tmp_path / "run")
    done = run_stages([first, second], tmp_path / "run", resume=True)
    assert [stage.name for stage in done] == ["first", "second"]
    assert done[1].before == (done[0],)
    assert {path: path.read_bytes() for path in kept} == kept


def test_one_report_of_all_stages(tmp_path):
    config = TrainConfig(steps=4, log_every=1, progress=False, lr=0.05)
    run_stages([Stage(name, Pairs(), loader(), config=config) for name in ("heads", "whole")], tmp_path)
    text = (tmp_path / "report.html").read_text()
    assert "Stage heads" in text
    assert "Stage whole" in text
    assert text.count("loss over training steps") == 2


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a", "a"], "two stages are called 'a'"),
        (["../a"], r"stage 1 is called '\.\./a': a name is of letters"),
        (["a", "previous"], "stage 2 is called 'previous'"),
        ([], "there is no stage"),
    ],
)
def test_names_that_are_none(names, message, tmp_path):
    with pytest.raises(UserError, match=message):
        run_stages([Stage(name, Pairs(), loader(), config=QUICK) for name in names], tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_settings_of_all_stages_are_checked_before_the_first_runs(tmp_path):
    bad = TrainConfig(steps=2, accumulate=2)
    with pytest.raises(UserError, match="accumulate would cut the negatives"):
        run_stages([Stage("a", Pairs(), loader(), config=QUICK), Stage("b", Pairs(), loader(), config=bad)], tmp_path)
    assert not list(tmp_path.iterdir())


def records(ids):
    return Records([{"index": i, "text": f"number {i}"} for i in ids], name="numbers")


def test_columns_are_joined_by_record_id(tmp_path):
    """Whatever the order and the part of the data that the later stage reads."""
    recorded = {}

    class Data:
        """Batches of a source, as a loader has them."""

        source = records([30, 10, 20])

        def __iter__(self):
            return iter([batch(12)])

        def __len__(self):
            return 1

    def tens(model, source):
        return [record["index"] // 10 for record in source]

    def vectors(model, source):
        return torch.tensor([[record["index"], 0.5] for record in source])

    def data(previous):
        joined = previous.join(records([20, 30]).map(dict), {"label": "tens", "features": "vectors"})
        recorded["all"] = list(joined)
        return loader()

    keep = {"tens": tens, "vectors": vectors}
    stages = [Stage("a", Pairs(), Data(), config=QUICK, keep=keep), Stage("b", Pairs(), data, config=QUICK)]
    run_stages(stages, tmp_path)
    first, second = recorded["all"]
    assert (first["index"], first["label"], first["features"].tolist()) == (20, 2, [20.0, 0.5])
    assert (second["index"], second["label"], second["features"].tolist()) == (30, 3, [30.0, 0.5])


def test_records_that_a_column_lacks_are_left_out_and_counted(tmp_path):
    """Those whose picture is broken have no embedding; too many are an error."""

    def words(model, source):
        return [None if record["index"] == 3 else f"pseudo {record['index']}" for record in source]

    columns.save(tmp_path, {"words": words, "size": lambda m, source: [0.5] * len(source)}, None, records(range(10)))
    names = {"text": (tmp_path, "words"), "size": (tmp_path, "size")}
    joined = join(records(range(10)), names)
    assert [record["text"] for record in joined] == [f"pseudo {i}" for i in range(10) if i != 3]
    assert [record["index"] for record in joined] == [0, 1, 2, 4, 5, 6, 7, 8, 9]
    assert str(joined.skipped.problems[0]) == f"record 3: {tmp_path.name}/words has nothing for it"
    assert [(field.name, type(field).__name__) for field in fields_of(joined)] == [("size", "NumberField")]
    with pytest.raises(UserError, match="1 of the 5 records of numbers are missing"):
        join(records(range(5)), names)
    with pytest.raises(UserError, match="4 of the 4 records"):
        join(records(range(50, 54)), names)


def test_columns_that_cannot_be_joined(tmp_path):
    columns.save(tmp_path, {"one": lambda model, source: [1, 2]}, None, records([0, 1]))
    with pytest.raises(UserError, match="computed of numbers, and the data here is others"):
        join(records([0, 1]).select([0], name="others"), {"label": (tmp_path, "one")})
    with pytest.raises(UserError, match=r"no column 'two'. There are: one"):
        join(records([0]), {"label": (tmp_path, "two")})
    with pytest.raises(UserError, match="that stage kept no columns"):
        join(records([0]), {"label": (tmp_path / "nowhere", "one")})
    with pytest.raises(UserError, match="must return 2 values, one a record, not 3"):
        columns.save(tmp_path, {"one": lambda model, source: [1, 2, 3]}, None, records([0, 1]))
    with pytest.raises(UserError, match="records with the same 'index'"):
        columns.save(tmp_path, {"one": lambda model, source: [1, 2]}, None, records([7, 7]))


def labelled(shift=0):
    """Ten records that differ in what they hold, and not in name, size or ids, from those of another `shift`."""
    return Records([{"index": i, "text": f"number {i + shift}"} for i in range(10)], name="numbers")


def test_columns_know_their_data_by_size_and_content(tmp_path):
    columns.save(tmp_path, {"one": lambda model, source: list(range(len(source)))}, None, labelled())
    names = {"label": (tmp_path, "one")}
    assert join(labelled(), names).column("label") == list(range(10))
    assert join(labelled().select([3, 1]), names).column("label") == [3, 1], "a part of the data"
    moved = labelled().select(range(10), name="elsewhere/numbers")
    assert join(moved, names).column("label") == list(range(10)), "the same data under another path"
    for other in (labelled(1), labelled(1).select([4, 5])):
        sizes = rf"\(10 records, fingerprint [0-9a-f]+; here {len(other)} records, fingerprint [0-9a-f]+\)"
        with pytest.raises(UserError, match=rf"computed of numbers, and the data here is numbers {sizes}"):
            join(other, names)
    # Columns on top of columns are still of the first data.
    second = tmp_path / "second"
    columns.save(second, {"two": lambda model, source: [9] * len(source)}, None, join(labelled(), names))
    assert join(labelled(), {"label": (tmp_path, "one"), "two": (second, "two")})[7]["two"] == 9


def test_columns_of_validation_data(tmp_path):
    """A stage computes them of both; clusters are those of the training data."""

    class Line:
        """Embeds `1 ... 9` as points on a quarter of a circle."""

        embed_dim = 2

        def tokenize(self, texts):
            return torch.tensor([float(text) for text in texts])

        def encode_text(self, tokens, normalize=False):
            return torch.stack([torch.cos(tokens / 6), torch.sin(tokens / 6)], 1)

    def data(values, name):
        return Records([{"text": str(value)} for value in values], name=name)

    train, held_out = data([1, 1.5, 2, 8, 8.5, 9], "train"), data([8.2, 1.2], "held out")
    columns.save(tmp_path, {"cluster": {"of": "text", "clusters": 2}}, Line(), train, held_out)
    names = {"label": (tmp_path, "cluster")}
    low, high = join(train, names).column("label")[0], join(train, names).column("label")[-1]
    assert low != high
    assert join(held_out, names, part="validation").column("label") == [high, low]
    with pytest.raises(UserError, match="computed of held out, and the data here is train"):
        join(train, names, part="validation")
    (tmp_path / "columns-validation.parquet").unlink()
    with pytest.raises(UserError, match="that stage kept no columns of validation data"):
        join(held_out, names, part="validation")


class Reads(Pairs):
    """Pairs over records of numbers, which notes the labels of its batches."""

    def __init__(self):
        super().__init__()
        self.recorded = {True: [], False: []}

    def embed(self, batch):
        self.recorded[self.training] += batch["label"].tolist()
        return {"image": self.image[0].bias * batch["extra"].float()[:, None]}

    def objective(self, embeddings, batch):
        return {"loss": embeddings["image"].square().mean()}


def test_stages_in_hand_pass_columns_to_validation(tmp_path):
    class Texts(torch.nn.Module):
        def fields(self, training):
            return []

    def tens(model, source):
        return [record["index"] // 10 for record in source]

    def halves(model, source):
        return [record["index"] / 2 for record in source]

    train, held_out = records([10, 20, 30, 40]), records([50, 60])
    held_out.name = "held out"
    second = Reads()
    second.model = Texts()
    second.model.one = torch.nn.Parameter(torch.zeros(1))
    keep = {"tens": tens, "halves": halves}
    config = TrainConfig(steps=2, batch_size=4, eval_every=2, progress=False, report=False, monitor="val_loss")

    class Data:
        source = train

        def __iter__(self):
            return iter([batch(12)])

        def __len__(self):
            return 1

    class HeldOut(Data):
        source = held_out

    stages = [
        Stage("a", Pairs(), Data(), HeldOut(), config, keep=keep),
        Stage("b", second, train, held_out, config, columns={"label": "previous/tens", "extra": "a/halves"}),
    ]
    run_stages(stages, tmp_path)
    assert sorted(set(second.recorded[True])) == [1, 2, 3, 4]
    assert sorted(second.recorded[False]) == [5, 6]
    with pytest.raises(UserError, match=r"stage 'b', columns.label: no kept column 'previous/ten'. Did you mean 'prev"):
        run_stages([stages[0], Stage("b", second, train, columns={"label": "previous/ten"})], tmp_path / "other")


def test_the_best_checkpoint_of_a_stage(tmp_path):
    """The loss on the validation data rises after the first step: the best is not the last."""
    figures = iter([3.0, 1.0, 2.0])
    config = TrainConfig(steps=3, eval_every=1, progress=False, report=False, lr=0.05, monitor="val_loss")
    first = Pairs()
    (stage,) = run_stages([Stage("a", first, loader(), lambda method: {"loss": next(figures)}, config)], tmp_path)
    best = stage.restore(Pairs(), best=True)
    expected = run_checkpoint.weights(stage.folder / "checkpoints" / "step-00000002")
    for name, value in best.state_dict().items():
        assert torch.equal(value, expected[name])
    assert not torch.equal(best.image[0].weight, stage.restore(Pairs()).image[0].weight)
    figures = iter([3.0, 1.0, 2.0])
    ends = replace(config, final="best")
    (ended,) = run_stages([Stage("a", Pairs(), loader(), lambda method: {"loss": next(figures)}, ends)], tmp_path / "e")
    for name, value in ended.restore(Pairs()).state_dict().items():
        assert torch.equal(value, expected[name]), "it ended with its best weights"
    (never,) = run_stages([Stage("b", Pairs(), loader(), config=QUICK)], tmp_path / "never")
    with pytest.raises(UserError, match="'b' has no best checkpoint, as it was not validated"):
        never.restore(Pairs(), best=True)
