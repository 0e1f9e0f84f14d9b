"""ARO's four tasks (arXiv 2210.01936) from a user's own copy of its published annotation files and images.

The files keep their form: `visual_genome_relation.json` and `visual_genome_attribution.json` (rows with `image_path`,
`bbox_x`, `bbox_y`, `bbox_w`, `bbox_h`, `true_caption`, `false_caption`, and `relation_name` or `attributes`), and for
the order tasks a Karpathy test file (rows with `image` and a list `caption`).
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, Literal

from nearfar import files
from nearfar.errors import UserError
from nearfar.evaluation.compositionality.choice import ChoiceQuestion
from nearfar.evaluation.compositionality.perturb import ORDER, order_options

Task = Literal["relation", "attribution", "order"]

# Relations that exchanging their two sides mostly leaves true, or that say next to nothing. The list is ours: the
# released notebook drops about 170, many of them not symmetric but rare ("riding on", "perched on").
SYMMETRIC = frozenset(
    """
    adjacent to, against, alongside, around, between, beside, by, close to, connected to, facing, hugging, in between,
    kissing, meeting, near, next to, of, parked beside, sitting beside, sitting next to, standing beside, standing near,
    standing next to, surrounding, talking to, touching, with
    """.replace("\n    ", " ")
    .strip()
    .split(", ")
)

FILES: dict[str, tuple[str, str, Task]] = {
    "relation": ("visual_genome_relation.json", "images", "relation"),
    "attribution": ("visual_genome_attribution.json", "images", "attribution"),
    "coco_order": ("coco_karpathy_test.json", ".", "order"),
    "flickr30k_order": ("flickr30k_test.json", ".", "order"),
}
"""Each task: its published annotation file, the folder of its images beside it, and its kind."""


def aro_tasks(
    folder: str | Path, *, leave_out: Collection[str] = SYMMETRIC, seed: int = 0
) -> dict[str, Iterator[ChoiceQuestion]]:
    """The tasks whose published files lie in `folder`, laid out as the released code has them: `FILES`, with the
    pictures of Visual Genome in `images/` and those of COCO and Flickr30k where their files say.

    Raises:
        UserError: none of the files is there.
    """
    root = Path(folder)
    tasks = {
        task: aro_cases(root / name, root / images, kind, leave_out=leave_out, seed=seed)
        for task, (name, images, kind) in FILES.items()
        if (root / name).is_file()
    }
    if not tasks:
        names = ", ".join(name for name, _, _ in FILES.values())
        raise UserError(f"{root}: no annotation file of ARO there; it may hold any of {names}")
    return tasks


def aro_cases(
    annotations: str | Path,
    images: str | Path,
    task: Task,
    *,
    leave_out: Collection[str] = SYMMETRIC,
    seed: int = 0,
) -> Iterator[ChoiceQuestion]:
    """The cases of one task.

    Args:
        annotations: the JSON file.
        images: the folder its image paths are relative to.
        task: "relation", "attribution" or "order".
        leave_out: relations that do not count; none with `()`. For figures beside published ones give the list of the
            released notebook.
        seed: of the order perturbations.

    Raises:
        UserError: the file is missing, is no JSON list, or a row lacks a field; names file, row and field.
    """
    path, folder = Path(annotations), Path(images)
    for number, row in enumerate(_rows(path)):
        try:
            if task == "order":
                for caption in row["caption"]:
                    options = tuple(order_options(caption, seed=seed))
                    yield ChoiceQuestion(folder / row["image"], options, "order", kinds=tuple(ORDER))
                continue
            group = row["relation_name"] if task == "relation" else "_".join(row["attributes"])
            if task == "relation" and group in leave_out:
                continue
            captions = (row["true_caption"], row["false_caption"])
            yield ChoiceQuestion(folder / row["image_path"], captions, group, _box(row))
        except (KeyError, TypeError) as error:
            lack = f" (no {error.args[0]!r})" if isinstance(error, KeyError) else ""
            raise UserError(
                f"{path}, row {number}: not a row of ARO's {task} task{lack}; is this the published file?"
            ) from error


def _box(row: dict[str, Any]) -> tuple[int, int, int, int]:
    x, y, w, h = (int(row[f"bbox_{k}"]) for k in "xywh")
    return x, y, x + w, y + h


def _rows(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        raise UserError(f"{path}: no such file; download ARO's annotation files and name one here")
    try:
        rows = json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON: {files.json_fault(error)}") from None
    if not isinstance(rows, list):
        raise UserError(f"{path}: expected a list of rows, got {type(rows).__name__}")
    return rows
