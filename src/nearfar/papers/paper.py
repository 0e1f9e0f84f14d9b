"""One paper: title, arXiv id, kind, where it lives, its recipes and the verdict of its reproduction."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from nearfar.tally import tally

KINDS = ("image-text", "image", "text", "decoding", "vision-language models", "detection", "video", "speech")
"""What papers are about, in the order in which they are listed."""


@dataclass(frozen=True)
class Paper:
    """One paper and where to find it in the house."""

    slug: str
    name: str
    title: str
    arxiv: str
    kind: str
    """One of `KINDS`."""
    home: tuple[str, ...]
    """Modules that hold the method, the paper's own file first."""
    recipes: tuple[str, ...] = ()
    """Names of recipes (`nearfar recipes`), the small one first."""

    @property
    def verdict(self) -> str:
        """The verdict of the recorded reproduction, such as '3 of 4 decided: 2 hold, 1 reversed'; '' where none is
        recorded. Claims against a constant and premises are counted apart."""
        return tally(self.claims)

    @property
    def claims(self) -> list[dict[str, Any]]:
        """The judged claims of the recorded reproduction; none where none is recorded."""
        record = files("nearfar") / "reproductions" / "results" / f"{self.slug}.json"
        return json.loads(record.read_text("utf-8")).get("claims", []) if record.is_file() else []
