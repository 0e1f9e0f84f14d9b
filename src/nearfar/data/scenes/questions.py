"""Questions about scenes: question i depends on the seed, the split and i alone; its scene is made to fit."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any, NamedTuple

from nearfar.data import world
from nearfar.data.scenes.captions import PHRASES, indefinite
from nearfar.data.scenes.draw import Draw, digest
from nearfar.data.scenes.layout import INVERSE, Thing, arrange
from nearfar.data.scenes.source import PALE, Plan, draw_nouns
from nearfar.data.scenes.vocabulary import COLOURS, chosen_styles, nouns
from nearfar.data.source import Record, Source
from nearfar.errors import UserError

KINDS = ("colour", "presence", "relation", "thing", "count")
"""What is asked: the colour of a thing, whether it is there, how two things lie, which thing lies so, how many."""


class Asked(NamedTuple):
    """A question, its answer, and the scene it is about."""

    question: str
    answer: str
    things: list[Thing]
    relation: str | None = None


class QuestionSource(Source):
    """What `questions` returns."""

    columns = (
        *("index", "image", "text", "answers", "question_type", "group", "domain"),
        *("objects", "relation", "style"),
    )
    domains = world.STYLES

    def __init__(self, plan: Plan, *, most: int, kinds: tuple[str, ...]) -> None:
        unknown = [kind for kind in kinds if kind not in KINDS]
        if unknown or not kinds:
            raise UserError(f"questions: kinds={list(kinds)}; choose some of: {', '.join(KINDS)}")
        self.plan, self.most, self.kinds = plan, most, kinds
        self.name = f"world/questions:{plan.split}"
        self._nouns = list(nouns(plan.vocabulary, plan.split))

    def __len__(self) -> int:
        return self.plan.n

    def record(self, index: int) -> Record:
        plan = self.plan
        draw = Draw("question", plan.seed, plan.split, index)
        kind = draw.one(self.kinds)
        style = draw.one(chosen_styles(plan.styles, plan.held_out_style, plan.split))
        asked = self._ask(kind, draw)
        for thing in asked.things:
            thing.style = style
        ground = draw.one(PALE) if plan.ground == "varied" else PALE[0]
        image = arrange(asked.things, asked.relation, plan.size, ground, draw)
        return {
            "index": index,
            "image": image,
            "text": asked.question,
            "answers": [asked.answer],
            "question_type": kind,
            "group": digest(asked.relation, *((t.name, t.colour) for t in asked.things)),
            "domain": world.STYLES.index(style),
            "objects": [asdict(thing) for thing in asked.things],
            "relation": asked.relation,
            "style": style,
        }

    def training(self) -> QuestionSource:
        """Four thousand other questions of the training split, of the same make."""
        plan = replace(self.plan, split="train", n=4000, seed=self.plan.seed + 1)
        return QuestionSource(plan, most=self.most, kinds=self.kinds)

    def _ask(self, kind: str, draw: Draw) -> Asked:
        """The answer is drawn before the scene, so that it is even whatever the words."""
        makers: dict[str, Any] = {
            "colour": self._colour,
            "presence": self._presence,
            "relation": self._relation,
            "thing": self._thing,
            "count": self._count,
        }
        return makers[kind](draw)

    def _things(self, draw: Draw, count: int) -> list[Thing]:
        """Different things in different colours."""
        names = draw_nouns(self.plan, self._nouns, count, draw)
        colours = draw.some(list(COLOURS), count)
        return [Thing(name, colour=colour) for name, colour in zip(names, colours, strict=True)]

    def _colour(self, draw: Draw) -> Asked:
        things = self._things(draw, draw.between(1, self.most))
        thing = draw.one(things)
        return Asked(f"what colour is the {thing.name}?", str(thing.colour), things)

    def _presence(self, draw: Draw) -> Asked:
        """ "No" to a thing of another scene, or to a thing that is there in the colour of another that is there."""
        things = self._things(draw, draw.between(2, self.most))
        present, bare = draw.below(2) == 1, draw.below(2) == 1
        thing, other = draw.some(things, 2)
        looks = Thing(thing.name, colour=None if bare else (thing if present else other).colour)
        if bare and not present:
            looks = Thing(self._absent({each.name for each in things}, draw))
        return Asked(f"is there {indefinite(looks)}?", "yes" if present else "no", things)

    def _absent(self, there: set[str], draw: Draw) -> str:
        """A noun that is not there, as common as those that are: out of another scene of the split, or out of all where
        the split has hardly another."""
        for _ in range(20):
            name = draw.one(draw_nouns(self.plan, self._nouns, 2, draw))
            if name not in there:
                return name
        return draw.one([name for name in self._nouns if name not in there])

    def _relation(self, draw: Draw) -> Asked:
        things, relation = self._things(draw, 2), draw.one(self.plan.possible_relations)
        first, phrase, second = self._told(things, relation, draw)
        true = draw.below(2) == 1
        if not true:
            first, second = second, first
        return Asked(f"is the {first.name} {phrase} the {second.name}?", "yes" if true else "no", things, relation)

    def _thing(self, draw: Draw) -> Asked:
        things, relation = self._things(draw, 2), draw.one(self.plan.possible_relations)
        first, phrase, second = self._told(things, relation, draw)
        return Asked(f"what is {phrase} the {second.name}?", first.name, things, relation)

    def _told(self, things: list[Thing], relation: str, draw: Draw) -> tuple[Thing, str, Thing]:
        """The relation said from either side."""
        first, second = things
        if draw.below(2) == 1:
            return first, PHRASES[relation][0], second
        return second, PHRASES[INVERSE[relation]][0], first

    def _count(self, draw: Draw) -> Asked:
        count = draw.between(0, self.most)
        colour, *others = draw.some(list(COLOURS), len(COLOURS))
        rest = draw.between(0 if count else 1, self.most - count)
        things = self._things(draw, count + rest)
        for i, thing in enumerate(things):
            thing.colour = colour if i < count else draw.one(others)
        question = f"how many {colour} things are there?"
        return Asked(question, str(count), draw.some(things, len(things)))
