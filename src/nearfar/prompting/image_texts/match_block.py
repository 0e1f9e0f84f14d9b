"""Matching one block of embedded pictures: the job that is sent to a worker, and what it writes.

block-000003.parquet    what `nearfar train` reads: the place of each record, and its captions (`KeptRow`)
block-000003.jsonl      a line a picture, for people: what it is called, its class, captions, cosines
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from nearfar import files
from nearfar.embedding.blocks.block_folder import BlockResult, MadeOf, stem
from nearfar.embedding.curation.kept_blocks import DroppedRow, KeptRow, reasons, save
from nearfar.embedding.embeddings import Embeddings
from nearfar.prompting.image_texts.class_descriptions import ClassDescriptions
from nearfar.prompting.image_texts.match_texts import MatchedTexts, match_texts

NO_CLASS, DESCRIPTIONS = "no class", "descriptions.safetensors"


@dataclass(frozen=True)
class MatchJob:
    """To match each block's pictures with the descriptions of their class; `embedded` is a folder of blocks, and
    the descriptions lie in `out` (`save_descriptions`)."""

    made_of: MadeOf
    out: str
    embedded: str
    top: int

    def worker(self) -> BlockMatcher:
        return BlockMatcher(self)


class BlockMatcher:
    """A worker: reads the descriptions once, then matches any block."""

    def __init__(self, job: MatchJob) -> None:
        self.job = job
        self.descriptions, self.vectors = load_descriptions(Path(job.out) / DESCRIPTIONS)

    def __call__(self, number: int) -> BlockResult:
        job, out = self.job, Path(self.job.out)
        path = stem(Path(job.embedded), number).with_suffix(".safetensors")
        kept, dropped, lines = list[KeptRow](), list[DroppedRow](), list[str]()
        read = 0
        if path.exists():
            pictures = Embeddings.load(path)
            read = len(pictures)
            for at, (line, chosen) in enumerate(self._matched(pictures)):
                place, identity = job.made_of.plan.place(number, int(pictures.row[at])), int(pictures.index[at])
                if chosen:
                    kept.append(KeptRow(place, identity, line["text"], at))
                    lines.append(json.dumps(line, ensure_ascii=False) + "\n")
                else:
                    dropped.append(DroppedRow(place, identity, None, NO_CLASS))
        save(out, number, kept, dropped)
        files.write(stem(out, number).with_suffix(".jsonl"), "".join(lines))
        result = BlockResult.of(number, read=read, kept=len(kept), dropped=reasons(dropped))
        result.save(out)
        return result

    def _matched(self, pictures: Embeddings) -> Iterator[tuple[dict[str, Any], list[int]]]:
        """What is written of each picture, and the numbers of its texts."""
        matched = self._match(pictures)
        paths = pictures.columns.get("path", [None] * len(pictures))
        for at, (chosen, scores) in enumerate(zip(matched.texts, matched.scores, strict=True)):
            is_file = isinstance(paths[at], str) and os.path.isfile(paths[at])
            line: dict[str, Any] = {"image": os.path.abspath(paths[at])} if is_file else {"name": pictures.names[at]}
            if chosen:
                assert pictures.label is not None
                label = int(pictures.label[at])
                captions, texts = self.descriptions.captions(label), self.descriptions.texts[label]
                line |= {"label": self.descriptions.names[label], "text": [captions[each] for each in chosen]}
                line |= {"cosine": [round(score, 6) for score in scores], "matched": [texts[each] for each in chosen]}
            yield line, chosen

    def _match(self, pictures: Embeddings) -> MatchedTexts:
        if pictures.label is None:
            return MatchedTexts([[] for _ in pictures.names], [[] for _ in pictures.names])
        return match_texts(pictures.image, pictures.label, self.vectors, top=self.job.top)


def save_descriptions(path: Path, descriptions: ClassDescriptions, vectors: Tensor) -> None:
    """Write descriptions with their embeddings, `[M, D]` float32, class after class, for workers to read."""
    from safetensors.torch import save_file

    words = {"names": descriptions.names, "texts": descriptions.texts, "short": descriptions.short}
    with files.whole(files.place(path)) as temporary:
        save_file({"vectors": vectors}, temporary, {"descriptions": json.dumps(words)})


def load_descriptions(path: Path) -> tuple[ClassDescriptions, list[Tensor]]:
    """What `save_descriptions` wrote."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        words = json.loads(file.metadata()["descriptions"])
        vectors: Tensor = file.get_tensor("vectors")
    texts, short = (tuple(tuple(own) for own in words[key]) for key in ("texts", "short"))
    return ClassDescriptions(tuple(words["names"]), texts, short), list(vectors.split([len(own) for own in texts]))
