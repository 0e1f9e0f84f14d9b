"""Class names as tokens with places for learned vectors around them (CoOp, arXiv 2109.01134)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from nearfar.errors import UserError
from nearfar.models.towers.tokens import Tokens

Position = Literal["end", "middle", "front"]
"""Where the name stands: after the vectors, between their halves, or before them."""
PLACES = "places"
"""The key of tokens that says where vectors stand: `[C, n]` int64."""
CARRIER = "a"
"""A word before the name, so that it is read as inside a sentence: byte-level vocabularies tell the two apart."""


class PromptLayout:
    """Puts names into `[start] v_1 ... v_n NAME ending [end]`, for any tokenizer.

    Args:
        tokenize: texts to `input_ids` and `attention_mask` `[B, L]` int64, padded on the right.
        count: n, the vectors; their places hold a token of no meaning, over which they are written.
        position: of the name.
        ending: what follows the name, or the vectors where the name stands before them (paper: a full stop).
        longest: tokens that the text tower takes.

    Raises:
        UserError: the tokenizer joins what stands before a name with the name.

    >>> from nearfar.data import train_tokenizer
    >>> from nearfar.models.towers.tokens import tokenize
    >>> words = train_tokenizer(["a red fox"] * 9, 300)
    >>> layout = PromptLayout(lambda texts: tokenize(words, texts, 32), count=2)
    >>> layout(["red", "red fox"])["places"].tolist()
    [[1, 2], [1, 2]]
    """

    def __init__(
        self,
        tokenize: Callable[[Sequence[str]], Any],
        count: int,
        *,
        position: Position = "end",
        ending: str = ".",
        longest: int = 77,
    ) -> None:
        if position not in ("end", "middle", "front"):
            raise UserError(f"position is {position!r}: choose one of end, middle, front")
        self.tokenize, self.count, self.position, self.ending, self.longest = tokenize, count, position, ending, longest
        probe = tokenize(["", CARRIER])
        empty, carried = _rows(probe)
        self.head = _common(empty, carried)
        self.tail = _common(empty[self.head :][::-1], carried[self.head :][::-1])
        self.carrier = self._body(carried)
        self.fill, self.pad = self.carrier[0], int(probe["input_ids"][0, -1])
        width = probe["input_ids"].shape[1]
        self.width = width if width > len(carried) else 0  # some tokenizers pad all texts to one length

    def words(self, text: str) -> list[int]:
        """The tokens of a text without those that begin and end every text."""
        return self._body(_rows(self.tokenize([text]))[0])

    def __call__(self, names: Sequence[str]) -> Tokens:
        """`input_ids` and `attention_mask` `[C, L]` int64, and the `places` of the vectors `[C, n]` int64, of C names;
        one that is too long is cut, as any text is."""
        rows, places = [], []
        for name, ending, whole in self._read(names):
            row, own = self._placed(name[: self._room(ending)], ending, whole)
            rows.append(row)
            places.append(own)
        width = max([self.width, *map(len, rows)])
        ids = torch.tensor([[*row, *[self.pad] * (width - len(row))] for row in rows], dtype=torch.long)
        lengths = torch.tensor([len(row) for row in rows], dtype=torch.long)
        return Tokens(
            input_ids=ids.view(len(rows), width),
            attention_mask=(torch.arange(width) < lengths[:, None]).long(),
            places=torch.tensor(places, dtype=torch.long).view(len(rows), self.count),
        )

    def check(self, names: Sequence[str]) -> None:
        """Raise a `UserError` for the first name that is empty, or would be cut."""
        if unnamed := [name for name in names if not name.strip()]:
            raise UserError(f"a class is called {unnamed[0]!r}: give it a name that can be read")
        for name, (own, ending, _) in zip(names, self._read(names), strict=True):
            if len(own) > (room := self._room(ending)):
                raise UserError(
                    f"the class {name!r} has {len(own)} tokens, and beside {self.count} vectors the text tower reads "
                    f"{max(0, room)}: shorten the name, or learn fewer vectors (context)"
                )

    def _read(self, names: Sequence[str]) -> Iterator[tuple[list[int], list[int], list[int]]]:
        """Of each name its tokens, those of the ending, and the row that it was read in."""
        bare, whole = (
            _rows(self.tokenize([f"{CARRIER} {name}{end}" for name in names])) if names else []
            for end in ("", self.ending)
        )
        for short, long in zip(bare, whole, strict=True):
            name, named = self._after(short), self._after(long)
            ending = named[len(name) :] if named[: len(name)] == name else []
            yield named[: len(named) - len(ending)], ending, long

    def _room(self, ending: list[int]) -> int:
        """How many tokens a name may have."""
        return max(0, self.longest - self.head - self.tail - self.count - len(ending))

    def _placed(self, name: list[int], ending: list[int], whole: list[int]) -> tuple[list[int], list[int]]:
        """A row, and where its vectors stand."""
        before = {"end": self.count, "middle": self.count // 2, "front": 0}[self.position]
        after = self.count - before
        body = [*[self.fill] * before, *name, *[self.fill] * after, *ending]
        second = self.head + before + len(name)
        places = [*range(self.head, self.head + before), *range(second, second + after)]
        return [*whole[: self.head], *body, *whole[len(whole) - self.tail :]], places

    def _after(self, row: list[int]) -> list[int]:
        """What stands after the carrier."""
        body = self._body(row)
        if body[: len(self.carrier)] != self.carrier:
            raise UserError(
                "this tokenizer joins a name with the word before it, so that nothing can be put in that word's place: "
                "take a model whose tokenizer parts words"
            )
        return body[len(self.carrier) :]

    def _body(self, row: list[int]) -> list[int]:
        return row[self.head : len(row) - self.tail]


def _rows(tokens: Any) -> list[list[int]]:
    """The tokens of each text without its padding."""
    lengths = tokens["attention_mask"].sum(1).tolist()
    return [row[: int(length)] for row, length in zip(tokens["input_ids"].tolist(), lengths, strict=True)]


def _common(first: list[int], second: list[int]) -> int:
    """How many numbers two rows have in common from the start."""
    count = 0
    while count < min(len(first), len(second)) and first[count] == second[count]:
        count += 1
    return count


def without_places(tokens: Any) -> dict[str, Tensor]:
    """The tokens as a text tower takes them."""
    return {name: tokens[name] for name in ("input_ids", "attention_mask") if name in tokens}
