"""SepCLR (arXiv 2402.11928): what a background and a target set share goes to one space, what only the target has to
another; k-JEM and the information-less term each do their part.

Background: emojis at half their strength; target: such emojis with a mark over them, one of eight. A frozen tower reads
them, and every arm trains the same two small encoders on what it read. What each space tells of the mark and of the
drawing style, of things that training never shows, is the accuracy of a logistic regression on it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from nearfar.losses import AlignmentUniformity
from nearfar.methods.base import Batch, Method
from nearfar.methods.image.sepclr import SepCLR
from nearfar.reproductions.setups.marked_features import CONFIG as DATA
from nearfar.reproductions.setups.marked_features import MarkedFeatures, TwoSpaces, ViewPairs, features
from nearfar.reproductions.shared.choosing import Grid, Setting
from nearfar.reproductions.shared.claims import Arms, Claim, Reproduction
from nearfar.reproductions.shared.per_query import PerQuery

CONFIG: dict[str, Any] = {
    "data": DATA,
    "training": {"batch_size": 256, "warmup": 0.1, "weight_decay": 0.0, "clip_norm": None},
    "method": {"variance": 0.5, "beta_salient": 1000.0, "beta_infoless": 1000.0, "lambda_jem": 10.0},
}
ARMS: dict[str, dict[str, float] | None] = {
    "two plain encoders": None,
    "no k-JEM": {"lambda_jem": 0.0},
    "no information-less term": {"beta_infoless": 0.0},
    "SepCLR": {},
}
CHANCE = {"mark": 1 / 8, "style": 1 / 5}


class TwoPlainEncoders(Method):
    """Alignment and uniformity twice: of all samples in one space, of the target's in the other. Neither knows of the
    other."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.loss = model, AlignmentUniformity(t=1.0, weight=2.0)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        (common, salient), (common_too, salient_too) = map(self.model.project, batch["views"])
        target = batch["label"] > 0
        return {"loss": self.loss(common, common_too) + self.loss(salient[target], salient_too[target])}


def run(seed: int, chosen: dict[str, Setting]) -> Arms:
    """All arms on one seed, each with its own setting, a space a row, beside chance."""
    arms: Arms = {"chance": dict(CHANCE)}
    for arm in ARMS:
        arms |= {
            f"{arm}: {space}": figures for space, figures in probed(fitted(arm, seed, chosen[arm]), "test").items()
        }
    return arms


def validated(arm: str, setting: Setting, seed: int) -> float:
    """How well the spaces are apart, on pictures of things that no test shows."""
    spaces = probed(fitted(arm, seed, setting), "val")
    right = [spaces["salient"]["mark"], spaces["common"]["style"]]
    kept_out = [spaces["common"]["mark kept out"], spaces["salient"]["style kept out"]]
    return sum(map(float, right + kept_out)) / 4


def fitted(arm: str, seed: int, setting: Setting) -> TwoSpaces:
    """The two encoders, trained as an arm."""
    import nearfar

    torch.manual_seed(seed)
    model, terms = TwoSpaces(DATA["width"]), ARMS[arm]
    method = TwoPlainEncoders(model) if terms is None else SepCLR(model, background=0, **{**CONFIG["method"], **terms})
    training = {**CONFIG["training"], **setting}
    batches = ViewPairs(features("train"), training.pop("batch_size"))
    nearfar.train(method, batches, seed=seed, progress=False, report=False, **training)
    return model


def probed(model: TwoSpaces, split: str) -> dict[str, dict[str, PerQuery | float]]:
    """Of each space, what a logistic regression on the target's training pictures finds in those of `split`."""
    from nearfar.modes import evaluating

    train, test = features("train"), features(split)
    results = {}
    with evaluating(model), torch.no_grad():
        for space, encoder in (("common", model.common), ("salient", model.salient)):
            fit, unseen = encoder(train.clean[train.target]), encoder(test.clean[test.target])
            results[space] = _probed(fit, train, unseen, test)
    return results


def _probed(fit: Tensor, train: MarkedFeatures, unseen: Tensor, test: MarkedFeatures) -> dict[str, PerQuery | float]:
    import numpy as np

    from nearfar.errors import need

    mean, scale = fit.mean(0), fit.std(0).clamp_min(1e-6)
    probe = need("sklearn.linear_model", "probes").LogisticRegression(max_iter=300)
    figures: dict[str, PerQuery | float] = {}
    for kind in CHANCE:
        known, true = (getattr(data, kind)[data.target].numpy() for data in (train, test))
        right = probe.fit(((fit - mean) / scale).numpy(), known).predict(((unseen - mean) / scale).numpy()) == true
        things = test.thing[test.target].numpy()
        figures[kind] = PerQuery(right.astype(np.float64), things)
        figures[f"{kind} kept out"] = PerQuery((~right).astype(np.float64), things)
    return figures


reproduction = Reproduction(
    slug="sepclr",
    run=run,
    claims=[
        Claim(
            "the salient space tells of the mark",
            "SepCLR: salient",
            "chance",
            "mark",
            premise=True,
        ),
        Claim(
            "it tells more of the mark than the common space does",
            "SepCLR: salient",
            "SepCLR: common",
            "mark",
            effect=0.05,
            floor="chance",
        ),
        Claim(
            "the common space tells more of the style than the salient one does",
            "SepCLR: common",
            "SepCLR: salient",
            "style",
            effect=0.05,
            floor="chance",
        ),
        Claim(
            "k-JEM takes the mark out of the common space",
            "SepCLR: common",
            "no k-JEM: common",
            "mark kept out",
            effect=0.05,
        ),
        Claim(
            "k-JEM leaves the common space more room for the style",
            "SepCLR: common",
            "no k-JEM: common",
            "style",
            effect=0.03,
        ),
        Claim(
            "the information-less term takes the style out of the salient space",
            "SepCLR: salient",
            "no information-less term: salient",
            "style kept out",
            effect=0.03,
        ),
        Claim(
            "less of the mark is in the common space than with two plain encoders",
            "SepCLR: common",
            "two plain encoders: common",
            "mark kept out",
            effect=0.05,
        ),
        Claim(
            "less of the style is in the salient space than with two plain encoders",
            "SepCLR: salient",
            "two plain encoders: salient",
            "style kept out",
            effect=0.03,
        ),
    ],
    seeds=range(11),
    pilot=3,
    grid=Grid(list(ARMS), {"lr": [1e-3, 3e-3], "steps": [200, 400]}, validated, "how well the spaces are apart"),
    config=CONFIG,
    note=(
        "The encoders are small and read what a frozen EfficientNet-Lite0 makes of a picture, in its first 256 "
        "principal components and in four augmented views, drawn once. Weights are the released code's on CIFAR-MNIST. "
        "How well the spaces are apart is the mean of four shares: the mark told by the salient and not by the common "
        "space, the style told by the common and not by the salient one."
    ),
)
