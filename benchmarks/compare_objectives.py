"""The objectives of the library on the same data, head, steps and number of drawings in a batch.

    OMP_NUM_THREADS=1 python benchmarks/compare_objectives.py
    python tools/write_tables.py

An objective is a row of `PICTURES` or `PAIRS`; a new one joins by a row, and `--only NAME` runs it alone and leaves the
others' records. Pictures: a head of two layers on frozen features of emojis learns from drawings of one emoji in
several styles. Pairs: such a head, and one on frozen features of the names, learn from drawings with their names.
Learning rate and temperature are chosen for each objective from one grid, on validation emojis; figures are of test
emojis, in a style that training never shows.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from itertools import product
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from _heads import AcrossAndWithin, ByLoss, Distilled, Head, TwoHeads, TwoStages
from nearfar import files, losses
from nearfar.data import world
from nearfar.data.batches.data_info import DataInfo
from nearfar.evaluation.protocols.geometry import effective_rank
from nearfar.methods import find
from nearfar.methods.base import Method
from nearfar.reproductions.setups import emoji_views

RECORD = Path(__file__).parent / "results" / "compare_objectives.json"
STEPS, DRAWINGS, WARMUP, WEIGHT_DECAY = 100, 256, 0.1, 1e-4
RATES, TEMPERATURES, SEEDS = (3e-3, 1e-2), (0.1, 0.2, 0.5), (0, 1, 2)


@dataclass(frozen=True)
class Row:
    """An objective: how its method is made of heads and a temperature, which it chooses from, the drawings of each
    emoji in a batch, whose number of drawings is one for all, and the losses and methods of nearfar that it shows."""

    make: Callable[[Any, float], Method]
    views: int = 2
    temperatures: tuple[float, ...] = TEMPERATURES
    of: tuple[str, ...] = ()


def method(name: str, **settings: Any) -> Callable[[Any, float], Method]:
    """One of `nearfar.methods` with a temperature."""
    return lambda heads, temperature: find(name)(heads, temperature=temperature, **settings)


def without(name: str, **settings: Any) -> Callable[[Any, float], Method]:
    """One without a temperature, or that learns it."""
    return lambda heads, _: find(name)(heads, **settings)


def two(loss: Callable[[float], Any]) -> Callable[[Any, float], Method]:
    """A loss of two embeddings, made of a temperature."""
    return lambda heads, temperature: ByLoss(heads, loss(temperature))


def margins(_: float) -> Callable[[Tensor, Tensor], Tensor]:
    """Max-margin ranking in both directions, as VSE++ has it."""
    loss = losses.MarginRanking()
    return lambda a, b: (loss(a, b) + loss(b, a)) / 2


def first_view(temperature: float) -> Callable[[Tensor, Tensor], Tensor]:
    """The first view against the second ones, and not the other way round."""
    loss = losses.FirstViewInfoNCE(temperature, learnable=False)
    return lambda a, b: loss([a, b])


def nested(loss: Any) -> Callable[[Any, float], Method]:
    """A loss at three widths at once."""
    return two(lambda tau: losses.Matryoshka(loss(tau, learnable=False), [8, 16, 32]))


NONE = (1.0,)
GLOBAL = {"gamma": 0.3}
BINARY = two(lambda tau: losses.BinaryNCE(tau, learnable=False))
SPREAD = two(lambda _: losses.AlignmentUniformity())
PICTURES: dict[str, Row] = {
    "NT-Xent (SimCLR)": Row(method("simclr"), of=("simclr", "NTXent")),
    "from the first view alone (SimCSE's)": Row(two(first_view), of=("simcse", "FirstViewInfoNCE")),
    "queue of keys (MoCo)": Row(method("moco", momentum=0.9, queue_size=1024), of=("moco",)),
    "BYOL": Row(without("byol", momentum=0.95, predictor_hidden=64), temperatures=NONE, of=("byol",)),
    "SimSiam": Row(without("simsiam", predictor_hidden=16), temperatures=NONE, of=("simsiam",)),
    "live neighbours (BECLR)": Row(
        without("beclr", momentum=0.95, memory_size=1024, clusters=50, start_epoch=0, predictor_hidden=64, masked=0.0),
        temperatures=NONE,
        of=("beclr",),
    ),
    "alignment and uniformity": Row(SPREAD, temperatures=NONE, of=("AlignmentUniformity",)),
    "binary NCE": Row(BINARY, of=("BinaryNCE",)),
    "max-margin ranking": Row(two(margins), temperatures=NONE, of=("MarginRanking",)),
    "NT-Xent at 8, 16 and 32 numbers (Matryoshka)": Row(nested(losses.NTXent), of=("matryoshka", "Matryoshka")),
    "SogCLR": Row(method("sogclr", **GLOBAL), of=("sogclr", "GlobalContrastive")),
    "iSogCLR": Row(method("isogclr", **GLOBAL), of=("isogclr", "GlobalContrastive")),
    "MCL, two stages": Row(TwoStages, of=("within_clusters",)),
    "SupCon, 4 drawings": Row(method("supcon"), views=4, of=("supcon", "SupCon")),
    "MV-InfoNCE, 4 drawings": Row(method("multiview", loss="mv_info_nce"), views=4, of=("multiview", "MVInfoNCE")),
    "MV-DHEL, 4 drawings": Row(method("multiview", loss="mv_dhel"), views=4, of=("multiview", "MVDHEL")),
    "poly-view, 4 drawings": Row(method("multiview", loss="poly_view"), views=4, of=("multiview", "PolyView")),
    "pairs of NT-Xent, 4 drawings": Row(method("multiview", loss="pairs"), views=4, of=("multiview", "PairwiseViews")),
}
PAIRS: dict[str, Row] = {
    "InfoNCE (CLIP)": Row(method("clip", learn_temperature=False), views=1, of=("clip", "InfoNCE")),
    "InfoNCE, temperature learned (CLIP)": Row(without("clip"), views=1, temperatures=NONE, of=("clip", "InfoNCE")),
    "InfoNCE, labels smoothed (ALIGN)": Row(
        two(lambda tau: losses.InfoNCE(tau, learnable=False, label_smoothing=0.1)), views=1, of=("align", "InfoNCE")
    ),
    "sigmoid (SigLIP)": Row(without("siglip"), views=1, temperatures=NONE, of=("siglip", "SigmoidLoss")),
    "binary NCE": Row(BINARY, views=1, of=("BinaryNCE",)),
    "max-margin ranking (VSE++'s)": Row(two(margins), views=1, temperatures=NONE, of=("MarginRanking",)),
    "alignment and uniformity": Row(SPREAD, views=1, temperatures=NONE, of=("AlignmentUniformity",)),
    "InfoNCE at 8, 16 and 32 numbers (Matryoshka)": Row(
        nested(losses.InfoNCE), views=1, of=("matryoshka", "Matryoshka")
    ),
    "soft targets of a slow copy (ALBEF's)": Row(Distilled, views=1, of=("SoftTargetInfoNCE",)),
    "across and within (TCL's), 2 drawings": Row(AcrossAndWithin, views=2, of=("InfoNCE", "NTXent")),
    "SogCLR": Row(method("sogclr", **GLOBAL), views=1, of=("sogclr", "GlobalContrastive")),
    "iSogCLR": Row(method("isogclr", **GLOBAL), views=1, of=("isogclr", "GlobalContrastive")),
    "MV-InfoNCE, 2 drawings and the name": Row(
        method("multiview", loss="mv_info_nce"), views=2, of=("multiview", "MVInfoNCE")
    ),
    "MV-DHEL, 2 drawings and the name": Row(method("multiview", loss="mv_dhel"), views=2, of=("multiview", "MVDHEL")),
}
KINDS = {"pictures": PICTURES, "pairs": PAIRS}
LEFT_OUT: dict[tuple[str, ...], str] = {
    ("negclip", "ensemble"): "a name of one thing has no words to swap, so no hard captions",
    ("albef", "tcl", "GlobalLocalInfoNCE", "answering", "entailment"): (
        "a fusion encoder, and TCL's local term, read patches and words, where one vector is each; what ALBEF and TCL "
        "contrast is there, TCL's without its slow copy and its queue"
    ),
    ("pixpro", "PixContrast", "PixelConsistency"): "they compare the cells of maps",
    ("hydra", "GatedPairs"): (
        "its gate relates few classes of many pictures; of a thousand emojis with four drawings each a batch seldom "
        "holds the class that a pair needs"
    ),
    ("sepclr", "SepCLRLoss"): "there is no background and no target set",
    ("simctg", "SimCTGLoss"): "it spreads the words of a text",
    ("whitenedcse",): "its views of a text are the dropout of a text encoder",
    ("lexiclip",): "its two texts go through one encoder, and here a name is one vector",
    ("cless", "consert", "masked_language"): "they read the words of texts, and here a name is one vector",
    ("dito", "detection"): "they read regions of pictures",
    ("xclip",): "it reads videos",
    ("vl2v", "distill_ood", "TargetAlignment", "VisionLanguageAlignment"): (
        "they learn from another model, and here there is none"
    ),
    ("prompt_tuning", "ogen"): "they learn what stands around a class name, and here a name is one vector",
    ("coconut", "transcription"): "they read sounds",
    ("captioning", "cg_vlm", "close", "instruction", "prior"): (
        "they write texts, word by word, and here a name is one vector"
    ),
    ("svco", "dpo", "image_dpo"): "they read pairs of pictures that hardly differ, with a text each",
    ("cosmo", "vladva"): "they embed texts with a language model, and here a name is one vector",
    ("two_stream", "MatchmapInfoNCE"): "words look for the cells of a map, and here one vector is each",
    ("relational",): "it reads phrases and how the things that they name are related",
    ("RehearsalContrastive",): "its positives are of earlier tasks, and here there is one",
    ("SupervisedCrossModal",): "where each name is a class of its own it is InfoNCE",
}
"""Losses and methods of which these data can tell nothing, and why."""
UNTRAINED = "untrained"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these alone; the others keep their record")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    parser.add_argument("--rates", nargs="+", type=float, default=list(RATES))
    parser.add_argument("--output", type=Path, default=RECORD)
    args = parser.parse_args()
    for kind, rows in KINDS.items():
        for name in [UNTRAINED, *rows]:
            if args.only and name not in args.only:
                continue
            entry = {"kind": kind, "objective": name, **compared(kind, rows.get(name), args)}
            record = joined(args.output, entry)
            record |= {"steps": args.steps, "drawings": DRAWINGS, "torch": torch.__version__, "rates": args.rates}
            files.write(args.output, json.dumps(record, indent=1) + "\n")
            files.write(args.output.with_suffix(".md"), as_markdown(record))
            print(json.dumps(entry), flush=True)
    print(as_markdown(record))


def compared(kind: str, row: Row | None, args: argparse.Namespace) -> dict[str, Any]:
    """The setting that validation chooses by the first seed, and the test's figures of all seeds."""
    chosen: dict[str, float] = {}
    if row is not None:
        settings = [dict(zip(("lr", "temperature"), s, strict=True)) for s in product(args.rates, row.temperatures)]
        tried = [measured(trained(kind, row, args.seeds[0], args.steps, **s)[0], kind, "val") for s in settings]
        scores = [figures["R@1"] for figures in tried]
        chosen = settings[scores.index(max(scores))]
    seconds, test = [], []
    for seed in args.seeds:
        heads, spent = trained(kind, row, seed, args.steps, **chosen)
        seconds.append(spent)
        test.append(measured(heads, kind, "test"))
    if row is not None and row.temperatures == NONE:
        chosen.pop("temperature")
    return {"chosen": chosen, "ms_a_step": 1000 * min(seconds) / args.steps, "test": test}


