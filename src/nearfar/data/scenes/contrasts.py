"""Pairs of scenes that differ in one thing: the material of S-VCO (arXiv 2502.13928)."""

from __future__ import annotations

from dataclasses import asdict, replace

from nearfar.data import world
from nearfar.data.scenes.captions import describe
from nearfar.data.scenes.draw import SeededDraw, digest
from nearfar.data.scenes.layout import SceneObject, arrange
from nearfar.data.scenes.scene_source import PALE, ScenePlan, draw_nouns
from nearfar.data.scenes.vocabulary import COLOURS, chosen_styles, nouns, pair_split
from nearfar.data.sources.source import Record, Source
from nearfar.errors import UserError

EDITS = ("colour", "thing", "place")


class ContrastSource(Source):
    """What `contrasts` returns."""

    columns = ("index", "image", "text", "image2", "text2", "kind", "group", "domain", "objects", "objects2", "style")
    domains = world.STYLES

    def __init__(self, plan: ScenePlan, edits: tuple[str, ...]) -> None:
        if unknown := [edit for edit in edits if edit not in EDITS]:
            raise UserError(f"contrasts: edits has no {unknown[0]!r}; choose from: {', '.join(EDITS)}")
        if not edits:
            raise UserError(f"contrasts: edits is empty; choose some of: {', '.join(EDITS)}")
        if plan.objects == 1 and "place" in edits:
            raise UserError("contrasts: a single thing has no other's place; take objects=2, or leave 'place' out")
        self.plan, self.edits = plan, edits
        self.name = f"world/contrasts:{plan.split}"
        self.nouns = list(nouns(plan.vocabulary, plan.split))
        if "thing" in edits and plan.split == "train" and plan.objects == 2 and not self._can_change_a_thing():
            raise UserError(
                f"contrasts: no noun of these {len(self.nouns)} is shown beside two others in training, so no thing "
                "can be another one: name more nouns, or leave 'thing' out of edits"
            )

    def __len__(self) -> int:
        return self.plan.n

    def record(self, index: int) -> Record:
        plan = self.plan
        draw = SeededDraw("contrast", plan.seed, plan.split, index)
        style = draw.one(chosen_styles(plan.styles, plan.held_out_style, plan.split))
        colours = draw.some(list(COLOURS), plan.objects)
        relation = draw.one(plan.possible_relations) if plan.objects > 1 else None
        ground = draw.one(PALE) if plan.ground == "varied" else PALE[0]
        kind = draw.one(self.edits)
        second: list[SceneObject] | None = None
        while second is None:
            named = draw_nouns(plan, self.nouns, plan.objects, draw)
            first = [SceneObject(noun, colour=colour, style=style) for noun, colour in zip(named, colours, strict=True)]
            second = self._edited(first, kind, draw)
        # The same draws for both: things stand in the same places, and the texts have the same words.
        pictures = [arrange(each, relation, plan.size, ground, self._draw("layout", index)) for each in (first, second)]
        texts = [describe(each, relation, self._draw("words", index))[0].true for each in (first, second)]
        return {
            "index": index,
            "image": pictures[0],
            "text": [texts[0]],
            "image2": pictures[1],
            "text2": [texts[1]],
            "kind": kind,
            "group": digest("contrast", plan.seed, plan.split, index),
            "domain": world.STYLES.index(style),
            "objects": [asdict(thing) for thing in first],
            "objects2": [asdict(thing) for thing in second],
            "style": style,
        }

    def _edited(self, things: list[SceneObject], kind: str, draw: SeededDraw) -> list[SceneObject] | None:
        """The things with one of them changed, or with the first two in each other's place; None where in
        training no noun can take the place of the one that is drawn."""
        if kind == "place":
            return [replace(each) for each in (things[1], things[0], *things[2:])]
        edited = [replace(thing) for thing in things]
        number = draw.below(len(edited))
        if kind == "colour":
            edited[number].colour = draw.one([c for c in COLOURS if c not in [thing.colour for thing in things]])
            return edited
        beside = len(things) > 1 and number < 2  # one of the two whose pair a split may own
        free = [noun for noun in self.nouns if noun not in [thing.name for thing in things]]
        own = [noun for noun in free if not beside or self._is_own(noun, things[1 - number].name)]
        if not own and self.plan.split == "train":
            return None
        edited[number].name = draw.one(own or free)
        return edited

    def _can_change_a_thing(self) -> bool:
        """Whether a noun has two that the split shows beside it."""
        return any(sum(self._is_own(one, other) for other in self.nouns if other != one) > 1 for one in self.nouns)

    def _is_own(self, one: str, other: str) -> bool:
        """Whether the split shows these nouns side by side."""
        return not self.plan.shared or pair_split(one, other) == self.plan.split

    def _draw(self, of: str, index: int) -> SeededDraw:
        return SeededDraw("contrast", of, self.plan.seed, self.plan.split, index)
