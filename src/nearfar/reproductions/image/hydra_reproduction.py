"""Hydra (arXiv 2410.18200): pairs of any two classes train an encoder as well as pairs of one class do, once a gate
opens a subspace to each pair; and the gates tell what classes share.

A class is a combination of shape, colour, size and texture, so that two classes share none to three of them. Every arm
trains the same small convolutional net from scratch on the same pictures of 24 combinations, with the same batches;
only the positives and the gate differ, and its learning rate, which is chosen for each arm on other combinations. All
are tested on 24 combinations that no training shows.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from nearfar.methods.class_pairs.class_pair_gate import ClassPairGate, Gates, gate_statistics
from nearfar.methods.class_pairs.class_relations import ClassRelations, pair_gates, rank_correlation
from nearfar.reproductions.setups import attribute_sprites as setup
from nearfar.reproductions.shared.choosing import Grid
from nearfar.reproductions.shared.claims import Arms, Claim, Reproduction

CONFIG: dict[str, Any] = {
    "data": setup.DATA,
    "training": {"steps": 400, "warmup": 0.1, "weight_decay": 1e-4, "clip_norm": None},
    "batch": {"p": 16, "k": 8},
    "method": {"classes": setup.DATA["classes"], "gate_width": 64, "gate_hidden": 128, "temperature": 0.1},
}
HYDRA: dict[str, dict[str, Any]] = {
    "arbitrary pairs, no gate": {"gate": "open"},
    "arbitrary pairs, fixed gates": {"gate": "open"},
    "Hydra": {},
    "Hydra, dot": {"form": "dot"},
    "Hydra, distinct": {"rule": "distinct"},
}
ARMS = ("SimCLR", "SupCon", *HYDRA)


class FixedGates(ClassPairGate):
    """Gates drawn once, each nearly open or closed, and never learned."""

    noise: Tensor

    def __init__(self, classes: int, dim: int) -> None:
        super().__init__(classes, dim, kind="open")
        self.register_buffer("noise", torch.randn(classes, dim))

    def draw(self, first: Tensor, second: Tensor | None = None) -> Gates:
        gate = (3 * (self.noise[first] + self.noise[first if second is None else second])).sigmoid()
        return Gates(gate, gate)


def run(seed: int, chosen: dict[str, dict[str, Any]]) -> Arms:
    """All arms on one seed, each with its own setting."""
    arms: Arms = {"undecided": {"gate entropy": math.log(2)}}
    return arms | {arm: measured(trained(arm, seed, **chosen[arm]), seed) for arm in ARMS}


def validated(arm: str, setting: dict[str, Any], seed: int) -> float:
    """5-shot accuracy on combinations that are neither trained on nor tested."""
    return held_out(trained(arm, seed, **setting).model, setup.drawn_classes(seed).val, seed)


def trained(arm: str, seed: int, *, lr: float) -> Any:
    """The method of an arm after training."""
    import nearfar
    from nearfar.methods import Hydra, SimCLR, SupCon

    torch.manual_seed(seed)
    model = setup.SpriteEncoder()
    if arm in HYDRA:
        method: Any = Hydra(model, **CONFIG["method"], **HYDRA[arm])
        if "fixed" in arm:
            method.gate = FixedGates(CONFIG["method"]["classes"], model.projected_dim)
    else:
        method = {"SimCLR": SimCLR, "SupCon": SupCon}[arm](model, temperature=CONFIG["method"]["temperature"])
    training = dict(CONFIG["training"])
    data = setup.sprites(setup.drawn_classes(seed).train, setup.DATA["samples"]["train"], n_views=2, seed=seed)
    batches = setup.ClassBatches(data, **CONFIG["batch"], count=training["steps"])
    nearfar.train(method, batches, seed=seed, lr=lr, progress=False, report=False, **training)
    return method.eval()


def measured(method: Any, seed: int) -> dict[str, Any]:
    """What the features tell of trained and of other classes and of attributes, the dimensions that they use; and of
    an arm with gates how decided they are, and what they tell of attributes."""
    from nearfar.evaluation.protocols.geometry import effective_rank
    from nearfar.methods import Hydra

    model, classes, count = method.model, setup.drawn_classes(seed), setup.DATA["samples"]
    train = setup.sprites(classes.train, count["train"], n_views=1, seed=seed)
    test = setup.sprites(classes.train, count["test"], n_views=1, seed=10_000 + seed)
    fit, own = features(model, train.views[0]), features(model, test.views[0])
    figures: dict[str, Any] = {
        "trained classes": setup.ridge_accuracy(fit, train.label, own, test.label),
        "other classes, 5 shots": held_out(model, classes.test, seed),
        "effective rank": effective_rank(own - own.mean(0)),
    }
    gate = method.gate if isinstance(method, Hydra) else None
    if gate is None or (gate.kind == "open" and not isinstance(gate, FixedGates)):
        return figures
    with torch.no_grad():
        projected = model.project_image(test.views[0])
    every = torch.arange(gate.classes)
    gates = pair_gates(gate, every, every)
    shared = setup.shared_attributes(classes.train)
    return figures | {
        "gate entropy": gate_statistics(gates.flatten(0, 1))["entropy"],
        "gates open what is shared": opens_what_is_shared(gates, projected, test.label, classes.train),
        "relation and shared attributes": ClassRelations.of(gate).agreement(4 - shared.sum(2)),
    }


def held_out(model: Any, values: Tensor, seed: int) -> float:
    """5-shot accuracy among classes of these values."""
    data = setup.sprites(values, setup.DATA["samples"]["test"], n_views=1, seed=20_000 + seed)
    return setup.few_shot_accuracy(features(model, data.views[0]), data.label, 5, seed=seed)


@torch.no_grad()
def features(model: Any, pictures: Tensor) -> Tensor:
    """In evaluation, `[N, D]`."""
    from nearfar.modes import evaluating

    with evaluating(model):
        return torch.cat([model.encode_image(part) for part in pictures.split(512)])


def opens_what_is_shared(gates: Tensor, projected: Tensor, label: Tensor, values: Tensor) -> float:
    """Whether `gates` `[C, C, D]` of a pair open the dimensions of the attributes that it shares.

    A dimension belongs to an attribute by the share of its variance that the attribute's values explain. The rank
    correlation over pairs of two classes of what a gate opens for an attribute, of all that it opens, with whether the
    pair shares it; the mean over attributes.
    """
    z = torch.nn.functional.normalize(projected, dim=1)
    shared = setup.shared_attributes(values)
    first, second = torch.triu_indices(len(values), len(values), 1)
    correlations = []
    for place in range(values.shape[1]):
        value = values[label, place]
        means = torch.stack([z[value == v].mean(0) for v in value.unique()])
        weights = torch.stack([(value == v).float().mean() for v in value.unique()])
        between = (weights[:, None] * (means - z.mean(0)).square()).sum(0)
        belongs = between / z.var(0, correction=0).clamp_min(1e-12)
        opened = (gates * belongs).sum(2) / gates.sum(2).clamp_min(1e-6)
        correlations.append(rank_correlation(opened[first, second], shared[first, second, place].float()))
    return sum(correlations) / len(correlations)


TRANSFER = "other classes, 5 shots"

reproduction = Reproduction(
    slug="hydra",
    run=run,
    claims=[
        Claim("features of supervised pairs tell classes apart", "SupCon", "SimCLR", "trained classes", premise=True),
        Claim(
            "the gate is what makes arbitrary pairs work: other classes",
            "Hydra",
            "arbitrary pairs, no gate",
            TRANSFER,
            effect=0.03,
        ),
        Claim(
            "the gate is what makes arbitrary pairs work: trained classes",
            "Hydra",
            "arbitrary pairs, no gate",
            "trained classes",
            effect=0.03,
        ),
        Claim(
            "a gate must be learned: one drawn at random does less",
            "Hydra",
            "arbitrary pairs, fixed gates",
            TRANSFER,
            effect=0.03,
        ),
        Claim(
            "arbitrary pairs transfer at most three points worse than pairs of one class",
            "Hydra",
            "SupCon",
            TRANSFER,
            margin=-0.03,
            effect=0.03,
        ),
        Claim("arbitrary pairs transfer better than pairs of one class", "Hydra", "SupCon", TRANSFER, effect=0.03),
        Claim("arbitrary pairs transfer better than pairs of one picture", "Hydra", "SimCLR", TRANSFER, effect=0.03),
        Claim(
            "features use more dimensions than with pairs of one class", "Hydra", "SupCon", "effective rank", effect=2.0
        ),
        Claim(
            "gates come to be open or closed with no penalty",
            "Hydra",
            "undecided",
            "gate entropy",
            direction="lower",
            margin=0.1,
            effect=0.05,
            constant=True,
        ),
        Claim(
            "a gate opens the dimensions of the attributes that its classes share",
            "Hydra",
            "arbitrary pairs, fixed gates",
            "gates open what is shared",
            effect=0.1,
            floor=0.0,
        ),
        Claim(
            "classes are related by their gates as by their attributes",
            "Hydra",
            "arbitrary pairs, fixed gates",
            "relation and shared attributes",
            effect=0.1,
            floor=0.0,
        ),
    ],
    seeds=range(9),
    pilot=3,
    grid=Grid(ARMS, {"lr": [1e-3, 3e-3]}, validated, TRANSFER),
    config=CONFIG,
    note=(
        "Small convolutional nets on pictures of 16 pixels, batches of 16 classes with 8 samples each, 400 steps. 5 "
        "shots: a ridge probe on five samples of each of 24 combinations of attributes that training never shows, "
        "chance 0.042; the other figures are of the 24 combinations that were trained on. Relation and shared "
        "attributes: Spearman's correlation over pairs of classes of how their gates go together with how many "
        "attributes they share."
    ),
)
