"""Inner products of queries and keys, by the faster library: scores, of which no derivative is taken."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from nearfar.machine import once, processor, time_share

if TYPE_CHECKING:
    from threadpoolctl import ThreadpoolController

FEW = 20
"""So few queries are the short side of their product with a block."""
FEWEST, LEAST = 6, 1 << 24
"""Queries, and multiplications, below which scores are torch's to compute."""
TIMED, REPEATS, CLEARLY = (128, 4096, 512), 9, 0.9
"""What is timed: products of so many queries and keys of so many numbers, so often by each library, the fastest; numpy
has to take this share of torch's time or less."""
_ONE_AT_A_TIME = threading.Lock()  # the number of numpy's threads is one for the whole process


def score_product(query: Tensor, key: Tensor, out: Tensor) -> Tensor:
    """`query @ key.T` of `[Q, D]` and `[N, D]`, in `out` `[Q, N]`; no derivative is taken. On processors of AMD, which
    torch's MKL does not make the most of, numpy's OpenBLAS computes it if it is clearly faster, on torch's number of
    threads. `NEARFAR_PRODUCTS=torch` in the environment leaves all to torch."""
    large = len(query) >= FEWEST and len(query) * key.numel() >= LEAST
    if large and _plain(query, key) and (threads := numpy_threads()):
        with _ONE_AT_A_TIME, threads.limit(limits=1):
            return _by_numpy(query, key, out)
    if 1 < len(query) < FEW:  # the product runs along the long side a third faster, and the copy is small
        return out.copy_(torch.mm(key, query.T).T)
    return torch.mm(query, key.T, out=out)


def _by_numpy(query: Tensor, key: Tensor, out: Tensor) -> Tensor:
    """The product on torch's number of threads, each with a part of the longer side. OpenBLAS's own threads wait busily
    for one another at the end of each of its steps: beside another process that computes they take most of their time
    so."""
    count, side = torch.get_num_threads(), int(len(key) > len(query))
    step = -(-max(len(query), len(key)) // count)
    queries, keys = (repeat(query), key.split(step)) if side else (query.split(step), repeat(key))
    parts = list(zip(queries, keys, out.split(step, side), strict=False))
    if len(parts) == 1:
        _multiply(*parts[0])
        return out
    with ThreadPoolExecutor(len(parts)) as pool:
        for done in [pool.submit(_multiply, *part) for part in parts]:
            done.result()
    return out


def _multiply(query: Tensor, key: Tensor, out: Tensor) -> None:
    np.matmul(query.numpy(), key.numpy().T, out=out.numpy())


def _plain(*tensors: Tensor) -> bool:
    return all(x.dtype == torch.float32 and x.device.type == "cpu" and not x.requires_grad for x in tensors)


@once
def numpy_threads() -> ThreadpoolController | None:
    """The threads of numpy's OpenBLAS, on a processor of AMD where it is clearly faster, and computes the scores."""
    able = processor()
    if os.environ.get("NEARFAR_PRODUCTS") == "torch" or "AMD" not in str(able.get("cpu_name")):
        return None
    from threadpoolctl import ThreadpoolController

    threads = ThreadpoolController().select(internal_api="openblas")
    if not len(threads):
        return None
    with threads.limit(limits=1):
        return threads if _numpy_is_faster() else None


def _numpy_is_faster() -> bool:
    queries, keys, numbers = TIMED
    q, k, out = torch.ones(queries, numbers), torch.ones(keys, numbers), torch.empty(queries, keys)
    return time_share(lambda: _by_numpy(q, k, out), lambda: torch.mm(q, k.T, out=out), REPEATS) <= CLEARLY
