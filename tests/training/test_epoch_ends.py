"""An epoch's end is told once, after the step that used its last batch: with and without a length, and after a stop."""

from itertools import islice

import pytest
import torch
from toy import Pairs, batch

from nearfar import train
from nearfar.training.adapters import for_trainer, lightning_module
from nearfar.training.state.endless_batches import EndlessBatches

QUIET = {"progress": False, "report": False}


class Counted(Pairs):
    def __init__(self) -> None:
        super().__init__()
        self.notes: list = []

    def begin(self, data):
        self.notes.append(("begin", data.size))

    def after_step(self, step):
        super().after_step(step)
        self.notes.append(step)

    def after_epoch(self, epoch, refresh):
        embeddings = refresh()
        assert torch.equal(embeddings["index"], torch.cat([each["index"] for each in BATCHES]))
        assert embeddings["image"].shape == (36, 6)
        self.notes.append(f"epoch {epoch}")


class NoLength:
    """Three batches an epoch, which is not known before; with a place that can be saved."""

    def __init__(self) -> None:
        self.place, self.read = 0, 0

    def __iter__(self):
        start, self.place = self.place, 0
        for i in range(start, 3):
            self.place, self.read = i + 1, self.read + 1
            yield batch(12, i)
        self.place = 0

    def state_dict(self):
        return {"place": self.place}

    def load_state_dict(self, state):
        self.place = state["place"]


BATCHES = [batch(12, i) for i in range(3)]
EXPECTED = [("begin", None), 1, 2, 3, "epoch 0", 4, 5, 6, "epoch 1"]


@pytest.mark.parametrize("steps", [6, 7])
def test_the_end_of_each_epoch(steps):
    method = Counted()
    train(method, BATCHES, steps=steps, **QUIET)
    assert method.notes == EXPECTED + [7] * (steps == 7)


def test_data_without_a_length():
    class Plain:
        def __iter__(self):
            return iter(BATCHES)

    method = Counted()
    train(method, Plain(), steps=6, **QUIET)
    assert method.notes == EXPECTED


def test_looking_ahead_does_not_move_the_place():
    loader = NoLength()
    batches = EndlessBatches(loader)
    handed = [b["image"] for b in islice(iter(batches), 2)]
    assert batches.finished() == 0
    assert loader.read == 3
    again = EndlessBatches(NoLength())
    again.load_state_dict(batches.state_dict())
    iterator = iter(again)
    torch.testing.assert_close(next(iterator)["image"], batch(12, 2)["image"])
    assert not torch.equal(handed[1], batch(12, 2)["image"])
    assert again.finished() == 1


def test_a_run_that_is_resumed_at_an_epochs_end_tells_it_once(tmp_path):
    settings = {"out": tmp_path / "run", "save_every": 1, "keep": 9, **QUIET}
    first = Counted()
    train(first, BATCHES, steps=3, **settings)
    second = Counted()
    train(second, BATCHES, steps=6, resume=True, **settings)
    assert first.notes + second.notes[1:] == EXPECTED


def test_under_the_trainer_of_transformers(tmp_path):
    from transformers import Trainer, TrainingArguments

    method = Counted()
    arguments = TrainingArguments(
        str(tmp_path), per_device_train_batch_size=1, max_steps=6, remove_unused_columns=False, report_to=[],
        save_strategy="no", use_cpu=True, disable_tqdm=True,
    )  # fmt: skip
    Trainer(args=arguments, **for_trainer(method, BATCHES)).train()
    assert [notes for notes in method.notes if notes != "epoch 1"] == [
        notes for notes in EXPECTED if notes != "epoch 1"
    ]


def test_under_lightning(tmp_path):
    lightning = pytest.importorskip("lightning")
    method = Counted()
    trainer = lightning.Trainer(
        max_steps=6, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        default_root_dir=tmp_path, enable_model_summary=False,
    )  # fmt: skip
    loader = torch.utils.data.DataLoader(BATCHES, batch_size=None)
    trainer.fit(lightning_module(method, steps=6, loader=BATCHES), loader)
    assert method.notes == EXPECTED
