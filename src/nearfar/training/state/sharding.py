"""Full sharding (FSDP2): parameters, gradients and optimiser state split over the processes.

Taken when the run is started by `accelerate launch --use_fsdp --fsdp_version 2`, or with the shipped configuration
`fsdp.yaml`. Every block of a `ModuleList` (a transformer's layers) is a unit that is gathered when it is needed; the
rest of the method is one more. Scalars (temperatures) stay whole on every process, since they cannot be split.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from nearfar import distributed as processes
from nearfar.errors import UserError
from nearfar.methods.base import EmbeddingMethod, Method


def enabled() -> bool:
    """Whether `accelerate launch` configured FSDP."""
    if os.environ.get("ACCELERATE_USE_FSDP", "false").lower() not in ("true", "1"):
        return False
    if os.environ.get("FSDP_VERSION", "1") != "2":
        raise UserError("FSDP version 1 is not supported: launch with --fsdp_version 2, or the shipped fsdp.yaml.")
    return True


def shard(method: Method) -> None:
    """Split the method's parameters over all processes, in place.

    Raises:
        UserError: a weight that several blocks share, which cannot be split with each of them.
    """
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    offload = os.environ.get("FSDP_OFFLOAD_PARAMS", "false").lower() in ("true", "1")
    options = _options(method, offload)
    blocks = [block for module in method.modules() if isinstance(module, nn.ModuleList) for block in module]
    _check_apart(method)
    for block in reversed(blocks):  # the inner ones first: a stage is made of layers
        if any(True for _ in block.parameters()):
            fully_shard(block, **options)
    fully_shard(method, **options)
    if isinstance(method, EmbeddingMethod):
        for name in ("embed", "objective"):
            register_fsdp_forward_method(method, name)


def _check_apart(method: nn.Module) -> None:
    """Refuse a weight that two blocks of a list hold, or a block and a module outside of it: FSDP2 splits each block by
    itself."""
    lists = [name for name, module in method.named_modules() if isinstance(module, nn.ModuleList)]

    def unit(name: str) -> str:
        """The innermost block that a parameter lies in; "" outside of all."""
        inside = [
            f"{outer}.{name[len(outer) + 1 :].partition('.')[0]}" for outer in lists if name.startswith(f"{outer}.")
        ]
        return max(inside, key=len, default="")

    first: dict[nn.Parameter, str] = {}
    for name, parameter in method.named_parameters(remove_duplicate=False):
        other = first.setdefault(parameter, name)
        if parameter.ndim and unit(other) != unit(name):
            raise UserError(
                f"{other} and {name} are one weight in two blocks, and full sharding splits each block by itself: "
                "untie them, or train without sharding (accelerate/ddp)."
            )


def full_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Whole tensors from split ones; every process must call it."""
    return {name: _full(tensor.detach()) for name, tensor in tensors.items()}


def load_tensors(targets: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
    """Copy tensors into parameters and buffers. Whole ones fit all targets; split ones, targets split as they are."""
    missing, unknown = targets.keys() - values.keys(), values.keys() - targets.keys()
    if missing or unknown:
        names = ", ".join(sorted(missing | unknown)[:5])
        raise UserError(f"the checkpoint is of another method or model: {names} are not in both.")
    with torch.no_grad():
        for name, target in targets.items():
            if target.shape != values[name].shape:
                shapes = f"{tuple(values[name].shape)}, not {tuple(target.shape)}"
                raise UserError(f"the checkpoint is of another model: {name} has the shape {shapes}.")
            target.copy_(_like(values[name], target))


def numbered(optimizer: Optimizer) -> dict[str, Tensor]:
    """An optimiser's parameters, by their numbers in its state."""
    return {str(i): p for i, p in enumerate(p for group in optimizer.param_groups for p in group["params"])}


def load_optimizer_state(optimizer: Optimizer, state: dict[str, Any]) -> None:
    """Load a state, whole or split as the parameters are, into an optimiser."""
    parameters = numbered(optimizer)
    for key, values in state["state"].items():
        for name, value in values.items():
            if isinstance(value, Tensor) and value.shape == parameters[str(key)].shape and value.ndim:
                values[name] = _like(value, parameters[str(key)])
    optimizer.load_state_dict(state)


def _full(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if processes.is_split(tensor) else tensor  # type: ignore[attr-defined]


def _like(value: Tensor, target: Tensor) -> Tensor:
    if not processes.is_split(target) or processes.is_split(value):
        return value.to(target.device)
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(target, DTensor)
    return distribute_tensor(value.to(target.device), target.device_mesh, target.placements)


def _options(method: Method, offload: bool) -> dict[str, Any]:
    from torch.distributed.fsdp import CPUOffloadPolicy

    options: dict[str, Any] = {"ignored_params": {p for p in method.parameters() if p.ndim == 0}}
    return options | ({"offload_policy": CPUOffloadPolicy()} if offload else {})
