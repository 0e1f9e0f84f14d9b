"""Pictures written down by a vision-language model: the scene in words, and its objects as JSON (LexiCLIP, arXiv
2509.19203)."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from hashlib import sha256
from typing import Any

from nearfar.data.descriptions.parse_scene import ParsedScene, parse_scene

SCENE_PROMPT = (
    "Describe everything that is visible in one plain paragraph: the setting, people, objects, colours, numbers, "
    "actions, how things stand to each other, and any text that can be read. No guesses and no opinion."
)
OBJECTS_PROMPT = (
    "List every distinct object as a JSON array of objects with the keys name, count, attributes (list), actions "
    "(list), position, relations (list of objects with the keys predicate and object). Leave out what is unknown. "
    "At most 20 objects. JSON only."
)


class SceneDescriber:
    """Describes pictures by two answers of a model: of the scene, and of its objects. The likeliest token is taken at
    each place, so that the same picture has the same description.

    Args:
        captioner: anything with `preprocess(pictures)` and `caption(pixels, prompt, max_tokens=...)`, such as a
            `VisionLanguageModel` or what `nearfar.models.load_captioner` opens.
        scene_prompt, objects_prompt: what it is to go on from. The paper's are not published; these ask for what it
            says that its descriptions hold.
        scene_tokens, objects_tokens: tokens of an answer at most.
        redact: changes each text of a description before anything is kept: names, numbers, what a screen shows.
    """

    def __init__(
        self,
        captioner: Any,
        *,
        scene_prompt: str = SCENE_PROMPT,
        objects_prompt: str = OBJECTS_PROMPT,
        scene_tokens: int = 200,
        objects_tokens: int = 400,
        redact: Callable[[str], str] | None = None,
    ) -> None:
        self.captioner, self.redact = captioner, redact
        self.asks = ((scene_prompt, scene_tokens), (objects_prompt, objects_tokens))

    @property
    def key(self) -> str:
        """A digest of the prompts and their limits: descriptions under another are others."""
        return sha256(json.dumps(self.asks).encode()).hexdigest()[:16]

    def describe(self, pictures: Sequence[Any]) -> list[ParsedScene]:
        """One description of each picture (PIL, RGB), never fewer; an answer that is no JSON leaves its objects out."""
        if not pictures:
            return []
        pixels = self.captioner.preprocess(list(pictures))
        answers = [self.captioner.caption(pixels, prompt, max_tokens=most) for prompt, most in self.asks]
        parsed = [parse_scene(scene, objects) for scene, objects in zip(*answers, strict=True)]
        if self.redact is None:
            return parsed
        return [each._replace(description=each.description.mapped(self.redact)) for each in parsed]
