"""A learned prompt around any image-text model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nearfar.models.dual.around_pair import open_pair
from nearfar.models.dual.open_clip import OpenClipEncoder
from nearfar.models.prompts.prompt_layout import Position, PromptLayout
from nearfar.models.prompts.prompted_encoder import Kind, PromptedEncoder, longest_of

WORDS = "a photo of a"


def prompted_encoder(
    pair: Any = "starter",
    *,
    kind: Kind = "coop",
    words: str | None = WORDS,
    context: int | None = None,
    position: Position = "end",
    ending: str = ".",
    class_names: Sequence[str] | None = None,
    hidden: int | None = None,
    depth: int = 9,
    tokenizer: Any = None,
    image_size: int | None = None,
) -> PromptedEncoder:
    """A copy of an image-text model, frozen, with a prompt to be learned by the methods `prompt_tuning` and `ogen`.

    Args:
        pair: a dual encoder, a folder or a name that `nearfar.load` opens as one, an open_clip model as it opens it (in
            the place of a copy), or the arguments of `nearfar.models.create` by name.
        kind: "coop", "cocoop" or "maple"; see `PromptedEncoder`.
        words: the vectors begin as the embeddings of these words; None: as noise of deviation 0.02.
        context: how many vectors; by default as many as the words have tokens, 2 with "maple", 16 without words.
        position, ending, class_names, hidden, depth: see `PromptedEncoder`.
        tokenizer: for a pair that is made from scratch.
        image_size: side of the pictures, where the pair's own is not to be taken.

    Raises:
        UserError: no such model, or settings that it cannot have.

    >>> import torch
    >>> from nearfar.data import train_tokenizer
    >>> from nearfar.models import create
    >>> pair = create("tiny", tokenizer=train_tokenizer(["a photo of a red fox"] * 3, 300)).eval()
    >>> model = prompted_encoder(pair)
    >>> prompted = model.encode_text(model.tokenize(["red fox"]))
    >>> torch.allclose(prompted, pair.encode_text(pair.tokenize(["a photo of a red fox."])), atol=1e-6)
    True
    """
    opened = pair
    if isinstance(pair, str) and pair.startswith("open_clip:"):
        from nearfar.models.loading import load

        opened = load(pair)
    if not isinstance(opened, OpenClipEncoder):
        around = "a learned prompt goes with a DualEncoder, such as a CLIP, or an open_clip model"
        opened = open_pair(pair, around, tokenizer=tokenizer, image_size=image_size)
    count = context
    if count is None and kind == "maple":
        count = 2
    if count is None:
        count = 16
        if words is not None:
            count = len(PromptLayout(opened.tokenize, 1, longest=longest_of(opened)).words(words))
    model = PromptedEncoder(
        opened,
        kind=kind,
        context=count,
        position=position,
        ending=ending,
        class_names=class_names,
        hidden=hidden,
        depth=depth,
    )
    return model if words is None else model.start_from(words)
