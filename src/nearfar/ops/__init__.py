"""The ground floor: contrastive sums over all pairs, exact, differentiable, in memory linear in the batch."""

from nearfar.ops.log_partition import log_partition

__all__ = ["log_partition"]
