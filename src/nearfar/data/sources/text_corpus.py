"""Running text as a source: passages of whole paragraphs, for training and judging language models; lines or sentences,
for sentence encoders."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal, get_args

from nearfar import console
from nearfar.data.sources.record_numbers import UNSEEN
from nearfar.data.sources.source import Records
from nearfar.errors import UserError

SUFFIXES = (".txt", ".md", ".rst")
Unit = Literal["passages", "lines", "sentences"]


def corpus(
    path: str | os.PathLike[str],
    *,
    words: int = 128,
    split: str | None = None,
    held_out: float = 0.1,
    unit: Unit = "passages",
) -> Records:
    """Passages, lines or sentences of text files.

    Args:
        path: a text file, a folder of `.txt`, `.md` and `.rst` files (read in order of their names, folders in folders
            included, hidden ones passed over), or "python": the Python language reference, about 60,000 words of
            English that come with every Python.
        words: a passage is as many whole paragraphs of a file as fit in this many words; a longer paragraph is cut.
            Each sign of Chinese and Japanese counts as a word; in Thai and others without blanks break lines yourself.
        split: "train" or "test", fixed by a hash of each passage; None gives all.
        held_out: share of passages in "test".
        unit: what a record is: "passages"; "lines", one each, as SimCSE's file of Wikipedia sentences has them; or
            "sentences", which end at a full stop, question or exclamation mark before a capital letter or a quote, and
            wherever the marks of Chinese, Japanese, Hindi, Arabic, Urdu and Amharic stand.

    Returns:
        a `Source` whose records have `text` and `index`.

    Raises:
        UserError: nothing there, no text in it, a file that is not UTF-8, or no such unit.

    >>> source = corpus("python", words=64, split="test")
    >>> source.columns
    ['text', 'index']
    """
    if split not in (None, "train", "test"):
        raise UserError(f"a corpus has the splits 'train' and 'test', not {split!r}")
    if unit not in get_args(Unit):
        raise UserError(f"unit={unit!r}: choose one of {', '.join(get_args(Unit))}")
    texts = python_reference() if os.fspath(path) == "python" else _read(Path(path))
    kept = [piece for text in texts for piece in _pieces(text, words, unit) if piece.strip(UNSEEN)]
    if split is not None:
        kept = [passage for passage in kept if _is_held_out(passage, held_out) == (split == "test")]
    if not kept:
        raise UserError(f"{os.fspath(path)}: no text in it")
    return Records([{"text": passage, "index": i} for i, passage in enumerate(kept)], name=f"text:{os.fspath(path)}")


def _pieces(text: str, words: int, unit: Unit) -> Iterator[str]:
    if unit == "passages":
        return passages(text, words)
    if unit == "lines":
        return (line.strip() for line in text.split("\n"))  # no other sign ends a line: they occur within sentences
    return (sentence for block in re.split(r"\n\s*\n", text) for sentence in sentences(" ".join(block.split())))


def sentences(text: str) -> Iterator[str]:
    """The sentences of a text, by their marks alone: an abbreviation before a capital letter ends one, too.

    >>> list(sentences('It rains. "Where is 3.5 to be read?" Here!'))
    ['It rains.', '"Where is 3.5 to be read?"', 'Here!']
    >>> list(sentences("雨だ。「どこ？」と言う。"))
    ['雨だ。', '「どこ？」と言う。']
    """
    return (sentence for sentence in _END.split(text) if sentence)


_END = re.compile(
    r"(?<=[.!?])(?<!\b[A-Z]\.)\s+(?=[\"A-Z])|(?<=[.!?]\")\s+"
    r"|(?<=[。！？｡])(?![。！？｡」』）”’])\s*|(?<=[।॥؟۔።])\s+"  # noqa: RUF001
)
_SIGNS = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f"
_WORD = re.compile(rf"[{_SIGNS}]|[^\s{_SIGNS}]+")
"""A sign of Chinese or Japanese, or what blanks and these leave together."""


def passages(text: str, words: int) -> Iterator[str]:
    """Whole paragraphs joined up to `words` words.

    >>> list(passages("one two three\\n\\nfour\\n\\nfive six seven eight nine", 4))
    ['one two three\\n\\nfour', 'five six seven eight', 'nine']
    """
    held: list[str] = []
    count = 0
    for paragraph in _paragraphs(text, words):
        size = len(_WORD.findall(paragraph))
        if held and count + size > words:
            yield "\n\n".join(held)
            held, count = [], 0
        held.append(paragraph)
        count += size
    if held:
        yield "\n\n".join(held)


def python_reference() -> list[str]:
    """The prose of the Python language reference, a text a topic; tables, grammar and code left out."""
    from pydoc_data.topics import topics

    return ["\n\n".join(_prose(text)) for _, text in sorted(topics.items())]


def _prose(text: str) -> Iterator[str]:
    for block in re.split(r"\n\s*\n", text):
        lines = block.splitlines()
        # what is set off from the margin, ruled or drawn is code, grammar or a table
        if lines and not lines[0].startswith("     ") and not re.search(r"::=|[-=*+|]{3}|>>>", block):
            paragraph = " ".join(block.split())
            if len(paragraph.split()) >= 8:
                yield paragraph


def _paragraphs(text: str, words: int) -> Iterator[str]:
    for block in re.split(r"\n\s*\n", text):
        places = [word.span() for word in _WORD.finditer(block)]
        if len(places) <= words:
            if places:
                yield block.strip()
        else:
            for start in range(0, len(places), words):
                first, last = places[start], places[min(start + words, len(places)) - 1]
                yield " ".join(block[first[0] : last[1]].split())


def _read(path: Path) -> Iterable[str]:
    if path.is_dir():
        texts = (file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
        files = sorted(file for file in texts if not _is_hidden(file.relative_to(path)))
        if not files:
            raise UserError(f"{path} holds no {', '.join(SUFFIXES)} files")
    elif path.is_file():
        files = [path]
    else:
        raise UserError(f"{path}: no such file or folder of text")
    for file in console.track(files, f"reading {path}"):
        try:
            yield file.read_text("utf-8-sig")
        except UnicodeDecodeError as error:
            raise UserError(f"{file} is not UTF-8 text ({error.reason} at byte {error.start})") from None


def _is_hidden(path: Path) -> bool:
    """Whether a file, or a folder that it lies in, is hidden: copies that editors and other programs keep."""
    return any(part.startswith(".") for part in path.parts)


def _is_held_out(passage: str, share: float) -> bool:
    return int.from_bytes(hashlib.sha256(passage.encode()).digest()[:4], "big") < share * 2**32
