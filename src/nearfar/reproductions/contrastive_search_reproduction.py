"""Contrastive search (arXiv 2210.14140) against greedy, beam, top-k, nucleus and typical decoding, on a pretrained
model and on one trained here; and SimCTG (arXiv 2202.06417) against training by likelihood alone.

Each seed continues other held-out prompts of the Python language reference, so that all arms, the deterministic ones
too, vary over seeds and are paired. Each model's text is judged by the other model.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from nearfar.evaluation.language.generation import coherence, diversity, repetition
from nearfar.evaluation.language.isotropy import language_model_isotropy
from nearfar.reproductions.shared.claims import Arms, Claim, Reproduction

CONFIG: dict[str, Any] = {
    "corpus": "python",
    "held_out": 0.2,
    "prompts": 32,
    "prompt_words": 24,
    "new_tokens": 64,
    "k": 4,
    "alpha": 0.6,
    "mauve_starts": 5,
    "beams": 4,
    "top_k": 50,
    "top_p": 0.95,
    "typical_p": 0.2,  # its authors' value for open-ended text; from 0.95 it would keep what nucleus sampling keeps
    "small": {"name": "small", "vocab_size": 2000, "steps": 120, "batch_size": 16, "max_length": 96, "lr": 2e-3},
    "fine_tuning": {"steps": 40, "lr": 5e-4, "margin": 0.5},
}

Decoder = Callable[[Any, dict[str, Tensor], int], Tensor]


def run(seed: int) -> Arms:
    """All arms on the prompts of one seed."""
    from nearfar.models.language import language_model

    pretrained = language_model("smollm2")
    pretrained.lm.generation_config.eos_token_id = None  # every text has its full length
    trained, likelihood, simctg = train_small(seed)
    prompts, human = held_out(seed)
    arms: Arms = {
        "human text": measure(human, prompts, trained),
        "SmolLM2": isotropy_of(pretrained, prompts, human),
        "GPT-2 small, published": {"isotropy": 0.10},  # the paper's table, the anisotropic model it names
    }
    human_diversity = arms["human text"]["diversity"]
    place = places(pretrained, human)
    arms["human text"]["mauve"] = place(held_out((seed + 1) % 3)[1])  # other human texts: the most that one can reach
    for name, decode in decoders().items():
        texts = write(pretrained, prompts, decode, seed)
        arms[f"SmolLM2, {name}"] = measure(texts, prompts, trained) | {"mauve": place(texts)}
    for name, model in {"likelihood": likelihood, "SimCTG": simctg}.items():
        arms[name] = isotropy_of(model, prompts, human)
        for decoder in ("greedy", "contrastive"):
            texts = write(model, prompts, decoders()[decoder], seed)
            arms[f"{name}, {decoder}"] = measure(texts, prompts, pretrained)
    for metrics in arms.values():
        if "diversity" in metrics:
            metrics["diversity_gap"] = abs(metrics["diversity"] - human_diversity)
    return arms


def decoders() -> dict[str, Decoder]:
    """The paper's methods, each `(lm, prompt tokens, seed) -> ids`."""
    from nearfar.decoding import contrastive_search

    length = {"max_new_tokens": CONFIG["new_tokens"], "eos_token_id": None}

    def generate(**options: Any) -> Decoder:
        def decode(lm: Any, tokens: dict[str, Tensor], seed: int) -> Tensor:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                return lm.generate(**tokens, **length, **options)

        return decode

    def contrastive(lm: Any, tokens: dict[str, Tensor], seed: int) -> Tensor:
        return contrastive_search(lm, tokens, k=CONFIG["k"], alpha=CONFIG["alpha"], **length)

    return {
        "greedy": generate(do_sample=False),
        "beam": generate(do_sample=False, num_beams=CONFIG["beams"]),
        "top-k": generate(do_sample=True, top_k=CONFIG["top_k"]),
        "nucleus": generate(do_sample=True, top_p=CONFIG["top_p"], top_k=0),
        "typical": generate(do_sample=True, typical_p=CONFIG["typical_p"], top_k=0),
        "contrastive": contrastive,
    }


