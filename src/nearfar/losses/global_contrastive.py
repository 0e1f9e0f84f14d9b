"""The global contrastive loss of small batches: SogCLR (arXiv 2202.12387) and iSogCLR (arXiv 2305.11965).

The log of a mean over a batch is not the log of the mean over all data. So of each sample i a moving average s_i of the
inner mean is kept, and its temperature tau_i. With h_ij = <anchor_i, negative_j> - <anchor_i, positive_i>,

    g_i  = mean_j exp(h_ij / tau_i)          over the negatives in the batch
    s_i <- (1 - gamma) s_i + gamma g_i       at the first visit s_i = g_i
    L_i  = mean_j w_ij h_ij ,                w_ij = exp(h_ij / tau_i) / s_i without gradient
    G_i  = log s_i + rho - mean_j w_ij h_ij / tau_i ,

whose gradient estimates that of tau_i log s_i over all data; iSogCLR lets tau_i follow -G_i. Here the logarithm of s_i
is kept, which no temperature can overflow, and sum_j w_ij h_ij is (sum_j w_ij) times the softmax's mean of h_i.
"""

from __future__ import annotations

import math
from typing import ClassVar, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from nearfar import ops
from nearfar.errors import UserError
from nearfar.losses.groups import check_pair, refuse_ring, unit
from nearfar.losses.individual_temperature import TemperatureRule
from nearfar.losses.infonce import check_options
from nearfar.ops.tiling import inputs
from nearfar.ops.two_way_partition import Anchors

Inner = Literal["differences", "with_positive", "similarities"]
Directions = Literal["sum", "mean"]


class SampleState(NamedTuple):
    """What is kept of B samples as anchors, each `[B]`, float32 or float64: the log of s, how often each was visited,
    the temperature, and the moving average of its derivative."""

    log_mean: Tensor
    visits: Tensor
    temperature: Tensor
    slope: Tensor

    @staticmethod
    def fresh(count: int, temperature: float = 0.1, *, like: Tensor | None = None) -> SampleState:
        """Of `count` samples that were never visited, `[count]`, in the dtype and on the device of `like`.

        Raises:
            UserError: a temperature that is not above 0.

        >>> SampleState.fresh(2).temperature
        tensor([0.1000, 0.1000])
        """
        if not temperature > 0 or not math.isfinite(temperature):
            raise UserError(f"temperature must be above 0 and finite, not {temperature}")
        zeros = torch.zeros(count) if like is None else like.new_zeros(count)
        return SampleState(zeros, zeros.clone(), torch.full_like(zeros, temperature), zeros.clone())


class GlobalContrast(NamedTuple):
    """What one batch gives: `loss`, a scalar whose gradient is the method's (its value is not the objective);
    `objective`, the estimate of what is minimised, mean of tau (log s + rho), without gradient; and the next state of
    each side."""

    loss: Tensor
    objective: Tensor
    states: tuple[SampleState, ...]


