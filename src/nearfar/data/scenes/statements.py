"""Statements about scenes, true or false: statement i depends on the seed, the split and i alone."""

from __future__ import annotations

from dataclasses import replace

from nearfar.data.scenes.captions import indefinite
from nearfar.data.scenes.draw import SeededDraw
from nearfar.data.scenes.layout import SceneObject
from nearfar.data.scenes.scene_source import ScenePlan
from nearfar.data.scenes.scene_text import ScenesWithText, SceneText
from nearfar.data.scenes.vocabulary import COLOURS
from nearfar.data.sources.source import Record

STATEMENT_KINDS = ("thing", "colour", "count", "relation")
"""What is stated: that a thing is there, which colour it has, how many there are of a colour, how two things lie."""
VERDICTS = ["entailment", "contradiction"]


class StatementSource(ScenesWithText):
    """What `statements` returns."""

    columns = (
        *("index", "image", "text", "label", "statement_kind", "group", "domain"),
        *("objects", "relation", "style"),
    )

    def __init__(self, plan: ScenePlan, *, most: int, kinds: tuple[str, ...]) -> None:
        super().__init__(plan, name="statements", most=most, kinds=kinds, known=STATEMENT_KINDS)
        self.classes = VERDICTS

    def record(self, index: int) -> Record:
        draw = SeededDraw("statement", self.plan.seed, self.plan.split, index)
        kind = draw.one(self.kinds)
        chosen, scene = self.drawn(kind, draw)
        label = VERDICTS.index(chosen.answer)
        return {"index": index, "text": chosen.text, "label": label, "statement_kind": kind, **scene}

    def training(self) -> StatementSource:
        """Four thousand other statements of the training split, of the same make."""
        plan = replace(self.plan, split="train", n=4000, seed=self.plan.seed + 1)
        return StatementSource(plan, most=self.most, kinds=self.kinds)

    def _draw_thing(self, draw: SeededDraw) -> SceneText:
        things, verdict = self._things(draw, draw.between(1, self.most)), draw.one(VERDICTS)
        name = draw.one(things).name if verdict == "entailment" else self._absent({t.name for t in things}, draw)
        return SceneText(f"there is {indefinite(SceneObject(name))}", verdict, things)

    def _draw_colour(self, draw: SeededDraw) -> SceneText:
        """False with the colour of another thing that is there, or of none."""
        things, verdict, bound = self._things(draw, 2), draw.one(VERDICTS), draw.below(2) == 1
        thing, other = draw.some(things, 2)
        colour = thing.colour
        if verdict == "contradiction":
            absent = [name for name in COLOURS if name not in (thing.colour, other.colour)]
            colour = other.colour if bound else draw.one(absent)
        return SceneText(f"the {thing.name} is {colour}", verdict, things)

    def _draw_count(self, draw: SeededDraw) -> SceneText:
        count, verdict = draw.between(0, self.most), draw.one(VERDICTS)
        colour, *others = draw.some(list(COLOURS), len(COLOURS))
        things = self._counted(draw, count, colour, others)
        if verdict == "contradiction":
            count = draw.one([n for n in range(self.most + 1) if n != count])
        statement = f"there is one {colour} thing" if count == 1 else f"there are {_NUMBERS[count]} {colour} things"
        return SceneText(statement, verdict, things)

    def _draw_relation(self, draw: SeededDraw) -> SceneText:
        (first, phrase, second), true, things, relation = self._related(draw)
        return SceneText(f"the {first} is {phrase} the {second}", VERDICTS[not true], things, relation)


_NUMBERS = ("no", "one", "two", "three", "four", "five")
