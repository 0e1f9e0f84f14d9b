"""Slow, obvious formulas with full matrices and loops: what the losses are held against, in float64."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, log_softmax, normalize


def info_nce(a, b, tau, *, eps=0.0, symmetric=True, group=None, extra_a=None, extra_b=None) -> Tensor:
    a, b = normalize(a, dim=1), normalize(b, dim=1)

    def direction(x: Tensor, y: Tensor, extra: Tensor | None) -> Tensor:
        keys = y if extra is None else torch.cat([y, normalize(extra, dim=1)])
        return info_nce_of_logits(x @ keys.T / tau, eps=eps, group=group)

    forth = direction(a, b, extra_b)
    return (forth + direction(b, a, extra_a)) / 2 if symmetric else forth


def info_nce_of_logits(s, *, eps=0.0, group=None) -> Tensor:
    """Row i has its positive in column i; columns beyond the rows are nobody's positive and of no group."""
    n, losses = len(s), []
    for i in range(n):
        admitted = torch.ones(s.shape[1], dtype=torch.bool)
        if group is not None:
            admitted[:n] = (group != group[i]) | (torch.arange(n) == i)
        target = torch.where(admitted, eps / admitted.sum().to(s.dtype), torch.zeros_like(s[i]))
        target[i] += 1 - eps
        losses.append(-(target[admitted] * log_softmax(s[i][admitted], 0)).sum())
    return torch.stack(losses).mean()


def nt_xent(a, b, tau) -> Tensor:
    z = normalize(torch.cat([a, b]), dim=1)
    s = (z @ z.T / tau).fill_diagonal_(float("-inf"))
    n = len(a)
    return cross_entropy(s, torch.cat([torch.arange(n) + n, torch.arange(n)]))


def supcon(z, label, tau) -> Tensor:
    z = normalize(z, dim=1)
    losses = []
    for i in range(len(z)):
        others = [j for j in range(len(z)) if j != i]
        positives = [j for j in others if label[j] == label[i]]
        if positives:
            lse = torch.logsumexp(torch.stack([z[i] @ z[j] / tau for j in others]), 0)
            losses.append(torch.stack([lse - z[i] @ z[p] / tau for p in positives]).mean())
    return torch.stack(losses).mean()


def sigmoid(a, b, tau, bias, group=None) -> Tensor:
    a, b = normalize(a, dim=1), normalize(b, dim=1)
    logits = a @ b.T / tau + bias
    same = torch.eye(len(a), dtype=torch.bool) if group is None else group[:, None] == group[None, :]
    return -torch.nn.functional.logsigmoid(torch.where(same, logits, -logits)).sum() / len(a)


def soft_target(q, k, tau, alpha, teacher_q=None, q_group=None, k_group=None) -> Tensor:
    q, k = normalize(q, dim=1), normalize(k, dim=1)
    s = q @ k.T / tau
    target = torch.zeros_like(s)
    if q_group is None:
        target[torch.arange(len(q)), torch.arange(len(q))] = 1
    else:
        target = (q_group[:, None] == k_group[None, :]).to(s.dtype)
        target = target / target.sum(1, keepdim=True)
    if teacher_q is not None:
        teacher = (normalize(teacher_q, dim=1) @ k.T / tau).softmax(1).detach()
        target = alpha * teacher + (1 - alpha) * target
    return -(target * log_softmax(s, 1)).sum(1).mean()
