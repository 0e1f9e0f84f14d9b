"""Every loss as a small method, for the test that the number of processes does not change its gradient."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from toy import Pairs, Plain, batch

from nearfar import losses
from nearfar.losses.individual_temperature import TemperatureRule
from nearfar.methods.base import Method

N = 16


class Objective(Pairs):
    """The toy towers with a loss of `nearfar.losses`, called by `call(loss, embeddings, batch)`."""

    def __init__(self, loss: Any, call: Callable[..., torch.Tensor]) -> None:
        super().__init__()
        self.loss, self.call = loss, call

    def embed(self, data):
        return super().embed(data) | {"hard": self.text(data["text"]["input_ids"].flip(1).repeat_interleave(2, 0))}

    def objective(self, embeddings, data):
        return {"loss": self.call(self.loss, embeddings, data)}


class InARing(Objective):
    """The same, whose loss sees the others' rows in a ring."""

    def ring_losses(self):
        return [self.loss]


@dataclass(frozen=True)
class Case:
    make: Callable[[], Method]
    chunk: int | None = None


def pair(loss, e, d):
    return loss(e["image"], e["text"])


def pair_group(loss, e, d):
    return loss(e["image"], e["text"], group=d["group"])


def pair_hard(loss, e, d):
    return loss(e["image"], e["text"], negatives_b=e["hard"])


def labelled(loss, e, d):
    return loss(torch.cat([e["image"], e["text"]]), d["label"].repeat(2))


def rehearsed(loss, e, d):
    return loss(e["image"], e["text"], d["label"], d["label"] % 2 == 0)


def two_labelled(loss, e, d):
    return loss(e["image"], e["text"], d["label"])


def local(loss, e, d):
    return loss(e["image"], e["hard"].unflatten(0, (-1, 2)))


