"""Contrastive objectives over embeddings. Each is a module with its learned and tracked state, and a pure function in
`nearfar.losses.functional`. They say what is near and what is far; `nearfar.ops` makes it fast."""

from nearfar.losses import functional
from nearfar.losses.alignment_uniformity import AlignmentUniformity, TargetAlignment
from nearfar.losses.binary_nce import BinaryNCE
from nearfar.losses.common_salient import SepCLRLoss
from nearfar.losses.first_view import FirstViewInfoNCE
from nearfar.losses.gated_pairs import GatedPairs
from nearfar.losses.global_contrastive import GlobalContrastive
from nearfar.losses.global_local import GlobalLocalInfoNCE, MatchmapInfoNCE
from nearfar.losses.infonce import InfoNCE
from nearfar.losses.margin_ranking import MarginRanking
from nearfar.losses.matryoshka import Matryoshka
from nearfar.losses.multi_view import MVDHEL, MVInfoNCE
from nearfar.losses.nt_xent import NTXent
from nearfar.losses.pix_contrast import PixContrast
from nearfar.losses.pixel_consistency import PixelConsistency
from nearfar.losses.poly_view import PairwiseViews, PolyView
from nearfar.losses.sigmoid import SigmoidLoss
from nearfar.losses.simctg_loss import SimCTGLoss
from nearfar.losses.soft_target import SoftTargetInfoNCE, VisionLanguageAlignment
from nearfar.losses.supcon import RehearsalContrastive, SupCon, SupervisedCrossModal
from nearfar.losses.temperature import Temperature

__all__ = [
    "MVDHEL",
    "AlignmentUniformity",
    "BinaryNCE",
    "FirstViewInfoNCE",
    "GatedPairs",
    "GlobalContrastive",
    "GlobalLocalInfoNCE",
    "InfoNCE",
    "MVInfoNCE",
    "MarginRanking",
    "MatchmapInfoNCE",
    "Matryoshka",
    "NTXent",
    "PairwiseViews",
    "PixContrast",
    "PixelConsistency",
    "PolyView",
    "RehearsalContrastive",
    "SepCLRLoss",
    "SigmoidLoss",
    "SimCTGLoss",
    "SoftTargetInfoNCE",
    "SupCon",
    "SupervisedCrossModal",
    "TargetAlignment",
    "Temperature",
    "VisionLanguageAlignment",
    "functional",
]