def write(model: Any, prompts: list[str], decode: Decoder, seed: int) -> list[str]:
    """A continuation of each prompt, without it."""
    tokens = model.tokenize_prompts(prompts)
    with torch.no_grad():
        ids = decode(model.lm.eval(), tokens, seed)
    return model.tokenizer.batch_decode(ids[:, tokens["input_ids"].shape[1] :], skip_special_tokens=True)


def measure(texts: list[str], prompts: list[str], judge: Any) -> dict[str, float]:
    """Repetition and diversity of the texts, and how the judge finds them."""
    texts = [text if text.strip() else "." for text in texts]  # an empty text has no likelihood
    values = coherence(judge.lm.eval(), *_tokens(judge, prompts, texts))
    mean = float(values.mean())
    found = {f"rep-{n}": repetition(texts, n) for n in (2, 3, 4)} | {"diversity": diversity(texts)}
    if math.isnan(found["diversity"]):  # a collapsed model may write no blank, and so no four words in a row
        found = {"rep-2": 1.0, "rep-3": 1.0, "rep-4": 1.0, "diversity": 0.0}
    return {
        **{name: 100 * value for name, value in found.items()},
        "coherence": mean,
        "perplexity": math.exp(-mean),
    }


def places(reader: Any, human: list[str]) -> Callable[[list[str]], float]:
    """Texts to their MAUVE with the human ones, in percent, as the reader's last states place both."""
    from nearfar.evaluation.language.mauve import last_states, mauve

    def states(texts: list[str]) -> Tensor:
        ids = [reader.tokenizer(text.strip() or ".")["input_ids"] for text in texts]
        return last_states(reader.lm.eval(), ids)

    theirs = states(human)

    def place(texts: list[str]) -> float:
        ours = states(texts)
        return 100 * statistics.fmean(mauve(ours, theirs, seed=start) for start in range(CONFIG["mauve_starts"]))

    return place


def isotropy_of(model: Any, prompts: list[str], human: list[str]) -> dict[str, float]:
    """Isotropy of the last layer on held-out human text."""
    texts = [f"{prompt} {text}" for prompt, text in zip(prompts, human, strict=True)]
    batches = [model.tokenize_prompts([text]) for text in texts]
    result = language_model_isotropy(model.lm.eval(), batches)
    return {"isotropy": result["within"], "isotropy_across": result["across"]}


def train_small(seed: int) -> tuple[Any, Any, Any]:
    """A small model trained here, and two copies trained on for equal steps: by likelihood, and with SimCTG."""
    from nearfar.data.fields.text import train_tokenizer
    from nearfar.data.sources.text_corpus import corpus
    from nearfar.methods.text.simctg import SimCTG
    from nearfar.models.language import language_model
    from nearfar.training import TrainConfig, train

    small, tuning = CONFIG["small"], CONFIG["fine_tuning"]
    source = corpus(CONFIG["corpus"], words=64, split="train", held_out=CONFIG["held_out"])
    tokenizer = train_tokenizer(source.texts(), small["vocab_size"], max_length=small["max_length"], lowercase=False)

    def fitted(model: Any, steps: int, lr: float, weight: float) -> Any:
        config = TrainConfig(
            steps=steps, batch_size=small["batch_size"], lr=lr, seed=seed, progress=False, report=False, device="cpu"
        )
        train(SimCTG(model, margin=tuning["margin"], weight=weight), source, config=config)
        return model.eval()

    def copy(model: Any) -> Any:
        twin = language_model(small["name"], tokenizer=tokenizer)
        twin.load_state_dict(model.state_dict())
        return twin

    first = fitted(language_model(small["name"], tokenizer=tokenizer, seed=seed), small["steps"], small["lr"], 0.0)
    return (
        first,
        fitted(copy(first), tuning["steps"], tuning["lr"], 0.0),
        fitted(copy(first), tuning["steps"], tuning["lr"], 1.0),
    )


