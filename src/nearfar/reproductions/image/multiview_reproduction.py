"""MV-InfoNCE and MV-DHEL (arXiv 2507.06979): all views of a sample in one term beat sums over pairs of views, and use
more of the embedding space.

Every arm trains the same small head on the same frozen features of emojis, whose drawings in four styles are their
views; only the loss and the number of views differ, and its temperature, which is chosen for each arm on validation
emojis. Tested on other emojis, in a fifth style.
"""

from __future__ import annotations

from typing import Any

import torch

from nearfar.reproductions.setups import emoji_views
from nearfar.reproductions.shared.choosing import Grid
from nearfar.reproductions.shared.claims import Arms, Claim, Reproduction

CONFIG: dict[str, Any] = {
    "data": emoji_views.DATA,
    "head": emoji_views.HEAD,
    "training": {"steps": 100, "batch_size": 128, "lr": 3e-3, "warmup": 0.1, "weight_decay": 1e-4},
    "trained_on": 1000,
}
ARMS: dict[str, dict[str, Any]] = {
    "pairs, 4 views": {"loss": "pairs", "n_views": 4},
    "poly-view, 4 views": {"loss": "poly_view", "n_views": 4},
    "MV-InfoNCE, 4 views": {"loss": "mv_info_nce", "n_views": 4},
    "MV-DHEL, 2 views": {"loss": "mv_dhel", "n_views": 2},
    "MV-DHEL, 4 views": {"loss": "mv_dhel", "n_views": 4},
    "MV-DHEL, spread by 1/4": {"loss": "mv_dhel", "n_views": 4, "options": {"uniformity_weight": 0.25}},
}


def run(seed: int, chosen: dict[str, dict[str, Any]]) -> Arms:
    """All arms on one seed, each with its own setting."""
    return {arm: measured(trained(arm, seed, **chosen[arm]), "test") for arm in ARMS}


def validated(arm: str, setting: dict[str, Any], seed: int) -> float:
    """R@1 on the validation emojis, which are neither trained on nor tested."""
    return float(measured(trained(arm, seed, **setting), "val")["R@1"])


def trained(arm: str, seed: int, *, temperature: float) -> emoji_views.Head:
    """A head trained by an arm, on emojis that the seed draws."""
    from nearfar.methods.image.multiview import MultiView

    settings = dict(ARMS[arm])
    n_views = settings.pop("n_views")
    training = dict(CONFIG["training"])
    features, _ = emoji_views.drawings("train")
    rows = torch.randperm(features.shape[1], generator=torch.Generator().manual_seed(seed))[: CONFIG["trained_on"]]
    batches = emoji_views.ViewBatches(features[:-1], rows, batch_size=training.pop("batch_size"), n_views=n_views)
    return emoji_views.trained(
        lambda head: MultiView(head, temperature=temperature, **settings), batches, seed, **training
    )


def measured(head: emoji_views.Head, split: str) -> dict[str, Any]:
    """Retrieval in the unseen style; of all drawings the dimensions they use, how near an emoji's lie to one another,
    and how evenly each style is spread."""
    from nearfar.evaluation.protocols.geometry import effective_rank, uniformity

    z = emoji_views.embedded(head, split)
    rows = z.flatten(0, 1)
    pairs = [(z[a] - z[b]).square().sum(1).mean() for a in range(len(z)) for b in range(a)]
    return {
        "R@1": emoji_views.hits_in_the_unseen_style(z, emoji_views.drawings(split)[1]),
        "effective rank": effective_rank(rows - rows.mean(0)),
        "distance of views": float(torch.stack(pairs).mean()),
        "uniformity": sum(uniformity(style) for style in z) / len(z),
    }


def _beats(text: str, method: str, baseline: str, metric: str, effect: float, **more: Any) -> Claim:
    return Claim(text, method, baseline, metric, effect=effect, **more)


reproduction = Reproduction(
    slug="multiview",
    run=run,
    claims=[
        _beats(
            "at four views MV-DHEL uses more dimensions than the mean over pairs",
            "MV-DHEL, 4 views",
            "pairs, 4 views",
            "effective rank",
            1.0,
        ),
        _beats(
            "MV-DHEL uses more dimensions with four views than with two",
            "MV-DHEL, 4 views",
            "MV-DHEL, 2 views",
            "effective rank",
            1.0,
        ),
        _beats(
            "MV-DHEL uses more dimensions than with its spread divided by the number of views",
            "MV-DHEL, 4 views",
            "MV-DHEL, spread by 1/4",
            "effective rank",
            1.0,
        ),
        _beats(
            "at four views MV-DHEL finds more than the mean over pairs",
            "MV-DHEL, 4 views",
            "pairs, 4 views",
            "R@1",
            0.03,
        ),
        _beats(
            "at four views MV-DHEL finds more than the poly-view loss",
            "MV-DHEL, 4 views",
            "poly-view, 4 views",
            "R@1",
            0.03,
        ),
        _beats(
            "at four views MV-InfoNCE finds more than the poly-view loss",
            "MV-InfoNCE, 4 views",
            "poly-view, 4 views",
            "R@1",
            0.03,
        ),
        _beats("MV-DHEL finds more with four views than with two", "MV-DHEL, 4 views", "MV-DHEL, 2 views", "R@1", 0.03),
        _beats(
            "at four views MV-DHEL is at most three points below the mean over pairs",
            "MV-DHEL, 4 views",
            "pairs, 4 views",
            "R@1",
            0.03,
            margin=-0.03,
        ),
    ],
    seeds=range(8),
    pilot=3,
    grid=Grid(tuple(ARMS), {"temperature": [0.1, 0.2, 0.5]}, validated, "R@1"),
    config=CONFIG,
    note=(
        "A head of two layers on frozen features of a pretrained tower, 32 dimensions, where the paper trains ResNets "
        "on augmented photographs. An arm of two views draws two of the four styles for each batch and takes as many "
        "steps as one of four, at half the cost. Effective rank is of the centred unit embeddings of all drawings of "
        "the test emojis, at most 32."
    ),
)
