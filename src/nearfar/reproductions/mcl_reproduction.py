"""MCL (arXiv 2402.11816): a second encoder, whose negatives share the first one's cluster, learns what the first one
left out.

Points have a loud factor and a quiet one, both drawn independently. One contrastive encoder takes the loud one. Arms of
equal width and steps then try for the quiet one: a second encoder within the clusters of the first (MCL), within random
clusters of the same sizes, a second plain one, or one plain encoder twice as wide and trained twice as long. How much
of each factor an embedding holds is the accuracy of a logistic regression on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nearfar.losses.functional import nt_xent
from nearfar.reproductions.setups.two_factors import Factors, NoisyViews, Points, SmallEncoder, side_by_side
from nearfar.reproductions.shared.choosing import Grid, Setting
from nearfar.reproductions.shared.claims import Arms, Claim, Reproduction

CONFIG: dict[str, Any] = {
    "fifty values": {"loud_values": 50, "quiet": 0.6, "width": 8, "clusters": 50, "points": 6000},
    "ten values": {"loud_values": 10, "quiet": 0.6, "width": 4, "clusters": 10, "points": 4000},
    "training": {"steps": 500, "batch_size": 128, "lr": 2e-3, "hidden": 64, "noise": 0.15},
    "one temperature": 0.2,
    "k-means starts": 4,
    "test": 2000,
}
CHOSEN = ("two plain", "wide plain", "MCL")
QUIET, LOUD = "quiet factor", "loud factor"
Encoders = list[SmallEncoder]


class Data:
    """The points of a seed, and what is trained and measured on them."""

    def __init__(self, seed: int, kind: str) -> None:
        self.seed, self.config = seed, CONFIG[kind]
        self.factors = Factors(seed, self.config["loud_values"], self.config["quiet"])
        self.train = self.factors.points(self.config["points"], 0)

    def encoder(self, number: int, tau: float, group: Tensor | None = None, *, times: int = 1) -> SmallEncoder:
        """A fresh encoder, trained by SimCLR's loss; `times` as wide and as long. Each `number` starts differently."""
        settings = CONFIG["training"]
        torch.manual_seed(1000 * self.seed + number)
        model = SmallEncoder(times * settings["hidden"], times * self.config["width"])
        optimizer = torch.optim.Adam(model.parameters(), lr=settings["lr"])
        batches = NoisyViews(self.train.x, settings["batch_size"], settings["noise"], group)
        for first, second in islice(batches, times * settings["steps"]):
            loss = nt_xent(model.encode_image(first), model.encode_image(second), temperature=tau)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return model.eval()

    def clusters(self, encoder: SmallEncoder) -> Tensor:
        """The cluster `[N]` int64 of each training point in an encoder's embeddings."""
        from nearfar.data import cluster_codes

        features = side_by_side([encoder], self.train.x)
        codes = cluster_codes(features, self.config["clusters"], seed=self.seed, starts=CONFIG["k-means starts"])
        return torch.from_numpy(codes)

    def probed(self, encoders: Sequence[SmallEncoder], part: int = 2) -> dict[str, float]:
        """How often a logistic regression finds each factor, on noisy points of a part of the data."""
        from nearfar.errors import need

        probe = need("sklearn.linear_model", "probes").LogisticRegression(max_iter=100, tol=1e-3)
        chance = torch.Generator().manual_seed(self.seed)
        fit, test = self._noisy(self._some(), chance), self._noisy(self.factors.points(CONFIG["test"], part), chance)
        known, unknown = (side_by_side(encoders, points.x).numpy() for points in (fit, test))
        return {
            name: float((probe.fit(known, own.numpy()).predict(unknown) == true.numpy()).mean())
            for name, own, true in ((QUIET, fit.quiet, test.quiet), (LOUD, fit.loud, test.loud))
        }

    def _some(self) -> Points:
        return Points(*(values[: CONFIG["test"]] for values in self.train))

    def _noisy(self, points: Points, chance: torch.Generator) -> Points:
        noise = CONFIG["training"]["noise"] * torch.randn(points.x.shape, generator=chance)
        return points._replace(x=points.x + noise)


