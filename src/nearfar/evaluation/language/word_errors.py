"""Word error rate: how many words must be changed, put in or taken out, of those that were said."""

from __future__ import annotations

from collections.abc import Sequence

from nearfar.errors import UserError


def word_error_rate(references: Sequence[str], outputs: Sequence[str]) -> float:
    """Words that must be replaced, inserted or deleted to make the outputs of the references, over the words of all
    references. It is that of the whole set, not a mean over sentences, and may be above 1. Words are what lies between
    blanks, as they are: lower case and signs are the caller's choice.

    Args:
        references: what was said.
        outputs: what was heard, in the same order.

    Returns:
        0 where nothing was said and nothing heard; infinity where words were heard and none were said.

    Raises:
        UserError: other numbers of references and outputs.

    >>> word_error_rate(["a b c d", "e"], ["a b c x", "f"]), word_error_rate(["fries"], ["no fry"])
    (0.4, 2.0)
    """
    if len(references) != len(outputs):
        raise UserError(f"{len(references)} references and {len(outputs)} outputs: give one output for each reference")
    said = [reference.split() for reference in references]
    errors = sum(word_edits(words, output.split()) for words, output in zip(said, outputs, strict=True))
    total = sum(map(len, said))
    return errors / total if total else float("inf") if errors else 0.0


def word_edits(words: Sequence[str], others: Sequence[str]) -> int:
    """The least number of words that must be replaced, inserted or deleted to make the one of the other.

    >>> word_edits("turn on the light".split(), "turn the lights".split())
    2
    """
    row = list(range(len(others) + 1))
    for count, word in enumerate(words, start=1):
        before, row = row, [count]
        for place, other in enumerate(others, start=1):
            row.append(min(before[place] + 1, row[-1] + 1, before[place - 1] + (word != other)))
    return row[-1]