def trained(
    kind: str, row: Row | None, seed: int, steps: int, *, lr: float = 0.0, temperature: float = 0.0
) -> tuple[Any, float]:
    """Heads after training, and the CPU seconds that it took."""
    torch.manual_seed(seed)
    heads = TwoHeads(names("train").shape[1]) if kind == "pairs" else Head()
    if row is None:
        return heads.eval(), 0.0
    features = emoji_views.drawings("train")[0][:-1]
    texts = names("train") if kind == "pairs" else None
    learner, began = row.make(heads, temperature), time.process_time()
    learner.begin(DataInfo(name="emojis", size=features.shape[1], ids=lambda: range(features.shape[1]), steps=steps))
    optimizer = torch.optim.AdamW(learner.param_groups(WEIGHT_DECAY), lr=lr)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, partial(rate, steps=steps))
    learner.train()
    for step in range(1, steps + 1):
        batch = drawn(features, texts, row.views)
        learner.before_step()
        loss = learner(batch)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        learner.after_step(step)
    return heads.eval(), time.process_time() - began


def rate(step: int, steps: int) -> float:
    """Warm-up, then half a cosine."""
    warm = max(1, round(WARMUP * steps))
    return min((step + 1) / warm, (1 + math.cos(math.pi * min(1, max(0, step - warm) / max(1, steps - warm)))) / 2)


