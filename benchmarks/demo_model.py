"""Which model should `nearfar demo` train? Candidates for its heads, measured on the val split of the world.

    OMP_NUM_THREADS=2 python benchmarks/demo_model.py --output benchmarks/results/demo_model.json
    OMP_NUM_THREADS=2 python benchmarks/demo_model.py --quick    # does it run? one seed, an epoch, 200 pictures

The frozen towers run once; every candidate then trains its heads on the same features, for each seed, as the demo does.
Test concepts play no part. Figures are means over the styles of the query "its name" among the 151 val concepts.
"""

from __future__ import annotations

import json
import statistics
import time
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

import torch

from nearfar import train
from nearfar.data import open_source
from nearfar.embedding.embeddings import Embeddings
from nearfar.embedding.feature_loader import FeatureLoader, Features, KeptTexts, captions_only
from nearfar.embedding.features import precompute
from nearfar.evaluation.protocols.retrieval import retrieval
from nearfar.methods import CLIP, Ensemble
from nearfar.models import create

TRAINED_STYLES = ["noto", "twemoji", "openmoji", "fluent-3d"]
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
    **{
        f"+ {heads} heads": ONE | {"model": MLP | {"image": DEEP, "image_heads": heads}, "lr": 3e-3, "caption": 0.5}
        for heads in (2, 3, 4, 6)
    },
    **{
        f"+ 4 heads, in {epochs} epochs": ONE
        | {"model": MLP | {"image": DEEP, "image_heads": 4}, "lr": 3e-3, "caption": 0.5, "epochs": epochs}
        for epochs in (10, 8)
    },
}
METRICS = ["text_to_image_R@1", "text_to_image_R@10", "text_to_image_MRR", "image_to_text_R@1", "image_to_text_R@10"]


def main() -> None:
    """Train and measure all candidates, print a table, write the figures."""
    flags = ArgumentParser(description=__doc__)
    flags.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    flags.add_argument("--only", nargs="+", default=list(CANDIDATES), choices=list(CANDIDATES), metavar="NAME")
    flags.add_argument("--cache", type=Path, help="keep the features in this file, and take them from it")
    flags.add_argument("--quick", action="store_true", help="one seed, one epoch, few pictures; nothing is recorded")
    flags.add_argument("--output", type=Path)
    options = flags.parse_args()
    features, val = read(
        options.cache,
        ("world/emoji+clipart", {"styles": TRAINED_STYLES}, ("none", "mirror")),
        ("world/emoji", {"split": "val"}, ("none",)),
        first=200 if options.quick else None,
    )
    seeds, change = (options.seeds[:1], {"epochs": 1, "batch_size": 64}) if options.quick else (options.seeds, {})
    rows: dict[str, Any] = {}
    for name in options.only:
        began = time.process_time()
        runs = [measure(CANDIDATES[name] | change, seed, features, val) for seed in seeds]
        rows[name] = {
            part: {metric: [run[part][metric] for run in runs] for metric in METRICS} for part in ("seen", "unseen")
        } | {"cpu_seconds": (time.process_time() - began) / len(runs)}
        figures = "  ".join(
            f"{part} " + " ".join(map(_figure_words, rows[name][part].values())) for part in ("seen", "unseen")
        )
        print(f"{name:<32} {figures}  {rows[name]['cpu_seconds']:.0f} s", flush=True)
    if options.output and not options.quick:
        write(
            options.output,
            {"seeds": options.seeds, "split": "val", "candidates": CANDIDATES, "rows": kept(options) | rows},
        )


def kept(options: Namespace) -> dict[str, Any]:
    """Rows that `--out` holds from before, of candidates that are still the same, seeds included."""
    if not options.output.exists():
        return {}
    old = json.loads(options.output.read_text())
    same = old["seeds"] == options.seeds
    return {name: row for name, row in old["rows"].items() if same and old["candidates"][name] == CANDIDATES.get(name)}


