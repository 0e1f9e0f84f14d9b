"""Global to local InfoNCE: TCL's local mutual information (arXiv 2202.10401), after Deep InfoMax (arXiv 1808.06670).

A sample's global vector g_i should recognise each of its own local vectors l_ik among the locals of the other samples:

    ell_ik = -log  exp(s_i,ik) / ( exp(s_i,ik) + sum_{j != i} sum_{k'} a_jk' exp(s_i,jk') ) ,

with s_i,jk = <g_i, l_jk> / tau.

The sample's other locals are no negatives, so the sum in the denominator is the same for all its k: one log-partition a
sample.

And local to local: contrast of pictures and captions by their cells and words (arXiv 2111.07180), with the similarity

    s_ij = mean over the words w of caption j  of  max over the cells p of picture i  of  <c_ip, t_jw> .
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from nearfar import ops
from nearfar.errors import UserError
from nearfar.losses.groups import lifted, refuse_ring, unit
from nearfar.losses.infonce import check_options
from nearfar.losses.temperature import Tau, as_scale, as_temperature
from nearfar.ops.tiling import inputs
from nearfar.ops.tiling.products import product


def global_local_info_nce(
    g: Tensor,
    local: Tensor,
    *,
    mask: Tensor | None = None,
    temperature: Tau = 0.07,
    group: Tensor | None = None,
    backend: str = "auto",
) -> Tensor:
    """Global to local InfoNCE; see :class:`GlobalLocalInfoNCE`.

    Takes `g` `[N, D]`, `local` `[N, K, D]`, floating point, `mask` `[N, K]` (bool or numbers; 0 leaves a local out) and
    `group` `[N]` int64. The temperature may also be one a sample, `[N]`. Returns a scalar.

    Raises:
        UserError: shapes that do not fit together, or `backend="ring"`.

    Example (N = 2, K = 3, every local equal to its global: ln(1 + 3 / e)):
        >>> eye = torch.eye(2)
        >>> round(global_local_info_nce(eye, eye[:, None].expand(2, 3, 2), temperature=1.0).item(), 6)
        0.743668
    """
    if g.ndim != 2 or local.ndim != 3 or local.shape[::2] != g.shape:
        raise UserError(f"g must be [N, D] and local [N, K, D], got {tuple(g.shape)} and {tuple(local.shape)}")
    n, k, d = local.shape
    real = torch.ones(n, k, dtype=torch.bool, device=g.device) if mask is None else mask.bool()
    if real.shape != (n, k):
        raise UserError(f"mask must be [N, K] = {(n, k)}, got {tuple(real.shape)}")
    refuse_ring(backend, "GlobalLocalInfoNCE")
    g, local, scale = unit(g), lifted(local), as_scale(temperature, n)
    by_row = scale[:, None] if isinstance(scale, Tensor) and scale.ndim else scale
    ids = torch.arange(n, device=g.device) if group is None else _places(inputs.group_ids(group, n, "group"))
    if mask is not None:
        local = local.masked_fill(~real[..., None], 0)  # padding may hold anything, NaN too
    keys, owners, admit = local.reshape(n * k, d), ids[:, None].expand(n, k).reshape(n * k), "different"
    if mask is not None and torch.compiler.is_compiling():  # no size of a graph may depend on the data
        owners, admit = owners.masked_fill(~real.flatten(), -1), "others"
    elif mask is not None:
        keys, owners = keys[real.flatten()], owners[real.flatten()]
    negatives = ops.log_partition(g, keys, scale, q_group=ids, k_group=owners, admit=admit, backend=backend)
    positive = by_row * product(local, g[:, None])[..., 0]
    ell = -logsigmoid(positive - negatives[:, None]).masked_fill(~real, 0)
    # A sample without a real local counts as zero, not as a division by zero.
    return (ell.sum(1) / real.sum(1).clamp(min=1)).mean()


def _places(group: Tensor) -> Tensor:
    """Ids of the same groups from 0 up: negative ones are nobody's to the log-partition."""
    return torch.searchsorted(group.sort().values, group)


class GlobalLocalInfoNCE(nn.Module):
    """Global to local InfoNCE: a sample's global vector must find its own local ones (TCL, arXiv 2202.10401).

    Normalises g itself, and leaves the locals as they are: TCL's pooled patches are shorter than one on purpose. Take
    the locals from a momentum encoder, detached, as TCL does.

    Args:
        temperature: initial temperature: a number, a tensor of one element or a :class:`Temperature`, taken as it is.
        learnable: whether it is trained.
        backend: handed to :mod:`nearfar.ops`; "ring" is refused: a rank's locals are not all negatives.

    Inputs:
        | input | shape | what it is |
        |---|---|---|
        | `g` | `[N, D]`, floating point | global vectors |
        | `local` | `[N, K, D]`, floating point | local vectors of the same samples |
        | `mask` | `[N, K]` | true for real locals; padding changes neither loss nor gradient |
        | `group` | `[N]`, integers | locals of samples of one group are no negatives of each other |

    Returns:
        A scalar, float32 (float64 from float64): the mean over samples of the mean over their locals; 0 for a batch of
        one.

    Raises:
        UserError: shapes that do not fit together, or a backend that sees a part of the batch.

    Relations:
        - With one local a sample it is one direction of `InfoNCE`.

    Variants:
        - TCL, patches: `GlobalLocalInfoNCE(tau)` with `tau` the `Temperature` of its other terms
        - TCL, words: the same, with `mask=attention_mask[:, 1:]`
        - Deep InfoMax's InfoNCE estimator: `GlobalLocalInfoNCE(1.0, learnable=False)` on unit locals

    Example:
        >>> GlobalLocalInfoNCE()(torch.randn(4, 8), torch.randn(4, 5, 8)).shape
        torch.Size([])
    """

    def __init__(self, temperature: Tau = 0.07, *, learnable: bool = True, backend: str = "auto") -> None:
        super().__init__()
        self.temperature = as_temperature(temperature, learnable=learnable)
        self.backend = backend

    def forward(self, g: Tensor, local: Tensor, *, mask: Tensor | None = None, group: Tensor | None = None) -> Tensor:
        return global_local_info_nce(
            g, local, mask=mask, temperature=self.temperature, group=group, backend=self.backend
        )