def global_contrastive(
    a: Tensor,
    b: Tensor,
    states: tuple[SampleState, ...],
    *,
    gamma: float = 0.8,
    gamma_visits: int = 0,
    rule: TemperatureRule | None = None,
    inner: Inner = "differences",
    directions: Directions = "sum",
    group: Tensor | None = None,
    backend: str = "auto",
) -> GlobalContrast:
    """SogCLR's and iSogCLR's loss of `a` and `b` `[B, D]`, floating point, row i of each being sample i, as a
    `GlobalContrast`; see `nearfar.losses.GlobalContrastive` for the settings.

    `states` hold what is kept of the B samples, and `group` `[B]` int64 names samples that are no negatives of each
    other. Two states are for two modalities: each row of `a` is an anchor among the rows of `b`, and the other way
    round. One state is for two views of one modality: each of the 2 B rows is an anchor among both views of all other
    samples, and both anchors of a sample share its state. Keep what is returned where it came from, by the samples'
    ids, once the step is taken.

    Raises:
        UserError: shapes or options that do not fit together, or `backend="ring"`.

    Example:
        >>> a, b = torch.randn(4, 8, requires_grad=True), torch.randn(4, 8)
        >>> out = global_contrastive(a, b, (SampleState.fresh(4), SampleState.fresh(4)))
        >>> out.loss.backward()
        >>> out.states[0].visits
        tensor([1., 1., 1., 1.])
    """
    check_pair(a, b)
    check_options(directions, 0.0)
    refuse_ring(backend, "GlobalContrastive")
    check_gamma(gamma, gamma_visits)
    if inner not in get_args(Inner):
        raise UserError(f"inner must be one of {', '.join(get_args(Inner))}, not {inner!r}")
    if len(states) not in (1, 2) or any(value.shape != a.shape[:1] for state in states for value in state):
        raise UserError(f"states must be one or two, with a value for each of the {len(a)} rows of a")
    if group is not None:
        group = inputs.group_ids(group, len(a), "group")
    a, b = unit(a), unit(b)
    positive = (a * b).sum(1)
    alike = a.new_ones(len(a)) if group is None else _group_sizes(group).to(a.dtype)
    anchors_of, negatives = (_of_two, len(a) - alike) if len(states) == 2 else (_of_one, 2 * (len(a) - alike))
    sides = [
        _side(anchors, state, positive, negatives, (gamma, gamma_visits), 0.0 if rule is None else rule.rho, inner)
        for anchors, state in anchors_of(a, b, states, group, backend)
    ]
    if len(states) == 2:
        after = tuple(_next(state, [side], rule) for state, side in zip(states, sides, strict=True))
    else:
        after = (_next(states[0], sides, rule),)
    weight = (1.0 if directions == "sum" else 0.5) / (negatives > 0).sum().clamp(min=1).to(a.dtype)
    loss = weight * torch.stack([side.loss.sum() for side in sides]).sum()
    objective = weight * torch.stack([side.objective.sum() for side in sides]).sum()
    return GlobalContrast(loss.to(a.dtype), objective.to(a.dtype), after)


def check_gamma(gamma: float, over: int, setting: str = "gamma_visits") -> None:
    """Raise a UserError for a weight that is none, or a number of visits below 0, which `setting` holds."""
    if not 0 < gamma <= 1:
        raise UserError(f"gamma={gamma}: the weight of the new mean must be in (0, 1]")
    if over < 0:
        raise UserError(f"{setting}={over}: over how many visits of a sample gamma falls, 0 or more")


def _new_weight(visits: Tensor, gamma: float, over: int) -> Tensor:
    """The weight `[B]` of each sample's new mean: `gamma`, or from 1 down to it along half a cosine of its visits."""
    if not over:
        return torch.full_like(visits, gamma)
    return gamma + (1 - gamma) * (1 + torch.cos(math.pi * (visits / over).clamp(max=1))) / 2


def _of_two(
    a: Tensor, b: Tensor, states: tuple[SampleState, ...], group: Tensor | None, backend: str
) -> list[tuple[Anchors, SampleState]]:
    scales = [1 / state.temperature for state in states]
    sides = ops.two_way_partition(a, b, *scales, q_group=group, k_group=group, backend=backend)
    return list(zip(sides, states, strict=True))


def _of_one(
    a: Tensor, b: Tensor, states: tuple[SampleState, ...], group: Tensor | None, backend: str
) -> list[tuple[Anchors, SampleState]]:
    """Both views start from the state as it was."""
    z, scale = torch.cat([a, b]), (1 / states[0].temperature).repeat(2)
    ids = (torch.arange(len(a), device=a.device) if group is None else group).repeat(2)
    both, _ = ops.two_way_partition(z, z, scale, scale, q_group=ids, k_group=ids, one_set=True, backend=backend)
    halves = zip(both.log_sum.chunk(2), both.mean_logit.chunk(2), strict=True)
    return [(Anchors(*half), states[0]) for half in halves]


class _Side(NamedTuple):
    """Of one side's anchors, each [B]: loss and objective, 0 where there is no negative; the log of the next s; the
    derivative to tau; whether there is a negative."""

    loss: Tensor
    objective: Tensor
    log_mean: Tensor
    derivative: Tensor
    counts: Tensor


