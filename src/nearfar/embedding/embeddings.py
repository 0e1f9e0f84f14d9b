"""Embedded data: vectors of images and captions, with everything a protocol needs to know about them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nearfar import files
from nearfar.data.sources.skipped import Problem, Skipped
from nearfar.errors import UserError

VECTORS = ("image", "text", "image_of_text", "row", "index", "group", "label", "domain")
WORDS = ("classes", "domains", "names", "captions", "columns", "source")


@dataclass
class Embeddings:
    """N images and M captions as vectors.

    Args:
        image: `[N, D]` float32.
        text: `[M, D]` float32; M may be 0.
        image_of_text: `[M]` int64, the row of `image` that each caption describes.
        row: `[N]` int64, each image's place in the source (broken images leave gaps). Default: 0 to N - 1.
        index: `[N]` int64, its stable id. Default: `row`.
        group: `[N]` int64, equal for images that the same captions fit; None: each image is alone.
        label, domain: `[N]` int64, -1 where unknown; None where the source has none.
        classes, domains: what their numbers stand for.
        names: N short names; captions: M texts.
        columns: further plain values of the records, N each: path, style, category ...
        source: name of the data; skipped: the records that could not be used.

    >>> eye = torch.eye(3)
    >>> Embeddings(eye, eye, torch.arange(3))
    <Embeddings of data: 3 images, 3 captions, 3 dimensions>
    """

    image: Tensor
    text: Tensor
    image_of_text: Tensor
    row: Tensor = None  # type: ignore[assignment]  # filled in below
    index: Tensor = None  # type: ignore[assignment]
    group: Tensor | None = None
    label: Tensor | None = None
    domain: Tensor | None = None
    classes: list[str] | None = None
    domains: list[str] | None = None
    names: list[str] = field(default_factory=list)
    captions: list[str] = field(default_factory=list)
    columns: dict[str, list[Any]] = field(default_factory=dict)
    source: str = "data"
    skipped: Skipped = field(default_factory=Skipped)

    def __post_init__(self) -> None:
        n = len(self.image)
        self.row = torch.arange(n) if self.row is None else self.row
        self.index = self.row if self.index is None else self.index
        if len(self.text) != len(self.image_of_text):
            raise ValueError(f"{len(self.text)} captions but {len(self.image_of_text)} entries of image_of_text")
        if len(self.text) and self.text.shape[1] != self.image.shape[1]:
            raise ValueError(f"images have {self.image.shape[1]} dimensions, captions {self.text.shape[1]}")
        for name in ("row", "index", "group", "label", "domain"):
            value = getattr(self, name)
            if value is not None and len(value) != n:
                raise ValueError(f"{n} images but {len(value)} entries of {name}")

    def __repr__(self) -> str:
        n, dim = self.image.shape
        return f"<Embeddings of {self.source}: {n} images, {len(self.text)} captions, {dim} dimensions>"

    def __len__(self) -> int:
        return len(self.image)

    @property
    def image_group(self) -> Tensor:
        """`[N]`: the group of each image; images without groups are each their own. What is resampled together."""
        return torch.arange(len(self.image)) if self.group is None else self.group

    @property
    def match_group(self) -> Tensor:
        """`[N]`: equal for images that the same captions fit. The groups, where the data has them; else images with
        the very same captions are one."""
        alone = torch.arange(len(self.image))
        if self.group is not None or not self.captions:
            return self.image_group
        told: dict[int, set[str]] = {}
        for image, caption in zip(self.image_of_text.tolist(), self.captions, strict=True):
            told.setdefault(image, set()).add(caption)
        first: dict[frozenset[str], int] = {}
        for image, words in told.items():
            alone[image] = first.setdefault(frozenset(words), image)
        return alone

    @property
    def text_group(self) -> Tensor:
        """`[M]`: the match group of each caption, that of its image."""
        return self.match_group[self.image_of_text]

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
        """Only these images, in this order, with their captions."""
        rows = torch.as_tensor(rows, dtype=torch.long)
        place = torch.full((len(self.image),), -1, dtype=torch.long)
        place[rows] = torch.arange(len(rows))
        texts = (place[self.image_of_text] >= 0).nonzero().flatten()

        def pick(values: list[Any], where: Tensor) -> list[Any]:
            return [values[i] for i in where.tolist()] if values else []

        def at(values: Tensor | None) -> Tensor | None:
            return None if values is None else values[rows]

        return Embeddings(
            image=self.image[rows],
            row=self.row[rows],
            index=self.index[rows],
            group=at(self.group),
            label=at(self.label),
            domain=at(self.domain),
            text=self.text[texts],
            image_of_text=place[self.image_of_text[texts]],
            classes=self.classes,
            domains=self.domains,
            names=pick(self.names, rows),
            captions=pick(self.captions, texts),
            columns={name: pick(values, rows) for name, values in self.columns.items()},
            source=self.source,
            skipped=self.skipped,
        )

    def save(self, path: str | Path) -> Path:
        """Write one safetensors file, atomically; words travel in it as UTF-8 JSON, nothing is pickled."""
        from safetensors.torch import save

        words = {name: getattr(self, name) for name in WORDS}
        words["skipped"] = {"count": self.skipped.count, "problems": [list(p) for p in self.skipped]}
        blob = json.dumps(words, ensure_ascii=False).encode()
        vectors = {name: value.contiguous() for name in VECTORS if (value := getattr(self, name)) is not None}
        words_tensor = torch.frombuffer(bytearray(blob), dtype=torch.uint8)
        # Two names for one storage (index may be row) are not allowed in the file.
        vectors["index"] = vectors["index"].clone()
        return files.write(path, save({**vectors, "words": words_tensor}, {"format": "nearfar.embeddings"}))

    @classmethod
    def load(cls, path: str | Path) -> Embeddings:
        """Read what `save` wrote.

        Raises:
            UserError: the file is something else, or incomplete.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            tensors = load_file(path)
            words: Mapping[str, Any] = json.loads(tensors.pop("words").numpy().tobytes())
            skipped = Skipped()
            skipped.count = words["skipped"]["count"]
            skipped.problems = [Problem(*problem) for problem in words["skipped"]["problems"]]
            fields: dict[str, Any] = {**tensors, **{name: words[name] for name in WORDS}}
            return cls(**fields, skipped=skipped)
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            raise UserError(f"{path} holds no embeddings ({error}): make it with `nearfar embed`") from None


def by_name(numbers: Tensor, names: Sequence[str] | None) -> dict[str, Tensor]:
    """Rows of each number, by its name, without the unknown (-1); empty where there are not two of them.

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
