"""A method with a temperature of its own for each sample, as iSogCLR has, and runs of it, stopped and shared."""

from __future__ import annotations

from typing import Any

import torch
from PIL import Image
from torch import Tensor

from nearfar import distributed as processes
from nearfar import train
from nearfar.data import Records, train_tokenizer
from nearfar.embedding.features import precompute
from nearfar.losses.groups import unit
from nearfar.methods.base import EmbeddingMethod
from nearfar.methods.parts.pairs import embed_pairs
from nearfar.methods.parts.pending import Pending
from nearfar.methods.parts.sample_table import SampleTable
from nearfar.models import create

WORDS = ("red", "green", "blue", "white", "black")


class Stop(Exception):
    pass


class OwnTemperatures(EmbeddingMethod):
    """tau_i follows how hard sample i is: tau_i <- 0.5 tau_i + 0.5 |cos(x_i, y_i) - 1|; `visits` counts its steps."""

    reads = ("index",)

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.table = SampleTable(tau=0.5, visits=0.0)
        self.pending: Pending = Pending()
        self.epochs: list = []

    def embed(self, batch):
        return embed_pairs(self.model, batch)

    def objective(self, embeddings, batch):
        ids = batch["index"]
        x, y = unit(embeddings["image"]), unit(embeddings["text"])
        tau = self.table.read("tau", ids)
        loss = torch.nn.functional.cross_entropy(x @ y.T / (0.1 + tau[:, None]), torch.arange(len(ids)))
        hard = (1 - (x * y).sum(1)).detach()
        self.pending.after_backward(loss, (ids, 0.5 * tau + 0.5 * hard, self.table.read("visits", ids) + 1))
        return {"loss": loss}

    def before_step(self):
        self.pending.take()

    def after_step(self, step):
        super().after_step(step)
        for ids, tau, visits in self.pending.take():
            self.table.write(ids, gather=False, tau=tau, visits=visits)

    def after_epoch(self, epoch, refresh):
        before = torch.get_rng_state()
        embeddings = refresh()
        assert torch.equal(torch.get_rng_state(), before)
        assert self.training
        self.epochs.append((epoch, embeddings["index"].tolist(), embeddings["image"].numpy(), torch.rand(1).item()))


def source(count: int = 26) -> Records:
    """Records with ids of their own, in no order, of which every second one is kept."""
    whole = Records(
        {"image": Image.new("RGB", (12, 12), (9 * i, 255 - 9 * i, 5 * i)), "text": f"a {WORDS[i % 5]} square",
         "label": i, "index": 1000 - 7 * i}
        for i in range(2 * count)
    )  # fmt: skip
    return whole.filter(lambda record: record["label"] % 2 == 1)  # type: ignore[return-value]


def method(freeze: bool = False) -> OwnTemperatures:
    torch.manual_seed(3)
    image = {"model_type": "convnext", "num_stages": 2, "hidden_sizes": [8, 16], "depths": [1, 1]}
    text = {"model_type": "bert", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
            "intermediate_size": 16, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}  # fmt: skip
    tokenizer = train_tokenizer([f"a {word} square" for word in WORDS], 300)
    model = create(image=image, text=text, tokenizer=tokenizer, image_size=16, embed_dim=8)
    return OwnTemperatures(model.freeze("image") if freeze else model)


def trained(out: str, stop: int = 0, features: bool = False, count: int = 26) -> dict:
    """7 steps of 8 of 26 samples: two epochs and a step. With `stop`, end after that many and go on."""
    torch.set_num_threads(1)
    # At larger rates this little model makes 1e-4 of how one process and two round a gradient, on some processors.
    common: dict[str, Any] = {"out": out, "steps": 7, "batch_size": 8, "lr": 0.01, "optimizer": "sgd", "save_every": 1}
    common |= {"progress": False, "report": False}

    def data(made: OwnTemperatures) -> Any:
        if not features:
            return source(count)
        share = {"rank": processes.rank(), "world_size": processes.world_size()}
        return precompute(made.model, source(count), batch_size=8 // processes.world_size(), **share)

    epochs = []
    if stop:
        stopped = method(features)
        original = type(stopped).after_step

        def after_step(step: int) -> None:
            original(stopped, step)
            if step == stop + 1:  # the step before is saved
                raise Stop

        stopped.after_step = after_step  # type: ignore[method-assign]
        try:
            train(stopped, data(stopped), **common)
        except Stop:
            epochs = stopped.epochs
    last = method(features)
    run = train(last, data(last), resume=bool(stop), **common)
    state = {name: value.numpy() for name, value in run.method.state_dict().items()}
    return {"state": state, "epochs": [*epochs, *last.epochs]}


def written() -> dict[str, Tensor]:
    """A table after each rank has written its own samples, one of them on both."""
    from nearfar.data.batches.data_info import DataInfo

    table = SampleTable(u=0.0)
    table.begin(DataInfo.of(source(6)))
    ids = torch.tensor(source(6).ids())
    mine = torch.cat([ids[2 * processes.rank() : 2 * processes.rank() + 2], ids[4:5]])
    table.write(mine, u=mine.float() + processes.rank() / 10)
    return {"u": table.u.numpy(), "ids": table.ids.numpy()}