def matched(loss, e, d):
    return loss(e["image"].unflatten(1, (2, -1)), e["hard"].unflatten(0, (-1, 2))[..., : e["image"].shape[1] // 2])


def sequence(loss, e, d):
    return loss(torch.stack([e["image"], e["text"]], 1))  # two tokens a sample


def soft(loss, e, d):
    keys = torch.cat([e["text"], e["hard"]]).detach()
    return loss(e["image"], keys, teacher_q=e["text"].detach(), alpha=0.4)


def separated(loss, e, d):
    return loss([e["image"], e["text"]], [e["hard"][::2], e["hard"][1::2]], d["label"] % 2)


def numbered(loss, e, d):
    return loss(e["image"], e["text"], d["index"])


def first_view(loss, e, d):
    owner = torch.arange(len(e["image"])).repeat_interleave(2)
    return loss([e["image"], e["text"]], negatives=e["hard"], negative_of=owner)


def gated(loss, e, d):
    return loss(e["image"], e["text"], e["image"].detach().sigmoid(), d["label"], d["label"].roll(1), d["label"])


def named(loss, e, d):
    """Each picture is near to its own hard text and to the next one's; texts of its group count for nothing."""
    own = torch.arange(len(e["image"]))
    positive = torch.cat([torch.stack([own, 2 * own], 1), torch.stack([own, 2 * own.roll(-1) + 1], 1)])
    groups = {"q_group": d["group"], "k_group": d["group"].repeat_interleave(2)}
    return loss(e["image"], e["hard"], positive=positive, **groups)


def viewed(loss, e, d):
    return loss([e["image"], e["text"], e["hard"][::2]])


def targeted(loss, e, d):
    return loss(e["image"], e["text"].detach(), e["hard"][::2].detach())


def plausible(loss, e, d):
    return loss(e["image"], e["text"].detach(), e["hard"][::2])


def mapped(loss, e, d):
    """Each embedding's first numbers as a map of two cells."""
    y, k = (e[side][:, :4].unflatten(1, (2, 2)) for side in ("image", "text"))
    return loss(y, k, torch.eye(2).expand(len(y), 2, 2))


CASES = {
    "GlobalContrastive": Case(lambda: Objective(losses.GlobalContrastive(N, 0.2), numbered), chunk=3),
    "GlobalContrastive, one modality": Case(
        lambda: Objective(losses.GlobalContrastive(N, 0.2, rule=TemperatureRule(), modalities=1), numbered)
    ),
    "FirstViewInfoNCE": Case(lambda: Objective(losses.FirstViewInfoNCE(0.2, negative_weight=0.5), first_view), chunk=3),
    "MVInfoNCE": Case(lambda: Objective(losses.MVInfoNCE(0.2), viewed), chunk=3),
    "MVDHEL": Case(lambda: Objective(losses.MVDHEL(0.2), viewed), chunk=3),
    "PolyView": Case(lambda: Objective(losses.PolyView(0.2), viewed)),
    "PixelConsistency": Case(lambda: Objective(losses.PixelConsistency(), mapped)),
    "PixContrast": Case(lambda: Objective(losses.PixContrast(0.3), mapped)),
    "PairwiseViews": Case(lambda: Objective(losses.PairwiseViews(losses.InfoNCE(0.2)), viewed)),
    "Matryoshka": Case(lambda: Objective(losses.Matryoshka(losses.InfoNCE(0.2), [2, 4]), pair), chunk=3),
    "plain method": Case(Plain),
    "plain InfoNCE": Case(Pairs),
    "plain InfoNCE, in chunks": Case(Pairs, chunk=3),
    "InfoNCE": Case(lambda: Objective(losses.InfoNCE(0.2), pair), chunk=3),
    "InfoNCE, groups": Case(lambda: Objective(losses.InfoNCE(0.2), pair_group)),
    "InfoNCE, ALIGN's": Case(lambda: Objective(losses.InfoNCE(0.2, directions="sum", label_smoothing=0.1), pair)),
    "InfoNCE, one direction": Case(lambda: Objective(losses.InfoNCE(0.2, symmetric=False), pair)),
    "InfoNCE, hard negatives": Case(lambda: Objective(losses.InfoNCE(0.2), pair_hard), chunk=3),
    "InfoNCE, in a ring": Case(lambda: InARing(losses.InfoNCE(0.2), pair), chunk=3),
    "InfoNCE, in a ring, groups": Case(lambda: InARing(losses.InfoNCE(0.2, directions="sum"), pair_group)),
    "InfoNCE, in a ring, one direction": Case(lambda: InARing(losses.InfoNCE(0.2, symmetric=False), pair)),
    "InfoNCE, in a ring, hard negatives": Case(lambda: InARing(losses.InfoNCE(0.2), pair_hard), chunk=3),
    "SigmoidLoss, in a ring, groups": Case(lambda: InARing(losses.SigmoidLoss(0.2, -1.0), pair_group), chunk=5),
    "GlobalLocalInfoNCE": Case(lambda: Objective(losses.GlobalLocalInfoNCE(0.2), local), chunk=3),
    "MatchmapInfoNCE": Case(lambda: Objective(losses.MatchmapInfoNCE(0.2), matched), chunk=3),
    "NTXent": Case(lambda: Objective(losses.NTXent(0.2, learnable=True), pair)),
    "RehearsalContrastive": Case(lambda: Objective(losses.RehearsalContrastive(0.2, learnable=True), rehearsed)),
    "SupervisedCrossModal": Case(lambda: Objective(losses.SupervisedCrossModal(0.2, learnable=True), two_labelled)),
    "SupCon": Case(lambda: Objective(losses.SupCon(0.2, learnable=True), labelled)),
    "GatedPairs": Case(lambda: Objective(losses.GatedPairs(0.2), gated), chunk=3),
    "GatedPairs, dot": Case(lambda: Objective(losses.GatedPairs(0.2, form="dot", alpha=0.3, reduction="pair"), gated)),
    "SigmoidLoss": Case(lambda: Objective(losses.SigmoidLoss(0.2, -1.0), pair), chunk=5),
    "SigmoidLoss, groups": Case(lambda: Objective(losses.SigmoidLoss(0.2, -1.0), pair_group)),
    "BinaryNCE": Case(lambda: Objective(losses.BinaryNCE(0.2, -1.0), named), chunk=3),
    "BinaryNCE, one positive": Case(lambda: Objective(losses.BinaryNCE(0.2, similarity="dot", reduction="sum"), pair)),
    "MarginRanking": Case(lambda: Objective(losses.MarginRanking(0.3), named), chunk=3),
    "MarginRanking, all": Case(lambda: Objective(losses.MarginRanking(0.3, against="mean"), named)),
    "SepCLRLoss": Case(lambda: Objective(losses.SepCLRLoss(beta_salient=3.0, beta_infoless=2.0), separated)),
    "AlignmentUniformity": Case(lambda: Objective(losses.AlignmentUniformity(), pair)),
    "TargetAlignment": Case(lambda: Objective(losses.TargetAlignment(0.3), targeted), chunk=3),
    "VisionLanguageAlignment": Case(
        lambda: Objective(losses.VisionLanguageAlignment(0.3, top_k=3), plausible), chunk=3
    ),
    "SimCTGLoss": Case(lambda: Objective(losses.SimCTGLoss(), sequence)),
    "SoftTargetInfoNCE": Case(lambda: Objective(losses.SoftTargetInfoNCE(0.3), soft)),
}


def make(case: Case) -> Method:
    return case.make().double()


def case_batch() -> dict:
    data = batch(N)
    index = torch.arange(N)
    return data | {"image": data["image"].double(), "group": index // 2, "label": index % 3}
