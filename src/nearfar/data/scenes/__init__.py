"""Scenes: emojis or shapes on a canvas, made on demand, with everything about them known.

Each scene has a relation, attributes (colour, size, way up), captions with paraphrases, boxes, masks, and for its
captions false ones that differ in one swap: the material for compositionality, detection, grounding, hallucination
and video. Made of whole numbers only: the same record on every machine.
"""

from __future__ import annotations

from collections.abc import Sequence

from nearfar.data.scenes.contrasts import EDITS
from nearfar.data.scenes.contrasts import ContrastSource as _ContrastSource
from nearfar.data.scenes.layout import RELATIONS
from nearfar.data.scenes.marks import MarkSource as _MarkSource
from nearfar.data.scenes.motions import EVENTS, MOTIONS, ONLY_IN_TIME
from nearfar.data.scenes.questions import KINDS
from nearfar.data.scenes.questions import QuestionSource as _QuestionSource
from nearfar.data.scenes.scene_source import ATTRIBUTES, ScenePlan
from nearfar.data.scenes.scene_source import SceneSource as _SceneSource
from nearfar.data.scenes.statements import STATEMENT_KINDS, VERDICTS
from nearfar.data.scenes.statements import StatementSource as _StatementSource
from nearfar.data.scenes.video import VideoSource as _VideoSource
from nearfar.data.scenes.vocabulary import BASIC, COLOURS, SHAPES
from nearfar.data.sources.source import Source
from nearfar.errors import UserError

__all__ = [
    "ATTRIBUTES",
    "BASIC",
    "COLOURS",
    "EDITS",
    "EVENTS",
    "KINDS",
    "MOTIONS",
    "ONLY_IN_TIME",
    "RELATIONS",
    "SHAPES",
    "STATEMENT_KINDS",
    "VERDICTS",
    "ScenePlan",
    "contrasts",
    "marks",
    "questions",
    "scenes",
    "statements",
    "video",
]


