"""TCL (arXiv 2202.10401): contrast within each modality, and from global to local, beside ALBEF's contrast across
modalities.

Every arm trains the same small model, on the same frozen image tower, matching and masked words included, with a
quarter of the captions wrong; only the contrastive terms differ. Contrast within is tested on emoji: a seed's concepts
are trained in four styles, to be found in a fifth among all concepts; from a picture to another style, from a name to
the rest of its description, and across. From global to local is tested on scenes of two coloured things, by pairs of
things that training never shows.
"""

from __future__ import annotations

from typing import Any

import torch

from nearfar.reproductions.setups.fusion_pairs import MODEL, trained
from nearfar.reproductions.setups.views_read import DATA, Data, data_of
from nearfar.reproductions.shared.choosing import Grid, Setting
from nearfar.reproductions.shared.claims import Arms, Claim, Reproduction
from nearfar.reproductions.shared.per_query import PerQuery

CMA, IMC, LMI = (0.5, 0.5, 0.0, 0.0, 0.0, 0.0), (0.0, 0.0, 0.5, 0.5, 0.0, 0.0), (0.0, 0.0, 0.0, 0.0, 0.5, 0.5)
CONFIG: dict[str, Any] = {
    "model": {
        # Never run: it is as wide as what is kept of the tower's 4 x 4 places, which stands in its place.
        "image": {
            "model_type": "vit",
            "hidden_size": DATA["tower"]["kept"],
            "num_hidden_layers": 1,
            "num_attention_heads": 1,
            "intermediate_size": 1,
            "patch_size": MODEL["image_size"] // 4,
        },
        "text": {**MODEL["text"], "hidden_size": 64, "intermediate_size": 128, "initializer_range": 0.07},
        "text_layers": 1,
        "image_size": MODEL["image_size"],
        "embed_dim": 64,
        "max_length": 24,
        "bridge": True,
    },
    "noise": 0.25,
    "data": DATA,
    "training": {"batch_size": 64, "warmup": 0.1, "weight_decay": 0.02},
    "method": {"queue_size": 512, "momentum": 0.99, "alpha": 0.4, "ramp_steps": 60, "share_duplicates": True},
}
TERMS = {"CMA": (CMA,), "CMA + IMC": (CMA, IMC), "CMA + IMC + LMI": (CMA, IMC, LMI)}
ARMS = ("emoji: CMA", "emoji: CMA + IMC", "scenes: CMA", "scenes: CMA + IMC", "scenes: CMA + IMC + LMI")


def run(seed: int, chosen: dict[str, Setting]) -> Arms:
    """All arms on one seed, each with its own setting, beside the expectation of a random order."""
    arms: Arms = {}
    for world in ("emoji", "scenes"):
        arms[f"{world}: chance"] = dict(chance(data_of(world, "test", seed)))
    for arm in ARMS:
        data = data_of(_world(arm), "test", seed)
        arms[arm] = measured(fitted(arm, data.train, seed, chosen[arm]), data)
    return arms


def validated(arm: str, setting: Setting, seed: int) -> float:
    """The mean of what the claims compare, on concepts or scenes that are never tested."""
    data = data_of(_world(arm), "val", seed)
    metrics = measured(fitted(arm, data.train, seed, setting), data)
    compared = [name for name in metrics if name != "R@1"]
    return sum(float(metrics[name]) for name in compared) / len(compared)


def fitted(arm: str, train: Any, seed: int, setting: Setting) -> Any:
    """A model trained as an arm."""
    terms = TERMS[arm.partition(": ")[2]]
    return trained(
        "tcl",
        seed,
        train,
        model=CONFIG["model"],
        noise=CONFIG["noise"],
        n_views=2,
        training={**CONFIG["training"], **setting},
        weights=tuple(map(sum, zip(*terms, strict=True))),
        **CONFIG["method"],
    )


def _world(arm: str) -> str:
    return arm.partition(": ")[0]


