"""Filters over an index's columns: `price < 20 and colour in ["red", "blue"]`.

A text is parsed into a tree of conditions by the grammar below, and the conditions are computed by pyarrow, a column at
a time; nothing of the text is ever run.

    condition  = all { "or" all }
    all        = single { "and" single }
    single     = "not" single | "(" condition ")" | comparison
    comparison = COLUMN ( ("=" | "==" | "!=" | "<" | "<=" | ">" | ">=") VALUE
                        | ["not"] "in" "[" VALUE { "," VALUE } "]"
                        | ["not"] "contains" VALUE
                        | "is" ["not"] "null" )
    VALUE      = a number | a text in quotes | true | false
    COLUMN     = a name | a name in `backticks`
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from nearfar.errors import UserError

MOST_LETTERS = 20_000
MOST_LEVELS = 50
TOKEN = re.compile(
    r"""\s*(?:(?P<number>-?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?(?![\w.]))
    |(?P<text>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')
    |`(?P<quoted>[^`]+)`
    |(?P<word>[^\W\d][\w.]*)
    |(?P<mark><=|>=|!=|==|[=<>()\[\],]))""",
    re.VERBOSE | re.DOTALL,
)
WORDS = {"and", "or", "not", "in", "is", "null", "contains", "true", "false"}
COMPARISONS = ("=", "==", "!=", "<", "<=", ">", ">=")


@dataclass(frozen=True)
class Comparison:
    """One comparison: `operator` is one of COMPARISONS, "in", "contains" or "null"; `place` is where its column stands
    in the text, from 1."""

    column: str
    operator: str
    value: Any
    place: int


@dataclass(frozen=True)
class Not:
    condition: Condition


@dataclass(frozen=True)
class Both:
    """`word` is "and" or "or"."""

    word: str
    first: Condition
    second: Condition


Condition = Comparison | Not | Both


@dataclass(frozen=True)
class Token:
    kind: str
    value: Any
    place: int
    written: str


def parse(text: str) -> Condition:
    """The conditions that a text says. Raises UserError that points at the place where it cannot be read.

    >>> parse('price < 20 and not size is null')
    Both(word='and', first=Comparison(column='price', operator='<', value=20, place=1), second=Not(condition=\
Comparison(column='size', operator='null', value=None, place=20)))
    >>> parse("price < and")
    Traceback (most recent call last):
    nearfar.errors.UserError: the filter cannot be read at letter 9, 'and': a value should stand there, a number, a \
"text", true or false
    """
    if len(text) > MOST_LETTERS:
        raise UserError(f"the filter is longer than {MOST_LETTERS:,} letters: shorten it")
    return _Parser(list(_tokens(text))).whole()


def columns_of(condition: Condition) -> Iterator[Comparison]:
    """The comparisons of a condition, from left to right."""
    if isinstance(condition, Comparison):
        yield condition
    elif isinstance(condition, Not):
        yield from columns_of(condition.condition)
    else:
        yield from columns_of(condition.first)
        yield from columns_of(condition.second)


def _tokens(text: str) -> Iterator[Token]:
    at = 0
    while text[at:].strip():
        match = TOKEN.match(text, at)
        start = at + len(text[at:]) - len(text[at:].lstrip())
        if match is None:
            rest = text[start : start + 12]
            why = "the text has no closing quote" if rest[0] in "\"'`" else "nothing of this kind can stand there"
            raise _fault(start + 1, rest, why)
        kind = str(match.lastgroup)
        written = match[0].strip()
        yield Token(*_value(kind, match[kind], start + 1), start + 1, written)
        at = match.end()
    yield Token("end", None, len(text) + 1, "")


def _value(kind: str, written: str, place: int) -> tuple[str, Any]:
    if kind == "number":
        whole = re.fullmatch(r"-?\d{1,19}", written) and -(2**63) <= int(written) < 2**63
        return "value", int(written) if whole else float(written)
    if kind == "text":
        return "value", re.sub(r"\\(.)", r"\1", written[1:-1], flags=re.DOTALL)
    if kind == "quoted":
        return "column", written
    if kind == "word" and written.lower() in WORDS:
        word = written.lower()
        return ("value", word == "true") if word in ("true", "false") else ("word", word)
    return ("column" if kind == "word" else "mark"), written


class _Parser:
    """Reads tokens from left to right."""

    def __init__(self, tokens: list[Token]) -> None:
        self.tokens, self.at, self.level = tokens, 0, 0

    @property
    def next(self) -> Token:
        return self.tokens[self.at]

    def whole(self) -> Condition:
        condition = self.chain("or")
        if self.next.kind != "end":
            raise self.fault('"and" or "or" should stand there, or nothing')
        return condition

    def chain(self, word: str) -> Condition:
        part: Callable[[], Condition] = self.single if word == "and" else lambda: self.chain("and")
        condition = part()
        while self.takes("word", word):
            condition = Both(word, condition, part())
        return condition

    def single(self) -> Condition:
        self.level += 1
        if self.level > MOST_LEVELS:
            raise self.fault(f"more than {MOST_LEVELS} conditions stand within each other")
        condition: Condition
        if self.takes("word", "not"):
            condition = Not(self.single())
        elif self.takes("mark", "("):
            condition = self.chain("or")
            self.need("mark", ")", 'a ")" should stand there')
        else:
            condition = self.comparison()
        self.level -= 1
        return condition

    def comparison(self) -> Condition:
        column = self.next
        if column.kind != "column":
            raise self.fault("the name of a column should stand there")
        self.at += 1
        if self.takes("word", "is"):
            negated = self.takes("word", "not")
            self.need("word", "null", '"null" should stand there')
            return self.made(column, "null", None, negated)
        negated = self.takes("word", "not")
        if self.takes("word", "in"):
            return self.made(column, "in", self.values(), negated)
        if self.takes("word", "contains"):
            return self.made(column, "contains", self.value(), negated)
        if negated or self.next.kind != "mark" or self.next.value not in COMPARISONS:
            raise self.fault("a comparison should stand there: = != < <= > >= in contains, or is null")
        operator = self.next.value
        self.at += 1
        return Comparison(column.value, "=" if operator == "==" else operator, self.value(), column.place)

    def made(self, column: Token, operator: str, value: Any, negated: bool) -> Condition:
        comparison = Comparison(column.value, operator, value, column.place)
        return Not(comparison) if negated else comparison

    def values(self) -> list[Any]:
        self.need("mark", "[", 'a list should stand there: ["red", "blue"]')
        values = [self.value()]
        while self.takes("mark", ","):
            values.append(self.value())
        self.need("mark", "]", 'a "," or a "]" should stand there')
        return values

    def value(self) -> Any:
        token = self.next
        if token.kind == "column":
            raise self.fault(f"a value should stand there: write a text in quotes, {json.dumps(token.written)}")
        if token.kind == "word" and token.value == "null":
            raise self.fault('null is compared by "is null" or "is not null"')
        if token.kind != "value":
            raise self.fault('a value should stand there, a number, a "text", true or false')
        self.at += 1
        return token.value

    def takes(self, kind: str, value: str) -> bool:
        if (self.next.kind, self.next.value) != (kind, value):
            return False
        self.at += 1
        return True

    def need(self, kind: str, value: str, why: str) -> None:
        if not self.takes(kind, value):
            raise self.fault(why)

    def fault(self, why: str) -> UserError:
        return _fault(self.next.place, self.next.written, why)


def _fault(place: int, written: str, why: str) -> UserError:
    where = f"letter {place}, {written[:40]!r}" if written else "its end"
    return UserError(f"the filter cannot be read at {where}: {why}")
