"""MCL (arXiv 2402.11816): a second encoder, whose negatives share the first one's cluster, learns what the first one
left out.

Points, and pictures, have a loud factor and a quiet one, both drawn independently. One contrastive encoder takes the
loud one. Arms of equal width and steps then try for the quiet one: a second encoder within the clusters of the first
(MCL), within random clusters of the same sizes, a second plain one, or one plain encoder twice as wide and trained
twice as long. How much of each factor an embedding holds is the accuracy of a logistic regression on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nearfar.losses.functional import nt_xent
from nearfar.reproductions.setups import emoji_grounds
from nearfar.reproductions.setups.two_factors import Encoder, Factors, Points, ViewPairs, World, side_by_side
from nearfar.reproductions.shared.choosing import Grid, Setting
from nearfar.reproductions.shared.claims import Arms, Claim, Reproduction

_POINTS = {"quiet": 0.6, "hidden": 64, "steps": 500, "lr": 2e-3}
CONFIG: dict[str, Any] = {
    "fifty values": {"loud_values": 50, "width": 8, "clusters": 50, "samples": 6000, **_POINTS},
    "ten values": {"loud_values": 10, "width": 4, "clusters": 10, "samples": 4000, **_POINTS},
    "pictures": {
        "loud_values": 50,
        "width": 8,
        "clusters": 50,
        "samples": 6000,
        "hidden": 8,
        "steps": 500,
        "lr": 2e-3,
        "data": emoji_grounds.DATA,
    },
    "batch_size": 128,
    "one temperature": 0.2,
    "k-means starts": 4,
    "test": 2000,
}
WAYS = ("two plain", "wide plain", "MCL")
CHOSEN = (*WAYS, *(f"pictures: {way}" for way in WAYS))
QUIET, LOUD = "quiet factor", "loud factor"


class Data:
    """The samples of a seed, and what is trained and measured on them."""

    def __init__(self, seed: int, kind: str) -> None:
        self.seed, self.config = seed, CONFIG[kind]
        values = self.config["loud_values"]
        self.world: World = (
            emoji_grounds.EmojiGrounds(seed, values)
            if kind == "pictures"
            else Factors(seed, values, self.config["quiet"])
        )
        self.train = self.world.samples(self.config["samples"], 0)

    def encoder(self, number: int, tau: float, group: Tensor | None = None, *, times: int = 1) -> Encoder:
        """A fresh encoder, trained by SimCLR's loss; `times` as wide and as long. Each `number` starts differently."""
        config = self.config
        torch.manual_seed(1000 * self.seed + number)
        model: Any = self.world.encoder(times * config["hidden"], times * config["width"])
        optimizer = torch.optim.Adam(model.parameters(), lr=config["lr"])
        batches = ViewPairs(self.world, self.train.x, CONFIG["batch_size"], group)
        for first, second in islice(batches, times * config["steps"]):
            loss = nt_xent(model.encode_image(first), model.encode_image(second), temperature=tau)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return model.eval()

    def clusters(self, encoder: Encoder) -> Tensor:
        """The cluster `[N]` int64 of each training sample in an encoder's embeddings."""
        from nearfar.data import cluster_codes

        features = side_by_side([encoder], self.world.clean(self.train.x))
        codes = cluster_codes(features, self.config["clusters"], seed=self.seed, starts=CONFIG["k-means starts"])
        return torch.from_numpy(codes)

    def probed(self, encoders: Sequence[Encoder], part: int = 2) -> dict[str, float]:
        """How often a logistic regression finds each factor, on a view of each sample of a part of the data."""
        from nearfar.errors import need

        probe = need("sklearn.linear_model", "probes").LogisticRegression(max_iter=100, tol=1e-3)
        chance = torch.Generator().manual_seed(self.seed)
        fit, test = (self._viewed(each, chance) for each in (self._some(), self.world.samples(CONFIG["test"], part)))
        known, unknown = (side_by_side(encoders, points.x).numpy() for points in (fit, test))
        return {
            name: float((probe.fit(known, own.numpy()).predict(unknown) == true.numpy()).mean())
            for name, own, true in ((QUIET, fit.quiet, test.quiet), (LOUD, fit.loud, test.loud))
        }

    def _some(self) -> Points:
        return Points(*(values[: CONFIG["test"]] for values in self.train))

    def _viewed(self, points: Points, chance: torch.Generator) -> Points:
        return points._replace(x=self.world.view(points.x, chance))


def arm_of(name: str, data: Data, tau: float, first: Encoder | None = None) -> list[Encoder]:
    """The encoders of an arm at a temperature; `first` is a plain one that is trained already."""
    if name == "wide plain":
        return [data.encoder(0, tau, times=2)]
    first = first or data.encoder(0, tau)
    if name == "two plain":
        return [first, data.encoder(1, tau)]
    clusters = data.clusters(first)
    if name == "random clusters":
        clusters = clusters[torch.randperm(len(clusters), generator=torch.Generator().manual_seed(data.seed))]
    return [first, data.encoder(1, tau, clusters)]


def run(seed: int, chosen: dict[str, Setting]) -> Arms:
    """All arms on one seed, of points and of pictures, and of points a second stage more."""
    tau = CONFIG["one temperature"]
    arms: Arms = {"chance": {QUIET: 0.1, LOUD: 0.02}}
    arms |= two_stages(Data(seed, "fifty values"), tau, {way: chosen[way]["tau"] for way in WAYS})
    arms |= third_stage(Data(seed, "ten values"), tau)
    own = {way: chosen[f"pictures: {way}"]["tau"] for way in WAYS}
    return arms | {f"pictures: {arm}": each for arm, each in two_stages(Data(seed, "pictures"), tau, own).items()}


