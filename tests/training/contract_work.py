"""Methods that read what no paper so far reads, and what the ranks do with them."""

from __future__ import annotations

import torch
from torch import nn

from nearfar import distributed as processes
from nearfar import train
from nearfar.data.batches.batch import rows
from nearfar.methods.base import EmbeddingMethod
from nearfar.training.loop.gradients import backward


class Replay(EmbeddingMethod):
    """Reads where each view lies in its picture, `[V, B, 3, 3]`, and which samples are old, `[B]`."""

    reads = ("index", "geometry", "is_replay")

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.tower = nn.Linear(3, 2, dtype=torch.float64)

    def embed(self, batch):
        return {"image": self.tower(batch["image"])}

    def objective(self, embeddings, batch):
        scale = batch["geometry"][:, :, 0, 0].prod(0) * (1 + batch["is_replay"])  # (B,)
        order = batch["index"].double() + 1
        return {
            "loss": (embeddings["image"].square().sum(1) * scale / order).mean(),
            "samples": torch.tensor(float(len(scale))),
        }


def replay_batch(n: int = 8) -> dict:
    g = torch.Generator().manual_seed(3)
    return {
        "geometry": torch.rand(
            2, n, 3, 3, generator=g, dtype=torch.float64
        ),  # first, so that sizes are not read off it
        "image": torch.randn(n, 3, generator=g, dtype=torch.float64),
        "index": torch.arange(n),
        "is_replay": torch.arange(n) % 3 == 0,
    }


def mine(batch: dict, n: int = 8) -> dict:
    share = n // processes.world_size()
    return rows(batch, processes.rank() * share, (processes.rank() + 1) * share, n)


def replayed(chunk: int | None) -> tuple[float, list, float]:
    """Loss and gradient of a shared-out batch, and the validation loss of a run, which every rank measures whole."""
    method = Replay()
    scalars = backward(method, mine(replay_batch()), chunk=chunk)
    processes.average_gradients(list(method.parameters()))
    gradient = method.tower.weight.grad.tolist()
    settings = {"lr": 1e-30, "progress": False, "report": False, "precision": "no"}
    run = train(Replay(), [mine(replay_batch())], steps=1, validation=[replay_batch()], **settings)
    return processes.mean(scalars)["loss"].item(), gradient, run.metrics["val_loss"]


class Texts(Replay):
    """Reads tokens, which each rank pads to its own longest."""

    reads = ("text",)

    def objective(self, embeddings, batch):
        return {"loss": embeddings["image"].mean() * batch["text"]["input_ids"].sum()}


def ragged(lengths: tuple[int, ...]) -> float | str:
    """The loss over texts of this length on each rank, or why there is none."""
    length = lengths[processes.rank()]
    batch = mine(replay_batch()) | {"text": {"input_ids": torch.ones(4, length, dtype=torch.long)}}
    try:
        return backward(Texts(), batch)["loss"].item()
    except ValueError as error:
        return str(error)


def begun() -> dict:
    """What a method gets to know of its data, and what it draws then."""
    from nearfar.data import Loader, Records

    class Knows(Replay):
        reads = ("index",)
        model = None

        def begin(self, data):
            super().begin(data)
            calls.append((data.size, data.ids.tolist(), data.classes, data.fingerprint, torch.rand(1).item()))

        def embed(self, batch):
            return {"image": self.tower(batch["label"][:, None].double().expand(-1, 3))}

        def objective(self, embeddings, batch):
            return {"loss": embeddings["image"].square().mean()}

    calls: list = []
    pets = Records([{"text": f"pet {i}", "label": i % 2} for i in range(20)], classes=["cat", "dog"])
    share = {"batch_size": 4 // processes.world_size(), "rank": processes.rank(), "world_size": processes.world_size()}
    loader = Loader(pets.filter(lambda record: record["label"] == 1), **share)
    train(Knows(), loader, steps=2, progress=False, report=False)
    return {"calls": calls}
