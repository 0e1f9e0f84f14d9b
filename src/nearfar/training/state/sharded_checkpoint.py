"""The tensors of a sharded run on disk: every process writes its own parts, and any number of processes reads them.

torch.distributed.checkpoint does both, in its safetensors form. (Its usual form keeps its index as a pickle, which
runs code when it is read; this one has none.) Tensors have one flat name each: `method.NAME`, `average.NAME`, and
`optimizer.NUMBER.NAME` for what the optimiser keeps of its parameter number NUMBER.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

FOLDER = "shards"
"""Where the parts lie in a checkpoint's folder, one safetensors file a process."""


def save(folder: Path, state: Mapping[str, Any]) -> None:
    """Write this process's parts of `method`, `average` and the optimiser's state; every process calls it. What is
    whole on all of them (buffers, temperatures) is written by the first."""
    from torch.distributed.checkpoint import DefaultSavePlanner, HuggingFaceStorageWriter
    from torch.distributed.checkpoint import save as save_parts

    with _plain_errors():
        save_parts(
            _separate(_flat(state)),
            storage_writer=HuggingFaceStorageWriter(str(folder / FOLDER), save_distributed=True),
            planner=DefaultSavePlanner(dedup_save_to_lowest_rank=True),
        )


def rest_of_optimizer(state: Mapping[str, Any]) -> dict[str, Any]:
    """The optimiser's state without its tensors: settings, and plain numbers that it counts."""
    numbers = {
        key: {name: value for name, value in values.items() if not isinstance(value, Tensor)}
        for key, values in state["state"].items()
    }
    return {"state": numbers, "param_groups": state["param_groups"]}


def load(folder: Path, like: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Any]:
    """What `save` wrote, on however many processes: `method`, `average` (None where there was none) and `optimizer`,
    the optimiser's tensors by number and name.

    Args:
        folder: the checkpoint.
        like: tensors of this run: `method` and `average` by name, and as `optimizer` the parameters by their number.
            Where one is split over the processes, what belongs to it comes split in the same way, and a process reads
            no more than its parts. Everything else comes whole.
    """
    from torch.distributed.checkpoint import HuggingFaceStorageReader
    from torch.distributed.checkpoint import load as load_parts

    path = str(folder / FOLDER)
    with _plain_errors():
        saved = HuggingFaceStorageReader(path).read_metadata().state_dict_metadata
        tensors = {name: _room(name, about, like) for name, about in saved.items()}
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # one process is meant here
            load_parts(tensors, storage_reader=HuggingFaceStorageReader(path), no_dist=not dist.is_initialized())
    parts: dict[str, Any] = {"method": {}, "average": {}, "optimizer": {}}
    for name, tensor in tensors.items():
        part, _, rest = name.partition(".")
        if part == "optimizer":
            number, _, moment = rest.partition(".")
            parts[part].setdefault(int(number), {})[moment] = tensor
        else:
            parts[part][rest] = tensor
    return parts | {"average": parts["average"] or None}


def _flat(state: Mapping[str, Any]) -> dict[str, Tensor]:
    moments = {
        f"{number}.{name}": value
        for number, values in state["optimizer"]["optimizer"]["state"].items()
        for name, value in values.items()
        if isinstance(value, Tensor)
    }
    parts = {"method": state["method"], "average": state["average"] or {}, "optimizer": moments}
    return {f"{part}.{name}": tensor for part, tensors in parts.items() for name, tensor in tensors.items()}


def _separate(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of which no two share memory, which safetensors refuses: tied weights get a copy each."""
    used: set[int] = set()
    apart = {}
    for name, tensor in tensors.items():
        own = tensor.detach()
        pointer = _local(own).untyped_storage().data_ptr()
        apart[name] = own.clone() if pointer in used else own
        used.add(pointer)
    return apart


def _room(name: str, saved: Any, like: Mapping[str, Mapping[str, Tensor]]) -> Tensor:
    """An empty tensor for the saved one of this name, split as that of this run is."""
    part, _, rest = name.partition(".")
    target = like.get(part, {}).get(rest.partition(".")[0] if part == "optimizer" else rest)
    if target is not None and target.ndim and target.shape == saved.size:
        return torch.empty_like(target, dtype=saved.properties.dtype, requires_grad=False)
    return torch.empty(saved.size, dtype=saved.properties.dtype)


def _local(tensor: Tensor) -> Tensor:
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


@contextmanager
def _plain_errors() -> Iterator[None]:
    """Raise what went wrong on a process, as it was, on all of them."""
    from torch.distributed.checkpoint.api import CheckpointException

    try:
        yield
    except CheckpointException as error:
        raise next(iter(error.failures.values()))[0] from None