def arm_of(name: str, data: Data, tau: float, first: SmallEncoder | None = None) -> Encoders:
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
    """All arms on one seed: at one temperature for all, each at its own, and a second stage more."""
    data, tau = Data(seed, "fifty values"), CONFIG["one temperature"]
    arms: Arms = {"chance": {QUIET: 0.1, LOUD: 0.02}}
    first = data.encoder(0, tau)
    alone = data.probed([first])
    arms["one plain, tau 0.2"] = alone | _shared(data, first)
    for name in ("two plain", "wide plain", "random clusters", "MCL"):
        encoders = arm_of(name, data, tau, first)
        arms[f"{name}, tau 0.2"] = data.probed(encoders)
        if name == "MCL":
            arms["its second encoder alone, tau 0.2"] = data.probed(encoders[1:])
    for name in CHOSEN:
        arms[name] = data.probed(arm_of(name, data, chosen[name]["tau"]))
    return arms | third_stage(Data(seed, "ten values"), tau)


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


def _shared(data: Data, first: SmallEncoder) -> dict[str, float]:
    """What the clusters of the first stage tell of each factor: normalised mutual information."""
    from nearfar.errors import need

    mutual = need("sklearn.metrics", "probes").normalized_mutual_info_score
    clusters = data.clusters(first).numpy()
    return {
        f"clusters and {name}": float(mutual(np.asarray(values), clusters))
        for name, values in ((QUIET, data.train.quiet), (LOUD, data.train.loud))
    }


def validated(arm: str, setting: Setting, seed: int) -> float:
    """How often the quiet factor is told, on points that no test reads."""
    data = Data(seed, "fifty values")
    return data.probed(arm_of(arm, data, setting["tau"]), part=1)[QUIET]


def _more(text: str, method: str, baseline: str, metric: str = QUIET, **settings: Any) -> Claim:
    return Claim(text, method, baseline, metric, **({"effect": 0.05} | settings))


reproduction = Reproduction(
    slug="mcl",
    run=run,
    claims=[
        _more("one plain encoder tells the loud factor", "one plain, tau 0.2", "chance", LOUD, premise=True),
        _more(
            "and hardly the quiet one: it is above chance by less than a quarter",
            "chance",
            "one plain, tau 0.2",
            margin=-0.25,
            premise=True,
        ),
        _more("a second stage beats two plain encoders, at tau 0.2", "MCL, tau 0.2", "two plain, tau 0.2"),
        _more("it is the clusters: random ones do less, at tau 0.2", "MCL, tau 0.2", "random clusters, tau 0.2"),
        _more("it beats one plain encoder twice as wide, at tau 0.2", "MCL, tau 0.2", "wide plain, tau 0.2"),
        _more("the second encoder forgets the loud factor", "MCL, tau 0.2", "its second encoder alone, tau 0.2", LOUD),
        _more("each at its best temperature, it beats two plain encoders", "MCL", "two plain"),
        _more("each at its best temperature, it beats one twice as wide", "MCL", "wide plain"),
        _more(
            "a third stage within all clusters learns more anew than within the last ones",
            "ten values: all stages' clusters, stage 2 alone",
            "ten values: the last stage's clusters, stage 2 alone",
        ),
    ],
    seeds=range(21),
    pilot=3,
    grid=Grid(list(CHOSEN), {"tau": [0.05, 0.2]}, validated, "accuracy on the quiet factor"),
    config=CONFIG,
    note=(
        "Points of two factors in 40 dimensions, not pictures: there what is left out can be counted. The wide plain "
        "encoder has twice the hidden units, too. Batches of one cluster hold all of it where it is smaller than "
        "128. Embeddings stand side by side, each of unit length."
    ),
)
