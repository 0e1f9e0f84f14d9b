"""What a model writes behind a text with pictures in it: captions, and whatever few examples show how to write."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from nearfar.errors import UserError, at_least
from nearfar.models.vlm import word_sequences
from nearfar.models.vlm.interleaved.document_rows import open_rows
from nearfar.modes import evaluating

if TYPE_CHECKING:
    from nearfar.models.vlm.interleaved.interleaved_model import InterleavedModel


def caption(
    model: InterleavedModel,
    pixels: Tensor,
    prompt: str | Sequence[str] | None = None,
    *,
    shots: tuple[Tensor, Sequence[str]] | None = None,
    max_tokens: int | None = None,
    seed: int | None = None,
    **options: Any,
) -> list[str]:
    """What the model writes of each picture, in evaluation mode: the likeliest token at each place, to the end of the
    chunk.

    Args:
        model: an interleaved model.
        pixels: `[B, 3, S, S]` float32, as `preprocess` makes them.
        prompt: what to go on from, one for all, or one for each; None: the model's own. Questions are prompts.
        shots: K examples that stand before each picture: pixels `[K, 3, S, S]` float32, and K texts as they should be
            written, each with the prompt before it where that is one for all.
        max_tokens: so many at most; by default `max_length`.
        seed: of drawn tokens; None: from PyTorch's own state.
        options: of `generate` in transformers: `do_sample=True` with `temperature`, `top_p` or `top_k` draws
            tokens, `num_beams` searches.

    Raises:
        UserError: no room for so many tokens, or another number of prompts than pictures, or of texts than examples.

    >>> from nearfar.data import train_tokenizer
    >>> from nearfar.models import interleaved_model
    >>> model = interleaved_model("tiny-vit", "tiny", tokenizer=train_tokenizer(["a red fox"], 300), depth=1)
    >>> examples = (torch.rand(2, 3, 64, 64), ["a fox", "a red fox"])
    >>> len(model.caption(torch.rand(3, 3, 64, 64), shots=examples, max_tokens=4))
    3
    """
    if not len(pixels):
        return []
    own = model.prompt if prompt is None else prompt
    asking = word_sequences.prompts_of(model.tokenizer, own, len(pixels))
    picture, end = model.mark_tokens.marks
    examples, taken = _examples(model, shots, own if isinstance(own, str) else "")
    before = [token for words in examples for token in (picture, *words, end)]
    with evaluating(model):
        media = model.picture_tokens(pixels)[:, None]
        if taken is not None:
            of_examples = model.picture_tokens(taken)[None].expand(len(media), -1, -1, -1)
            media = torch.cat([of_examples, media], dim=1)
        return _written(model, media, [[*before, picture, *words] for words in asking], max_tokens, seed, options)


def complete(
    model: InterleavedModel,
    pixels: Tensor,
    texts: Sequence[str],
    *,
    max_tokens: int | None = None,
    seed: int | None = None,
    **options: Any,
) -> list[str]:
    """What the model writes behind each text, in evaluation mode, to the end of the chunk.

    Args:
        model: an interleaved model.
        pixels: `[B, T, 3, S, S]` float32, the pictures of each text in their order.
        texts: B texts with a mark, `<visual>`, where each picture stands.
        max_tokens, seed, options: as for `caption`.

    Raises:
        UserError: another number of texts than of rows of pictures, more marks than pictures, or too long a text.

    >>> from nearfar.data import train_tokenizer
    >>> from nearfar.models import interleaved_model
    >>> model = interleaved_model("tiny-vit", "tiny", tokenizer=train_tokenizer(["a red fox"], 300), depth=1)
    >>> len(model.complete(torch.rand(1, 2, 3, 64, 64), ["<visual>a fox<visual>a"], max_tokens=4))
    1
    """
    if isinstance(texts, str) or len(texts) != len(pixels):
        raise UserError(f"{len(pixels)} rows of pictures and {len(texts)} texts: give a list with one text a row")
    if not len(pixels):
        return []
    rows = [model.tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    with evaluating(model):
        media = model.picture_tokens(pixels.flatten(0, 1)).unflatten(0, pixels.shape[:2])
        return _written(model, media, rows, max_tokens, seed, options)


def _examples(
    model: InterleavedModel, shots: tuple[Tensor, Sequence[str]] | None, prompt: str
) -> tuple[list[list[int]], Tensor | None]:
    """The ids of each example, prompt before it, and their pixels."""
    if shots is None:
        return [], None
    pixels, texts = shots
    if isinstance(texts, str) or len(texts) != len(pixels):
        raise UserError(f"shots are {len(pixels)} pictures and {len(texts)} texts: give a text for each picture")
    before = word_sequences.prompts_of(model.tokenizer, prompt, 1)[0]
    words = word_sequences.prompts_of(model.tokenizer, list(texts), len(texts))
    return [[*before, *each] for each in words], pixels


def _written(
    model: InterleavedModel,
    media: Tensor,
    rows: list[list[int]],
    max_tokens: int | None,
    seed: int | None,
    options: dict[str, Any],
) -> list[str]:
    most = model.max_length if max_tokens is None else max_tokens
    at_least(1, max_tokens=most)
    marks = model.mark_tokens.marks
    words = open_rows(model.tokenizer, marks, rows)
    model.check_length(words.ids.shape[1] + most)
    ids, mask = words.ids.to(model.device), words.mask.to(model.device)
    with torch.random.fork_rng(enabled=seed is not None):
        if seed is not None:
            torch.manual_seed(seed)
        with model.reading_media(media, ids) as lm:
            written = lm.generate(
                input_ids=ids,
                attention_mask=mask,
                max_new_tokens=most,
                **{"do_sample": False, **options},
                suppress_tokens=[marks.picture],  # there is no picture to see
                pad_token_id=model.tokenizer.pad_token_id,
                eos_token_id=[marks.end, word_sequences.ends_of(model.tokenizer)[1]],
            )
    texts = model.tokenizer.batch_decode(written[:, ids.shape[1] :], skip_special_tokens=True)
    return [text.strip() for text in texts]
