"""S-VCO (arXiv 2502.13928): a model that writes by habit learns to look, when a text must be likelier with its picture
than without, and likelier without than with a picture that contradicts it.

One small model learns to write captions of a world in which nine in ten things have the usual shape of their colour.
From there every arm trains on the same pairs, in the same order, in as many steps; only the loss differs, and the
learning rate, which is chosen for each arm on validation pairs.
"""

from __future__ import annotations

from copy import deepcopy
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from nearfar.methods.lvlm.captioning import Captioning
from nearfar.methods.lvlm.preferences import DPO, ImageDPO
from nearfar.methods.lvlm.svco import SVCO
from nearfar.reproductions.shared.choosing import Grid
from nearfar.reproductions.shared.claims import Arms, Claim, Reproduction
from nearfar.reproductions.shared.per_query import PerQuery
from nearfar.reproductions.vision_language_models import usual_shapes as setup

CONFIG: dict[str, Any] = {
    "data": setup.DATA,
    "model": {"image": setup.VIT, "language": setup.LANGUAGE, "projector": "mlp"},
    "captions": {"steps": 300, "batch_size": 32, "lr": 3e-3, "warmup": 0.1, "weight_decay": 0.01},
    "contrast": {"steps": 100, "batch_size": 8, "warmup": 0.1, "weight_decay": 0.01},
    "beta": 0.1,
}
ARMS = ("SFT", "DPO", "image DPO, crops", "image DPO", "one-sided", "S-VCO")
PAIRS, WRITTEN, ORDER = "pairs right", "shape written", "likelihoods in order"
CAPTIONS, GAIN = "likelihood of captions", "gain by the picture"


class Sums(NamedTuple):
    """Log-likelihoods `[N, 2]` float64 of the texts of pairs, sums over tokens, and their numbers of tokens."""

    own: Tensor
    other: Tensor
    alone: Tensor
    length: Tensor


def run(seed: int, chosen: dict[str, dict[str, Any]]) -> Arms:
    """All arms on one seed, each with its own setting."""
    before = measured(start(seed))
    arms: Arms = {"before": before, "before, usual shapes": {WRITTEN: shapes_written(start(seed), usual=True)}}
    for arm in ARMS:
        model = trained(arm, seed, **chosen[arm])
        arms[arm] = measured(model)
        arms[f"{arm}, usual shapes"] = {WRITTEN: shapes_written(model, usual=True)}
    return arms


def validated(arm: str, setting: dict[str, Any], seed: int) -> float:
    """How many validation pairs are told apart."""
    return float(pairs_right(sums(trained(arm, seed, **setting), setup.paired("val"))).double().mean())


@lru_cache(maxsize=1)
def start(seed: int) -> Any:
    """The model that all arms go on from."""
    import nearfar

    own = dict(CONFIG["captions"])
    model, size = setup.fresh_writer(seed), own.pop("batch_size")
    batches = setup.Batches(setup.captioned("train"), own["steps"], size, seed)
    nearfar.train(Captioning(model), batches, seed=seed, progress=False, report=False, **own)
    return model.eval()


def trained(arm: str, seed: int, *, lr: float) -> Any:
    """The model of an arm after training."""
    import nearfar

    own = dict(CONFIG["contrast"])
    model, size = deepcopy(start(seed)).train(), own.pop("batch_size")
    batches = setup.Batches(setup.paired("train"), own["steps"], size, seed, flat=arm == "SFT")
    nearfar.train(method_of(arm, model), batches, seed=seed, lr=lr, progress=False, report=False, **own)
    return model.eval()


def method_of(arm: str, model: Any) -> Any:
    """The method of an arm."""
    beta = CONFIG["beta"]
    if arm == "SFT":
        return Captioning(model)
    if arm == "DPO":
        return DPO(model, beta=beta)
    if arm.startswith("image DPO"):
        return ImageDPO(model, rejected="crop" if arm.endswith("crops") else "pair", beta=beta)
    return SVCO(model, betas=(beta,) * 4 if arm == "S-VCO" else (beta, beta, 0.0, 0.0))


def measured(model: Any) -> dict[str, Any]:
    """What a model does on test pairs, and how likely captions are to it that no arm trained on."""
    of = sums(model, setup.paired("test"))
    order = ((of.own > of.alone) & (of.alone > of.other)).double().mean(1)
    gain = ((of.own - of.alone) / of.length).mean(1)
    by_pair = {PAIRS: pairs_right(of).double(), ORDER: order, GAIN: gain}
    figures: dict[str, Any] = {name: PerQuery(each.tolist(), list(range(len(each)))) for name, each in by_pair.items()}
    return figures | {WRITTEN: shapes_written(model, usual=False), CAPTIONS: caption_likelihoods(model)}


