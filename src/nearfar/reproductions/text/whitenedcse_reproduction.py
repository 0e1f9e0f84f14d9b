"""WhitenedCSE (arXiv 2305.17746): whitening groups of channels, drawn anew for each pass of a sentence, spreads the
space, draws positives together, and finds more than SimCSE.

Every arm trains the same map on the same passes of real sentences through half of a pretrained encoder; only what
happens between map and loss differs, and the learning rate, which is chosen for each arm on validation emojis. The arm
without whitening but with three passes tells what the third pass does, one shared permutation what shuffling does, one
group what grouping does, and the released layout what its rows out of order do.
"""

from __future__ import annotations

from typing import Any

import torch

from nearfar.reproductions.setups import sentence_passes
from nearfar.reproductions.shared.choosing import Grid
from nearfar.reproductions.shared.claims import Arms, Claim, Reproduction

CONFIG: dict[str, Any] = {
    "data": sentence_passes.DATA,
    "map": {"hidden": sentence_passes.HIDDEN},
    "training": {"steps": 40, "batch_size": 128, "warmup": 0.1, "weight_decay": 0.0, "schedule": "linear"},
    "temperature": 0.05,
    "groups": 64,
    "trained_on": 1000,
}
ARMS: dict[str, dict[str, Any]] = {
    "SimCSE": {"copies": 2, "whitening": False},
    "SimCSE, 3 passes": {"copies": 3, "whitening": False},
    "WhitenedCSE": {"groups": 64},
    "one shared permutation": {"groups": 64, "shuffle": "shared"},
    "one group of 384, eps 0.01": {"groups": 1, "eps": 0.01},
    "released layout": {"groups": 64, "layout": "interleaved"},
}


def run(seed: int, chosen: dict[str, dict[str, Any]]) -> Arms:
    """All arms on one seed, each with its own setting, and the encoder before training."""
    arms = {arm: sentence_passes.measured(trained(arm, seed, **chosen[arm]), "test") for arm in ARMS}
    torch.manual_seed(seed)
    return arms | {"before training": sentence_passes.measured(sentence_passes.Map(), "test")}


def validated(arm: str, setting: dict[str, Any], seed: int) -> float:
    """MRR on the validation emojis, which are neither trained on nor tested."""
    return float(sentence_passes.measured(trained(arm, seed, **setting), "val")["MRR"])


def trained(arm: str, seed: int, *, lr: float) -> sentence_passes.Map:
    """A map trained by an arm, on sentences that the seed draws."""
    from nearfar.methods.text.whitened import WhitenedCSE

    training = dict(CONFIG["training"])
    count = sentence_passes.trained_on().shape[1]
    rows = torch.randperm(count, generator=torch.Generator().manual_seed(seed))[: CONFIG["trained_on"]]
    copies = ARMS[arm].get("copies", 3)
    batches = sentence_passes.PassBatches(rows, batch_size=training.pop("batch_size"), copies=copies)
    return sentence_passes.trained(
        lambda mapped: WhitenedCSE(mapped, temperature=CONFIG["temperature"], **ARMS[arm]),
        batches,
        seed,
        lr=lr,
        **training,
    )


def _claim(text: str, baseline: str, metric: str, effect: float, *, lower: bool = False) -> Claim:
    """WhitenedCSE against a baseline."""
    return Claim(text, "WhitenedCSE", baseline, metric, direction="lower" if lower else "higher", effect=effect)


reproduction = Reproduction(
    slug="whitenedcse",
    run=run,
    claims=[
        _claim("finds more than SimCSE", "SimCSE", "MRR", 0.01),
        _claim("finds more than SimCSE with as many passes", "SimCSE, 3 passes", "MRR", 0.01),
        _claim("spreads further than SimCSE with as many passes", "SimCSE, 3 passes", "uniformity", 0.1, lower=True),
        _claim(
            "draws pairs nearer than one shared permutation", "one shared permutation", "alignment", 0.02, lower=True
        ),
        _claim("finds more than one shared permutation", "one shared permutation", "MRR", 0.01),
        _claim("finds more than whitening all channels together", "one group of 384, eps 0.01", "MRR", 0.01),
        _claim("finds more than the released layout", "released layout", "MRR", 0.01),
        Claim("SimCSE finds more than the encoder before", "SimCSE", "before training", "MRR", effect=0.01),
    ],
    seeds=range(10, 26),  # none of those of the first record, whose three decided nothing
    pilot=3,
    grid=Grid(tuple(ARMS), {"lr": [3e-4, 3e-3]}, validated, "MRR"),
    config=CONFIG,
    note=(
        "The map is two layers beside the identity, on the mean of the token states of the first two layers of MiniLM, "
        "whose dropout makes the passes; the paper trains all of BERT-base on a million sentences and measures "
        "correlations with people's scores, of which no package here has any. MRR is of an emoji's keywords among "
        "those of all test emojis, asked by its name. Groups have six channels, as in the paper. Alignment is the mean "
        "squared distance of name and keywords."
    ),
)
