"""Contrastive search (arXiv 2210.14140) against greedy, beam, top-k, nucleus and typical decoding, on a pretrained
model and on one trained here; and SimCTG (arXiv 2202.06417) against training by likelihood alone.

Each seed continues other held-out prompts of the Python language reference. SmolLM2 is trained on no seed, so its
decoders are compared prompt by prompt over the prompts of all seeds, and its text is judged by one small model; the
small models are trained afresh on each seed, and their text is judged by SmolLM2.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from nearfar.evaluation.language.generation import coherence, diversity, repetition
from nearfar.evaluation.language.isotropy import language_model_isotropy
from nearfar.reproductions.shared.claims import Arms, Claim, Reproduction
from nearfar.reproductions.shared.per_query import PerQuery

CONFIG: dict[str, Any] = {
    "corpus": "python",
    "held_out": 0.2,
    "prompts": 18,
    "judge_seed": 100,
    "prompt_words": 24,
    "new_tokens": 64,
    "k": 4,
    "alpha": 0.6,
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
    likelihood, simctg = train_small(seed)
    prompts, human = held_out(seed)
    # The number of a prompt is the same for every arm, and for no other seed.
    rows = range(seed * len(prompts), (seed + 1) * len(prompts))
    arms: Arms = {
        "human text": measure(human, prompts, human, rows, judge()),
        "SmolLM2": isotropy_of(pretrained, prompts, human),
        "GPT-2 small, published": {"isotropy": 0.10},  # the paper's table, the anisotropic model it names
    }
    for name, decode in decoders().items():
        texts = write(pretrained, prompts, decode, seed)
        arms[f"SmolLM2, {name}"] = measure(texts, prompts, human, rows, judge())
    for name, model in {"likelihood": likelihood, "SimCTG": simctg}.items():
        arms[name] = isotropy_of(model, prompts, human)
        for decoder in ("greedy", "contrastive"):
            texts = write(model, prompts, decoders()[decoder], seed)
            arms[f"{name}, {decoder}"] = measure(texts, prompts, human, rows, pretrained)
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


def measure(texts: list[str], prompts: list[str], human: list[str], rows: range, judge: Any) -> dict[str, Any]:
    """Repetition over all texts; of each text its diversity, its distance in that from the human text of the same
    prompt, and its mean log probability under the judge."""
    texts = [text if text.strip() else "." for text in texts]  # an empty text has no likelihood
    own, theirs = ([100 * _diversity(text) for text in each] for each in (texts, human))
    gaps = [abs(mine - other) for mine, other in zip(own, theirs, strict=True)]
    likelihood = coherence(judge.lm.eval(), *_tokens(judge, prompts, texts)).tolist()
    repeated = {f"rep-{n}": repetition(texts, n) for n in (2, 3, 4)}
    return {
        # A collapsed model may write no blank, and so no four words in a row: it says one thing all along.
        **{name: 100.0 if math.isnan(value) else 100 * value for name, value in repeated.items()},
        "diversity": PerQuery(own, rows),
        "diversity_gap": PerQuery(gaps, rows),
        "coherence": PerQuery(likelihood, rows),
    }


def _diversity(text: str) -> float:
    """Diversity of one text; 0 where it has no four words."""
    value = diversity([text])
    return 0.0 if math.isnan(value) else value


def isotropy_of(model: Any, prompts: list[str], human: list[str]) -> dict[str, float]:
    """Isotropy of the last layer on held-out human text."""
    texts = [f"{prompt} {text}" for prompt, text in zip(prompts, human, strict=True)]
    batches = [model.tokenize_prompts([text]) for text in texts]
    result = language_model_isotropy(model.lm.eval(), batches)
    return {"isotropy": result["within"], "isotropy_across": result["across"]}


def train_small(seed: int) -> tuple[Any, Any]:
    """Two copies of a small model trained here, trained on for equal steps: by likelihood, and with SimCTG."""
    from nearfar.models.language import language_model

    tuning, first = CONFIG["fine_tuning"], small_model(seed)

    def copy() -> Any:
        twin = language_model(CONFIG["small"]["name"], tokenizer=first.tokenizer)
        twin.load_state_dict(first.state_dict())
        return twin

    steps, lr = tuning["steps"], tuning["lr"]
    return fitted(copy(), seed, steps, lr, 0.0), fitted(copy(), seed, steps, lr, 1.0)


@cache
def judge() -> Any:
    """The small model that judges SmolLM2's text, the same for all seeds."""
    return small_model(CONFIG["judge_seed"])


