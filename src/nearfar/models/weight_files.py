"""Weights in safetensors files, whole or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from hashlib import blake2b
from pathlib import Path

import torch
from torch import Tensor, nn

from nearfar import files
from nearfar.errors import UserError
from nearfar.files import why


def write_weights(file: Path, state: Mapping[str, Tensor], **facts: str) -> None:
    """Write a safetensors file, whole or not at all, with further facts in its head."""
    write_parts(file, state, {}, **facts)


def write_parts(
    main: Path, whole: Mapping[str, Tensor], parts: Mapping[Path, Mapping[str, Tensor]], **facts: str
) -> None:
    """Write several safetensors files, all or none; `main`, with `facts` in its head, takes its place last."""
    from safetensors.torch import save_file

    with ExitStack() as stack:  # left in the reverse order
        for file, state in [(main, whole), *parts.items()]:
            scratch = stack.enter_context(files.whole(file))
            head = {"format": "pt", **(facts if file == main else {})}
            save_file({name: _own(value) for name, value in state.items()}, scratch, metadata=head)


def read_weights(file: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """A safetensors file's tensors and the facts in its head.

    Raises:
        UserError: it is missing or damaged.
    """
    from safetensors import SafetensorError, safe_open

    if not file.is_file():
        raise UserError(f"{file} is missing: the model's weights")
    try:
        with safe_open(file, "pt") as opened:
            # Cloned, because tensors that lie at odd addresses of the mapped file take other kernels, whose last bits
            # differ.
            state = {name: opened.get_tensor(name).clone() for name in opened.keys()}  # noqa: SIM118 (no mapping)
            return state, dict(opened.metadata() or {})
    except SafetensorError as error:
        raise UserError(f"{file} is damaged: copy it anew, or save the model anew") from error


def load_part(model: nn.Module, file: Path, part: Mapping[str, Tensor]) -> None:
    """Load a safetensors file that holds exactly the tensors `part` of `model`."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        state = load_file(file)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{file} cannot be read: {why(error, 'it is damaged: copy it anew')}") from error
    mine, theirs = ({name: value.shape for name, value in tensors.items()} for tensors in (part, state))
    if mine != theirs:
        raise UserError(f"{file} does not fit this model: it is of another one")
    model.load_state_dict(state, strict=False)


def sum_of(state: Mapping[str, Tensor]) -> str:
    """A checksum of tensors and their names."""
    digest = blake2b(digest_size=16)
    for name, value in sorted(state.items()):
        digest.update(name.encode())
        digest.update(_own(value).view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def tied_names(model: nn.Module) -> dict[str, str]:
    """Names of parameters that are another's too, and that other's: T5's embedding has two."""
    first: dict[nn.Parameter, str] = {}
    return {
        name: first[parameter]
        for name, parameter in model.named_parameters(remove_duplicate=False)
        if first.setdefault(parameter, name) != name
    }


def _own(value: Tensor) -> Tensor:
    """A copy in memory of its own: safetensors refuses tensors that share storage."""
    return value.detach().to("cpu", copy=True).contiguous()