def matchmap_info_nce(
    cells: Tensor,
    words: Tensor,
    *,
    mask: Tensor | None = None,
    temperature: Tau = 0.1,
    directions: Literal["mean", "sum"] = "sum",
    group: Tensor | None = None,
    backend: str = "auto",
) -> Tensor:
    """Contrast of pictures and captions by cells and words; see :class:`MatchmapInfoNCE`.

    Takes `cells` `[N, P, D]`, `words` `[N, L, D]`, floating point, `mask` `[N, L]` (bool or numbers; 0 leaves a word
    out) and `group` `[N]` int64. Returns a scalar.

    Raises:
        UserError: shapes or options that do not fit together.

    Example:
        >>> cells = torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [1.0, 0.0]]])
        >>> words = torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [9.0, 9.0]]])
        >>> mask = torch.tensor([[1, 1], [1, 0]])
        >>> round(matchmap_info_nce(cells, words, mask=mask, temperature=1.0, directions="mean").item(), 6)
        0.583612
    """
    check_options(directions, 0.0)
    refuse_ring(backend, "MatchmapInfoNCE")
    scale = as_scale(temperature)
    of_pictures, of_captions = ops.matchmap_contrast(cells, words, mask, scale, group=group, backend=backend)
    loss = of_pictures.mean() + of_captions.mean()
    return loss if directions == "sum" else loss / 2


class MatchmapInfoNCE(nn.Module):
    """Contrast of pictures and captions, in which every word finds its best cell (VG-Bert, arXiv 2111.07180).

    The similarity is the mean over a caption's words of the largest product with a cell of the picture. Nothing is
    normalised. Products of all words and cells exist a tile at a time (`nearfar.ops.matchmap`).

    Args:
        temperature: sigma, the initial temperature (paper: 0.1, fixed): a number, a tensor of one element or a
            :class:`Temperature`, taken as it is.
        learnable: whether it is trained (paper: no).
        directions: the "sum" of the two directions (paper), or their "mean" (CLIP).
        backend: handed to :mod:`nearfar.ops`; "ring" is refused: gather cells and words.

    Inputs:
        | input | shape | what it is |
        |---|---|---|
        | `cells` | `[N, P, D]`, floating point | the cells of each picture's map |
        | `words` | `[N, L, D]`, floating point | the words of each caption |
        | `mask` | `[N, L]`, bool or numbers | true for real words; padding changes neither loss nor gradient |
        | `group` | `[N]`, integers | samples of one group are no negatives of each other |

    Returns:
        A scalar, float32 (float64 from float64); 0 for a batch of one.

    Raises:
        UserError: shapes or options that do not fit together.

    Relations:
        - With one cell and one word of unit length it is `InfoNCE`, both directions summed.
        - With cells and words of unit length it is FILIP's text-to-image similarity (arXiv 2111.07783) on both sides.
        - `GlobalLocalInfoNCE` holds one vector of a sample against the parts of all.

    Variants:
        - the paper's: `MatchmapInfoNCE(0.1, learnable=False)`
        - with CLIP's temperature and mean: `MatchmapInfoNCE(0.07, directions="mean")` on unit cells and words

    Example:
        >>> MatchmapInfoNCE()(torch.randn(4, 49, 8), torch.randn(4, 6, 8)).shape
        torch.Size([])
    """

    def __init__(
        self,
        temperature: Tau = 0.1,
        *,
        learnable: bool = True,
        directions: Literal["mean", "sum"] = "sum",
        backend: str = "auto",
    ) -> None:
        super().__init__()
        check_options(directions, 0.0)
        self.temperature = as_temperature(temperature, learnable=learnable)
        self.directions: Literal["mean", "sum"] = directions
        self.backend = backend

    def forward(
        self, cells: Tensor, words: Tensor, *, mask: Tensor | None = None, group: Tensor | None = None
    ) -> Tensor:
        return matchmap_info_nce(
            cells,
            words,
            mask=mask,
            temperature=self.temperature,
            directions=self.directions,
            group=group,
            backend=self.backend,
        )
