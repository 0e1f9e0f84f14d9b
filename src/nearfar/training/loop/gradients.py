"""The gradient of one batch, the same for any chunking and any number of processes.

For an `EmbeddingMethod` (gradient caching, arXiv 2101.06983):

1. embed the local samples chunk by chunk, keeping the graphs of the last chunks: as many as the memory holds, or one;
2. gather the embeddings of all ranks, and the batch keys that the objective reads, or send them round (below);
3. run the objective on them as leaves: the loss, its gradient by embedding, and the gradient of its own parameters;
4. send the local slice of those gradients back through each chunk; one without a graph is embedded again, with its own
   random state. However many graphs are kept, the gradient is the same to the bit.

Batch norm in training mode normalises each chunk by itself, in both passes alike: the chunk is its virtual batch. Its
running statistics count each chunk once.

An objective that sees the whole batch on every rank has the whole gradient of its own parameters there already. The
slice is scaled by the number of ranks, so that the one mean over ranks which follows is right for both. On CPUs a
method that can (`ring_losses`) gathers nothing: each rank keeps its rows, the others' keys pass by, and each pair of
samples is computed on one rank instead of on all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from nearfar import distributed as processes
from nearfar.data.batches import batch as batches
from nearfar.errors import UserError
from nearfar.machine import free_memory
from nearfar.methods.base import Batch, EmbeddingMethod, Method
from nearfar.training.state.random_state import RandomState, shared_randomness


def backward(
    method: Method,
    batch: Batch,
    *,
    chunk: int | None = None,
    autocast: AbstractContextManager[Any] | None = None,
    scale: Callable[[Tensor], Tensor] = lambda loss: loss,
    seed: int = 0,
    graphs: KeptGraphs | None = None,
) -> dict[str, Tensor]:
    """Add the gradient of `batch` to `.grad` and return the scalars of the method, `loss` among them. They are copies:
    a logged temperature may be the parameter itself, which the step moves.

    After `processes.average_gradients` the gradient is that of the batch of all ranks together. `scale` is applied to
    the loss before its backward pass. `seed` is the random seed of the objective: the same on every rank, since each
    runs it on the same gathered batch. `graphs` keeps those of more chunks than the last.
    """
    autocast = autocast or nullcontext()
    if isinstance(method, EmbeddingMethod):
        return _cached(method, batch, chunk, autocast, scale, seed, graphs or KeptGraphs(0))
    with autocast:
        outputs = method(batch)
    scale(outputs["loss"]).backward()
    return {name: value.detach().clone() for name, value in outputs.items()}


def _cached(
    method: EmbeddingMethod,
    batch: Batch,
    chunk: int | None,
    autocast: AbstractContextManager[Any],
    scale: Callable[[Tensor], Tensor],
    seed: int,
    graphs: KeptGraphs,
) -> dict[str, Tensor]:
    total = batches.size(batch)
    step = min(chunk or total, total)
    pieces = [batches.rows(batch, start, min(start + step, total), total) for start in range(0, total, step)]

    # Chunks that keep their graph need no second pass; the last one always does.
    again = len(pieces) - max(1, min(len(pieces), graphs.fit(step)))
    embedded: list[Mapping[str, Tensor]] = []
    states: list[RandomState] = []
    for i, piece in enumerate(pieces):
        if i < again:
            states.append(RandomState.take())
        is_last = i == len(pieces) - 1 > 0
        measuring = graphs.measured(method, batches.size(piece)) if is_last else nullcontext()
        with torch.set_grad_enabled(i >= again), autocast, measuring:
            embedded.append(method.embed(piece))
    last = embedded[-1]
    needs_grad = {name for name, value in last.items() if value.requires_grad}

    on_cpu = last[next(iter(last))].device.type == "cpu"
    ring = method.ring_losses() if processes.world_size() > 1 and method.gather and on_cpu else []
    gather = method.gather and not ring
    leaves, counts = {}, {}
    for name, value in last.items():
        local = torch.cat([piece[name].detach() for piece in embedded]) if len(pieces) > 1 else value.detach()
        local = local.float() if local.dtype in (torch.float16, torch.bfloat16) else local
        rows, counts[name] = processes.gather_counted(local) if gather else (local.clone(), [len(local)])
        leaves[name] = rows.requires_grad_(name in needs_grad)
    whole = method.for_objective(gathered(batch, method.reads) if gather else batch)

    with shared_randomness(seed), _in_a_ring(ring):
        outputs = method.objective(leaves, whole)
    scale(outputs["loss"]).backward()

    gradients = {name: _local(grad, counts[name]) for name in needs_grad if (grad := leaves[name].grad) is not None}
    _send_back(last, gradients, (len(pieces) - 1) * step, total)
    if states:
        after = RandomState.take()
        with _statistics_kept(method):
            for i, state in enumerate(states):
                state.restore()
                with autocast:
                    _send_back(method.embed(pieces[i]), gradients, i * step, total)
        after.restore()
    for i in range(again, len(pieces) - 1):
        _send_back(embedded[i], gradients, i * step, total)
    return {name: value.detach().clone() for name, value in outputs.items()}


class KeptGraphs:
    """How many chunks of a batch keep their graph between the two passes: as many as fit `budget` bytes, by what the
    chunks before have saved for their backward pass. Without a budget it is a quarter of the memory that is free when
    this is first known: texts differ in length, and the backward pass needs room, too."""

    def __init__(self, budget: int | None = None) -> None:
        self.budget = budget
        self.bytes_a_sample = 0.0

    def fit(self, samples: int) -> int:
        """How many graphs of chunks of so many samples; 0 as long as their size is unknown."""
        if not self.bytes_a_sample or not self.budget:
            return 0
        return int(self.budget / (self.bytes_a_sample * samples))

    @contextmanager
    def measured(self, method: nn.Module, samples: int) -> Iterator[None]:
        """Count what is saved for the backward pass of `samples` samples that are embedded here."""
        weights = {p.untyped_storage().data_ptr() for p in method.parameters() if not processes.is_split(p)}
        saved: dict[int, int] = {}

        def pack(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            saved[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            yield
        size = sum(n for place, n in saved.items() if place not in weights)
        self.bytes_a_sample = max(self.bytes_a_sample, size / samples)
        if self.budget is None:
            self.budget = _free_bytes(next(method.parameters()).device) // 4


def _free_bytes(device: torch.device) -> int:
    """What this process may still take on its device, beside the others that train with it."""
    if device.type == "cuda":
        reserved = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + reserved
    return free_memory() // processes.world_size()


@contextmanager
def _in_a_ring(losses: list[nn.Module]) -> Iterator[None]:
    """These losses see the rows of all ranks, which pass by; afterwards their own rank's alone, as in validation."""
    backends = [loss.backend for loss in losses]
    for loss in losses:
        loss.backend = "ring"  # type: ignore[assignment]
    try:
        yield
    finally:
        for loss, backend in zip(losses, backends, strict=True):
            loss.backend = backend


