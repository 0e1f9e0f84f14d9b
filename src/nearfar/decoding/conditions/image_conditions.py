"""Writing of pictures under several conditions: RITUAL (arXiv 2405.17821), VCD (arXiv 2311.16922), M3ID, and both
together, with a vision-language model as it is: nothing is trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from types import MappingProxyType
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from nearfar import lookup
from nearfar.decoding.conditions.condition_logits import ConditionRule
from nearfar.decoding.conditions.condition_runs import condition_generate
from nearfar.decoding.conditions.diffusion_noise import diffusion_noise, noise_scales
from nearfar.decoding.conditions.picture_transforms import TransformBank
from nearfar.decoding.conditions.transform_selectors import Selector, most_certain
from nearfar.errors import UserError
from nearfar.modes import evaluating

RULES: Mapping[str, ConditionRule] = MappingProxyType(
    {
        "ritual": ConditionRule(),
        "ritual-plus": ConditionRule(),
        "vcd": ConditionRule(alpha=0.0, contrast="vcd"),
        "m3id": ConditionRule(alpha=0.0, contrast="m3id"),
        "ritual-vcd": ConditionRule(contrast="vcd"),
        "ritual-m3id": ConditionRule(contrast="m3id"),
    }
)
"""What each method joins."""


@dataclass(frozen=True)
class ImageConditions:
    """What a model reads beside a picture while it writes of it, and how all of it is joined.

    Beside the picture's own run there is one of a transformed copy, whose logits are added (RITUAL), and one of a noisy
    copy or of the words alone, whose logits are subtracted (VCD, M3ID): two or three passes a token in place of one.
    Transform and noise are drawn once for a picture and its prompt, and depend on these two and `seed` alone.

    Args:
        rule: how logits are joined, and which conditions there are.
        bank: the transforms.
        selector: chooses among them, `selector(model, picture, prompt, transformed) -> name` (RITUAL+); None: chance.
        noise_step: of VCD's noisy picture, 0 to 999 (paper: 500).
        seed: of transform and noise.

    Raises:
        UserError: a setting out of its range.

    >>> from nearfar.data import train_tokenizer
    >>> from nearfar.models import vision_language_model
    >>> model = vision_language_model("tiny", tokenizer=train_tokenizer(["a red fox"], 300))
    >>> texts = ImageConditions.of("ritual-vcd").caption(model, [Image.new("RGB", (64, 64), "red")], max_tokens=4)
    >>> len(texts)
    1
    """

    rule: ConditionRule = field(default_factory=ConditionRule)
    bank: TransformBank = field(default_factory=TransformBank)
    selector: Selector | None = None
    noise_step: int = 500
    seed: int = 0

    def __post_init__(self) -> None:
        noise_scales(self.noise_step)

    @classmethod
    def of(cls, name: str, *, exclude: Sequence[str] = (), seed: int = 0, **rule: Any) -> ImageConditions:
        """Those of a method: "ritual", "ritual-plus" (the model chooses the transform, `most_certain`), "vcd", "m3id",
        "ritual-vcd" or "ritual-m3id".

        Args:
            name: the method.
            exclude: transforms that are left out.
            seed: of transform and noise.
            rule: settings of `ConditionRule`, such as `beta=0.0` or `normalise=True`.

        >>> ImageConditions.of("m3id", max_coefficient=5.0).rule.takes_positive
        False
        """
        made = replace(lookup.find("decoding", name, RULES), **rule)
        chosen = most_certain if name == "ritual-plus" else None
        return cls(made, TransformBank(exclude=exclude), selector=chosen, seed=seed)

    def caption(
        self, model: Any, pictures: Sequence[Image.Image], prompt: str | Sequence[str] | None = None, **options: Any
    ) -> list[str]:
        """What the model writes of each picture, as `model.caption` does under one condition.

        Args:
            model: a `nearfar.models.VisionLanguageModel`.
            pictures: PIL pictures, as they are before `model.preprocess`.
            prompt: what to go on from, one for all, or one for each; None: the model's own.
            options: of `model.caption`: `max_tokens`, `seed`, `do_sample=True` with `temperature`, `top_p`. Without
                `do_sample` the likeliest token of the joint logits is taken.

        Raises:
            UserError: beams, no room for so many tokens, another number of prompts than pictures, or a model that does
                not read pictures before its words.
        """
        if not hasattr(model, "beginning"):
            raise UserError(
                f"a {type(model).__name__} reads no pictures before its words, and writes under no conditions: leave "
                "decoding out, or take a nearfar.models.vision_language_model"
            )
        if not pictures:
            return []
        prompts = _prompts(model, pictures, prompt)
        pixels = model.preprocess(pictures)
        with evaluating(model):
            conditions = self._beginnings(model, pictures, pixels, prompts)
        return model.caption(
            pixels, prompts, custom_generate=condition_generate, rule=self.rule, **conditions, **options
        )

    def transformed(
        self, model: Any, pictures: Sequence[Image.Image], prompt: str | Sequence[str] | None = None
    ) -> list[tuple[str, Image.Image]]:
        """The transform's name and the transformed picture, of each picture and its prompt. Arguments as for
        `caption`."""
        pairs = zip(pictures, _prompts(model, pictures, prompt), strict=True)
        return [self._one_transformed(model, picture, text) for picture, text in pairs]

    def noisy(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        """VCD's noisy pixels, in the shape and dtype of `pixels` `[B, 3, S, S]` floating point, of pictures and their
        prompts."""
        rows = []
        for row, prompt in zip(pixels, prompts, strict=True):
            own = sha256(f"{self.seed} {prompt}".encode() + row.cpu().contiguous().float().numpy().tobytes()).digest()
            chance = torch.Generator().manual_seed(int.from_bytes(own[:7], "big"))
            rows.append(diffusion_noise(row, self.noise_step, generator=chance))
        return torch.stack(rows)

    def on(self, model: Any) -> ConditionedModel:
        """The model with these conditions, for whatever measures what a model writes:
        `nearfar.evaluation.evaluate(conditions.on(model), source, ["yes_no"])`."""
        return ConditionedModel(model, self)

    def _one_transformed(self, model: Any, picture: Image.Image, prompt: str) -> tuple[str, Image.Image]:
        size = model.image_size
        if self.selector is None:
            return self.bank.draw(picture, size, key=prompt, seed=self.seed)
        choices = self.bank.all(picture, size, key=prompt, seed=self.seed)
        name = self.selector(model, picture, prompt, choices)
        lookup.check("transform", [name], choices, where="the selector's choice: ")
        return name, choices[name]

    def _beginnings(
        self, model: Any, pictures: Sequence[Image.Image], pixels: Tensor, prompts: list[str]
    ) -> dict[str, dict[str, Tensor]]:
        """What each condition reads first."""
        read: dict[str, Tensor | None] = {}
        if self.rule.takes_positive:
            read["positive"] = model.preprocess([each for _, each in self.transformed(model, pictures, prompts)])
        if self.rule.takes_negative:
            read["negative"] = self.noisy(pixels, prompts) if self.rule.contrast == "vcd" else None
        begun = {role: model.beginning(each, prompts) for role, each in read.items()}
        return {role: {"inputs_embeds": inputs, "attention_mask": mask} for role, (inputs, mask) in begun.items()}


class ConditionedModel:
    """A model that writes under conditions: it has `preprocess` and `caption`, and no more."""

    def __init__(self, model: Any, conditions: ImageConditions) -> None:
        self.model, self.conditions = model, conditions

    @property
    def image_size(self) -> int:
        return self.model.image_size

    def preprocess(self, pictures: Sequence[Image.Image]) -> list[Image.Image]:
        """The pictures as they are, for `caption`: conditions change them before the model reads them."""
        return list(pictures)

    def caption(
        self, pictures: Sequence[Image.Image], prompt: str | Sequence[str] | None = None, **options: Any
    ) -> list[str]:
        """As `ImageConditions.caption`."""
        return self.conditions.caption(self.model, pictures, prompt, **options)


def _prompts(model: Any, pictures: Sequence[Image.Image], prompt: str | Sequence[str] | None) -> list[str]:
    """A prompt for each picture."""
    prompt = model.prompt if prompt is None else prompt
    prompts = [prompt] * len(pictures) if isinstance(prompt, str) else list(prompt)
    if len(prompts) != len(pictures):
        raise UserError(
            f"there are {len(prompts)} prompts for {len(pictures)} pictures: give one for all, or one for each"
        )
    return prompts
