"""Contrast of pairs of classes, each in a subspace of its own: Hydra, later SimLAP (arXiv 2410.18200).

An anchor i of class a_i gets a partner class b_i and a gate g_i in [0, 1]^D for the pair. Its positives are the keys of
class b_i, its negatives those of neither class, and what it sees of all of them passes its gate:

    subspace    s_ij = cos(g_i * z_i, g_i * k_j) / tau
    dot         s_ij = (<g_i^2 * z_i, k_j> - alpha <z_i, k_j>) / tau ,  z and k of unit length before they are gated

    l_ij = log(exp s_ij + sum_{n in N_i} exp s_in) - s_ij ,  one denominator for each positive.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from nearfar import ops
from nearfar.errors import UserError
from nearfar.losses.groups import check_rows, lifted, refuse_ring, unit
from nearfar.losses.temperature import Tau, as_scale, as_temperature
from nearfar.ops.fused_pair_contrast import PairSum
from nearfar.ops.tiling import inputs

Form = Literal["subspace", "dot"]
Reduction = Literal["row", "pair"]


def gated_pairs(
    z: Tensor,
    k: Tensor,
    gate: Tensor | None,
    label: Tensor,
    partner: Tensor,
    key_label: Tensor,
    *,
    temperature: Tau = 0.1,
    form: Form = "subspace",
    alpha: float | Tensor = 0.0,
    reduction: Reduction = "row",
    exclude_self: bool = False,
    backend: str = "auto",
) -> Tensor:
    """Hydra's loss of anchors `z` `[N, D]` among keys `k` `[M, D]`, floating point; see :class:`GatedPairs`.

    Takes `gate` `[N, D]`, in [0, 1] (None: all open), and `label`, `partner` `[N]`, `key_label` `[M]`, int64; `alpha`
    is a number or a scalar. Returns a scalar.

    Raises:
        UserError: shapes or options that do not fit together, labels that are no integers, or `backend="ring"`.

    Example:
        >>> import torch
        >>> label = torch.tensor([0, 0, 1, 1, 2, 2])
        >>> z = torch.eye(3)[label]  # class by class on an axis of its own
        >>> other = gated_pairs(z, z, None, label, label.roll(2), label, temperature=1.0)
        >>> round(other.item(), 6)  # log 3: for pairs of other classes that is chance
        1.098612
    """
    total, number = gated_pair_sums(
        z,
        k,
        gate,
        label,
        partner,
        key_label,
        temperature=temperature,
        form=form,
        alpha=alpha,
        reduction=reduction,
        exclude_self=exclude_self,
        backend=backend,
    )
    return total / number.clamp(min=1)


def gated_pair_sums(
    z: Tensor,
    k: Tensor,
    gate: Tensor | None,
    label: Tensor,
    partner: Tensor,
    key_label: Tensor,
    *,
    temperature: Tau = 0.1,
    form: Form = "subspace",
    alpha: float | Tensor = 0.0,
    reduction: Reduction = "row",
    exclude_self: bool = False,
    backend: str = "auto",
) -> PairSum:
    """The sum behind `gated_pairs`, and of how many rows, or pairs, it is; two scalars.

    Takes what it takes: `gate` `[N, D]`, in [0, 1] (None: all open), and `label`, `partner` `[N]`, `key_label` `[M]`,
    int64; `alpha` is a number or a scalar.

    For a loop of several processes of your own, in which each has some of the anchors `z` `[N, D]` and all keys `k`
    `[M, D]`, floating point: add the numbers of all processes, and divide each total by their mean. A process that
    divides by its own number gives its rows, or pairs, another weight.

    Raises:
        UserError: as `gated_pairs`.

    Example:
        >>> import torch
        >>> z, label = torch.eye(3), torch.arange(3)
        >>> total, number = gated_pair_sums(z, z, None, label, label, label, temperature=1.0)
        >>> number.item()
        3.0
    """
    check_rows(z=z, k=k)
    if z.shape[1] != k.shape[1]:
        raise UserError(f"z and k must have one width, got {tuple(z.shape)} and {tuple(k.shape)}")
    if gate is not None and (gate.shape != z.shape or not gate.is_floating_point()):
        raise UserError(f"gate must be floating-point {tuple(z.shape)}, one a row of z, got {inputs.describe(gate)}")
    ids = {
        "q_group": inputs.group_ids(label, len(z), "label"),
        "partner": inputs.group_ids(partner, len(z), "partner"),
        "k_group": inputs.group_ids(key_label, len(k), "key_label"),
    }
    check_form(form, alpha, reduction)
    refuse_ring(backend, "GatedPairs")
    if exclude_self and len(z) != len(k):
        raise UserError(f"exclude_self needs keys that are the anchors, and there are {len(z)} anchors, {len(k)} keys")
    key_gate: Tensor | None = None
    q, g = lifted(z), None if gate is None else lifted(gate)
    if form == "subspace" and g is not None:
        # Behind a closed gate an anchor has no gradient, which a normalisation before it would leak.
        q, key_gate = g * unit(g * q), g * g
    else:
        q = unit(z)
        opened = 1.0 if g is None else g * g
        q = q * (opened - alpha) if isinstance(alpha, Tensor) or alpha else q * opened
    own = torch.arange(len(z), device=z.device) if exclude_self else None
    more: dict[str, Any] = {**ids, "key_gate": key_gate, "own": own, "each_row": reduction == "row"}
    return ops.pair_contrast(q, unit(k), as_scale(temperature), **more, backend=backend)


def check_form(form: str, alpha: float | Tensor, reduction: str) -> None:
    """Raise a UserError for a form or reduction that is none, or an `alpha`, a number or a floating-point scalar, that
    has no effect."""
    if form not in get_args(Form):
        raise UserError(f"form must be one of {', '.join(get_args(Form))}, not {form!r}")
    if reduction not in get_args(Reduction):
        raise UserError(f"reduction must be one of {', '.join(get_args(Reduction))}, not {reduction!r}")
    if isinstance(alpha, Tensor) and alpha.numel() != 1:
        raise UserError(f"alpha must be one number, not {inputs.describe(alpha)}")
    if form == "subspace" and (isinstance(alpha, Tensor) or alpha):
        raise UserError("alpha weighs what the gate lets through against the whole: it is for form='dot'")


class GatedPairs(nn.Module):
    """Hydra: any two classes are a positive pair, in a subspace that belongs to the pair (arXiv 2410.18200; SimLAP in
    its second version). Normalises the embeddings itself.

    Without a gate, and with arbitrary pairs, it asks the encoder to merge all classes: the gate is what makes such
    pairs work. `nearfar.methods.class_pairs.ClassPairGate` learns one.

    Args:
        temperature: 0.1 in the released code, where it is trained without a bound (`Temperature` keeps it above 0.01).
        learnable: whether the temperature is trained.
        form: "subspace", the cosine of what the gate lets through (paper, and its first code); "dot", the product of
            gated unit vectors (the released code): there the gate is a temperature for each pair, too, and gates of
            0.5, where training starts, divide all logits by 4.
        alpha: with "dot", how much of the whole product is taken off; trained, unless it is 0 (code: 0; its example
            starts at 0.5).
        reduction: "row", the mean over rows that have a positive (code in FastSSL); "pair", over all positives, so that
            frequent classes count more (code in vitookit).
        exclude_self: the keys are the anchors (one view): a row is its own positive only where it has no other.
        backend: handed to :mod:`nearfar.ops`; "ring" is refused.

    Inputs:
        | input | shape | what it is |
        |---|---|---|
        | `z` | `[N, D]`, floating point | anchors |
        | `k` | `[M, D]`, floating point | keys: the other view, those of other processes too, or `z` itself |
        | `gate` | `[N, D]`, in [0, 1] | of each anchor's pair; None: all open |
        | `label` | `[N]`, integers | the anchor's own class: no negatives |
        | `partner` | `[N]`, integers | its partner class: the positives |
        | `key_label` | `[M]`, integers | the class of each key |

    Returns:
        A scalar, float32 (float64 from float64); 0 when no row has a positive. A row without negatives gives 0.

    Raises:
        UserError: shapes or options that do not fit together, labels that are no integers, or a backend that sees a
            part of the batch.

    Relations:
        - With open gates, each sample a class of its own and `partner = label` it is the one-directional `InfoNCE`.
        - With open gates and `partner = label` it is `SupCon` with the other positives left out of each denominator.

    Variants:
        - the first code: `GatedPairs(0.1)`; the released code: `GatedPairs(0.1, form="dot")`
        - its option: `GatedPairs(0.1, form="dot", alpha=0.5)`
        - one view, fixed temperature, as in vitookit: `GatedPairs(0.1, learnable=False, form="dot", reduction="pair",
          exclude_self=True)`

    Example:
        >>> z, label = torch.randn(6, 8), torch.tensor([0, 0, 1, 1, 2, 2])
        >>> partner = label[torch.randperm(6)]
        >>> GatedPairs()(z, z, torch.rand(6, 8), label, partner, label).shape
        torch.Size([])
    """

    def __init__(
        self,
        temperature: Tau = 0.1,
        *,
        learnable: bool = True,
        form: Form = "subspace",
        alpha: float = 0.0,
        reduction: Reduction = "row",
        exclude_self: bool = False,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        check_form(form, alpha, reduction)
        self.temperature = as_temperature(temperature, learnable=learnable)
        self.alpha = nn.Parameter(torch.tensor(float(alpha))) if alpha else None
        self.form: Form = form
        self.reduction: Reduction = reduction
        self.exclude_self, self.backend = exclude_self, backend

    def forward(
        self, z: Tensor, k: Tensor, gate: Tensor | None, label: Tensor, partner: Tensor, key_label: Tensor
    ) -> Tensor:
        return gated_pairs(
            z,
            k,
            gate,
            label,
            partner,
            key_label,
            temperature=self.temperature,
            form=self.form,
            alpha=0.0 if self.alpha is None else self.alpha,
            reduction=self.reduction,
            exclude_self=self.exclude_self,
            backend=self.backend,
        )
