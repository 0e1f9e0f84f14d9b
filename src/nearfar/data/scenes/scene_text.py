"""What questions and statements about scenes share: things with colours, what is not there, a relation from either
side."""

from __future__ import annotations

from dataclasses import asdict
from typing import NamedTuple

from nearfar.data import world
from nearfar.data.scenes.captions import PHRASES
from nearfar.data.scenes.draw import SeededDraw, digest
from nearfar.data.scenes.layout import INVERSE, SceneObject, arrange
from nearfar.data.scenes.scene_source import PALE, ScenePlan, draw_nouns
from nearfar.data.scenes.vocabulary import COLOURS, chosen_styles, nouns
from nearfar.data.sources.source import Record, Source
from nearfar.errors import UserError


class SceneText(NamedTuple):
    """A text, what it calls for (an answer, or true or false), and the scene it is about."""

    text: str
    answer: str
    things: list[SceneObject]
    relation: str | None = None


class ScenesWithText(Source):
    """A source in which the text is drawn first, then a scene that fits it. Subclasses have a `_draw_KIND(draw)` for
    each kind of text, which draws what the text calls for before the scene, so that it is even whatever the words."""

    domains = world.STYLES

    def __init__(
        self, plan: ScenePlan, *, name: str, most: int, kinds: tuple[str, ...], known: tuple[str, ...]
    ) -> None:
        unknown = [kind for kind in kinds if kind not in known]
        if unknown or not kinds:
            raise UserError(f"{name}: kinds={list(kinds)}; choose some of: {', '.join(known)}")
        self.plan, self.most, self.kinds = plan, most, kinds
        self.name = f"world/{name}:{plan.split}"
        self._nouns = list(nouns(plan.vocabulary, plan.split))

    def __len__(self) -> int:
        return self.plan.n

    def drawn(self, kind: str, draw: SeededDraw) -> tuple[SceneText, Record]:
        """The text, and the fields of its record that describe the scene."""
        plan = self.plan
        style = draw.one(chosen_styles(plan.styles, plan.held_out_style, plan.split))
        chosen: SceneText = getattr(self, f"_draw_{kind}")(draw)
        for thing in chosen.things:
            thing.style = style
        ground = draw.one(PALE) if plan.ground == "varied" else PALE[0]
        return chosen, {
            "image": arrange(chosen.things, chosen.relation, plan.size, ground, draw),
            "group": digest(chosen.relation, *((t.name, t.colour) for t in chosen.things)),
            "domain": world.STYLES.index(style),
            "objects": [asdict(thing) for thing in chosen.things],
            "relation": chosen.relation,
            "style": style,
        }

    def _things(self, draw: SeededDraw, count: int) -> list[SceneObject]:
        """Different things in different colours."""
        names = draw_nouns(self.plan, self._nouns, count, draw)
        colours = draw.some(list(COLOURS), count)
        return [SceneObject(name, colour=colour) for name, colour in zip(names, colours, strict=True)]

    def _absent(self, there: set[str], draw: SeededDraw) -> str:
        """A noun that is not there, as common as those that are: out of another scene of the split, or out of all where
        the split has hardly another."""
        for _ in range(20):
            name = draw.one(draw_nouns(self.plan, self._nouns, 2, draw))
            if name not in there:
                return name
        return draw.one([name for name in self._nouns if name not in there])

    def _phrased(
        self, things: list[SceneObject], relation: str, draw: SeededDraw
    ) -> tuple[SceneObject, str, SceneObject]:
        """The relation said from either side."""
        first, second = things
        if draw.below(2) == 1:
            return first, PHRASES[relation][0], second
        return second, PHRASES[INVERSE[relation]][0], first

    def _related(self, draw: SeededDraw) -> tuple[tuple[str, str, str], bool, list[SceneObject], str]:
        """Two nouns with a relation between them, whether it holds that way round, and the scene."""
        things, relation = self._things(draw, 2), draw.one(self.plan.possible_relations)
        first, phrase, second = self._phrased(things, relation, draw)
        true = draw.below(2) == 1
        if not true:
            first, second = second, first
        return (first.name, phrase, second.name), true, things, relation

    def _counted(self, draw: SeededDraw, count: int, colour: str, others: list[str]) -> list[SceneObject]:
        """`count` things of a colour among others, in any order, of which there is one at least."""
        rest = draw.between(0 if count else 1, self.most - count)
        things = self._things(draw, count + rest)
        for i, thing in enumerate(things):
            thing.colour = colour if i < count else draw.one(others)
        return draw.some(things, len(things))
