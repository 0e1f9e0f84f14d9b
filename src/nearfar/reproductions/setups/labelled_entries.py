"""Short entries with rare and common subjects: the names and keywords of emojis, and words of clip art without labels.
A small text encoder is pretrained on all of them; then a few labelled ones are learnt on what it gives."""

from __future__ import annotations

from collections import Counter
from functools import cache
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

DATA: dict[str, Any] = {
    "texts": ["world/topics:train", "world/clipart:train"],
    "least_words": 6,
    "labelled": "world/topics",
    "least_of_a_class": {"train": 5, "test": 2},
    "vocabulary": 4096,
    "max_length": 24,
}
MODEL: dict[str, Any] = {"width": 64, "layers": 2, "heads": 4, "dropout": 0.1}
FITTING: dict[str, Any] = {"steps": 60, "batch_size": 48, "lr": 1e-3, "warmup": 0.1, "weight_decay": 0.01}
PROBE = 100.0
"""Inverse strength of the penalty of the logistic regression, the same for all."""
SHOTS = (1, 5, 20)
OPPOSITES = (
    "left right|up down|man woman|black white|open closed|happy sad|hot cold|big small|old young|day night|high low|"
    "sun moon|boy girl|light dark|full empty|smile frown"
)
"""Words that the pretraining texts have three times at least, both of each pair."""


@cache
def unlabelled() -> list[str]:
    """The texts of pretraining: the training entries, and titles, descriptions and keywords of clip art."""
    from nearfar.data import world
    from nearfar.data.texts.label_texts_field import words_of

    art = world.clipart("train")
    texts = [*world.topics("train").column("text"), *(", ".join(art.record(i)["text"]) for i in range(len(art)))]
    return [text for text in dict.fromkeys(texts) if len(words_of(text)) >= DATA["least_words"]]


