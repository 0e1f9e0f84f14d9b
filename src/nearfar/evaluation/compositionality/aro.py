"""ARO's four tasks (arXiv 2210.01936) from a user's own copy of its published annotation files and images.

The files keep their form: `visual_genome_relation.json` and `visual_genome_attribution.json` (rows with `image_path`,
`bbox_x`, `bbox_y`, `bbox_w`, `bbox_h`, `true_caption`, `false_caption`, and `relation_name` or `attributes`), and for
the order tasks a Karpathy test file (rows with `image` and a list `caption`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from nearfar.errors import UserError
from nearfar.evaluation.compositionality.choice import Case
from nearfar.evaluation.compositionality.perturb import normalise, order_options

Task = Literal["relation", "attribution", "order"]

# Relations that exchanging their two sides mostly leaves true, or that say next to nothing. The list is ours: the
# released notebook drops a longer one of the same kind.
SYMMETRIC = frozenset(
    """
    adjacent to, against, alongside, around, between, beside, by, close to, connected to, facing, hugging, in between,
    kissing, meeting, near, next to, of, parked beside, sitting beside, sitting next to, standing beside, standing near,
    standing next to, surrounding, talking to, touching, with
    """.replace("\n    ", " ")
    .strip()
    .split(", ")
)


def aro_cases(
    annotations: str | Path, images: str | Path, task: Task, *, keep_symmetric: bool = False, seed: int = 0
) -> Iterator[Case]:
    """The cases of one task.

    Args:
        annotations: the JSON file.
        images: the folder its image paths are relative to.
        task: "relation", "attribution" or "order".
        keep_symmetric: keep relations that swapping leaves true ("next to").
        seed: of the order perturbations.

    Raises:
        UserError: the file is missing, is no JSON list, or a row lacks a field; names file, row and field.
    """
    path, folder = Path(annotations), Path(images)
    for number, row in enumerate(_rows(path)):
        try:
            if task == "order":
                for caption in row["caption"]:
                    yield Case(folder / row["image"], tuple(order_options(caption, seed=seed)), "order")
                continue
            group = row["relation_name"] if task == "relation" else "_".join(row["attributes"])
            if task == "relation" and group in SYMMETRIC and not keep_symmetric:
                continue
            captions = (normalise(row["true_caption"]), normalise(row["false_caption"]))
            yield Case(folder / row["image_path"], captions, group, _box(row))
        except (KeyError, TypeError) as error:
            raise UserError(
                f"{path}, row {number}: not a row of ARO's {task} task ({error}); is this the published file?"
            ) from None


def _box(row: dict[str, Any]) -> tuple[int, int, int, int]:
    x, y, w, h = (int(row[f"bbox_{k}"]) for k in "xywh")
    return x, y, x + w, y + h


def _rows(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        raise UserError(f"{path}: no such file; download ARO's annotation files and name one here")
    try:
        rows = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error})") from None
    if not isinstance(rows, list):
        raise UserError(f"{path}: expected a list of rows, got {type(rows).__name__}")
    return rows
