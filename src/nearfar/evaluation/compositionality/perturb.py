"""Perturbations of captions and images (ARO, arXiv 2210.01936, sections 2 and 3): the words stay, their order goes.

Every function takes and returns words; captions go through `words` and `sentence` of `nearfar.data.mining.grammar` on
both sides, so that spacing never distinguishes a perturbed caption from the true one.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from nearfar.data.mining.grammar import sentence, tags, words


def shuffle_nouns_and_adjectives(tokens: Sequence[str], rng: random.Random) -> list[str]:
    """Nouns change places among the nouns' slots, adjectives among the adjectives'."""
    tagged = tags(tokens)
    out = _shuffle_slots(tokens, [i for i, tag in enumerate(tagged) if tag == "noun"], rng)
    return _shuffle_slots(out, [i for i, tag in enumerate(tagged) if tag == "adjective"], rng)


def shuffle_all_but_nouns_and_adjectives(tokens: Sequence[str], rng: random.Random) -> list[str]:
    """Nouns and adjectives stay; all other words change places among themselves."""
    slots = [i for i, tag in enumerate(tags(tokens)) if tag not in ("noun", "adjective")]
    return _shuffle_slots(tokens, slots, rng)


def shuffle_within_trigrams(tokens: Sequence[str], rng: random.Random) -> list[str]:
    """Words change places inside consecutive groups of three; the last group may be shorter."""
    return [token for group in trigrams(tokens) for token in rng.sample(group, len(group))]


def shuffle_trigrams(tokens: Sequence[str], rng: random.Random) -> list[str]:
    """Consecutive groups of three change places; inside they stay."""
    groups = trigrams(tokens)
    return [token for group in rng.sample(groups, len(groups)) for token in group]


def shuffle_all(tokens: Sequence[str], rng: random.Random) -> list[str]:
    """All words change places."""
    return rng.sample(list(tokens), len(tokens))


Perturbation = Callable[[Sequence[str], random.Random], list[str]]

ORDER: dict[str, Perturbation] = {
    "nouns and adjectives": shuffle_nouns_and_adjectives,
    "all but nouns and adjectives": shuffle_all_but_nouns_and_adjectives,
    "within trigrams": shuffle_within_trigrams,
    "trigrams": shuffle_trigrams,
}
"""The four perturbations of the order tasks, in the paper's order."""


def trigrams(tokens: Sequence[str]) -> list[list[str]]:
    """Consecutive groups of three.

    >>> trigrams("a b c d e f g h".split())
    [['a', 'b', 'c'], ['d', 'e', 'f'], ['g', 'h']]
    """
    return [list(tokens[i : i + 3]) for i in range(0, len(tokens), 3)]


def order_options(caption: str, *, seed: int = 0) -> list[str]:
    """The true caption, then its four order perturbations, all normalised alike. What a perturbation leaves as it was
    stays an option: the case is then flagged and its tie counts its share.

    >>> options = order_options("a red dog chases two small cats near the old house")
    >>> len(options), options[0]
    (5, 'a red dog chases two small cats near the old house')
    """
    tokens = words(normalise(caption))
    options = [sentence(tokens)]
    for name, perturbation in ORDER.items():
        options.append(sentence(perturbation(tokens, random.Random(f"{seed}:{name}:{caption}"))))
    return options


def normalise(caption: str, *, most_words: int = 30) -> str:
    """The paper's clean-up: lower case, the marks . ! " ( ) * # : ; ~ become spaces (a comma stays), at most 30 words.

    >>> normalise('A "red" Dog, running!')
    'a red dog, running'
    """
    text = re.sub(r'[.!"()*#:;~]', " ", caption.lower())
    return " ".join(text.split()[:most_words])


def shuffle_patches(images: Tensor, rows: int, columns: int, generator: torch.Generator) -> Tensor:
    """Images `[B, C, H, W]` cut into `rows` x `columns` patches that change places, each image its own way. A remainder
    of H by `rows` or W by `columns` is cut off evenly at the border first, so that the pixels stay the same.

    The paper's probes are (4, 1), (1, 4) and (3, 3).
    """
    if rows < 1 or columns < 1 or images.shape[-2] < rows or images.shape[-1] < columns:
        raise ValueError(f"cannot cut {tuple(images.shape)} into {rows} x {columns} patches")
    b, c, height, width = images.shape
    h, w = height // rows, width // columns
    top, left = (height - h * rows) // 2, (width - w * columns) // 2
    cut = images[:, :, top : top + h * rows, left : left + w * columns]
    patches = cut.reshape(b, c, rows, h, columns, w).permute(0, 2, 4, 1, 3, 5).reshape(b, rows * columns, c, h, w)
    order = torch.stack([torch.randperm(rows * columns, generator=generator) for _ in range(b)]).to(images.device)
    shuffled = patches[torch.arange(b, device=images.device)[:, None], order]
    grid = shuffled.reshape(b, rows, columns, c, h, w).permute(0, 3, 1, 4, 2, 5)
    return grid.reshape(b, c, h * rows, w * columns)


def _shuffle_slots(tokens: Sequence[str], slots: Sequence[int], rng: random.Random) -> list[str]:
    out = list(tokens)
    for slot, source in zip(slots, rng.sample(list(slots), len(slots)), strict=True):
        out[slot] = tokens[source]
    return out
