"""Documents of scenes: pictures and texts in turn, and single pictures with captions among them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from nearfar.data import world
from nearfar.data.scenes.draw import SeededDraw, digest
from nearfar.data.scenes.layout import RELATIONS
from nearfar.data.scenes.scene_source import ScenePlan, SceneSource
from nearfar.data.sources.source import Record, Source
from nearfar.errors import UserError


def documents(
    split: str = "train",
    *,
    n: int | None = None,
    seed: int = 0,
    size: int = 64,
    pictures: int = 3,
    single: float = 0.5,
    objects: int = 2,
    attributes: Sequence[str] = ("colour",),
    relations: Sequence[str] = RELATIONS,
    vocabulary: str | Sequence[str] | None = None,
    styles: Sequence[str] | None = None,
    held_out_style: str | None = None,
    ground: str = "white",
) -> Source:
    """`n` texts of a split with pictures in them: single scenes with a caption, and documents of several, each scene
    with a caption of its own, all of one kind. The material of COSMO (arXiv 2401.00849).

    Args:
        n: how many; 10,000 of the split "train", 1,000 of the others.
        pictures: of a document, 2 to 8.
        single: the share of records that are one picture with a caption.
        seed, size, objects, attributes, relations, vocabulary, styles, held_out_style, ground: as for
            `nearfar.data.scenes.scenes`.

    Returns:
        records with `images` (a list of PIL pictures), `text` (a list of as many), `style`, `group` and `domain`.

    Raises:
        UserError: an argument that is not understood.

    >>> source = documents("train", vocabulary="shapes", n=4)
    >>> [(len(record["images"]), len(record["text"])) for record in source]
    [(3, 3), (3, 3), (1, 1), (3, 3)]
    """
    plan = ScenePlan(
        split=split,
        n=(10_000 if split == "train" else 1_000) if n is None else n,
        seed=seed,
        size=size,
        objects=objects,
        attributes=tuple(attributes),
        relations=tuple(relations),
        vocabulary=vocabulary if vocabulary is None or isinstance(vocabulary, str) else tuple(vocabulary),
        styles=tuple(styles or ()),
        held_out_style=held_out_style,
        ground=ground,
    )
    return DocumentSource(plan, pictures=pictures, single=single)


class DocumentSource(Source):
    """What `documents` returns."""

    columns = ("index", "images", "text", "group", "domain", "style")
    domains = world.STYLES

    def __init__(self, plan: ScenePlan, *, pictures: int, single: float) -> None:
        if not 2 <= pictures <= 8:
            raise UserError(f"documents: pictures={pictures}; a document has 2 to 8")
        if not 0 <= single <= 1:
            raise UserError(f"documents: single={single}; a share from 0 to 1")
        self.plan, self.pictures_each, self.single = plan, pictures, single
        self.name = f"world/documents:{plan.split}"
        self._scenes = SceneSource(replace(plan, n=plan.n * pictures))

    def __len__(self) -> int:
        return self.plan.n

    def record(self, index: int) -> Record:
        draw = SeededDraw("document", self.plan.seed, self.plan.split, index)
        is_single = draw.below(10_000) < 10_000 * self.single
        first = index * self.pictures_each
        scenes = [self._scenes.record(first + number) for number in range(1 if is_single else self.pictures_each)]
        # All captions of a document are of one kind: what stands before shows how the next one goes.
        kind = draw.below(min(len(scene["text"]) for scene in scenes))
        groups = [scene["group"] for scene in scenes]
        return {
            "index": index,
            "images": [scene["image"] for scene in scenes],
            "text": [scene["text"][kind] for scene in scenes],
            "group": groups[0] if is_single else digest("document", *groups),
            "domain": scenes[0]["domain"],
            "style": scenes[0]["style"],
        }