def scenes(
    split: str = "train",
    *,
    n: int | None = None,
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
        n: how many; 10,000 of the split "train", 1,000 of the others.
        seed: other seeds give other scenes; record i depends on (seed, split, i) and the arguments, not on `n`.
        size: pixels a side.
        objects: things in a scene, 1 to 5. The relation is between the first two.
        attributes: which attributes a scene may be about; each scene draws one and gives its things different values of
            it. "colour", "size", "turned"; none at all leaves the pictures as they are.
        relations: some of `RELATIONS`.
        vocabulary: None for the split's own emoji concepts, so that training never shows the things of test; "basic"
            for 43 clear emojis of the training concepts, or "shapes" for 8 drawn shapes, or a list of emoji names. With
            these all splits share the nouns, and the pairs of nouns are held out instead.
        styles: drawing styles to draw from, all five by default.
        held_out_style: the only style of the test split, which the other splits lack.
        ground: "white" or "varied" (pale colours).

    Returns:
        records with `image` (PIL), `text` (four captions, the fullest first), `negative_text` with `negative_kind`
        ("attribution" or "relation") and `negative_of` (which caption it falsifies), `objects` (a dict each: `name`,
        `colour`, `size`, `turned`, `style`, `box` as x0 y0 x1 y1, `mask` as bool [size, size] of the visible part),
        `mask` (int16 [size, size]: 0 is the ground, i + 1 a pixel of the thing `classes[i]`), `relation`, `style`,
        `label` (the first thing), `group` (equal where pictures show the same), `domain` (style).

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
    plan = ScenePlan(
        split=split,
        n=_default(split) if n is None else n,
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


def contrasts(
    split: str = "train",
    *,
    n: int | None = None,
    seed: int = 0,
    size: int = 64,
    objects: int = 2,
    edits: Sequence[str] = EDITS,
    relations: Sequence[str] = RELATIONS,
    vocabulary: str | Sequence[str] | None = None,
    styles: Sequence[str] | None = None,
    held_out_style: str | None = None,
    ground: str = "white",
) -> Source:
    """`n` pairs of scenes of a split that differ in one thing, each scene with a text that is false of the other.

    Args:
        n, seed, size, objects, relations, vocabulary, styles, held_out_style, ground: as for `scenes`. Each thing has a
            colour of its own.
        edits: what may differ: the "colour" of a thing, the "thing" itself, or the "place", where the first two stand
            in each other's. Where the splits share the nouns, a changed thing makes a pair of nouns of the split, too;
            in val and test only where there is such a pair.

    Returns:
        records with `image`, `image2` (PIL), `text`, `text2`, `kind` (the edit), `objects`, `objects2` (as those of
        `scenes`), `style`, `domain`, and a `group` of each pair's own.

    Raises:
        UserError: an argument that is not understood.

    >>> pair = contrasts("train", vocabulary="shapes", edits=["colour"])[0]
    >>> pair["kind"], pair["text"] == pair["text2"], pair["image"].size
    ('colour', False, (64, 64))
    """
    plan = ScenePlan(
        split=split,
        n=_default(split) if n is None else n,
        seed=seed,
        size=size,
        objects=objects,
        attributes=(),
        relations=tuple(relations),
        vocabulary=vocabulary if vocabulary is None or isinstance(vocabulary, str) else tuple(vocabulary),
        styles=tuple(styles or ()),
        held_out_style=held_out_style,
        ground=ground,
    )
    return _ContrastSource(plan, tuple(edits))


def marks(
    split: str = "train",
    *,
    n: int | None = None,
    seed: int = 0,
    size: int = 64,
    styles: Sequence[str] | None = None,
    held_out_style: str | None = None,
) -> Source:
    """`n` emojis of a split, every other one with a mark over it: a background and a target set, unpaired.

    What both sets share is which thing is shown, of five categories; what only the target has is which of eight shapes
    lies over it, where, and how large. One says nothing of the other.

    Args:
        n, seed, size, styles, held_out_style: as for `scenes`.

    Returns:
        records with `image` (PIL), `text` (the emoji's name), `label` (0 of "plain", else the mark's shape), `mark`,
        `name`, `category`, `style`, `group` (equal for one emoji) and `domain` (style). Things of test are never in
        training.

    Raises:
        UserError: an argument that is not understood.

    >>> source = marks("train", n=4)
    >>> [record["mark"] for record in source], source.classes[:3]
    (['plain', 'ring', 'plain', 'diamond'], ['plain', 'circle', 'square'])
    """
    return _MarkSource(
        split,
        n=_default(split) if n is None else n,
        seed=seed,
        size=size,
        styles=tuple(styles or ()),
        held_out_style=held_out_style,
    )


def questions(
    split: str = "train",
    *,
    n: int | None = None,
    seed: int = 0,
    size: int = 64,
    objects: int = 3,
    kinds: Sequence[str] = KINDS,
    relations: Sequence[str] = RELATIONS,
    vocabulary: str | Sequence[str] | None = None,
    styles: Sequence[str] | None = None,
    held_out_style: str | None = None,
    ground: str = "white",
) -> Source:
    """`n` questions of a split, each about a scene of its own, whose things all have a colour.

    The question alone does not give the answer away: each kind draws the answer first, evenly, and words of a question
    whose answer is "no" are as common as those of one whose answer is "yes".

    Args:
        objects: the most things in a scene, 2 to 5; a question about a relation shows two.
        kinds: some of `KINDS`, drawn evenly: "colour" (what colour is the cat?), "presence" (is there a red cat?),
            "relation" (is the cat left of the dog?), "thing" (what is left of the dog?), "count" (how many red things
            are there?).
        n, seed, size, relations, vocabulary, styles, held_out_style, ground: as for `scenes`.

    Returns:
        records with `image`, `text` (the question), `answers` (a list of one), `question_type` (the kind), `objects`,
        `relation`, `style`, `group` (equal where pictures show the same) and `domain`.

    Raises:
        UserError: an argument that is not understood.

    >>> for record in questions("train", vocabulary="shapes", n=4, seed=3):
    ...     print(record["text"], record["answers"])
    is the cross bigger than the ring? ['yes']
    what is right of the square? ['star']
    what colour is the heart? ['blue']
    is there a black triangle? ['yes']
    """
    plan = _text_plan("questions", split, n, seed, size, objects, relations, vocabulary, styles, held_out_style, ground)
    return _QuestionSource(plan, most=objects, kinds=tuple(kinds))


def statements(
    split: str = "train",
    *,
    n: int | None = None,
    seed: int = 0,
    size: int = 64,
    objects: int = 3,
    kinds: Sequence[str] = STATEMENT_KINDS,
    relations: Sequence[str] = RELATIONS,
    vocabulary: str | Sequence[str] | None = None,
    styles: Sequence[str] | None = None,
    held_out_style: str | None = None,
    ground: str = "white",
) -> Source:
    """`n` statements of a split, half of them true of the scene they come with: for entailment. The words alone do not
    give it away, since false statements are made of the same words as true ones.

    Args:
        objects: the most things in a scene, 2 to 5; a statement about a colour or a relation shows two.
        kinds: some of `STATEMENT_KINDS`, drawn evenly: "thing" (there is a cat), "colour" (the cat is red; false with
            the other thing's colour, or one that is not there), "count" (there are two red things), "relation" (the
            cat is left of the dog; false the other way round).
        n, seed, size, relations, vocabulary, styles, held_out_style, ground: as for `scenes`.

    Returns:
        records with `image`, `text`, `label` (`classes` are the two `VERDICTS`), `statement_kind`, `objects`,
        `relation`, `style`, `group` (equal where pictures show the same) and `domain`.

    Raises:
        UserError: an argument that is not understood.

    >>> for record in statements("train", vocabulary="shapes", n=4, seed=5):
    ...     print(record["text"], "|", VERDICTS[record["label"]])
    there is one black thing | contradiction
    the ring is inside the square | contradiction
    the circle is purple | entailment
    there is a heart | contradiction
    """
    plan = _text_plan(
        "statements", split, n, seed, size, objects, relations, vocabulary, styles, held_out_style, ground
    )
    return _StatementSource(plan, most=objects, kinds=tuple(kinds))


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
    motions: Sequence[str] | None = None,
) -> Source:
    """`n` short videos of a split: a coloured thing that moves, grows, shrinks, turns or stands still.

    Records have `video` (uint8 [frames, size, size, 3]), `image` (its middle frame), `text`, `negative_text` (the
    opposite motion), `label` (the motion; `classes` are the motions), `motion`, `name`, `colour`, `boxes`.

    Args:
        n: how many.
        frames: of each video, 2 at least.
        motions: some of the nine `MOTIONS` (all of them by default) and of `EVENTS`, two events one after the other.
            Those of `ONLY_IN_TIME` are pairs of opposites that show the same frames in another order: of these no
            single frame can tell which it is.
        seed, size, vocabulary, styles, held_out_style: as for `scenes`.

    Raises:
        UserError: an argument that is not understood.

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
        motions=tuple(motions or ()),
    )


def _text_plan(
    name: str,
    split: str,
    n: int | None,
    seed: int,
    size: int,
    objects: int,
    relations: Sequence[str],
    vocabulary: str | Sequence[str] | None,
    styles: Sequence[str] | None,
    held_out_style: str | None,
    ground: str,
) -> ScenePlan:
    if not 2 <= objects <= 5:
        raise UserError(f"{name}: objects={objects}; scenes that are described hold 2 to 5 things")
    return ScenePlan(
        split=split,
        n=_default(split) if n is None else n,
        seed=seed,
        size=size,
        objects=2,
        attributes=("colour",),
        relations=tuple(relations),
        vocabulary=vocabulary if vocabulary is None or isinstance(vocabulary, str) else tuple(vocabulary),
        styles=tuple(styles or ()),
        held_out_style=held_out_style,
        ground=ground,
    )


def _default(split: str) -> int:
    """Scenes enough to train on, or to measure with."""
    return 10_000 if split == "train" else 1_000
