"""Scenes: emojis or shapes on a canvas, made on demand, with everything about them known.

Each scene has a relation, looks (colour, size, way up), captions with paraphrases, boxes, masks, and for its captions
false ones that differ in one swap: the material for compositionality, detection, grounding, hallucination and video.
Made of whole numbers only: the same record on every machine.
"""

from __future__ import annotations

from collections.abc import Sequence

from nearfar.data.scenes.layout import RELATIONS
from nearfar.data.scenes.source import ATTRIBUTES, Plan
from nearfar.data.scenes.source import SceneSource as _SceneSource
from nearfar.data.scenes.video import MOTIONS
from nearfar.data.scenes.video import VideoSource as _VideoSource
from nearfar.data.scenes.vocabulary import BASIC, COLOURS, SHAPES
from nearfar.data.source import Source

__all__ = ["ATTRIBUTES", "BASIC", "COLOURS", "MOTIONS", "RELATIONS", "SHAPES", "Plan", "scenes", "video"]


def scenes(
    split: str = "train",
    *,
    n: int = 10_000,
    seed: int = 0,
    size: int = 64,
    objects: int = 2,
    attributes: Sequence[str] = ("colour",),
    relations: Sequence[str] = RELATIONS,
    vocabulary: str | Sequence[str] | None = None,
    styles: Sequence[str] | None = None,
    held_out_style: str | None = None,
    ground: str = "white",
) -> Source:
    """`n` scenes of a split.

    Args:
        seed: other seeds give other scenes; record i depends on (seed, split, i) and the arguments, not on `n`.
        size: pixels a side.
        objects: things in a scene, 1 to 5. The relation is between the first two.
        attributes: of which looks a scene may be about; each scene draws one and gives its things different values of
            it. "colour", "size", "turned"; none at all leaves the pictures as they are.
        relations: some of `RELATIONS`.
        vocabulary: None for the split's own emoji concepts, so that test shows things never seen in training; "basic"
            for 43 clear emojis of the training concepts, or "shapes" for 8 drawn shapes, or a list of emoji names. With
            these all splits share the nouns, and the pairs of nouns are held out instead.
        styles: drawing styles to draw from, all five by default.
        held_out_style: a style seen in test only, and alone there.
        ground: "white" or "varied" (pale colours).

    Returns:
        records with `image` (PIL), `text` (four captions, the fullest first), `negative_text` with `negative_kind`
        ("attribution" or "relation") and `negative_of` (which caption it falsifies), `objects` (a dict each: `name`,
        `colour`, `size`, `turned`, `style`, `box` as x0 y0 x1 y1, `mask` as bool [size, size] of the visible part),
        `relation`, `style`, `label` (the first thing), `group` (equal where the same is to be seen), `domain` (style).

    Raises:
        UserError: an argument that is not understood.

    >>> scene = scenes("train", vocabulary="shapes", seed=1)[0]
    >>> for caption, kind, false in zip(scene["text"], scene["negative_kind"], scene["negative_text"]):
    ...     print(caption, "|", kind, "|", false)
    there is an orange circle over a purple cross | attribution | there is a purple circle over an orange cross
    the circle is over the cross | relation | the cross is over the circle
    the orange circle and the purple cross | attribution | the purple circle and the orange cross
    a purple cross lower than an orange circle | relation | an orange circle lower than a purple cross
    """
    plan = Plan(
        split=split,
        n=n,
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
    return _SceneSource(plan)


def video(
    split: str = "train",
    *,
    n: int = 1_000,
    seed: int = 0,
    size: int = 64,
    frames: int = 8,
    vocabulary: str | Sequence[str] | None = None,
    styles: Sequence[str] | None = None,
    held_out_style: str | None = None,
) -> Source:
    """`n` short videos of a split: a coloured thing that moves, grows, shrinks, turns or stands still.

    Records have `video` (uint8 [frames, size, size, 3]), `image` (its middle frame), `text`, `negative_text` (the
    opposite motion), `label` (the motion; `classes` are the nine `MOTIONS`), `motion`, `name`, `colour`, `boxes`. The
    other arguments are those of `scenes`.

    >>> clip = video("test", vocabulary="basic", frames=4)[0]
    >>> clip["video"].shape
    (4, 64, 64, 3)
    """
    return _VideoSource(
        split,
        n=n,
        seed=seed,
        size=size,
        frames=frames,
        vocabulary=vocabulary if vocabulary is None or isinstance(vocabulary, str) else tuple(vocabulary),
        styles=tuple(styles or ()),
        held_out_style=held_out_style,
    )
