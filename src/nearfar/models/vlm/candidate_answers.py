"""Answers that are chosen from candidates: the one that a vision-language model is likeliest to write."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from nearfar.errors import UserError, at_least
from nearfar.models.vlm.word_sequences import ends_of, words_of
from nearfar.modes import evaluating

if TYPE_CHECKING:
    from nearfar.models.vlm.vision_language_model import VisionLanguageModel


def answer(
    model: VisionLanguageModel,
    pictures: Sequence[Any] | Tensor,
    questions: Sequence[str],
    candidates: Sequence[str],
    *,
    k: int = 128,
    batch_size: int = 64,
) -> list[tuple[str, float]]:
    """The likeliest candidate for each of Q questions, and its probability among those that were scored to their end,
    in evaluation mode. The question is the prompt, and a candidate's likelihood is that of all its tokens and of the
    end after them: what is asked for letters of choices and what for whole answers differ.

    Args:
        model: a vision-language model.
        pictures: one a question: PIL pictures, or pixels `[Q, 3, S, S]` float32, or picture tokens `[Q, P, W]`.
        questions: Q texts.
        candidates: C texts to choose from.
        k: candidates a question that are scored to their end, those whose first token is likeliest.
        batch_size: questions at a time; candidates are scored four times as many at a time.

    Raises:
        UserError: not one picture a question, no candidates, or a question too long for the model.

    >>> from nearfar.data import train_tokenizer
    >>> from nearfar.models import vision_language_model
    >>> model = vision_language_model("tiny", tokenizer=train_tokenizer(["what is it? a red fox"], 300))
    >>> [(text, _)] = model.answer(torch.rand(1, 3, 64, 64), ["what is it?"], ["red", "fox"])
    >>> text in ("red", "fox")
    True
    """
    if isinstance(questions, str) or isinstance(candidates, str) or len(pictures) != len(questions):
        raise UserError(
            f"{len(pictures)} pictures, {len(questions)} questions: give lists, with one picture a question"
        )
    if not len(candidates):
        raise UserError("no candidate answers: give those to choose from")
    at_least(1, k=k, batch_size=batch_size)
    answers: list[tuple[str, float]] = []
    with evaluating(model):
        for start in range(0, len(questions), batch_size):
            part = slice(start, start + batch_size)
            some = pictures[part]
            pixels = some if isinstance(some, Tensor) else model.preprocess(some)
            tokens = pixels if pixels.ndim == 3 else model.picture_tokens(pixels)
            answers += _chosen(model, tokens.to(model.device), questions[part], candidates, k, 4 * batch_size)
    return answers


def _chosen(
    model: VisionLanguageModel,
    pictures: Tensor,
    questions: Sequence[str],
    candidates: Sequence[str],
    k: int,
    at_a_time: int,
) -> list[tuple[str, float]]:
    options, asking = model.tokenize(candidates), model.tokenize(questions)
    best = _first_tokens(model, pictures, questions, words_of(model.tokenizer, options)).topk(
        min(k, len(candidates)), dim=1
    )
    column = best.indices.cpu()
    row = torch.arange(len(questions))[:, None].expand_as(column).flatten()
    scores = []
    for of, option in zip(row.split(at_a_time), column.flatten().split(at_a_time), strict=True):
        texts = {name: value[option] for name, value in options.items()}
        prompts = {name: value[of] for name, value in asking.items()}
        scores.append(model.likelihoods(pictures[of.to(pictures.device)], texts, prompts).log_likelihood.sum(1))
    score = torch.cat(scores).view_as(best.indices)
    probability, place = score.softmax(1).max(1)
    chosen = best.indices.gather(1, place[:, None])[:, 0]
    return [(candidates[i], p) for i, p in zip(chosen.tolist(), probability.tolist(), strict=True)]


def _first_tokens(
    model: VisionLanguageModel, pictures: Tensor, questions: Sequence[str], options: list[list[int]]
) -> Tensor:
    """The log-likelihood of each candidate's first token, `[Q, C]`; of an empty one that is the end."""
    begin, end = ends_of(model.tokenizer)
    nothing = {"input_ids": torch.tensor([[begin, end]] * len(questions))}
    nothing["attention_mask"] = torch.ones_like(nothing["input_ids"])
    words = model.sequences(nothing, model.tokenize(questions))
    logits = model.logits(pictures, words)[words.targets[:, 1:] >= 0]  # one place a row: what follows the question
    first = torch.tensor([option[0] if option else end for option in options], device=logits.device)
    return logits.log_softmax(1)[:, first]
