"""Every loss as a pure function of tensors."""

from nearfar.losses.alignment_uniformity import alignment, target_alignment, uniformity
from nearfar.losses.binary_nce import binary_nce
from nearfar.losses.common_salient import sepclr
from nearfar.losses.first_view import first_view_info_nce
from nearfar.losses.gated_pairs import gated_pairs
from nearfar.losses.global_contrastive import global_contrastive
from nearfar.losses.global_local import global_local_info_nce, matchmap_info_nce
from nearfar.losses.infonce import info_nce
from nearfar.losses.margin_ranking import margin_ranking
from nearfar.losses.multi_view import mv_dhel, mv_info_nce
from nearfar.losses.nt_xent import nt_xent
from nearfar.losses.pix_contrast import pix_contrast
from nearfar.losses.pixel_consistency import pixel_consistency
from nearfar.losses.poly_view import pairwise_views, poly_view
from nearfar.losses.sigmoid import sigmoid_loss
from nearfar.losses.simctg_loss import simctg_loss
from nearfar.losses.soft_target import soft_target_info_nce, vision_language_alignment
from nearfar.losses.supcon import rehearsal_contrastive_loss, supcon, supervised_cross_modal_loss

__all__ = [
    "alignment",
    "binary_nce",
    "first_view_info_nce",
    "gated_pairs",
    "global_contrastive",
    "global_local_info_nce",
    "info_nce",
    "margin_ranking",
    "matchmap_info_nce",
    "mv_dhel",
    "mv_info_nce",
    "nt_xent",
    "pairwise_views",
    "pix_contrast",
    "pixel_consistency",
    "poly_view",
    "rehearsal_contrastive_loss",
    "sepclr",
    "sigmoid_loss",
    "simctg_loss",
    "soft_target_info_nce",
    "supcon",
    "supervised_cross_modal_loss",
    "target_alignment",
    "uniformity",
    "vision_language_alignment",
]
