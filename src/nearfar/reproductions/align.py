"""ALIGN (arXiv 2102.05918): more noisy pairs beat fewer clean ones at the same budget; at equal size clean pairs win.

Every arm trains the same small model from scratch for the same number of steps; only its pairs differ.

Emoji, where the noise is made and so is known: names of concepts drawn in four styles, tested by retrieval among the
same concepts in a fifth style. Clip art, where the noise is what people uploaded: all raw titles against the subset of
short titles that their keywords confirm, tested on pictures of that clean kind that no arm has seen.
"""

from __future__ import annotations

import random
from typing import Any

from nearfar.reproductions.harness import Arms, Claim, Reproduction

CONFIG = {
    "model": {"preset": "tiny", "image_size": 32},
    "method": {"name": "align", "temperature": 0.07},
    "vocabulary": 2000,
    "views": "clip",
    "training": {"steps": 250, "batch_size": 128, "lr": 1e-3, "warmup": 0.1, "weight_decay": 0.1},
    "emoji": {"clean_style": "noto", "held_out_style": "fluent-3d", "noise": 0.5},
    "clipart": {"held_out": 150},
}


def run(seed: int) -> Arms:
    """All arms on one seed."""
    from nearfar.data import world

    emoji: Any = CONFIG["emoji"]
    seen = [style for style in world.STYLES if style != emoji["held_out_style"]]
    one, four = (world.emoji("train", styles=styles) for styles in ([emoji["clean_style"]], seen))
    held_out = world.emoji("train", styles=[emoji["held_out_style"]])
    titles = Titles(seed)
    arms = {
        "emoji: 1 style, clean": (one, held_out),
        "emoji: 1 style, half wrong": (with_noise(one, emoji["noise"], seed), held_out),
        "emoji: 4 styles, half wrong": (with_noise(four, emoji["noise"], seed), held_out),
        "clip art: clean subset": (titles.clean, titles.held_out),
        "clip art: all, raw titles": (titles.raw, titles.held_out),
    }
    return {name: {"pairs": float(len(data)), **trained(data, test, seed)} for name, (data, test) in arms.items()}


def trained(data: Any, test: Any, seed: int) -> dict[str, float]:
    """Train on `data`, retrieve on `test`: the mean of both directions."""
    import torch

    import nearfar
    from nearfar.data.text import train_tokenizer
    from nearfar.evaluation import evaluate
    from nearfar.methods import find

    torch.manual_seed(seed)
    config: Any = CONFIG
    settings = dict(config["method"])
    tokenizer = train_tokenizer(data.texts(), config["vocabulary"])
    model = nearfar.models.create(**config["model"], tokenizer=tokenizer)
    method: Any = find(settings.pop("name"))(model, **settings)
    nearfar.train(method, data, seed=seed, progress=False, report=False, **config["training"])
    found = evaluate(method.model, test, ["retrieval"], captions=1, progress=False)["retrieval"]
    return {f"R@{k}": (found[f"text_to_image_R@{k}"] + found[f"image_to_text_R@{k}"]) / 2 for k in (1, 10)}


def with_noise(source: Any, share: float, seed: int) -> Any:
    """The source with the texts of a share of its pairs taken from other pairs, fixed for the run."""
    rng = random.Random(seed)
    wrong = {i: rng.randrange(len(source)) for i in range(len(source)) if rng.random() < share}
    places = {index: i for i, index in enumerate(source.column("index"))}

    def change(record: dict[str, Any]) -> dict[str, Any]:
        other = wrong.get(places[record["index"]])
        return record if other is None else {**record, "text": source[other]["text"]}

    return source.map(change)


class Titles:
    """The training clip art by its titles: raw, clean, and clean ones held out."""

    def __init__(self, seed: int) -> None:
        from nearfar.data import world

        config: Any = CONFIG
        clean, art = (titled(world.clipart("train", clean=only)) for only in (True, False))
        held_out = set(random.Random(seed).sample(clean.column("index"), config["clipart"]["held_out"]))
        self.held_out = clean.filter(lambda record: record["index"] in held_out)
        self.clean = clean.filter(lambda record: record["index"] not in held_out)
        self.raw = art.filter(lambda record: record["index"] not in held_out)


def titled(art: Any) -> Any:
    """Clip art with its title as the only caption; drawings without one are left out."""
    art = art.filter(lambda record: bool(record["title"].strip()))
    return art.map(lambda record: {**record, "text": record["title"]})


reproduction = Reproduction(
    slug="align",
    run=run,
    claims=[
        Claim(
            "four times the pairs, half of them wrong, beat the clean ones",
            "emoji: 4 styles, half wrong",
            "emoji: 1 style, clean",
            "R@10",
        ),
        Claim(
            "at equal size clean pairs beat those half wrong",
            "emoji: 1 style, clean",
            "emoji: 1 style, half wrong",
            "R@10",
        ),
        Claim(
            "all clip art with raw titles beats the clean subset",
            "clip art: all, raw titles",
            "clip art: clean subset",
            "R@10",
        ),
    ],
    seeds=(0, 1, 2),
    config=CONFIG,
    note=(
        "The data are far smaller than the paper's. The budget (250 steps of 128) is the same for all arms, so small "
        "sets are seen many times over. sigma starts at 0.07: from the paper's 1.0 it would hardly move in so few "
        "steps."
    ),
)
