"""Embedded data: vectors of images and captions, with everything a protocol needs to know about them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from nearfar import files
from nearfar.data.sources.skipped import Problem, Skipped
from nearfar.embedding import parquet_vectors
from nearfar.errors import UserError

NUMBERS = ("row", "index", "group", "picture", "label", "domain")
WORDS = ("classes", "domains", "names", "captions", "columns", "source")


CALLED = {"image": "pictures", "text": "captions"}
"""What a side holds, for messages."""

MEDIA = {"image": "image", "video": "video", "audio": "sound"}
"""Sides beside texts, the first that is there first, and what one of each is."""


class Side(NamedTuple):
    """One side of the records: `vectors` `[M, D]` float32, and `owner` `[M]` int64, the record that each describes."""

    vectors: Tensor
    owner: Tensor


class NothingToEmbed(UserError):
    """None of the records could be used; `skipped` says why."""

    def __init__(self, message: str, skipped: Skipped) -> None:
        super().__init__(message)
        self.skipped = skipped


@dataclass(init=False, repr=False, eq=False)
class Embeddings:
    """N records as vectors: of their pictures, their texts, and whatever else a model embeds.

    Args:
        image: `[N, D]` float32, one picture a record; None where there are no pictures.
        text: `[M, D]` float32; M may be 0.
        image_of_text: `[M]` int64, the record that each text describes. Default: 0 to M - 1.
        sides: sides by name ("video"), each `[N, D]`, or a `Side` with owners; `image` and `text` go first.
        row: `[N]` int64, each record's place in the source (broken pictures leave gaps). Default: 0 to N - 1.
        index: `[N]` int64, its stable id. Default: `row`.
        group: `[N]` int64, equal for records that the same captions fit; None: each picture is alone.
        picture: `[N]` int64, equal for records of one and the same picture, as rows of a table with one caption each;
            None: every record has its own.
        label, domain: `[N]` int64, -1 where unknown; None where the source has none.
        classes, domains: what their numbers stand for.
        names: N short names.
        captions: M texts.
        columns: further plain values of the records, N each: path, style, category ...
        source: name of the data.
        skipped: the records that could not be used.

    Attributes:
        sides: every `Side` by name, "image" and "text" among them where they are there. `image`, `text` and
            `image_of_text` are short for its parts, empty where a side is not there; `image` is that of videos, or
            of sounds, where there are no pictures.

    >>> eye = torch.eye(3)
    >>> Embeddings(eye, eye, torch.arange(3))
    <Embeddings of data: 3 images, 3 captions, 3 dimensions>
    >>> Embeddings(text=eye).sides["text"].owner
    tensor([0, 1, 2])
    """

    sides: dict[str, Side]
    row: Tensor
    index: Tensor
    group: Tensor | None
    picture: Tensor | None
    label: Tensor | None
    domain: Tensor | None
    classes: list[str] | None
    domains: list[str] | None
    names: list[str]
    captions: list[str]
    columns: dict[str, list[Any]]
    source: str
    skipped: Skipped

    def __init__(
        self,
        image: Tensor | None = None,
        text: Tensor | None = None,
        image_of_text: Tensor | None = None,
        *,
        sides: Mapping[str, Tensor | Side] | None = None,
        row: Tensor | None = None,
        index: Tensor | None = None,
        group: Tensor | None = None,
        picture: Tensor | None = None,
        label: Tensor | None = None,
        domain: Tensor | None = None,
        classes: list[str] | None = None,
        domains: list[str] | None = None,
        names: list[str] | None = None,
        captions: list[str] | None = None,
        columns: dict[str, list[Any]] | None = None,
        source: str = "data",
        skipped: Skipped | None = None,
    ) -> None:
        self.sides = {name: _side(vectors) for name, vectors in (sides or {}).items()}
        if image is not None:
            self.sides["image"] = _side(image)
        if text is not None:
            if image_of_text is None and "text" in self.sides:
                image_of_text = self.sides["text"].owner
            owner = torch.arange(len(text)) if image_of_text is None else image_of_text
            if len(text) != len(owner):
                raise ValueError(f"{len(text)} captions but {len(owner)} entries of image_of_text")
            self.sides["text"] = Side(text, owner)
        n = self._records() if row is None else len(row)
        self.row = torch.arange(n) if row is None else row
        self.index = self.row if index is None else index
        self.group, self.picture, self.label, self.domain = group, picture, label, domain
        self.classes, self.domains = classes, domains
        self.names, self.captions, self.columns = names or [], captions or [], columns or {}
        self.source, self.skipped = source, Skipped() if skipped is None else skipped
        self._check()

    def __repr__(self) -> str:
        counts = {"image": "images", "text": "captions" if "image" in self.sides else "texts"}
        held = [f"{len(side.vectors)} {counts.get(name, name)}" for name, side in self.sides.items()]
        return f"<Embeddings of {self.source}: {', '.join([*held, f'{self.dim} dimensions'])}>"

    def __len__(self) -> int:
        return len(self.row)

    @property
    def dim(self) -> int:
        """Dimensions of the vectors."""
        return max((side.vectors.shape[1] for side in self.sides.values()), default=0)

    @property
    def image(self) -> Tensor:
        """`[N, D]`: of pictures, or where there are none of videos, or of sounds, so that what measures the ones
        measures the others; `[0, D]` where there is none of them."""
        name = self.picture_side
        return self.sides[name].vectors if name in self.sides else torch.zeros(0, self.dim)

    @image.setter
    def image(self, vectors: Tensor) -> None:
        self.sides[self.picture_side] = _side(vectors)

    @property
    def picture_side(self) -> str:
        """The side that `image` is: "video", or "audio", where there are videos, or sounds, and no pictures."""
        return next((name for name in MEDIA if name in self.sides), "image")

    @property
    def medium(self) -> str:
        """What one of the vectors of `image` is of, in a word: "image", "video" or "sound"."""
        return MEDIA[self.picture_side]

    @property
    def text(self) -> Tensor:
        """`[M, D]`; `[0, D]` where there are no texts."""
        return self.sides["text"].vectors if "text" in self.sides else torch.zeros(0, self.dim)

    @text.setter
    def text(self, vectors: Tensor) -> None:
        self.sides["text"] = Side(vectors, self.image_of_text)

    @property
    def image_of_text(self) -> Tensor:
        """`[M]`: the record of each text, and so the row of its picture."""
        return self.sides["text"].owner if "text" in self.sides else torch.zeros(0, dtype=torch.long)

    @property
    def counted(self) -> str:
        """How much of each side there is, for people.

        >>> Embeddings(torch.eye(3)).counted
        '3 images'
        """
        different = len(self.distinct_texts())
        numbers = {name: len(side.vectors) for name, side in self.sides.items() if len(side.vectors)}
        counts = {name: f"{n:,} {MEDIA.get(name, name)}" for name, n in numbers.items()}
        for name in MEDIA.keys() & counts.keys():
            counts[name] += "" if numbers[name] == 1 else "s"
        if "text" in counts:
            counts["text"] = f"{different:,} different {'captions' if len(counts) > 1 else 'texts'}"
        return ", ".join(counts.values())

    def require(self, *sides: str, by: str) -> None:
        """Raise a `UserError` unless every side holds vectors; `by` is what needs them."""
        for name in sides:
            held = self.picture_side if name == "image" else name
            if held not in self.sides or not len(self.sides[held].vectors):
                raise UserError(f"{by} needs {CALLED.get(name, name)}, and {self.source} has none")

    def with_side(self, name: str, vectors: Tensor) -> Embeddings:
        """A copy whose side `name` holds other vectors, of the same number."""
        return replace(self, sides={**self.sides, name: Side(vectors, self.sides[name].owner)})

    @property
    def image_group(self) -> Tensor:
        """`[N]`: the group of each record; where there are no groups, its picture; else each is its own. What is
        resampled together."""
        known = self.picture if self.group is None else self.group
        return torch.arange(len(self)) if known is None else known

    @property
    def match_group(self) -> Tensor:
        """`[N]`: equal for records that the same captions fit. The groups, where the data has them; else those with
        the very same captions are one."""
        alone = self.image_group
        if self.group is not None or not self.captions:
            return alone
        captions_of: dict[int, set[str]] = {}
        for image, caption in zip(alone[self.image_of_text].tolist(), self.captions, strict=True):
            captions_of.setdefault(image, set()).add(caption)
        first: dict[frozenset[str], int] = {}
        merged = {image: first.setdefault(frozenset(words), image) for image, words in captions_of.items()}
        return torch.tensor([merged.get(image, image) for image in alone.tolist()], dtype=torch.long)

    @property
    def text_group(self) -> Tensor:
        """`[M]`: the match group of each caption, that of its image."""
        return self.match_group[self.image_of_text]

    def distinct_images(self) -> Tensor:
        """Rows of the records that are left when the same picture counts once: five rows of a table about one picture
        are one query, and one candidate.

        >>> Embeddings(torch.eye(2)[[0, 0, 1]], picture=torch.tensor([0, 0, 2])).distinct_images()
        tensor([0, 2])
        """
        if self.picture is None:
            return torch.arange(len(self))
        first: dict[int, int] = {}
        for row, picture in enumerate(self.picture.tolist()):
            first.setdefault(picture, row)
        return torch.tensor(list(first.values()), dtype=torch.long)

    def distinct_texts(self) -> Tensor:
        """Rows of the captions that are left when the same words for the same group count once: five drawings of one
        thing bring the same five captions, which are one query, and one candidate."""
        if not self.captions:
            return torch.arange(len(self.text))
        first: dict[tuple[int, str], int] = {}
        for row, key in enumerate(zip(self.text_group.tolist(), self.captions, strict=True)):
            first.setdefault(key, row)
        return torch.tensor(list(first.values()), dtype=torch.long)

    def parts(self) -> dict[str, Tensor]:
        """Rows of the images of each domain, by its name; empty where there are no two domains."""
        return by_name(self.domain, self.domains) if self.domain is not None else {}

    def select(self, rows: Tensor | Sequence[int]) -> Embeddings:
        """Only these records, in this order, with their captions."""
        rows = torch.as_tensor(rows, dtype=torch.long)
        place = torch.full((len(self),), -1, dtype=torch.long)
        place[rows] = torch.arange(len(rows))
        kept = {name: self._kept(side.owner, rows, place) for name, side in self.sides.items()}

        def pick(values: list[Any], where: Tensor) -> list[Any]:
            return [values[i] for i in where.tolist()] if values else []

        made = copy(self)
        made.sides = {
            name: Side(self.sides[name].vectors[where], place[self.sides[name].owner[where]])
            for name, where in kept.items()
        }
        for name in NUMBERS:
            if (values := getattr(self, name)) is not None:
                setattr(made, name, values[rows])
        made.names = pick(self.names, rows)
        made.captions = pick(self.captions, kept["text"]) if "text" in kept else []
        made.columns = {name: pick(values, rows) for name, values in self.columns.items()}
        return made

    def save(self, path: str | Path) -> Path:
        """Write one file, atomically: a Parquet table where its name ends in .parquet
        (`nearfar.embedding.parquet_vectors`), else safetensors, where words are UTF-8 JSON; nothing is pickled.
        """
        from safetensors.torch import save

        words = {name: getattr(self, name) for name in WORDS}
        words["skipped"] = {"count": self.skipped.count, "problems": [list(p) for p in self.skipped]}
        words["sides"] = list(self.sides)
        vectors = {name: value for name in NUMBERS if (value := getattr(self, name)) is not None}
        for name, side in self.sides.items():
            # One picture a record goes without saying; files of before have `image_of_text` alone.
            vectors[name] = side.vectors
            if (key := parquet_vectors.owner_key(name)) is not None:
                vectors[key] = side.owner
        if Path(path).suffix == ".parquet":
            return parquet_vectors.write(path, vectors, words)
        blob = json.dumps(words, ensure_ascii=False).encode(
            "utf-8", "backslashreplace"
        )  # names of files may be no UTF-8
        # Two names for one storage (index may be row) are not allowed in the file.
        stored = {name: value.contiguous().clone() for name, value in vectors.items()}
        stored["words"] = torch.frombuffer(bytearray(blob), dtype=torch.uint8)
        return files.write(path, save(stored, {"format": "nearfar.embeddings"}))

    @classmethod
    def load(cls, path: str | Path) -> Embeddings:
        """Read what `save` wrote.

        Raises:
            UserError: the file is something else, or incomplete.
        """
        from safetensors import SafetensorError

        if Path(path).is_dir():
            raise UserError(f"{path} is a folder: blocks are read with nearfar.embedding.load_blocks")
        try:
            tensors, words = _stored(path)
            skipped = Skipped()
            skipped.count = words["skipped"]["count"]
            skipped.problems = [Problem(*problem) for problem in words["skipped"]["problems"]]
            fields: dict[str, Any] = {name: words[name] for name in WORDS}
            others = [name for name in words.get("sides", ["image", "text"]) if name not in ("image", "text")]
            sides = {name: Side(tensors.pop(name), tensors.pop(f"record_of_{name}")) for name in others}
            return cls(**tensors, **fields, sides=sides, skipped=skipped)
        except (SafetensorError, KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            raise UserError(f"{path} holds no embeddings: make it with `nearfar embed`") from error

    def _kept(self, owner: Tensor, rows: Tensor, place: Tensor) -> Tensor:
        """Which vectors of a side stay: in the new order where each record has one, in their old order otherwise."""
        if torch.equal(owner, torch.arange(len(self))):
            return rows
        return (place[owner] >= 0).nonzero().flatten()

    def _records(self) -> int:
        """How many records the sides speak of."""
        if "image" in self.sides:
            return len(self.sides["image"].vectors)
        return max((int(side.owner.max()) + 1 for side in self.sides.values() if len(side.owner)), default=0)

    def _check(self) -> None:
        n = len(self.row)
        for name, side in self.sides.items():
            if len(side.vectors) != len(side.owner):
                raise ValueError(f"{len(side.vectors)} vectors of {name} but {len(side.owner)} owners")
            if len(side.owner) and not 0 <= int(side.owner.min()) <= int(side.owner.max()) < n:
                raise ValueError(f"{name} has an owner outside the {n} records")
        if len(self.text) and len(self.image) and self.text.shape[1] != self.image.shape[1]:
            raise ValueError(f"images have {self.image.shape[1]} dimensions, captions {self.text.shape[1]}")
        for name in NUMBERS:
            value = getattr(self, name)
            if value is not None and len(value) != n:
                raise ValueError(f"{n} images but {len(value)} entries of {name}")


def _stored(path: str | Path) -> tuple[dict[str, Any], Mapping[str, Any]]:
    """The tensors and words of a file."""
    from safetensors.torch import load_file

    if Path(path).suffix == ".parquet":
        return parquet_vectors.read(path)
    tensors: dict[str, Any] = load_file(path)
    return tensors, json.loads(tensors.pop("words").numpy().tobytes())


def _side(vectors: Tensor | Side) -> Side:
    return vectors if isinstance(vectors, Side) else Side(vectors, torch.arange(len(vectors)))


def by_name(numbers: Tensor, names: Sequence[str] | None) -> dict[str, Tensor]:
    """Rows `[n]` int64 of each number of `numbers` `[N]` int64, by its name, without the unknown (-1); empty where
    there are not two of them.

    >>> by_name(torch.tensor([1, 0, 1]), ["line", "colour"])
    {'line': tensor([1]), 'colour': tensor([0, 2])}
    """
    present = [number for number in numbers.unique().tolist() if number >= 0]
    if len(present) < 2:
        return {}
    return {
        str(names[number] if names and number < len(names) else number): (numbers == number).nonzero().flatten()
        for number in present
    }
