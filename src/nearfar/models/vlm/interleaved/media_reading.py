"""How a language model of transformers gets to see pictures: blocks act before some of its layers, in a context.
The model itself is not changed, and nothing of a call is left behind."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from nearfar.errors import UserError
from nearfar.models.vlm.interleaved.gated_block import Attend, GatedCrossAttention, visible_media


def decoder_layers(lm: Any) -> Any:
    """The list of layers of a causal language model of transformers.

    Raises:
        UserError: none of its lists is as long as its config says that there are layers.
    """
    count = getattr(lm.config, "num_hidden_layers", None)
    for module in lm.base_model.modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return module
    raise UserError(f"{type(lm).__name__} has no list of layers that could see pictures: take another")


@contextmanager
def with_media(
    lm: Any, blocks: Mapping[int, GatedCrossAttention], media: Tensor, times: Tensor, attend: Attend
) -> Iterator[None]:
    """Within this context each block acts before its layer, on the texts that `times` are of, and on what is written
    behind them, token by token, with a cache or without.

    Args:
        lm: a causal language model of transformers.
        blocks: by the number of the layer.
        media: `[B, T, M, V]`, floating point: M tokens of each of T pictures.
        times: how many pictures stand before or at each token, `[B, L]` int64.
        attend: which pictures a token sees.
    """
    flat, each = media.flatten(1, 2), media.shape[2]
    read = {depth: block.read(flat) for depth, block in blocks.items()}

    def entering(depth: int) -> Callable[..., Any]:
        def act(states: Tensor) -> Tensor:
            copies = len(states) // max(1, len(media))  # beams of one text stand side by side
            sees = visible_media(_times_of(times, states.shape[1]), media.shape[1], attend)
            visible = sees.repeat_interleave(each, dim=2).repeat_interleave(copies, dim=0)
            key, value = (part.repeat_interleave(copies, dim=0) if copies > 1 else part for part in read[depth])
            return blocks[depth](states, key, value, visible)

        return act

    layers = decoder_layers(lm)
    with ExitStack() as stack:
        for depth in blocks:
            stack.callback(_before(layers[depth], entering(depth)).remove)
        yield


@contextmanager
def states_kept(lm: Any, depth: int) -> Iterator[list[Tensor]]:
    """Within this context the list holds the states `[B, L, W]` that go into layer `depth`, which is after so many
    layers, of the last pass."""
    kept: list[Tensor] = []

    def keep(states: Tensor) -> Tensor:
        kept[:] = [states]
        return states

    handle = _before(decoder_layers(lm)[depth], keep)
    try:
        yield kept
    finally:
        handle.remove()


def lower_states(lm: Any, depth: int, ids: Tensor, mask: Tensor) -> Tensor:
    """The states `[B, L, W]` of tokens `[B, L]` int64 after the first `depth` layers; no layer above runs."""

    def stop(states: Tensor) -> Tensor:
        raise _Reached(states)

    handle = _before(decoder_layers(lm)[depth], stop)
    try:
        lm.base_model(input_ids=ids, attention_mask=mask, use_cache=False)
    except _Reached as reached:
        return reached.states
    finally:
        handle.remove()
    raise UserError(f"{type(lm).__name__} does not run its layers one after the other: take another language model")


class _Reached(Exception):
    """The layer is reached at which a pass is to end."""

    def __init__(self, states: Tensor) -> None:
        super().__init__()
        self.states = states


def _before(layer: nn.Module, act: Callable[[Tensor], Tensor]) -> Any:
    """`act` on what goes into a layer, whether it is passed by its place or by its name."""

    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if args:
            return (act(args[0]), *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": act(kwargs["hidden_states"])}

    return layer.register_forward_pre_hook(hook, with_kwargs=True)


def _times_of(times: Tensor, length: int) -> Tensor:
    """The times of the tokens of a pass: of all from the first on, or, where they are fewer than the text had, of the
    newest alone, which stand behind all pictures."""
    behind = times[:, -1:].expand(-1, length)
    if length < times.shape[1]:
        return behind
    return torch.cat([times, behind[:, times.shape[1] :]], dim=1)