def two_stages(data: Data, tau: float, own: dict[str, float]) -> Arms:
    """The arms at one temperature for all, and each at its own."""
    first = data.encoder(0, tau)
    arms: Arms = {"one plain, tau 0.2": data.probed([first]) | _shared(data, first)}
    for name in (*WAYS[:2], "random clusters", WAYS[2]):
        encoders = arm_of(name, data, tau, first)
        arms[f"{name}, tau 0.2"] = data.probed(encoders)
        if name == "MCL":
            arms["its second encoder alone, tau 0.2"] = data.probed(encoders[1:])
    for name, best in own.items():
        same = best == tau  # it is trained already
        arms[name] = dict(arms[f"{name}, tau 0.2"]) if same else data.probed(arm_of(name, data, best))
    return arms


def third_stage(data: Data, tau: float) -> Arms:
    """Two stages after the first: within the clusters of both before, and of the last one alone."""
    from nearfar.data import combine_codes

    k, first = data.config["clusters"], data.encoder(0, tau)
    codes = [data.clusters(first)]
    second = data.encoder(1, tau, codes[0])
    codes.append(data.clusters(second))
    arms: Arms = {"ten values: stages 0 and 1": data.probed([first, second])}
    for accumulate, called in (("all", "all stages' clusters"), ("last", "the last stage's clusters")):
        third = data.encoder(2, tau, combine_codes(codes, [k, k], accumulate=accumulate))
        arms[f"ten values: {called}"] = data.probed([first, second, third])
        arms[f"ten values: {called}, stage 2 alone"] = data.probed([third])
    return arms


def _shared(data: Data, first: Encoder) -> dict[str, float]:
    """What the clusters of the first stage tell of each factor: normalised mutual information."""
    from nearfar.errors import need

    mutual = need("sklearn.metrics", "probes").normalized_mutual_info_score
    clusters = data.clusters(first).numpy()
    return {
        f"clusters and {name}": float(mutual(np.asarray(values), clusters))
        for name, values in ((QUIET, data.train.quiet), (LOUD, data.train.loud))
    }


def validated(arm: str, setting: Setting, seed: int) -> float:
    """How often the quiet factor is told, on samples that no test reads."""
    kind, _, way = arm.rpartition(": ")
    data = Data(seed, kind or "fifty values")
    return data.probed(arm_of(way, data, setting["tau"]), part=1)[QUIET]


def _more(text: str, method: str, baseline: str, metric: str = QUIET, **settings: Any) -> Claim:
    return Claim(text, method, baseline, metric, **({"effect": 0.05} | settings))


def _claims(kind: str) -> list[Claim]:
    """What is claimed of two stages, on points ("") or on pictures ("pictures: ")."""
    return [
        _more(
            f"{kind}one plain encoder tells the loud factor",
            f"{kind}one plain, tau 0.2",
            "chance",
            LOUD,
            premise=True,
        ),
        _more(
            f"{kind}and hardly the quiet one: it is above chance by less than a quarter",
            "chance",
            f"{kind}one plain, tau 0.2",
            margin=-0.25,
            premise=True,
        ),
        _more(
            f"{kind}a second stage beats two plain encoders, at tau 0.2",
            f"{kind}MCL, tau 0.2",
            f"{kind}two plain, tau 0.2",
        ),
        _more(
            f"{kind}it is the clusters: random ones do less, at tau 0.2",
            f"{kind}MCL, tau 0.2",
            f"{kind}random clusters, tau 0.2",
        ),
        _more(
            f"{kind}it beats one plain encoder twice as wide, at tau 0.2",
            f"{kind}MCL, tau 0.2",
            f"{kind}wide plain, tau 0.2",
        ),
        _more(
            f"{kind}the second encoder forgets the loud factor",
            f"{kind}MCL, tau 0.2",
            f"{kind}its second encoder alone, tau 0.2",
            LOUD,
        ),
        _more(f"{kind}each at its best temperature, it beats two plain encoders", f"{kind}MCL", f"{kind}two plain"),
        _more(f"{kind}each at its best temperature, it beats one twice as wide", f"{kind}MCL", f"{kind}wide plain"),
    ]


reproduction = Reproduction(
    slug="mcl",
    run=run,
    claims=[
        *_claims(""),
        _more(
            "a third stage within all clusters learns more anew than within the last ones",
            "ten values: all stages' clusters, stage 2 alone",
            "ten values: the last stage's clusters, stage 2 alone",
        ),
        *_claims("pictures: "),
    ],
    seeds=range(10),
    pilot=3,
    grid=Grid(list(CHOSEN), {"tau": [0.05, 0.2]}, validated, "accuracy on the quiet factor"),
    config=CONFIG,
    note=(
        "Points of two factors in 40 dimensions, where what is left out can be counted, and pictures of 20 pixels: an "
        "emoji, half transparent, on a coloured ground. Each seed draws ten emojis and fifty colours. The wide plain "
        "encoder has twice the hidden units or channels, too. Batches of one cluster hold all of it where it is "
        "smaller than 128. Embeddings stand side by side, each of unit length."
    ),
)
