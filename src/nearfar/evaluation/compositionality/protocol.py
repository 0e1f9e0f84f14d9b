"""The compositionality report: multiple-choice tasks for any encoder, each beside its blind baselines."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from nearfar.data.images import load_image
from nearfar.evaluation.compositionality.choice import Case, choice_accuracy
from nearfar.evaluation.result import Result

Scorer = Callable[[Sequence[Case]], list[list[float]]]
"""Cases in, the scores of their options out."""


def compositionality(
    encoder: Any,
    cases: Iterable[Case],
    *,
    name: str = "compositionality",
    blind: Callable[[str], float] | None = None,
    scorer: Scorer | None = None,
    batch_size: int = 64,
    fewest: int = 1,
    failures: int = 12,
    seed: int = 0,
) -> Result:
    """Score one task.

    Args:
        encoder: anything with `encode_image`, `encode_text`, `preprocess` and `tokenize`.
        cases: the task's questions; a bag of words ties on them and scores at chance.
        name: of the result.
        blind: a text-only scorer of captions, such as a fitted `NgramBaseline`; adds `text_only`.
        scorer: scores cases in place of the encoder's cosine (a fusion encoder's matching score); the blank-image
            baseline goes through it too.
        batch_size: cases a step.
        fewest: groups of fewer cases are left out of the macro mean.
        failures: how many wrongly answered cases to keep in `details["failures"]` for the report.
        seed: of the bootstrap.

    Returns a `Result`: `accuracy` (macro, as in the paper), `micro`, `tied`, `blank_image` (the same model shown
    white), `text_only`, all with chance; accuracy by group; `details` counts flawed cases, in which a perturbation left
    the caption as it was.

    Raises ValueError when there are no cases.
    """
    questions = list(cases)
    score = scorer or cosine_scorer(encoder, batch_size=batch_size)
    groups = [case.group for case in questions]
    seen = score(questions)
    result = choice_accuracy(seen, groups, name=name, fewest=fewest, seed=seed)
    baselines = {"blank_image": score([blank(case) for case in questions])}
    if blind is not None:
        baselines["text_only"] = [[blind(caption) for caption in case.captions] for case in questions]
    for kind, scores in baselines.items():
        result.metrics[kind] = choice_accuracy(scores, groups, name=kind, fewest=fewest, seed=seed).metrics["accuracy"]
    result.details["flawed_cases"] = sum(case.flawed for case in questions)
    wrong = [i for i, s in enumerate(seen) if max(s) > s[0]]
    result.details["failures"] = [
        {
            "case": i,
            "true": questions[i].captions[0],
            "chosen": questions[i].captions[_best(seen[i])],
            "group": groups[i],
        }
        for i in wrong[:failures]
    ]
    return result


def cosine_scorer(encoder: Any, *, batch_size: int = 64) -> Scorer:
    """Options scored by the cosine of image and text embedding."""

    @torch.no_grad()
    def score(cases: Sequence[Case]) -> list[list[float]]:
        was_training = getattr(encoder, "training", False)
        if was_training:
            encoder.eval()
        scores: list[list[float]] = []
        for start in range(0, len(cases), batch_size):
            chunk = cases[start : start + batch_size]
            scores += _cosines(encoder, chunk)
        if was_training:
            encoder.train()
        return scores

    return score


def picture(case: Case) -> Any:
    """The case's image, cropped to its box."""
    image = load_image(case.image)
    return image.crop(case.box) if case.box else image


def blank(case: Case) -> Case:
    """The case with a white image in place of its own."""
    from PIL import Image

    return Case(Image.new("RGB", (64, 64), "white"), case.captions, case.group)


def _cosines(encoder: Any, cases: Sequence[Case]) -> list[list[float]]:
    device = (
        next((p.device for p in encoder.parameters()), torch.device("cpu")) if hasattr(encoder, "parameters") else "cpu"
    )
    captions = [caption for case in cases for caption in case.captions]
    pixels = encoder.preprocess([picture(case) for case in cases]).to(device)
    tokens = {key: value.to(device) for key, value in encoder.tokenize(captions).items()}
    x: Tensor = encoder.encode_image(pixels, normalize=True)
    y: Tensor = encoder.encode_text(tokens, normalize=True)
    sizes = [len(case.captions) for case in cases]
    # Double precision, and each caption against its own image only: equal embeddings give exactly equal scores.
    owner = torch.repeat_interleave(torch.arange(len(cases), device=x.device), torch.tensor(sizes, device=x.device))
    cosine = (x.double()[owner] * y.double()).sum(1)
    return [part.tolist() for part in cosine.split(sizes)]


def _best(scores: Sequence[float]) -> int:
    return max(range(len(scores)), key=lambda k: scores[k])
