"""A toy method and data that the tests of training share."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from nearfar.methods.base import EmbeddingMethod, Method


class Pairs(EmbeddingMethod):
    """Two linear towers and plain InfoNCE with a learned temperature; dropout and a queue-like buffer on request."""

    def __init__(self, dropout: float = 0.0, width: int = 6) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.image = nn.Sequential(nn.Linear(5, 16), nn.Tanh(), nn.Dropout(dropout), nn.Linear(16, width))
        self.text = nn.Sequential(nn.Embedding(50, 16), nn.Flatten(), nn.Dropout(dropout), nn.Linear(48, width))
        self.logit_scale = nn.Parameter(torch.tensor(1.5))
        self.register_buffer("last_steps", torch.zeros(3))

    def embed(self, batch):
        return {"image": self.image(batch["image"]), "text": self.text(batch["text"]["input_ids"])}

    def objective(self, embeddings, batch):
        image, text = (F.normalize(embeddings[name], dim=-1) for name in ("image", "text"))
        logits = self.logit_scale.exp() * image @ text.T
        target = torch.arange(len(logits))
        loss = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
        return {"loss": loss, "temperature": (-self.logit_scale).exp().detach()}

    def after_step(self, step):
        self.last_steps[step % 3] = step


class Noisy(Pairs):
    """Pairs whose objective drops numbers of the gathered embeddings, and adds others."""

    def objective(self, embeddings, batch):
        dropped = {name: F.dropout(value, 0.4) for name, value in embeddings.items()}
        dropped["text"] = dropped["text"] + torch.rand(len(dropped["text"]), 1)
        return super().objective(dropped, batch)


class Plain(Method):
    """Regression with batch statistics: no embeddings."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.net = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 1))

    def forward(self, batch):
        return {"loss": (self.net(batch["image"])[:, 0] - batch["image"].sum(1)).square().mean()}


def batch(n: int = 12, seed: int = 0) -> dict:
    generator = torch.Generator().manual_seed(seed)
    return {
        "index": torch.arange(n) + 100 * seed,
        "image": torch.randn(n, 5, generator=generator),
        "text": {"input_ids": torch.randint(0, 50, (n, 3), generator=generator)},
    }


def loader(batches: int = 4, n: int = 12) -> list[dict]:
    return [batch(n, seed) for seed in range(batches)]


def gradients(method: Method) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in method.named_parameters() if p.grad is not None}


class Deep(Pairs):
    """The toy pairs with stages of layers in `ModuleList`s, which full sharding splits one by one."""

    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.ModuleList(Stage() for _ in range(2))

    def embed(self, batch):
        embeddings = super().embed(batch)
        for stage in self.stages:
            embeddings = {name: stage(value) for name, value in embeddings.items()}
        return embeddings


class Stage(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Sequential(nn.Linear(6, 24), nn.GELU(), nn.Linear(24, 6)) for _ in range(2))

    def forward(self, x):
        for layer in self.layers:
            x = x + layer(x)
        return x
