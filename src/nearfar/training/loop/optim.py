"""Optimisers and the learning-rate schedule."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from nearfar.errors import UserError
from nearfar.methods.base import Method
from nearfar.training.config import TrainConfig


def build_optimizer(method: Method, config: TrainConfig) -> Optimizer:
    """The optimiser of `config` over the method's parameter groups. A group may bring its own `lr`, or an `lr_scale`
    of the run's; with `absolute_floor` it ends at `min_lr` itself, not at the same share of its peak as the others."""
    groups = [group for group in method.param_groups(config.weight_decay) if group["params"]]
    if not groups:
        raise UserError(f"{type(method).__name__} has no trainable parameter: every one has requires_grad=False.")
    for group in groups:
        group["lr"] = group.get("lr", config.lr) * group.pop("lr_scale", 1.0)
        group["initial_lr"] = group["lr"]
    if config.optimizer == "lamb":
        return Lamb(groups, lr=config.lr, betas=config.betas, eps=config.eps)
    if config.optimizer == "lars":
        return Lars(groups, lr=config.lr, momentum=config.betas[0])
    if config.optimizer == "sgd":
        momentum = config.betas[0]
        return SGD(groups, lr=config.lr, momentum=momentum, nesterov=momentum > 0, fused=True)
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, eps=config.eps, fused=True)


class SGD(torch.optim.SGD):
    """torch's own fused step, which begins with a momentum of 0. Left to itself it takes either no momentum at all or
    that of every parameter, so that none may get its first gradient later than others; and a first step that a
    `GradScaler` skips leaves it a momentum that was never written.

    >>> first, later = (torch.nn.Parameter(torch.zeros(1)) for _ in range(2))
    >>> optimizer = SGD([first, later], lr=0.1, momentum=0.9, fused=True)
    >>> first.sum().backward(); optimizer.step()
    >>> later.sum().backward(); optimizer.step()
    >>> round(later.item(), 6)
    -0.1
    """

    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            for p in group["params"] if group["momentum"] else []:
                if p.grad is not None and self.state[p].get("momentum_buffer") is None:
                    self.state[p]["momentum_buffer"] = torch.zeros_like(p)
        return super().step(closure)


def lr_factor(step: int, steps: int, config: TrainConfig, peak: float | None = None) -> float:
    """What the peak learning rate is multiplied with in the step after `step` done ones, of `steps`; `peak` is the one
    that ends at `min_lr`, by default the run's.

    >>> config = TrainConfig(schedule="linear", warmup=2)
    >>> [lr_factor(step, 6, config) for step in range(6)]
    [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]
    """
    warmup = config.warmup_steps(steps)
    if step < warmup:
        return (step + 1) / warmup
    share = (step - warmup) / max(1, steps - warmup)
    floor = config.min_lr / (peak or config.lr)
    if config.schedule == "cosine":
        return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * share))
    if config.schedule == "linear":
        return floor + (1 - floor) * (1 - share)
    if config.schedule == "steps":
        return 0.1 ** min(2, 3 * (step - warmup) // max(1, steps - warmup))
    return 1.0


def own_peak(group: Mapping[str, Any]) -> float | None:
    """The peak of a group that ends at `min_lr` itself; None of one that ends at its share of it."""
    return group["initial_lr"] if group.get("absolute_floor") else None


def set_lr(optimizer: Optimizer, step: int, steps: int, config: TrainConfig) -> None:
    """Set each group's learning rate for the step after `step` done ones, of `steps`."""
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * lr_factor(step, steps, config, own_peak(group))


class TensorByTensor(Optimizer):
    """An optimiser that moves each tensor by itself."""

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    p.sub_(self._update(p, p.grad, group))
        return loss

    def _update(self, p: Tensor, gradient: Tensor, group: dict[str, Any]) -> Tensor:
        """What is taken off `p` `[...]`, floating point as its gradient."""
        raise NotImplementedError


class Lamb(TensorByTensor):
    """LAMB (arXiv 1904.00962, algorithm 2): Adam's direction, scaled for each tensor to the norm of its weights.

    Weight decay joins the direction before it is scaled. As usual, a group without weight decay (vectors, scalars) is
    not rescaled: the norm of a bias says nothing about the step it needs.

    >>> weight = torch.nn.Parameter(torch.ones(2, 2))
    >>> optimizer = Lamb([weight], lr=0.1, weight_decay=0.0)
    >>> weight.sum().backward(); optimizer.step()
    >>> weight.sum().item() < 4
    True
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.01,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    def _update(self, p: Tensor, gradient: Tensor, group: dict[str, Any]) -> Tensor:
        state = self.state[p]
        if not state:
            state["step"] = 0
            state["exp_avg"] = torch.zeros_like(p)
            state["exp_avg_sq"] = torch.zeros_like(p)
        state["step"] += 1
        beta1, beta2 = group["betas"]
        m = state["exp_avg"].lerp_(gradient, 1 - beta1)
        v = state["exp_avg_sq"].mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        m_hat = m / (1 - beta1 ** state["step"])
        v_hat = v / (1 - beta2 ** state["step"])
        update = m_hat / (v_hat.sqrt() + group["eps"])
        if group["weight_decay"]:
            update = update + group["weight_decay"] * p
            weight_norm, update_norm = p.norm(), update.norm()
            trust = torch.where((weight_norm > 0) & (update_norm > 0), weight_norm / update_norm, 1.0)
            update = trust * update
        return group["lr"] * update


class Lars(TensorByTensor):
    """LARS (arXiv 1708.03888): SGD with momentum whose step for each matrix is a small share of its norm; what SimCLR,
    BYOL and others train with in large batches.

    Weight decay joins the gradient first. Vectors and scalars (biases, norms) take plain steps, and a tensor of norm 0
    does, too: scaled by its norm it would never move. The learning rate stands inside the momentum, as in SimCLR's
    released code.

    Args:
        params: parameters or groups.
        lr: the learning rate.
        momentum: the old share of the step.
        weight_decay: joins the gradient.
        trust: the share of a matrix's norm that a step of learning rate 1 is long (paper: 0.001).

    >>> weight = torch.nn.Parameter(torch.tensor([[2.0]]))
    >>> optimizer = Lars([weight], lr=0.1, momentum=0.0)
    >>> weight.sum().backward(); optimizer.step()
    >>> round(2 - weight.item(), 6)  # 0.1 x 0.001 x 2 / 1
    0.0002
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 0.1,
        *,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust: float = 0.001,
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "trust": trust})

    def _update(self, p: Tensor, gradient: Tensor, group: dict[str, Any]) -> Tensor:
        update = gradient + group["weight_decay"] * p
        if p.ndim >= 2:
            length = p.norm()
            pull = gradient.norm() + group["weight_decay"] * length
            update = update * torch.where((length > 0) & (pull > 0), group["trust"] * length / pull, 1.0)
        state = self.state[p]
        velocity = state.setdefault("velocity", torch.zeros_like(p))
        return velocity.mul_(group["momentum"]).add_(update, alpha=group["lr"])