@cache
def classes() -> tuple[list[str], list[str]]:
    """The subjects with enough entries, from the commonest in training on, and the rarer half of them."""
    counts = {split: Counter(record["subject"] for record in _entries(split)) for split in ("train", "test")}
    least = DATA["least_of_a_class"]
    kept = [name for name, _ in counts["train"].most_common() if all(counts[s][name] >= n for s, n in least.items())]
    return kept, kept[len(kept) // 2 :]


@cache
def _entries(split: str) -> list[dict[str, Any]]:
    from nearfar.data import world

    return list(world.topics(split))


def entries(split: str) -> list[dict[str, Any]]:
    """The entries of a split whose subject is one of the `classes`."""
    kept = set(classes()[0])
    return [record for record in _entries(split) if record["subject"] in kept]


def labelled(shots: int, seed: int) -> list[dict[str, Any]]:
    """So many training entries of each subject, all where it has fewer, drawn by the seed."""
    order = torch.randperm(len(entries("train")), generator=torch.Generator().manual_seed(seed)).tolist()
    taken: Counter[str] = Counter()
    chosen = []
    for record in (entries("train")[place] for place in order):
        taken[record["subject"]] += 1
        chosen += [record] if taken[record["subject"]] <= shots else []
    return chosen


@cache
def _tokenizer() -> Any:
    from nearfar.data import train_tokenizer

    return train_tokenizer(unlabelled(), DATA["vocabulary"], max_length=DATA["max_length"])


def fresh(seed: int) -> Any:
    """A label matcher from scratch."""
    from nearfar.models import label_matcher

    torch.manual_seed(seed)
    width = MODEL["width"]
    config = {
        "model_type": "bert",
        "hidden_size": width,
        "num_hidden_layers": MODEL["layers"],
        "num_attention_heads": MODEL["heads"],
        "intermediate_size": 2 * width,
        "max_position_embeddings": DATA["max_length"],
        "hidden_dropout_prob": MODEL["dropout"],
        "attention_probs_dropout_prob": MODEL["dropout"],
    }
    return label_matcher(config, tokenizer=_tokenizer(), pooling="mean", pretrained=False)


def pretrained(method: Any, seed: int, *, text_views: Any = None, **training: Any) -> Any:
    """The method's model after training on the unlabelled texts."""
    from nearfar.data import Records

    _train(method, Records([{"text": text} for text in unlabelled()]), seed, text_views=text_views, **training)
    return method.model


def fitted(model: Any, shots: int, seed: int) -> Any:
    """A copy of the model, trained on a few labelled entries by the matching head and the binary objective."""
    from copy import deepcopy

    from nearfar.data import Records
    from nearfar.methods import CLESS

    records = labelled(shots, seed)
    method = CLESS(deepcopy(model), labels="subject", positives=1, negatives=32)
    settings = FITTING | {"batch_size": min(FITTING["batch_size"], len(records))}
    _train(method, Records(records), seed, **settings)
    return method.model


def _train(method: Any, source: Any, seed: int, *, text_views: Any = None, batch_size: int, **training: Any) -> None:
    import nearfar
    from nearfar.data import Loader
    from nearfar.data.fields.usual import settings_of

    reading = {"text_pairs": method.text_pairs, "label_texts": method.label_texts, "text_views": text_views}
    # Words here are what blanks separate: a few texts with dashes are too short for spans, and others take their place.
    reading |= settings_of(method.model) | {"max_skipped": 0.5}
    loader = Loader(source, batch_size=batch_size, seed=seed, **reading)
    torch.manual_seed(seed)
    nearfar.train(method, loader, seed=seed, progress=False, report=False, **training)
    method.eval()


def matched(model: Any, split: str) -> np.ndarray[Any, Any]:
    """Logits `[N, C]` of the classes for the entries of a split, by the matching head."""
    return model.match_labels([record["text"] for record in entries(split)], classes()[0]).numpy()


def probed(model: Any, shots: int, seed: int, split: str) -> np.ndarray[Any, Any]:
    """Scores `[N, C]` of the classes by logistic regression on frozen embeddings of a few labelled entries."""
    from nearfar.classifiers import LinearProbe

    records, place = labelled(shots, seed), {name: i for i, name in enumerate(classes()[0])}
    label = [place[record["subject"]] for record in records]
    probe = LinearProbe([PROBE]).fit(_embedded(model, [record["text"] for record in records]), label)
    return probe.decision_function(_embedded(model, [record["text"] for record in entries(split)]))


def compared(model: Any, split: str) -> np.ndarray[Any, Any]:
    """Cosines `[N, C]` of entries and names of classes, both as texts: for heads that were never trained."""
    return (_embedded(model, [r["text"] for r in entries(split)]) @ _embedded(model, classes()[0]).T).numpy()


def f1(scores: np.ndarray[Any, Any], split: str) -> tuple[float, float]:
    """F1 averaged over the classes that the split has, and over the rarer half of them."""
    from nearfar.evaluation.language.label_match import f1_of

    names, rare = classes()
    truth = np.array([[record["subject"] == name for name in names] for record in entries(split)])
    each = f1_of(truth, scores.argmax(axis=1)[:, None] == np.arange(len(names)))
    there = truth.any(axis=0)
    tail = there & np.array([name in set(rare) for name in names])
    return float(each[there].mean()), float(each[tail].mean())


def stressed(model: Any) -> dict[str, float]:
    """How near an entry stays to what says the opposite, from 0, as near as two entries are on average, to 1, the
    same: `opposites`, of test entries with one word turned into its antonym; `negations`, with "not" before them."""
    swaps = dict(pair for each in OPPOSITES.split("|") for pair in (each.split(), each.split()[::-1]))
    texts = [record["text"] for record in _entries("test")]
    turned = [(text, other) for text in texts if (other := _turned(text, swaps)) is not None]
    here = _embedded(model, texts)
    total = here.sum(0)
    between = float((total @ total - (here * here).sum()) / (len(here) * (len(here) - 1)))

    def near(before: list[str], after: list[str]) -> float:
        cosine = float((_embedded(model, before) * _embedded(model, after)).sum(1).mean())
        return (cosine - between) / (1 - between)

    return {
        "opposites": near([a for a, _ in turned], [b for _, b in turned]),
        "negations": near(texts, [f"not {text}" for text in texts]),
    }


def _turned(text: str, swaps: dict[str, str]) -> str | None:
    """The text with the first word that has an antonym, and its repetitions, turned into it; None without one."""
    from nearfar.data.texts.label_texts_field import words_of

    first = next((word for word in words_of(text.lower()) if word in swaps), None)
    if first is None:
        return None
    parts = text.lower().replace(",", " ,").split()
    return " ".join(swaps[first] if part == first else part for part in parts).replace(" ,", ",")


def _embedded(model: Any, texts: list[str]) -> torch.Tensor:
    from nearfar.embedding.embed_source import embed_texts

    return F.normalize(embed_texts(model, texts), dim=1)
