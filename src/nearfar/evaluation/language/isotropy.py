"""Isotropy of a language model's token states (arXiv 2210.14140, section 3): 1 minus their mean cosine. Near 0 all
tokens point one way, and contrastive search cannot separate candidates; near 1 it can.

Sums of cosines over all pairs need no pairs: over unit states `sum_ij <u_i, u_j> = |sum_i u_i|^2`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from nearfar import files
from nearfar.errors import UserError
from nearfar.evaluation.measures.result import Metric, Result


class Isotropy(NamedTuple):
    """`within`: over pairs of tokens of one sequence (the paper's measure). `across`: over pairs of tokens of
    different sequences. NaN where there are no such pairs."""

    within: float
    across: float


def isotropy(hidden: Tensor, mask: Tensor | None = None) -> Isotropy:
    """Isotropy of states `[B, T, D]`, floating point and of any length: 1 minus the mean cosine of token pairs (SimCTG,
    arXiv 2202.06417). `mask` `[B, T]` is non-zero at real tokens.

    Raises:
        ValueError: another shape.

    >>> isotropy(torch.eye(4)[None]).within
    1.0
    >>> within, across = isotropy(torch.ones(2, 3, 8))
    >>> abs(within) < 1e-12, abs(across) < 1e-12
    (True, True)
    """
    meter = IsotropyMeter()
    meter.update(hidden, mask)
    return meter.compute()


class IsotropyMeter:
    """Isotropy over many batches; the sums are kept in float64."""

    def __init__(self) -> None:
        self.pairs = self.cosines = self.tokens = 0.0
        self._total: Tensor | None = None
        self._own = 0.0  # sum over sequences of |sum of its states|^2
        self._squares = 0.0  # sum over sequences of its squared number of tokens

    def update(self, hidden: Tensor, mask: Tensor | None = None) -> None:
        """Add states `[B, T, D]`, floating point; `mask` `[B, T]` is non-zero at real tokens.

        Raises:
            ValueError: another shape.
        """
        if hidden.ndim != 3 or (mask is not None and mask.shape != hidden.shape[:2]):
            raise ValueError(f"hidden {tuple(hidden.shape)} must be [B, T, D] and mask [B, T]")
        states = F.normalize(hidden.detach().double(), dim=-1)
        if mask is not None:
            states = states.masked_fill(mask[..., None] == 0, 0)
            count = (mask != 0).sum(dim=1).double()
        else:
            count = torch.full((len(hidden),), hidden.shape[1], dtype=torch.float64, device=hidden.device)
        sums = states.sum(dim=1)
        self.cosines += float((sums.square().sum(dim=1) - states.square().sum(dim=(1, 2))).sum())
        self.pairs += float((count * (count - 1)).sum())
        self.tokens += float(count.sum())
        self._own += float(sums.square().sum())
        self._squares += float(count.square().sum())
        total = sums.sum(dim=0)
        self._total = total if self._total is None else self._total + total

    def compute(self) -> Isotropy:
        if self._total is None:
            return Isotropy(float("nan"), float("nan"))
        others = self.tokens**2 - self._squares
        across = float(self._total.square().sum()) - self._own
        return Isotropy(_one_minus(self.cosines, self.pairs), _one_minus(across, others))


@torch.no_grad()
def language_model_isotropy(model: Any, batches: Iterable[Mapping[str, Tensor]], *, skip: int = 0) -> Result:
    """Isotropy of a language model, layer by layer.

    Args:
        model: any transformers causal language model.
        batches: `input_ids` and, where padded, `attention_mask`, as a tokenizer returns them.
        skip: tokens left out at the start of each text. In many decoders the first token's state stands far from
            all others (an attention sink); 1 leaves it out, 0 is the paper's measure.

    Returns:
        A Result "isotropy": `within` and `across` of the last layer, what contrastive search works on; under
        `by["layer"]` every layer from the embedding ("0") to the last.

    Raises:
        UserError: no texts.
    """
    meters: list[IsotropyMeter] = []
    texts = 0
    for batch in batches:
        ids = batch["input_ids"]
        mask = batch.get("attention_mask")
        mask = torch.ones_like(ids) if mask is None else mask
        layers = model(input_ids=ids, attention_mask=mask, output_hidden_states=True, use_cache=False).hidden_states
        if not meters:
            meters = [IsotropyMeter() for _ in layers]
        counted = mask * (mask.cumsum(dim=1) > skip)
        for meter, hidden in zip(meters, layers, strict=True):
            meter.update(hidden, counted)
        texts += len(ids)
    if not meters:
        raise UserError("no texts to measure isotropy on")
    by_layer = {str(i): _metrics(meter.compute(), texts) for i, meter in enumerate(meters)}
    return Result("isotropy", by_layer[str(len(meters) - 1)], by={"layer": by_layer}, details={"skip": skip})


def plot_isotropy(results: Mapping[str, Result], path: str | Path) -> Path:
    """Draw isotropy by layer, one line a model and kind of pair, to an image file (SVG, PNG, PDF by its name)."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.5), layout="constrained")
    axes = figure.subplots()
    for number, (name, result) in enumerate(results.items()):
        layers = list(result.by["layer"].values())
        depth = [i / max(1, len(layers) - 1) for i in range(len(layers))]
        for kind, style in (("within", "-"), ("across", "--")):
            values = [layer[kind].value for layer in layers]
            axes.plot(depth, values, style, color=f"C{number}", label=f"{name}, {kind} texts")
    axes.set(xlabel="depth (0: embedding, 1: last layer)", ylabel="isotropy: 1 - mean cosine", ylim=(None, 1.02))
    axes.legend(fontsize="small")
    with files.writing(path):
        figure.savefig(path)
    return Path(path)


def _metrics(value: Isotropy, texts: int) -> dict[str, Metric]:
    return {"within": Metric(value.within, n=texts), "across": Metric(value.across, n=texts)}


def _one_minus(cosines: float, pairs: float) -> float:
    return 1 - cosines / pairs if pairs else float("nan")