def small_model(seed: int) -> Any:
    """A small model trained by likelihood on the corpus without its held-out part."""
    from nearfar.data.fields.text import train_tokenizer
    from nearfar.models.language import language_model

    small = CONFIG["small"]
    texts = training_text().texts()
    tokenizer = train_tokenizer(texts, small["vocab_size"], max_length=small["max_length"], lowercase=False)
    model = language_model(small["name"], tokenizer=tokenizer, seed=seed)
    return fitted(model, seed, small["steps"], small["lr"], 0.0)


def fitted(model: Any, seed: int, steps: int, lr: float, weight: float) -> Any:
    """The model after training; `weight` is that of SimCTG's contrast beside the likelihood."""
    from nearfar.methods.text.simctg import SimCTG
    from nearfar.training import TrainConfig, train

    config = TrainConfig(
        steps=steps,
        batch_size=CONFIG["small"]["batch_size"],
        lr=lr,
        seed=seed,
        progress=False,
        report=False,
        device="cpu",
    )
    train(SimCTG(model, margin=CONFIG["fine_tuning"]["margin"], weight=weight), training_text(), config=config)
    return model.eval()


def training_text() -> Any:
    """The corpus without what is held out."""
    from nearfar.data.sources.text_corpus import corpus

    return corpus(CONFIG["corpus"], words=64, split="train", held_out=CONFIG["held_out"])


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
        *(
            Claim(
                f"Contrastive search repeats itself less than {name} search.",
                "SmolLM2, contrastive",
                f"SmolLM2, {name}",
                "diversity",
                effect=10.0,
                over="queries",
            )
            for name in ("greedy", "beam")
        ),
        Claim(
            "Its diversity is nearer to human text's than greedy search's.",
            "SmolLM2, contrastive",
            "SmolLM2, greedy",
            "diversity_gap",
            "lower",
            effect=10.0,
            over="queries",
        ),
        *(
            Claim(
                f"It is more coherent than {name} sampling.",
                "SmolLM2, contrastive",
                f"SmolLM2, {name}",
                "coherence",
                effect=0.1,
                over="queries",
            )
            for name in ("nucleus", "top-k", "typical")
        ),
        Claim(
            "An off-the-shelf model is more isotropic than GPT-2 small.",
            "SmolLM2",
            "GPT-2 small, published",
            "isotropy",
            effect=0.05,
            constant=True,
        ),
        Claim(
            "SimCTG makes a model more isotropic than likelihood alone.",
            "SimCTG",
            "likelihood",
            "isotropy",
            effect=0.02,
        ),
        Claim(
            "Contrastive search is as diverse or more after SimCTG.",
            "SimCTG, contrastive",
            "likelihood, contrastive",
            "diversity",
            effect=10.0,
        ),
    ],
    # The corpus has 110 passages that are long enough: six seeds use up all of them, and none is left for a pilot.
    seeds=range(6),
    pilot=0,
    config=CONFIG,
    note=(
        "Prompts are passages of the Python language reference, the one English text that every Python brings: few, "
        "technical, and perhaps known to SmolLM2, whose instruction-tuned weights are 4-bit ones dequantised. Its text "
        "is judged by one small model trained here, which knows little but the subject; the small models' text by "
        "SmolLM2. MAUVE is left out: with 18 texts a seed, or 108 in all, it does not tell one decoder from another. "
        "No second language: no running text in one comes with the packages used here."
    ),
)
