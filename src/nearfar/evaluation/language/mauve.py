"""MAUVE (arXiv 2102.01454): how near the distribution of generated texts lies to that of human ones.

Both sets are cut into buckets of like texts by k-means on what a language model makes of them. From the two histograms
p and q a curve is drawn: for mixtures r = w p + (1 - w) q, exp(-c KL(q, r)) against exp(-c KL(p, r)). One axis falls
where texts are written that no human writes, the other where human ones are missing; MAUVE is the area under it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nearfar.errors import UserError, need

VARIANCE = 0.9  # share of the variance that the principal components keep
REDO = 5  # starts of k-means, of which the best counts


def mauve(generated: Tensor, human: Tensor, *, buckets: int | None = None, scale: float = 5.0, seed: int = 0) -> float:
    """MAUVE of two sets of texts, from 0 to 1; 1 where the two cannot be distinguished.

    Hundreds of texts a side make a figure, thousands a good one; it depends on their number, so compare only sets of
    one size. The settings are those of the paper's authors' library, which is GPL and so no dependency here.

    Args:
        generated, human: features `[N, D]` and `[M, D]`, such as `last_states` gives.
        buckets: a tenth of the smaller set by default, at least 2.
        scale: c.
        seed: of k-means.

    Raises:
        UserError: too few texts for the buckets, features of two widths, or scikit-learn is missing.

    >>> texts = torch.randn(60, 8, generator=torch.Generator().manual_seed(0))
    >>> round(mauve(texts, texts), 3), round(mauve(texts + 9, texts - 9), 3)
    (1.0, 0.004)
    """
    cluster, decomposition = need("sklearn.cluster", "probes"), need("sklearn.decomposition", "probes")
    if generated.ndim != 2 or human.ndim != 2 or generated.shape[1] != human.shape[1]:
        raise UserError(f"features are [N, D] and [M, D], not {list(generated.shape)} and {list(human.shape)}")
    fewer = min(len(generated), len(human))
    buckets = max(2, round(fewer / 10)) if buckets is None else buckets
    if fewer < buckets or buckets < 2:
        raise UserError(f"{fewer} texts do not fill {buckets} buckets: give more texts, or buckets=2 or more of them")
    points = torch.nn.functional.normalize(torch.cat([generated, human]).double(), dim=1).cpu().numpy()
    kept = decomposition.PCA(random_state=seed).fit(points)
    components = int(np.searchsorted(np.cumsum(kept.explained_variance_ratio_), VARIANCE)) + 1
    low = kept.transform(points)[:, :components]
    labels = cluster.KMeans(buckets, n_init=REDO, max_iter=500, random_state=seed).fit_predict(low)
    p, q = (np.bincount(side, minlength=buckets) / len(side) for side in np.split(labels, [len(generated)]))
    return area(divergence_curve(p, q, scale=scale))


def divergence_curve(p: Any, q: Any, *, scale: float = 5.0, points: int = 25) -> np.ndarray:
    """`[points + 2, 2]`: exp(-c KL(q, r)) and exp(-c KL(p, r)) for mixtures r of the histograms p and q, the two ends
    (1, 0) and (0, 1) included.

    >>> divergence_curve([0.5, 0.5], [0.5, 0.5], points=1)[1]
    array([1., 1.])
    """
    p, q = np.asarray(p, float), np.asarray(q, float)
    inner = []
    for w in np.linspace(1e-6, 1 - 1e-6, points):
        r = w * p + (1 - w) * q
        inner.append([_divergence(q, r), _divergence(p, r)])
    return np.concatenate([[[1.0, 0.0]], np.exp(-scale * np.array(inner)), [[0.0, 1.0]]])


def area(curve: np.ndarray) -> float:
    """The area under a divergence curve: the mean of the trapezoids over either axis."""
    x, y = curve.T
    return float(np.trapezoid(y[np.argsort(x)], np.sort(x)) + np.trapezoid(x[np.argsort(y)], np.sort(y))) / 2


@torch.no_grad()
def last_states(lm: Any, texts: Sequence[Sequence[int]], *, batch_size: int = 8) -> Tensor:
    """The last layer's state at each text's last token, `[N, W]` float32 on the CPU: what MAUVE sorts texts by.

    Args:
        lm: a causal language model, the same for both sets.
        texts: token ids, one list a text, none empty.
        batch_size: texts a pass.
    """
    empty = [i for i, text in enumerate(texts) if not len(text)]
    if empty:
        raise UserError(f"texts {empty} hold no token")
    states = []
    for start in range(0, len(texts), batch_size):
        part = texts[start : start + batch_size]
        width = max(map(len, part))
        ids = torch.tensor([[*text, *[0] * (width - len(text))] for text in part], device=lm.device)
        mask = torch.tensor([[1] * len(text) + [0] * (width - len(text)) for text in part], device=lm.device)
        # without the head, whose logits over a whole vocabulary nobody reads
        hidden = lm.get_decoder()(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
        states.append(torch.stack([row[len(text) - 1] for row, text in zip(hidden, part, strict=True)]).float().cpu())
    return torch.cat(states) if states else torch.empty(0, 0)


def _divergence(p: np.ndarray, r: np.ndarray) -> float:
    """Kullback and Leibler's; r is nowhere 0 where p is not."""
    some = p > 0
    return float(np.sum(p[some] * np.log(p[some] / r[some])))