def held_out(seed: int) -> tuple[list[str], list[str]]:
    """Prompts, and how a human went on. Seeds share none."""
    count, words = CONFIG["prompts"], CONFIG["prompt_words"]
    chosen = _long_passages()[seed * count : (seed + 1) * count]
    if len(chosen) < count:
        raise ValueError(f"seed {seed}: the corpus has passages for {len(_long_passages()) // count} seeds")
    pieces = [passage.split() for passage in chosen]
    return [" ".join(p[:words]) for p in pieces], [" ".join(p[words:]) for p in pieces]


@cache
def _long_passages() -> list[str]:
    from nearfar.data.sources.text_corpus import corpus

    texts = corpus(CONFIG["corpus"], words=64, split="test", held_out=CONFIG["held_out"]).texts()
    words = CONFIG["prompt_words"]
    # topics of the reference share passages: one text a prompt
    return list({tuple(text.split()[:words]): text for text in texts if len(text.split()) >= 2 * words}.values())


def _tokens(judge: Any, prompts: list[str], texts: list[str]) -> tuple[list[list[int]], list[list[int]]]:
    """Prompt and continuation in the judge's tokens; a continuation begins with its own blank."""
    before, after = [], []
    for prompt, text in zip(prompts, texts, strict=True):
        whole = judge.tokenize_prompts([f"{prompt} {text.strip()}"])["input_ids"][0].tolist()
        start = judge.tokenize_prompts([prompt])["input_ids"].shape[1]
        start = min(start, len(whole) - 1)
        before.append(whole[:start])
        after.append(whole[start:])
    return before, after


reproduction = Reproduction(
    slug="contrastive-search",
    run=run,
    claims=[
        Claim(
            "Contrastive search repeats itself less than greedy search.",
            "SmolLM2, contrastive", "SmolLM2, greedy", "diversity",
        ),
        Claim("... and than beam search.", "SmolLM2, contrastive", "SmolLM2, beam", "diversity"),
        Claim(
            "Its diversity is nearer to human text's than greedy search's.",
            "SmolLM2, contrastive", "SmolLM2, greedy", "diversity_gap", "lower",
        ),
        Claim(
            "It lies nearer to human text than greedy search's.",
            "SmolLM2, contrastive", "SmolLM2, greedy", "mauve",
        ),
        Claim("It is more coherent than nucleus sampling.", "SmolLM2, contrastive", "SmolLM2, nucleus", "coherence"),
        Claim("... than top-k sampling.", "SmolLM2, contrastive", "SmolLM2, top-k", "coherence"),
        Claim("... than typical sampling.", "SmolLM2, contrastive", "SmolLM2, typical", "coherence"),
        Claim(
            "An off-the-shelf model is more isotropic than GPT-2 small.",
            "SmolLM2", "GPT-2 small, published", "isotropy", constant=True,
        ),
        Claim("SimCTG makes a model more isotropic than likelihood alone.", "SimCTG", "likelihood", "isotropy"),
        Claim(
            "Contrastive search is as diverse or more after SimCTG.",
            "SimCTG, contrastive", "likelihood, contrastive", "diversity",
        ),
    ],
    seeds=(0, 1, 2),
    pilot=0,
    config=CONFIG,
    note=(
        "Prompts are passages of the Python language reference, the one English text that every Python brings: few, "
        "technical, and perhaps known to SmolLM2, whose instruction-tuned weights are 4-bit ones dequantised. Its text "
        "is judged by the small model trained here, which knows little but the subject; the small models' text by "
        "SmolLM2. MAUVE is of 32 texts a side, the least that make three buckets of ten, and so a noisy figure; its "
        "features are SmolLM2's own states. No second language: no running text in one comes with the packages used "
        "here."
    ),
)  # fmt: skip