def drawn(features: Tensor, texts: Tensor | None, views: int) -> dict[str, Tensor]:
    """A batch of `DRAWINGS` drawings `views` of each emoji, each in a style of its own; with names, as many pairs."""
    rows = torch.randperm(features.shape[1])[: DRAWINGS // views]
    styles = torch.randperm(len(features))[:views]
    pictures = features[styles[:, None], rows]
    batch = {"views": pictures, "image": pictures[0], "index": rows, "label": rows}
    return batch if texts is None else {**batch, "text": texts[rows]}


@cache
def names(split: str) -> Tensor:
    """Features `[N, 384]` of the emojis' names, each in the spread of the training names."""
    raw = _read_names(split)
    train = _read_names("train")
    return (raw - train.mean(0)) / train.std(0)


@cache
def _read_names(split: str) -> Tensor:
    from nearfar.models.language.text_model import text_encoder

    texts = [record["text"][0] for record in world.emoji(split, styles=["noto"], tags=False)]
    return torch.as_tensor(text_encoder("minilm").encode(texts)).float()


@torch.no_grad()
def measured(heads: Any, kind: str, split: str) -> dict[str, float]:
    """How often the right emoji is nearest among those of the split, in the style that training never shows: to
    drawings in another style, or to names and the other way round; and the effective rank of the drawings."""
    features, _ = emoji_views.drawings(split)
    unseen = normalize(heads.encode_image(features[-1]), dim=1)
    if kind == "pictures":
        asks = normalize(
            heads.encode_image(features[emoji_views.DATA["styles"].index(emoji_views.DATA["asks"])]), dim=1
        )
        hits = [first_is_right(asks @ unseen.T)]
    else:
        text = normalize(heads.encode_text(names(split)), dim=1)
        hits = [first_is_right(text @ unseen.T), first_is_right(unseen @ text.T)]
    return {"R@1": round(mean(hits), 4), "rank": round(float(effective_rank(unseen)), 2)}


def first_is_right(scores: Tensor) -> float:
    return float((scores.argmax(1) == torch.arange(len(scores))).double().mean())


def joined(path: Path, entry: dict[str, Any]) -> dict[str, Any]:
    """The record with a new entry in its place."""
    record = json.loads(path.read_text()) if path.is_file() else {"rows": []}
    order = [(kind, name) for kind, rows in KINDS.items() for name in [UNTRAINED, *rows]]
    key = (entry["kind"], entry["objective"])
    rows = [row for row in record["rows"] if (row["kind"], row["objective"]) not in (key,)] + [entry]
    rows = [row for row in rows if (row["kind"], row["objective"]) in order]
    rows.sort(key=lambda row: order.index((row["kind"], row["objective"])))
    return {**record, "rows": rows}


def as_markdown(record: dict[str, Any]) -> str:
    lines = []
    for kind, heading in (("pictures", "Pictures alone"), ("pairs", "Drawings with their names")):
        rows = [row for row in record["rows"] if row["kind"] == kind]
        if not rows:
            continue
        lines += [
            f"**{heading}**",
            "",
            "| objective | chosen | R@1, mean and range of the seeds | effective rank | CPU ms a step |",
            "|:--|:--|--:|--:|--:|",
        ]
        for row in rows:
            values = [figures["R@1"] for figures in row["test"]]
            chosen = ", ".join(f"{name} {value:g}" for name, value in row["chosen"].items()) or "-"
            spent = f"{row['ms_a_step']:.1f}" if row["chosen"] else "-"
            lines.append(
                f"| {row['objective']} | {chosen} | {mean(values):.3f} ({min(values):.3f} to {max(values):.3f}) | "
                f"{mean(figures['rank'] for figures in row['test']):.1f} | {spent} |"
            )
        lines.append("")
    lines += ["Not in the tables, as these data cannot tell of them:", ""]
    lines += [f"- {', '.join(f'`{name}`' for name in names)}: {why}." for names, why in LEFT_OUT.items()]
    return "\n".join([*lines, "", "    python benchmarks/compare_objectives.py", ""])


if __name__ == "__main__":
    main()
