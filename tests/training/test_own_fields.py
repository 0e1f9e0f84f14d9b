"""A model of a modality that nearfar does not know trains from a source, by the fields it says it reads."""

import pytest
import torch
from torch import nn

from nearfar import train
from nearfar.data import BatchKey, Field, Records
from nearfar.methods.base import EmbeddingMethod

QUIET = {"progress": False, "report": False, "warmup": 0, "schedule": "constant"}


class Waveform(Field):
    columns = ("sound",)

    def __init__(self, length, *, random):
        self.length, self.random, self.keys = length, random, {"waveform": BatchKey()}

    def prepare(self, record, chance):
        start = chance.number("waveform") % (len(record["sound"]) - self.length) if self.random else 0
        return record["sound"][start : start + self.length]

    def collate(self, parts, chance):
        return {"waveform": torch.stack(parts)}


class Ear(nn.Module):
    """It has no picture size and no tokenizer: its batches hold sound alone."""

    def __init__(self):
        super().__init__()
        self.tower, self.made_for = nn.Linear(8, 2), []

    def fields(self, training):
        self.made_for.append(training)
        return [Waveform(8, random=training)]


class Listening(EmbeddingMethod):
    def __init__(self, model):
        super().__init__()
        self.model, self.keys = model, set()

    def embed(self, batch):
        self.keys |= set(batch)
        return {"sound": self.model.tower(batch["waveform"])}

    def objective(self, embeddings, batch):
        return {"loss": nn.functional.cross_entropy(embeddings["sound"], batch["label"])}


def songs(n=24):
    """The two classes differ in the sign of their samples."""
    noise = torch.rand(n, 40, generator=torch.Generator().manual_seed(0))
    return Records([{"sound": noise[i] * (1 if i % 2 else -1), "label": i % 2} for i in range(n)])


@pytest.mark.parametrize("chunk", [None, 3])
def test_it_learns_from_a_source(chunk):
    torch.manual_seed(0)
    method = Listening(Ear())
    run = train(
        method, songs(), validation=songs(), batch_size=8, steps=30, lr=0.1, chunk=chunk, eval_every=30, **QUIET
    )
    assert method.model.made_for == [True, False]
    assert method.keys == {"index", "group", "label", "waveform"}
    assert run.history[-1]["val_loss"] < 0.05


def test_chunks_change_no_weight():
    weights = []
    for chunk in (None, 3):
        torch.manual_seed(0)
        method = Listening(Ear())
        train(method, songs(), batch_size=8, steps=4, lr=0.1, chunk=chunk, **QUIET)
        weights.append(method.model.tower.weight.detach())
    torch.testing.assert_close(*weights, rtol=1e-5, atol=1e-6)