def write(file: Path, document: dict[str, Any]) -> None:
    """The figures as JSON, and beside it the table of the page on the demo."""
    document["rows"] = {name: document["rows"][name] for name in CANDIDATES if name in document["rows"]}
    file.write_text(json.dumps(document, indent=1) + "\n")
    lines = [
        "| candidate | text to image R@1 | R@10 | MRR | image to text R@1 | R@10 "
        "| unseen style: R@1 | R@10 | MRR | CPU s |",
        "|:--|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for name, row in document["rows"].items():
        cells = [_figure_words(row["seen"][metric]) for metric in METRICS]
        cells += [_figure_words(row["unseen"][metric]) for metric in METRICS[:3]]
        lines.append(f"| {name} | {' | '.join(cells)} | {row['cpu_seconds']:.0f} |")
    file.with_suffix(".md").write_text("\n".join(lines) + "\n")


def read(
    cache: Path | None, *requests: tuple[str, dict[str, Any], tuple[str, ...]], first: int | None = None
) -> list[dict[str, Any]]:
    """What the towers make of each source (name, options, views), or of its first records; kept in `cache` if
    there is one."""
    if cache and cache.exists():
        return torch.load(cache, weights_only=True)
    model = create("towers", image=DEEP).freeze("image", "text")
    made = []
    for spec, options, views in requests:
        source = open_source(spec, **options)
        source = source if first is None else source.first(first)
        loader = precompute(model, source, batch_size=512, views=views, shuffle=False, progress=True)
        made.append({**vars(loader.features), "texts": loader.texts, "numbers": loader.numbers})
    if cache:
        torch.save(made, cache)
    return made


def measure(candidate: dict[str, Any], seed: int, features: dict[str, Any], val: dict[str, Any]) -> dict[str, Any]:
    """Train one candidate with one seed; its figures on val, mean over the seen styles and of the unseen one."""
    torch.manual_seed(seed)
    model = create("towers", **candidate["model"]).freeze("image", "text")
    width = model.image.width  # the last map's channels come first
    views, kept = candidate["views"], KeptTexts(features["text"])
    image, geometry = features["image"][:views, :, :width], features["geometry"][:views]
    data = FeatureLoader(
        Features(features["records"], image, geometry, features["text"]),
        captions_only(kept),
        batch_size=candidate.get("batch_size", 512),
        caption=candidate.get("caption"),
        seed=seed,
        name="train",
    )
    pairs = {"name": "clip", "exclude_duplicates": True}
    method = Ensemble(model, of=pairs) if "image_heads" in candidate["model"] else CLIP(model, exclude_duplicates=True)
    train(method, data, epochs=candidate["epochs"], lr=candidate["lr"], seed=seed, progress=False)
    with torch.no_grad():
        model.eval()
        image = model.encode_image(val["image"][0, :, :width], normalize=True)
        text = model.encode_text(torch.stack([val["text"][each[0]] for each in val["texts"]]), normalize=True)
    group, domain = val["numbers"]["group"], val["numbers"]["domain"]
    styles = open_source("world/emoji", split="val").domains
    data = Embeddings(image, text, torch.arange(len(text)), group=group, domain=domain, domains=styles)
    data.captions = [each[0] for each in val["texts"]]
    by = retrieval(data).by["domain"]
    over_styles = {name: statistics.mean(by[style][name].value for style in TRAINED_STYLES) for name in METRICS}
    styles = {style: {name: by[style][name].value for name in METRICS} for style in TRAINED_STYLES}
    return {"seen": over_styles, "styles": styles, "unseen": {name: by[UNSEEN][name].value for name in METRICS}}


def _figure_words(values: list[float]) -> str:
    """Mean and standard deviation over seeds, in percent."""
    spread = f" ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{100 * statistics.mean(values):.1f}{spread}"


if __name__ == "__main__":
    main()