def pairs_right(of: Sums) -> Tensor:
    """Whether both pictures of each pair find their own text likelier than the other one, `[N]` bool."""
    return (of.own > of.other.flip(1)).all(1)


@torch.no_grad()
def sums(model: Any, pairs: setup.Pairs) -> Sums:
    """How likely the texts of pairs are with their own picture, with the other one, and without."""
    parts: list[tuple[Tensor, ...]] = []
    for rows in torch.arange(len(pairs.first.captions)).split(50):
        own = rows.tolist()
        pictures = torch.cat([setup.pixels(side.pictures[rows]) for side in (pairs.first, pairs.second)])
        text = setup.tokens([side.captions[row] for side in (pairs.first, pairs.second) for row in own])
        score, mask = model.likelihoods(pictures, text)
        other = model.likelihoods(pictures.roll(len(own), 0), text).log_likelihood
        alone = model.likelihoods(None, text).log_likelihood
        each = (*(score_of.double().sum(1) for score_of in (score, other, alone)), mask.sum(1))
        parts.append(tuple(values.view(2, -1).mT for values in each))
    return Sums(*(torch.cat(each) for each in zip(*parts, strict=True)))


def shapes_written(model: Any, *, usual: bool) -> PerQuery:
    """Of each test pair whether the model writes the shape of the drawing whose shape is usual, or of the other."""
    from nearfar.data.scenes import SHAPES

    pairs, right = setup.paired("test"), list[float]()
    sides = [pairs.first if is_usual == usual else pairs.second for is_usual in pairs.first.is_usual]
    for rows in torch.arange(len(sides)).split(100):
        own = rows.tolist()
        pictures = setup.pixels(torch.stack([sides[row].pictures[row] for row in own]))
        for row, text in zip(own, model.caption(pictures, max_tokens=16), strict=True):
            written = [word for word in text.split() if word in SHAPES]
            right.append(float(written == [sides[row].things[row][0]]))
    return PerQuery(right, list(range(len(right))))


@torch.no_grad()
def caption_likelihoods(model: Any) -> PerQuery:
    """Of captions of the world that all started from, nats a token."""
    drawings, values = setup.captioned("test"), list[float]()
    for rows in torch.arange(len(drawings.captions)).split(100):
        text = setup.tokens([drawings.captions[row] for row in rows.tolist()])
        score, mask = model.likelihoods(setup.pixels(drawings.pictures[rows]), text)
        values += (score.double().sum(1) / mask.sum(1)).tolist()
    return PerQuery(values, list(range(len(values))))


reproduction = Reproduction(
    slug="s-vco",
    run=run,
    claims=[
        Claim(
            "before, it writes by habit: usual shapes are right more often by a fifth",
            "before, usual shapes",
            "before",
            WRITTEN,
            margin=0.2,
            premise=True,
        ),
        Claim("more pairs are told apart than after preferences between texts", "S-VCO", "DPO", PAIRS),
        Claim("more than after preferences against crops", "S-VCO", "image DPO, crops", PAIRS),
        Claim("more than after preferences against the pairs' pictures", "S-VCO", "image DPO", PAIRS),
        Claim("more than after training on the same captions", "S-VCO", "SFT", PAIRS),
        Claim("both sides of the pair matter", "S-VCO", "one-sided", PAIRS),
        Claim("likelihoods are in order more often than before", "S-VCO", "before", ORDER),
        Claim("more often than after preferences against the pairs' pictures", "S-VCO", "image DPO", ORDER),
        Claim("unusual shapes are written more often than after training on the captions", "S-VCO", "SFT", WRITTEN),
        Claim("captions lose at most a tenth of a nat a token", "S-VCO", "before", CAPTIONS, margin=-0.1),
    ],
    seeds=range(10, 15),
    pilot=0,
    grid=Grid(ARMS, {"lr": [5e-4, 1e-3]}, validated, PAIRS),
    config=CONFIG,
    note=(
        "A ViT and a language model of 2 layers of 64 numbers each, on pictures of 32 pixels; the paper trains models "
        "of 7B. Pairs right: both pictures find their own text likelier than the other one, chance 1/4. Shape "
        "written: of drawings whose shape is unusual. Likelihoods in order: with the own picture, without one, with "
        "the other one, chance 1/6. Likelihood of captions: of the world that all arms start from, nats a token."
    ),
)
