"""Short videos: one thing that does one of some motions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from nearfar import lookup
from nearfar.data import world
from nearfar.data.scenes.captions import indefinite
from nearfar.data.scenes.draw import SeededDraw, digest
from nearfar.data.scenes.layout import SceneObject
from nearfar.data.scenes.motions import ALL, MOTIONS, OPPOSITE, Pose
from nearfar.data.scenes.sprites import sprite
from nearfar.data.scenes.vocabulary import COLOURS, chosen_styles, nouns
from nearfar.data.sources.source import Record, Source
from nearfar.errors import UserError


class VideoSource(Source):
    """What `video` returns."""

    columns = (
        *("index", "video", "image", "text", "label", "group", "domain", "negative_text", "negative_kind"),
        *("motion", "name", "colour", "style", "boxes"),
    )
    domains = world.STYLES

    def __init__(
        self,
        split: str,
        *,
        n: int,
        seed: int,
        size: int,
        frames: int,
        vocabulary: str | tuple[str, ...] | None,
        styles: tuple[str, ...],
        held_out_style: str | None,
        motions: tuple[str, ...],
    ) -> None:
        if split not in world.SPLITS:
            raise UserError(f"video: there is no split {split!r}; choose from: {', '.join(world.SPLITS)}")
        if frames < 2 or size < 32 or n < 1:
            raise UserError(f"video: frames={frames}, size={size}, n={n}; at least 2 frames, 32 pixels and n of 1")
        lookup.check("motion", motions, ALL, where="video: ")
        self.motions = list(motions or MOTIONS)
        self.classes = self.motions
        self.split, self.n, self.seed, self.size, self.frames = split, n, seed, size, frames
        self.styles = chosen_styles(styles, held_out_style, split)
        self.nouns = nouns(vocabulary, split)
        self.name = f"world/video:{split}"

    def __len__(self) -> int:
        return self.n

    def record(self, index: int) -> Record:
        draw = SeededDraw("video", self.seed, self.split, index)
        motion = draw.one(self.motions)
        thing = SceneObject(draw.one(self.nouns), colour=draw.one(list(COLOURS)), style=draw.one(self.styles))
        shake = (draw.between(-60, 60), draw.between(-60, 60))
        poses = [ALL[motion](t, self.frames - 1) for t in range(self.frames)]
        video, boxes = zip(*(self._frame(thing, pose, shake) for pose in poses), strict=True)
        noun = indefinite(thing)
        return {
            "index": index,
            "video": np.stack(video),
            "image": Image.fromarray(video[self.frames // 2]),
            "text": [f"{noun} {motion}", f"the {thing.name} is {motion}"],
            "label": self.motions.index(motion),
            "group": digest(motion, thing.name, thing.colour),
            "domain": world.STYLES.index(thing.style),
            "negative_text": [f"{noun} {OPPOSITE[motion]}"],
            "negative_kind": ["motion"],
            "motion": motion,
            "name": thing.name,
            "colour": thing.colour,
            "style": thing.style,
            "boxes": list(boxes),
        }

    def _frame(
        self, thing: SceneObject, pose: Pose, shake: Sequence[int]
    ) -> tuple[np.ndarray, tuple[int, int, int, int]]:
        side = max(2, pose[2] * self.size // 1000)
        cut = sprite(thing.name, thing.style, thing.colour, side, pose[3])
        canvas = Image.new("RGB", (self.size, self.size), "white")
        x, y = ((centre + off) * self.size // 1000 - side // 2 for centre, off in zip(pose[:2], shake, strict=True))
        canvas.paste(cut.image, (x, y), cut.alpha)
        return np.asarray(canvas), (max(x, 0), max(y, 0), min(x + side, self.size), min(y + side, self.size))
