"""Which model should `nearfar demo` train? Candidates for its heads, measured on the val split of the world.

    OMP_NUM_THREADS=2 python benchmarks/demo_model.py --out benchmarks/results/demo_model.json
    OMP_NUM_THREADS=2 python benchmarks/demo_model.py --quick    # does it run? one seed, an epoch, 600 pictures

The frozen towers run once; every candidate then trains its heads on the same features, for each seed, as the demo does.
Test concepts play no part. Figures are means over the styles of the query "its name" among the 151 val concepts.
"""

from __future__ import annotations

import json
import statistics
import time
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

import torch

from nearfar import train
from nearfar.data import open_source
from nearfar.data.order import Share
from nearfar.data.skipped import Skipped
from nearfar.evaluation.embeddings import Embeddings
from nearfar.evaluation.retrieval import retrieval
from nearfar.methods.image_text.clip import CLIP
from nearfar.models import create
from nearfar.training.features import FeatureLoader, precompute

SEEN = ["noto", "twemoji", "openmoji", "fluent-3d"]
UNSEEN = "openmoji-line"

LITE, DEEP = "efficientnet-lite0", "efficientnet-lite0-deep"
SPACE: dict[str, Any] = {"image": LITE, "embed_dim": 384, "text_projection": "none"}
DROP = SPACE | {"projection_dropout": 0.5}
MLP = DROP | {"image_projection": "mlp"}
ONE: dict[str, Any] = {"views": 1, "epochs": 15, "lr": 1e-3}
TWO = ONE | {"views": 2}
CANDIDATES: dict[str, dict[str, Any]] = {
    "linear heads on both sides": ONE | {"model": {"image": LITE, "embed_dim": 256}},
    "linear into MiniLM's space": ONE | {"model": SPACE},
    "+ dropout 0.5": ONE | {"model": DROP},
    "+ mirror images": TWO | {"model": DROP},
    "+ a hidden layer": TWO | {"model": MLP},
    "+ the last blocks": TWO | {"model": MLP | {"image": DEEP}},
    "+ learning rate 3e-3": TWO | {"model": MLP | {"image": DEEP}, "lr": 3e-3},
    "the same without mirror images": ONE | {"model": MLP | {"image": DEEP}, "lr": 3e-3},
    "+ the name in half of the draws": ONE | {"model": MLP | {"image": DEEP}, "lr": 3e-3, "caption": 0.5},
}
METRICS = ["text_to_image_R@1", "text_to_image_R@10", "image_to_text_R@1", "image_to_text_R@10", "text_to_image_MRR"]


def main() -> None:
    """Train and measure all candidates, print a table, write the figures."""
    flags = ArgumentParser(description=__doc__)
    flags.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    flags.add_argument("--only", nargs="+", default=list(CANDIDATES), choices=list(CANDIDATES), metavar="NAME")
    flags.add_argument("--cache", type=Path, help="keep the features in this file, and take them from it")
    flags.add_argument("--quick", action="store_true", help="one seed, one epoch, few pictures; nothing is recorded")
    flags.add_argument("--out", type=Path)
    asked = flags.parse_args()
    features, val = both_features(asked.cache, first=600 if asked.quick else None)
    seeds, change = (asked.seeds[:1], {"epochs": 1}) if asked.quick else (asked.seeds, {})
    rows = {}
    for name in asked.only:
        began = time.process_time()
        runs = [measure(CANDIDATES[name] | change, seed, features, val) for seed in seeds]
        rows[name] = {
            part: {metric: [run[part][metric] for run in runs] for metric in METRICS} for part in ("seen", "unseen")
        } | {"cpu_seconds": (time.process_time() - began) / len(runs)}
        told = "  ".join(f"{part} " + " ".join(map(_told, rows[name][part].values())) for part in ("seen", "unseen"))
        print(f"{name:<32} {told}  {rows[name]['cpu_seconds']:.0f} s", flush=True)
    if asked.out and not asked.quick:
        document = {"seeds": seeds, "split": "val", "candidates": {n: CANDIDATES[n] for n in rows}, "rows": rows}
        asked.out.write_text(json.dumps(document, indent=1) + "\n")


def both_features(cache: Path | None, first: int | None = None) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the towers make of the training data, plain and in the mirror, and of the val split; `first`: of so many
    records of each."""
    if cache and cache.exists():
        return torch.load(cache, weights_only=True)
    model = create("towers", image=DEEP).freeze("image", "text")
    made = []
    for spec, options, views in (
        ("world/emoji+clipart", {"styles": SEEN}, ("none", "mirror")),
        ("world/emoji", {"split": "val"}, ("none",)),
    ):
        source = open_source(spec, **options)
        source = source if first is None else source.first(first)
        loader = precompute(model, source, batch_size=512, views=views, shuffle=False, progress=True)
        made.append({name: getattr(loader, name) for name in ("image", "texts", "text", "numbers")})
    if cache:
        torch.save(tuple(made), cache)
    return made[0], made[1]


def measure(candidate: dict[str, Any], seed: int, features: dict[str, Any], val: dict[str, Any]) -> dict[str, Any]:
    """Train one candidate with one seed; its figures on val, mean over the seen styles and of the unseen one."""
    torch.manual_seed(seed)
    model = create("towers", **candidate["model"]).freeze("image", "text")
    width = model.image.width  # the last map's channels come first
    data = FeatureLoader(
        model,
        features["image"][: candidate["views"], :, :width],
        features["texts"],
        features["text"],
        features["numbers"],
        name="train",
        skipped=Skipped(),
        share=Share(512, 0, 1, drop_last=True),
        n_views=1,
        caption=candidate.get("caption"),
        shuffle=True,
        seed=seed,
    )
    method = CLIP(model, exclude_duplicates=True)
    train(method, data, epochs=candidate["epochs"], lr=candidate["lr"], seed=seed, progress=False)
    with torch.no_grad():
        image = model.encode_image(val["image"][0, :, :width], normalize=True)
        text = model.encode_text(torch.stack([val["text"][each[0]] for each in val["texts"]]), normalize=True)
    group, domain = val["numbers"]["group"], val["numbers"]["domain"]
    styles = open_source("world/emoji", split="val").domains
    data = Embeddings(image, text, torch.arange(len(text)), group=group, domain=domain, domains=styles)
    data.captions = [each[0] for each in val["texts"]]
    by = retrieval(data).by["domain"]
    seen = {name: statistics.mean(by[style][name].value for style in SEEN) for name in METRICS}
    return {"seen": seen, "unseen": {name: by[UNSEEN][name].value for name in METRICS}}


def _told(values: list[float]) -> str:
    return f"{100 * statistics.mean(values):.1f}"


if __name__ == "__main__":
    main()