def _side(
    anchors: Anchors,
    state: SampleState,
    positive: Tensor,
    negatives: Tensor,
    gamma: tuple[float, int],
    rho: float,
    inner: Inner,
) -> _Side:
    counts, log_negatives = negatives > 0, negatives.clamp(min=1).log()
    tau, before = state.temperature.to(anchors.log_sum), state.log_mean.to(anchors.log_sum)
    shift = torch.zeros_like(tau) if inner == "similarities" else positive / tau
    log_sum, mean_logit = anchors.log_sum.masked_fill(~counts, 0.0) - shift, anchors.mean_logit - shift.detach()
    now = log_sum.detach() - log_negatives
    log_g = torch.logaddexp(now, -log_negatives.to(now)) if inner == "with_positive" else now
    new = _new_weight(state.visits.to(before), *gamma)
    moved = torch.logaddexp(before + (1 - new).log(), log_g + new.log())
    log_mean = torch.where((state.visits > 0) & (new < 1), moved, log_g)
    weight = (now - log_mean).exp()  # sum_j w_ij / m: 1 where s_i is the mean of this batch alone
    loss = tau * weight * (mean_logit + log_sum - log_sum.detach())
    if inner == "similarities":
        loss = loss - positive
    derivative = log_mean + rho - weight * mean_logit
    return _Side(
        loss.masked_fill(~counts, 0.0),
        (tau * (log_mean + rho)).masked_fill(~counts, 0.0),
        log_mean,
        derivative,
        counts,
    )


@torch.no_grad()
def _next(state: SampleState, sides: list[_Side], rule: TemperatureRule | None) -> SampleState:
    """The state after this batch: of two views the mean of both means (not of their logs) and of both derivatives."""
    counts = sides[0].counts
    log_mean = torch.stack([side.log_mean for side in sides]).logsumexp(0) - math.log(len(sides))
    temperature, slope = state.temperature, state.slope
    if rule is not None:
        derivative = torch.stack([side.derivative for side in sides]).mean(0).to(slope)
        temperature, slope = rule.step(temperature, slope, derivative, state.visits)
    after = SampleState(log_mean.to(state.log_mean), state.visits + 1, temperature, slope)
    return SampleState(*(torch.where(counts, new, old) for new, old in zip(after, state, strict=True)))


def _group_sizes(group: Tensor) -> Tensor:
    """How many samples of each sample's group the batch holds, itself among them, [B]."""
    in_order = group.sort().values
    return torch.searchsorted(in_order, group, right=True) - torch.searchsorted(in_order, group)