def measured(model: Any, data: Data) -> dict[str, PerQuery | float]:
    """Across modalities R@1 and R@10, both directions together, among the whole gallery; of emoji also R@1 from a
    picture to the same concept in a style that training shows, and from a name to its longest other caption."""
    import numpy as np

    group, asking = data.gallery.numbers["group"], data.queries
    image, text = _pictures(model, data.gallery), _texts(model, [own[0] for own in data.gallery.texts])
    both = [_ranks(*pair, group, group, asking) for pair in ((text, image), (image, text))]
    concept = np.tile(group[asking].numpy(), 2)
    hits = {k: np.concatenate([ranks.hit(k) for ranks in both]) for k in (1, 10)}
    across: dict[str, PerQuery | float] = {"R@1": float(hits[1].mean()), "R@10": PerQuery(hits[10], concept)}
    if data.known_style is None:
        return across
    shown = _ranks(image, _pictures(model, data.known_style), group, data.known_style.numbers["group"], asking)
    several = [row for row, own in enumerate(data.gallery.texts) if len(own) > 1]
    others = _texts(model, [max(data.gallery.texts[row][1:], key=len) for row in several])
    described_rows = sorted(set(asking) & set(several))
    described = _ranks(text, others, group, group[several], described_rows)
    return {
        **across,
        "image to image R@1": PerQuery(shown.hit(1), group[asking].numpy()),
        "text to text R@1": PerQuery(described.hit(1), group[described_rows].numpy()),
    }


def chance(data: Data) -> dict[str, float]:
    """What a random order gives."""
    group = data.gallery.numbers["group"].tolist()
    same = sum(group.count(group[row]) for row in data.queries) / len(data.queries)
    metrics = {f"R@{k}": k * same / len(group) for k in (1, 10)}
    if data.known_style is None:
        return metrics
    several = sum(len(own) > 1 for own in data.gallery.texts)
    return {**metrics, "image to image R@1": 1 / len(data.known_style.texts), "text to text R@1": 1 / several}


def _ranks(query: Any, candidates: Any, query_group: Any, candidate_group: Any, asking: list[int]) -> Any:
    from nearfar.evaluation import rank

    return rank(query[asking], candidates, query_group[asking], candidate_group)


def _pictures(model: Any, read: Any) -> Any:
    from nearfar.modes import evaluating

    with evaluating(model), torch.no_grad():
        return torch.cat([model.encode_image(part, normalize=True) for part in read.image[0].split(256)])


def _texts(model: Any, texts: list[str]) -> Any:
    from nearfar.evaluation import embed_texts

    return embed_texts(model, texts)


def _claim(text: str, world: str, better: str, worse: str, metric: str, effect: float) -> Claim:
    arms = (f"{world}: {better}", f"{world}: {worse}")
    return Claim(text, *arms, metric, effect=effect, floor=f"{world}: chance")


reproduction = Reproduction(
    slug="tcl",
    run=run,
    claims=[
        *(
            Claim(
                f"contrast across modalities retrieves {world}",
                f"{world}: CMA",
                f"{world}: chance",
                "R@10",
                premise=True,
            )
            for world in ("emoji", "scenes")
        ),
        _claim(
            "contrast within a modality helps image to image", "emoji", "CMA + IMC", "CMA", "image to image R@1", 0.05
        ),
        _claim("contrast within a modality helps text to text", "emoji", "CMA + IMC", "CMA", "text to text R@1", 0.05),
        _claim("contrast within a modality helps across modalities", "emoji", "CMA + IMC", "CMA", "R@10", 0.03),
        _claim("global to local adds on scenes", "scenes", "CMA + IMC + LMI", "CMA + IMC", "R@10", 0.03),
        _claim("all three beat ALBEF's contrast on scenes", "scenes", "CMA + IMC + LMI", "CMA", "R@10", 0.03),
    ],
    seeds=range(13),
    pilot=3,
    grid=Grid(
        ARMS,
        {"lr": [2e-3, 4e-3, 8e-3], "steps": [150, 300]},
        validated,
        "mean of what the claims compare",
    ),
    config=CONFIG,
    note=(
        "The terms have the paper's weights, a half each, so that the first arm is ALBEF and the others add to it. A "
        "bridge, a trained layer on the frozen tower's tokens, is what the local terms can move. Samples of one "
        "concept, or of scenes that show the same, are never each other's negatives, as in ALBEF's fine-tuning. Text "
        "to text is between captions of concepts that training shows. Seeds draw the start, the order, which captions "
        "are wrong, and of emoji the concepts; scenes are the same for all."
    ),
)
