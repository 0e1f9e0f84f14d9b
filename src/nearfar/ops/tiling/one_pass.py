"""Scalar losses whose gradients are formed in the forward pass: each tile is computed once and then forgotten."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def one_pass(kernel: Callable[..., Any], reference: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Make a loss from `kernel(*args, gradients) -> (loss, *gradients)`, whose gradients belong to the leading
    arguments, and `reference(*args)`, the same loss by autograd, which serves second derivatives."""

    class OnePass(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *args: Any) -> Tensor:
            loss, *gradients = kernel(*args, True)
            ctx.tensors = sum(isinstance(a, Tensor) or a is None for a in args)
            ctx.gradients, ctx.rest = len(gradients), args[ctx.tensors :]
            ctx.save_for_backward(*args[: ctx.tensors], *gradients)
            return loss

        @staticmethod
        def backward(ctx: Any, *upstream: Tensor) -> tuple[Any, ...]:
            (g,) = upstream
            tensors, gradients = ctx.saved_tensors[: ctx.tensors], ctx.saved_tensors[ctx.tensors :]
            needed = ctx.needs_input_grad[: ctx.gradients]
            if torch.is_grad_enabled():
                inputs = [t.view_as(t) for t in tensors[: ctx.gradients]]  # views: q and k may be one tensor
                loss = reference(*inputs, *tensors[ctx.gradients :], *ctx.rest)
                chosen = [t for t, want in zip(inputs, needed, strict=True) if want]
                derivatives = iter(torch.autograd.grad(loss, chosen, g, create_graph=True, materialize_grads=True))
                out = [next(derivatives) if want else None for want in needed]
            else:
                # The usual upstream gradient is 1: nothing to multiply, nothing to copy.
                as_they_are = g.device.type == "cpu" and not torch.compiler.is_compiling() and g.item() == 1
                scaled = gradients if as_they_are else [d * g.to(d.dtype) for d in gradients]
                out = [d if want else None for d, want in zip(scaled, needed, strict=True)]
            return *out, *(None,) * (ctx.tensors - ctx.gradients + len(ctx.rest))

    def loss(*args: Any) -> Tensor:
        if torch.is_grad_enabled() and any(isinstance(a, Tensor) and a.requires_grad for a in args):
            return OnePass.apply(*args)
        return kernel(*args, False)[0]

    return loss