class GlobalContrastive(nn.Module):
    """Contrast of a small batch that estimates the contrast with all data: SogCLR (arXiv 2202.12387), and with a `rule`
    iSogCLR (arXiv 2305.11965), which finds a temperature for each sample. Normalises the embeddings itself.

    It is called with the samples' numbers, and keeps of each a moving average in buffers; they are brought up to date
    when the gradient arrives, so that a pass without `backward` leaves nothing, nor does a batch whose loss is NaN or
    infinite. With a rule, `temperatures` says how common each sample is: common ones get a high one. In a loop of
    several processes give it the rows and numbers of all: each process then keeps the same.

    Args:
        samples: how many there are; `index` counts them from 0.
        temperature: of every sample; with a `rule` where it starts. (paper: 0.1 for one modality, 0.01 for two)
        rule: how temperatures move, a `nearfar.losses.individual_temperature.TemperatureRule`; None leaves
            them as they are: SogCLR.
        gamma: weight of the new mean in the moving average, in (0, 1]; 1 keeps nothing: the plain contrast of the
            batch. (paper's code: 0.8)
        gamma_visits: gamma falls from 1 to `gamma` along half a cosine over so many visits of a sample, an epoch each
            (LibAUC: half of all epochs); 0: it is `gamma` from the second visit on (paper's code).
        modalities: 2 for image and text, each a side of its own with its own state; 1 for two views of one thing.
        inner: what the mean is over. "differences" to the positive, over the negatives (paper); "with_positive" adds
            the positive's 0 to the sum (authors' code for two modalities); "similarities" alone (their code for one).
        directions: "sum" of both sides (paper), or their "mean".
        backend: handed to :mod:`nearfar.ops`; "ring" is refused.

    Inputs:
        | input | shape | what it is |
        |---|---|---|
        | `a`, `b` | `[B, D]`, floating point | row i of both is one sample |
        | `index` | `[B]`, integers | the number of each sample, each once |
        | `index_b` | `[B]`, integers | the number of each row of `b`, where texts are counted apart from pictures |
        | `group` | `[B]`, integers | samples of one group are no negatives of each other |

    Returns:
        A scalar, float32 (float64 from float64), normally negative: its gradient is that of the objective, its value is
        not. `objective` holds the estimate of the last batch that was sent back.

    Raises:
        UserError: shapes or settings that do not fit together, a number that is out of range or comes twice, a `rule`
            whose rho no anchor can reach.

    Relations:
        - With `gamma=1` and without a rule, its gradient is tau times that of the decoupled `InfoNCE` (no positive in
          the denominator), summed over both sides; with `inner="with_positive"` 2 tau times that of `InfoNCE`.
        - Multiply by 1 / temperature to use a learning rate that was chosen for `InfoNCE`, where the optimiser is
          sensitive to scale (SGD, LARS).

    Variants:
        - SogCLR, image and text: `GlobalContrastive(samples, 0.01)`
        - iSogCLR, one modality: `GlobalContrastive(samples, 0.1, rule=TemperatureRule(rho=0.3), modalities=1)`

    Example:
        >>> criterion = GlobalContrastive(10, modalities=1)
        >>> a, b = torch.randn(4, 8, requires_grad=True), torch.randn(4, 8)
        >>> criterion(a, b, torch.tensor([7, 1, 0, 3])).backward()
        >>> criterion.visits[0].nonzero().flatten()
        tensor([0, 1, 3, 7])
    """

    log_mean: Tensor
    visits: Tensor
    temperatures: Tensor
    slope: Tensor
    objective: Tensor

    by_sample: ClassVar[bool] = True
    """It keeps something of each sample, and must see a batch once."""

    def __init__(
        self,
        samples: int,
        temperature: float = 0.1,
        *,
        rule: TemperatureRule | None = None,
        gamma: float = 0.8,
        gamma_visits: int = 0,
        modalities: int = 2,
        inner: Inner = "differences",
        directions: Directions = "sum",
        backend: str = "auto",
    ) -> None:
        super().__init__()
        if samples < 1 or modalities not in (1, 2):
            raise UserError(f"samples={samples}, modalities={modalities}: at least one sample, and 1 or 2 modalities")
        if rule is not None:
            rule.require_reachable((samples - 1) * (3 - modalities), f"{samples:,} samples")
        check_gamma(gamma, gamma_visits)
        self.rule, self.gamma, self.gamma_visits = rule, gamma, gamma_visits
        self.inner, self.directions, self.backend = inner, directions, backend
        for name, value in zip(_BUFFERS, SampleState.fresh(samples, temperature), strict=True):
            self.register_buffer(name, value.repeat(modalities, 1))
        self.register_buffer("objective", torch.zeros(()))

    def forward(
        self,
        a: Tensor,
        b: Tensor,
        index: Tensor,
        *,
        index_b: Tensor | None = None,
        group: Tensor | None = None,
    ) -> Tensor:
        numbers = [self._numbers(index, "index", len(a))]
        if len(self.visits) == 2:
            numbers.append(numbers[0] if index_b is None else self._numbers(index_b, "index_b", len(a)))
        elif index_b is not None:
            raise UserError("index_b is for two modalities: both views of one sample have one number")
        buffers = [self.get_buffer(name) for name in _BUFFERS]
        states = tuple(SampleState(*(values[side, rows] for values in buffers)) for side, rows in enumerate(numbers))
        out = global_contrastive(
            a,
            b,
            states,
            gamma=self.gamma,
            gamma_visits=self.gamma_visits,
            rule=self.rule,
            inner=self.inner,
            directions=self.directions,
            group=group,
            backend=self.backend,
        )
        if out.loss.requires_grad:
            out.loss.register_hook(lambda _: self._keep(numbers, out))
        return out.loss

    @torch.no_grad()
    def _keep(self, numbers: list[Tensor], out: GlobalContrast) -> None:
        good = out.loss.isfinite()  # what one bad batch left would stay for ever
        for side, (rows, state) in enumerate(zip(numbers, out.states, strict=True)):
            for name, value in zip(_BUFFERS, state, strict=True):
                kept = self.get_buffer(name)
                kept[side, rows] = torch.where(good, value.to(kept), kept[side, rows])
        self.objective.copy_(torch.where(good, out.objective, self.objective))

    def _numbers(self, index: Tensor, name: str, count: int) -> Tensor:
        index = inputs.group_ids(index, count, name).long()
        samples = self.visits.shape[1]
        if count and not 0 <= (least := int(index.min())) <= (most := int(index.max())) < samples:
            wrong = least if least < 0 else most
            raise UserError(f"{name} must count the {samples:,} samples from 0 to {samples - 1:,}, and holds {wrong:,}")
        if len(index.unique()) < count:
            raise UserError(f"{name} names a sample twice: what is kept of it would be that of either")
        return index


_BUFFERS = ("log_mean", "visits", "temperatures", "slope")