@contextmanager
def _statistics_kept(method: nn.Module) -> Iterator[None]:
    """Running statistics of batch norms as they are now: the first pass has counted every chunk."""
    norms = [module for module in method.modules() if isinstance(module, _BatchNorm) and module.training]
    kept = [(buffer, buffer.clone()) for norm in norms for buffer in norm.buffers(recurse=False)]
    yield
    with torch.no_grad():
        for buffer, before in kept:
            buffer.copy_(before)


def gathered(batch: Batch, reads: Sequence[str]) -> dict[str, Any]:
    """The keys `reads` of a batch with the samples of all ranks, in rank order, along the samples' axis of each key.

    Raises:
        UserError: a key that is no tensor, or that ranks have in several shapes (texts padded to their own longest).
    """
    read = batches.per_sample(batch, reads)
    if processes.world_size() == 1:
        return read
    if not all(batches.key(key).per_sample for key in reads):
        _check_alike(read)

    def join(value: Any, axis: int) -> Any:
        if isinstance(value, Mapping):
            return {name: join(inner, axis) for name, inner in value.items()}
        return processes.gather_rows(value, axis)

    return {key: join(value, batches.key(key).axis) for key, value in read.items()}


def _check_alike(read: Mapping[str, Any]) -> None:
    """All ranks must bring the same keys, and shapes that differ in the number of samples alone: a gather of others
    gives nonsense, or waits for ever."""

    def shape(key: str, value: Any) -> Any:
        if isinstance(value, Mapping):
            return {name: shape(f"{key}.{name}", inner) for name, inner in value.items()}
        return list(value.shape) if isinstance(value, Tensor) else type(value).__name__

    def of_a_sample(key: str, of_rank: Any) -> Any:
        if isinstance(of_rank, Mapping):
            return {name: of_a_sample(key, inner) for name, inner in of_rank.items()}
        axis = batches.key(key).axis
        return [*of_rank[:axis], *of_rank[axis + 1 :]] if isinstance(of_rank, list) else of_rank

    everyone = processes.gather_objects({key: shape(key, value) for key, value in read.items()})
    for key in dict.fromkeys(key for each in everyone for key in each):
        shapes = [each.get(key) for each in everyone]
        if any(isinstance(each, str) for each in shapes):
            raise UserError(
                f"the objective reads {key!r}, which is no tensor and cannot be gathered: leave it out of reads"
            )
        if any(of_a_sample(key, each) != of_a_sample(key, shapes[0]) for each in shapes):
            listed = ", ".join("none" if each is None else str(each) for each in shapes)
            raise UserError(
                f"the objective reads {key!r}, which the processes have in several shapes ({listed}): make them alike "
                "(texts with the loader's pad_to), or leave it out of reads"
            )


def _local(gradient: Tensor, counts: list[int]) -> Tensor:
    """This rank's rows of the gradient of the gathered embeddings, of which each rank brought `counts`, times the
    number of ranks."""
    if len(counts) == 1:
        return gradient
    return gradient.split(counts)[processes.rank()] * len(counts)


def _send_back(embeddings: Mapping[str, Tensor], gradients: Mapping[str, Tensor], start: int, total: int) -> None:
    """Backward through one chunk whose samples begin at `start`."""
    tensors, upstream = [], []
    for name, gradient in gradients.items():
        if embeddings[name].requires_grad:
            each = len(gradient) // total
            rows = gradient[start * each : start * each + len(embeddings[name])]
            tensors.append(embeddings[name])
            upstream.append(rows.to(embeddings[name].dtype))
    if tensors:
        torch.autograd.backward(tensors, upstream)


def total_norm(parameters: list[nn.Parameter]) -> Tensor:
    """The L2 norm of all gradients together."""
    norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    return norm.full_tensor() if hasattr(norm, "full_tensor") else norm
