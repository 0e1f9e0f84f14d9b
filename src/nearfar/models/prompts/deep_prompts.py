"""Prompts in every layer of both towers, those of pictures made of those of texts (MaPLe, arXiv 2210.03117)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from nearfar.errors import UserError
from nearfar.files import why
from nearfar.models.dual.dual_encoder import DualEncoder
from nearfar.models.prompts.token_vectors import written
from nearfar.models.video.frame_messages import layers_of
from nearfar.modes import evaluating

STATES = "hidden_states"


class DeepPrompts(nn.Module):
    """Of depth J: the context vectors c_0 stand in the first layer of the text tower; c_1 ... c_{J-1} of their own
    replace them in the next ones. Each c_i goes through a linear map of its own into the width of the image tower,
    whose tokens it is appended to, and overwritten in, at the same depth. After the last layer they are taken off.

    Args:
        pair: the dual encoder: transformers on both sides, the image tower with a class token.
        count: n, the vectors of each layer.
        depth: J (paper: 9, and 3 where it is tested on other data); at 1 there are no deep prompts.

    Raises:
        UserError: a tower without layers or class token, or with fewer layers than J.
    """

    def __init__(self, pair: Any, count: int, depth: int = 9) -> None:
        super().__init__()
        if depth < 1:
            raise UserError(f"depth is {depth}: prompts stand in one layer at least")
        if not isinstance(pair, DualEncoder):
            raise UserError(
                f"prompts in both towers (maple) need nearfar's own or transformers' towers, and this is a "
                f"{type(pair).__name__}: load the model by its transformers name, or choose coop or cocoop"
            )
        text, image = (_layers(getattr(pair, side), side) for side in ("text", "image"))
        if pair.image.prefix < 1:
            raise UserError(
                f"prompts in both towers (maple) need an image tower with a class token, and {_name(pair.image)} has "
                "none: take a ViT, such as a CLIP's, or choose coop or cocoop"
            )
        if depth > min(len(text), len(image)):
            raise UserError(
                f"depth is {depth}, and the towers have {len(text)} layers of texts and {len(image)} of pictures: "
                f"choose one from 1 to {min(len(text), len(image))}"
            )
        width = pair.image.width
        text_width = pair.text.width
        self.count, self.depth = count, depth
        self.vectors = nn.Parameter(torch.empty(depth - 1, count, text_width).normal_(std=0.02))
        self.maps = nn.ModuleList(nn.Linear(text_width, width) for _ in range(depth))

    def check(self, pair: DualEncoder, context: Tensor) -> None:
        """Try one blank picture. Raises a `UserError` where the image tower takes no further tokens."""
        size = pair.image_size
        try:
            with evaluating(pair), self.in_image(pair, context):
                pair.image(next(pair.image.parameters()).new_zeros(1, 3, size, size))
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            raise UserError(
                f"{_name(pair.image)} takes no tokens beside its patches ({why(error, 'its layers count them')}): "
                "prompts in both towers (maple) need a plain ViT, such as a CLIP's, or choose coop or cocoop"
            ) from error

    @contextmanager
    def in_text(self, pair: DualEncoder, places: Tensor) -> Iterator[None]:
        """Within the block, layers of the text tower after the first read c_1, c_2, ... at `places` `[B, n]` int64."""

        def replaced(number: int) -> Callable[[Tensor], Tensor]:
            return lambda states: written(states, self.vectors[number], places)

        with ExitStack() as hooks:
            for number, layer in enumerate(list(_layers(pair.text, "text"))[1 : self.depth]):
                hooks.enter_context(_changed(layer, replaced(number)))
            yield

    @contextmanager
    def in_image(self, pair: DualEncoder, context: Tensor) -> Iterator[None]:
        """Within the block, the image tower reads the maps of the context vectors `[n, W]`, floating point, and of c_1,
        c_2, ... beside its patches."""
        layers = list(_layers(pair.image, "image"))
        backbone: Any = pair.image.backbone
        # A CLIP normalises what it embedded before the first layer, and the prompts with it.
        start = getattr(backbone, "pre_layrnorm", None) or getattr(backbone, "norm_pre", None) or layers[0]

        def appended(states: Tensor) -> Tensor:
            own = self.maps[0](context).to(states).expand(len(states), -1, -1)
            return torch.cat([states, own], dim=1)

        def replaced(number: int) -> Callable[[Tensor], Tensor]:
            def change(states: Tensor) -> Tensor:
                own = self.maps[number](self.vectors[number - 1]).to(states).expand(len(states), -1, -1)
                return torch.cat([states[:, : -self.count], own], dim=1)

            return change

        def taken_off(module: nn.Module, inputs: Any, output: Any) -> Any:
            if isinstance(output, tuple):
                return (output[0][:, : -self.count], *output[1:])
            return output[:, : -self.count]

        with ExitStack() as hooks:
            hooks.enter_context(_changed(start, appended))
            for number, layer in enumerate(layers[1 : self.depth], 1):
                hooks.enter_context(_changed(layer, replaced(number)))
            handle = layers[-1].register_forward_hook(taken_off)
            hooks.callback(handle.remove)
            yield


@contextmanager
def _changed(layer: nn.Module, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Within the block a layer reads changed states, its first argument or the one called `hidden_states`."""

    def before(module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> Any:
        if inputs:
            return (change(inputs[0]), *inputs[1:]), named
        return inputs, {**named, STATES: change(named[STATES])}

    handle = layer.register_forward_pre_hook(before, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def _layers(tower: Any, side: str) -> Any:
    try:
        return layers_of(tower.backbone)
    except UserError as error:
        raise UserError(
            f"prompts in both towers (maple) need transformers, and the {side} tower is a {_name(tower)}: take a model "
            "such as a CLIP with a ViT, or choose coop or cocoop"
        ) from error


def _name(tower: Any) -> str:
    return type(tower.backbone).__name__
