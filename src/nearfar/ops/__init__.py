"""The ground floor: contrastive sums over all pairs, exact, differentiable, in memory linear in the batch.

`log_partition` is the one quantity under the softmax losses, `pairwise_softplus` its sibling under the sigmoid loss.
`info_nce`, `nt_xent`, `sigmoid` and `soft_target` are the hot forms, fused on the same tile loop, and `pair_contrast`
that of pairs of classes in gated subspaces, `margin_ranking` that of triplets; `view_partition` is for any number of
views, `two_way_partition` for a scale of every row on either side; `sample_hard_negatives` draws keys by the same
logits. `near_sums`, `near_log_ratio` and `propagated` are over the cells of two maps, `matchmap` and
`matchmap_contrast` over the words of captions and the cells of pictures. `sinkhorn` and `transport_plan` are the
optimal transport of clusters and few-shot classes; `group_whitening` takes the correlations out of groups of channels.
None of the sums over pairs normalises its vectors. None ever holds the matrix of all pairs, but for
`backend="dense"` and `matchmap`, whose result it is.
"""

from nearfar.ops.cell_pairs import near_log_ratio, near_sums, propagated
from nearfar.ops.fused_info_nce import info_nce
from nearfar.ops.fused_margin import margin_ranking
from nearfar.ops.fused_nt_xent import nt_xent
from nearfar.ops.fused_pair_contrast import pair_contrast
from nearfar.ops.fused_sigmoid import sigmoid
from nearfar.ops.fused_soft_target import soft_target
from nearfar.ops.hard_negatives import sample_hard_negatives
from nearfar.ops.log_partition import log_partition
from nearfar.ops.matchmap import matchmap, matchmap_contrast
from nearfar.ops.softplus import pairwise_softplus
from nearfar.ops.transport import sinkhorn, transport_plan
from nearfar.ops.two_way_partition import two_way_partition
from nearfar.ops.view_partition import view_partition
from nearfar.ops.whitening import group_whitening

__all__ = [
    "group_whitening",
    "info_nce",
    "log_partition",
    "margin_ranking",
    "matchmap",
    "matchmap_contrast",
    "near_log_ratio",
    "near_sums",
    "nt_xent",
    "pair_contrast",
    "pairwise_softplus",
    "propagated",
    "sample_hard_negatives",
    "sigmoid",
    "sinkhorn",
    "soft_target",
    "transport_plan",
    "two_way_partition",
    "view_partition",
]
