"""Questions about scenes: question i depends on the seed, the split and i alone; its scene is made to fit."""

from __future__ import annotations

from dataclasses import replace

from nearfar.data.scenes.captions import indefinite
from nearfar.data.scenes.draw import SeededDraw
from nearfar.data.scenes.layout import SceneObject
from nearfar.data.scenes.scene_source import ScenePlan
from nearfar.data.scenes.scene_text import ScenesWithText, SceneText
from nearfar.data.scenes.vocabulary import COLOURS
from nearfar.data.sources.source import Record

KINDS = ("colour", "presence", "relation", "thing", "count")
"""Kinds of questions: the colour of a thing, whether it is there, how two things lie, which thing lies so, how many."""


class QuestionSource(ScenesWithText):
    """What `questions` returns."""

    columns = (
        *("index", "image", "text", "answers", "question_type", "group", "domain"),
        *("objects", "relation", "style"),
    )

    def __init__(self, plan: ScenePlan, *, most: int, kinds: tuple[str, ...]) -> None:
        super().__init__(plan, name="questions", most=most, kinds=kinds, known=KINDS)

    def record(self, index: int) -> Record:
        draw = SeededDraw("question", self.plan.seed, self.plan.split, index)
        kind = draw.one(self.kinds)
        chosen, scene = self.drawn(kind, draw)
        return {"index": index, "text": chosen.text, "answers": [chosen.answer], "question_type": kind, **scene}

    def training(self) -> QuestionSource:
        """Four thousand other questions of the training split, of the same make."""
        plan = replace(self.plan, split="train", n=4000, seed=self.plan.seed + 1)
        return QuestionSource(plan, most=self.most, kinds=self.kinds)

    def _draw_colour(self, draw: SeededDraw) -> SceneText:
        things = self._things(draw, draw.between(1, self.most))
        thing = draw.one(things)
        return SceneText(f"what colour is the {thing.name}?", str(thing.colour), things)

    def _draw_presence(self, draw: SeededDraw) -> SceneText:
        """ "No" to a thing of another scene, or to a thing that is there in the colour of another that is there."""
        things = self._things(draw, draw.between(2, self.most))
        present, bare = draw.below(2) == 1, draw.below(2) == 1
        thing, other = draw.some(things, 2)
        described = SceneObject(thing.name, colour=None if bare else (thing if present else other).colour)
        if bare and not present:
            described = SceneObject(self._absent({each.name for each in things}, draw))
        return SceneText(f"is there {indefinite(described)}?", "yes" if present else "no", things)

    def _draw_relation(self, draw: SeededDraw) -> SceneText:
        (first, phrase, second), true, things, relation = self._related(draw)
        return SceneText(f"is the {first} {phrase} the {second}?", "yes" if true else "no", things, relation)

    def _draw_thing(self, draw: SeededDraw) -> SceneText:
        things, relation = self._things(draw, 2), draw.one(self.plan.possible_relations)
        first, phrase, second = self._phrased(things, relation, draw)
        return SceneText(f"what is {phrase} the {second.name}?", first.name, things, relation)

    def _draw_count(self, draw: SeededDraw) -> SceneText:
        count = draw.between(0, self.most)
        colour, *others = draw.some(list(COLOURS), len(COLOURS))
        things = self._counted(draw, count, colour, others)
        return SceneText(f"how many {colour} things are there?", str(count), things)
