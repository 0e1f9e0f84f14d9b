"""SugarCrepe++ (arXiv 2406.11171): two true captions in other words, and a false one that is nearer in words to the
first. A picture must prefer both true ones; without the picture, the true ones must be nearer to each other."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from nearfar import files
from nearfar.data.sources.record_text import captions
from nearfar.embedding.embed_source import embed_images, embed_texts
from nearfar.errors import UserError
from nearfar.evaluation.measures.bootstrap import mean_interval
from nearfar.evaluation.measures.result import Metric, Result

KINDS = ("swap_object", "swap_attribute", "replace_object", "replace_attribute", "replace_relation")
"""The published files, `KIND.json` or `.jsonl` each."""
CHANCE = {"both": 1 / 3, "first": 1 / 2, "second": 1 / 2, "text": 1 / 3}
"""Of scores at random, all different: the false caption is the last of three; the true pair is the nearest of three,
of which the pair of the second and the false one is compared, too."""


class TwoTrue(NamedTuple):
    """A picture, or a text that stands for it, or None; two true captions and a false one; the kind of the false."""

    picture: Any
    texts: tuple[str, str, str]
    kind: str = ""


def sugarcrepe_pp(
    encoder: Any,
    source: Any,
    *,
    folder: str | Path | None = None,
    pictures: str | Path | None = None,
    seed: int = 0,
    batch_size: int = 64,
) -> Result:
    """Are both true captions nearer to the picture than the false one, and nearer to each other?

    Args:
        encoder: anything with `encode_text` and `tokenize`. With `encode_image` and `preprocess` pictures are compared;
            else, and where records have none, the text that stands for each, `text2`; the files' captions are compared
            with one another alone where there is neither.
        source: records with `text`, two true captions first, `negative_text`, the first of which counts, and `image` or
            `text2` or neither; `negative_kind` names the kinds. Not used with `folder`.
        folder: one with SugarCrepe++'s published files.
        pictures: the folder of their pictures, COCO's `val2017`; by default that name inside `folder`. Without it the
            text task alone is measured.
        seed: of the bootstrap.
        batch_size: for embedding.

    Returns:
        A `Result` of `sugarcrepe_pp_scores`.

    Raises:
        UserError: no such files, a damaged one, or no records of two true captions and a false one.
    """
    sees = hasattr(encoder, "encode_image")
    if folder is not None:
        cases = list(_published(Path(folder), pictures, sees))
    elif pictures is not None:
        raise UserError("pictures are those of SugarCrepe++'s files: name their folder too")
    else:
        cases = list(_of_records(source, sees))
    if not cases:
        raise UserError(
            "sugarcrepe_pp needs records of two true captions, text, and a false one, negative_text, and there is none"
        )
    texts = embed_texts(encoder, [text for case in cases for text in case.texts], batch_size=batch_size)
    words = texts.double().view(len(cases), 3, -1)
    image = None
    if all(case.picture is not None for case in cases):
        held = [case.picture for case in cases]
        stands = sum(isinstance(each, _Text) for each in held)
        if 0 < stands < len(held):
            raise UserError(
                f"{stands} of {len(held)} cases have a text in the place of a picture: give all of them one of both"
            )
        if stands:
            shown = embed_texts(encoder, [str(each) for each in held], batch_size=batch_size)
        else:
            shown = embed_images(encoder, held, batch_size=batch_size)
        # In double precision and one by one: equal embeddings give exactly equal scores.
        image = (shown.double()[:, None] * words).sum(-1)
    pairs = torch.stack([(words[:, a] * words[:, b]).sum(-1) for a, b in ((0, 1), (0, 2), (1, 2))], 1)
    kinds = [case.kind for case in cases]
    return sugarcrepe_pp_scores(image, pairs, kinds if any(kinds) else None, seed=seed)


def sugarcrepe_pp_scores(
    image: Tensor | None, text: Tensor, kinds: Sequence[str] | None = None, *, seed: int = 0
) -> Result:
    """SugarCrepe++'s two tasks. With s the scores of a picture I, true captions P1, P2 and the false one N,

        both     s(I, P1) > s(I, N)   and  s(I, P2) > s(I, N)       `first` and `second` are one of these each
        text     s(P1, P2) > s(P1, N) and  s(P1, P2) > s(P2, N)

    Ties are wrong.

    Args:
        image: `[N, 3]`, floating point, of each picture with P1, P2, N; None leaves its task out.
        text: `[N, 3]`, floating point, of P1 with P2, of P1 with N, of P2 with N.
        kinds: of each case, for figures by kind.
        seed: of the bootstrap.

    Returns:
        A `Result` with `both`, `first`, `second` and `text`; by kind the same.

    Raises:
        UserError: another shape, no case, or a score that is NaN.

    >>> image = torch.tensor([[0.9, 0.8, 0.1], [0.9, 0.3, 0.3]])
    >>> result = sugarcrepe_pp_scores(image, torch.tensor([[0.9, 0.8, 0.1]] * 2))
    >>> result["both"], result["first"], result["second"], result["text"]
    (0.5, 1.0, 0.5, 1.0)
    """
    for name, scores in (("text", text), ("image", image)):
        if scores is None:
            continue
        if scores.ndim != 2 or scores.shape[1] != 3 or not len(scores) or len(scores) != len(text):
            raise UserError(f"{name}: scores of cases must be [N, 3], got {tuple(scores.shape)}")
        if scores.isnan().any():
            raise UserError(f"{name}: a score is NaN")
    if kinds is not None and len(kinds) != len(text):
        raise UserError(f"{len(kinds)} kinds for {len(text)} cases: one a case")
    right: dict[str, Tensor] = {}
    if image is not None:
        first, second = image[:, 0] > image[:, 2], image[:, 1] > image[:, 2]
        right |= {"both": first & second, "first": first, "second": second}
    right["text"] = (text[:, 0] > text[:, 1]) & (text[:, 0] > text[:, 2])
    values = np.stack([each.cpu().numpy() for each in right.values()], axis=1).astype(np.float64)
    low, high = mean_interval(values, seed=seed)
    metrics = {
        name: Metric(float(values[:, i].mean()), float(low[i]), float(high[i]), CHANCE[name], len(values), "%")
        for i, name in enumerate(right)
    }
    by: dict[str, dict[str, dict[str, Metric]]] = {}
    if kinds is not None:
        own = np.asarray(kinds)
        for kind in np.unique(own):
            part = values[own == kind]
            by.setdefault("kind", {})[str(kind)] = {
                name: Metric(float(part[:, i].mean()), chance=CHANCE[name], n=len(part), unit="%")
                for i, name in enumerate(right)
            }
    return Result("sugarcrepe_pp", metrics, by)


class _Text(str):
    """A text that stands for a picture."""


def _of_records(source: Any, sees: bool) -> Iterator[TwoTrue]:
    """The records that hold a case. A picture goes before the text that stands for it, where the model reads some."""
    for record in source:
        true, false = captions(record.get("text")), captions(record.get("negative_text"))
        if len(true) < 2 or not false:
            continue
        stands = captions(record.get("text2"))
        picture = record.get("image") if sees else None
        if picture is None and stands:
            picture = _Text(stands[0])
        kind = record.get("negative_kind")
        kind = kind[0] if isinstance(kind, list) and kind else kind
        yield TwoTrue(picture, (true[0], true[1], false[0]), kind if isinstance(kind, str) else "")


def _published(root: Path, pictures: str | Path | None, sees: bool) -> Iterator[TwoTrue]:
    images = root / "val2017" if pictures is None else Path(pictures)
    if pictures is not None and not images.is_dir():
        raise UserError(f"{images}: no such folder; it is to hold the pictures of COCO's val2017")
    there = [path for kind in KINDS for end in ("json", "jsonl") if (path := root / f"{kind}.{end}").is_file()]
    if not there:
        listed = ", ".join(f"{kind}.json" for kind in KINDS)
        raise UserError(f"{root}: no file of SugarCrepe++ there; it may hold any of {listed}")
    for path in there:
        for number, row in enumerate(_rows(path)):
            keys = ("filename", "caption", "caption2", "negative_caption")
            if not isinstance(row, Mapping) or not all(isinstance(row.get(key), str) for key in keys):
                raise UserError(f"{path}, row {number}: not a row of SugarCrepe++ ({', '.join(keys)})")
            picture = images / row["filename"] if sees and images.is_dir() else None
            yield TwoTrue(picture, (row["caption"], row["caption2"], row["negative_caption"]), path.stem)


def _rows(path: Path) -> list[Any]:
    text = path.read_text("utf-8")
    try:
        if path.suffix == ".jsonl":
            return [json.loads(line) for line in text.split("\n") if line.strip()]
        held = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON: {files.json_fault(error)}") from None
    return list(held.values()) if isinstance(held, dict) else held if isinstance(held, list) else [held]
