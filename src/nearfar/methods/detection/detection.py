"""Fine-tuning of a detector on boxes of base classes (DITO, arXiv 2310.00161, with the losses of its released code).

    L = |centerness - target| + 8 (1 - IoU)            of proposals
      + CE(cos(region, class names) / (0.01 T))        the background's rows count 0.9
      + smooth L1 of box corrections                   of regions on things

Each is a mean over the places or regions that count, of all processes. Novel classes have no boxes here: what lies in
theirs is background, and only the frozen model's scores know better.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from nearfar import distributed
from nearfar.data.batches.data_info import DataInfo
from nearfar.errors import UserError
from nearfar.methods.base import Batch, Method, decay_groups
from nearfar.methods.detection.detection_targets import place_targets, sampled_regions, things_in_view
from nearfar.methods.video.frozen_texts import FrozenTexts
from nearfar.models.detection.detections import box_corrections
from nearfar.models.detection.proposals import best_proposals, places
from nearfar.models.detection.region_head import text_logits
from nearfar.ops.regions import box_iou

IOU_WEIGHT = 8.0
"""Of the boxes of proposals (released code)."""


class Detection(Method):
    """A `nearfar.models.detector` learns to propose boxes and to name them, by boxes of base classes.

    Texts stay as they are; proposals, head, pyramid and transformer learn.

    Args:
        model: the detector, usually one that `dito` trained; `.model` is what to evaluate and save.
        base: names of the classes to learn, among those of the data; None: all. Things of others count as background.
        template: what a name is put into.
        backbone_scale: the learning rate of the transformer, in that of the rest (released code: 0.6).
        background_weight: of the regions that hold nothing (released code: 0.9).
        regions: boxes of each picture that the head learns from (usual: 512 at 1024 pixels).
        proposals: boxes of each picture that they are drawn from, beside the things themselves.

    Logs `centerness_loss`, `proposal_loss`, `class_loss`, `box_loss`.

    Raises:
        UserError: another model, no class names, or names that the data have not.

    >>> from nearfar.data import train_tokenizer
    >>> from nearfar.models import detector
    >>> model = detector("tiny-vit", window=4, width=16, hidden=32, tokenizer=train_tokenizer(["a cat"], 300))
    >>> method = Detection(model)
    >>> method.begin(DataInfo(classes=["cat", "dog"]))
    >>> boxes, label = torch.tensor([[[8.0, 8.0, 40.0, 40.0]]]), torch.tensor([[1]])
    >>> sorted(method({"image": torch.rand(1, 3, 64, 64), "boxes": boxes, "box_label": label}))
    ['box_loss', 'centerness_loss', 'class_loss', 'loss', 'proposal_loss']
    """

    boxes = True
    captions = False

    def __init__(
        self,
        model: Any,
        *,
        base: Sequence[str] | None = None,
        template: str = "{}",
        backbone_scale: float = 0.6,
        background_weight: float = 0.9,
        regions: int = 64,
        proposals: int = 200,
    ) -> None:
        super().__init__()
        if not hasattr(model, "level_regions"):
            raise UserError(
                f"detection trains a detector, and this is a {type(model).__name__}: make one of it with "
                "nearfar.models.detector (in a recipe, model.make: detector)"
            )
        if "{}" not in template:
            raise UserError(f"template is {template!r}: it has no {{}} for the name")
        if not background_weight >= 0 or not backbone_scale >= 0:
            raise UserError("background_weight and backbone_scale are numbers from 0 on")
        if regions < 1 or proposals < 1:
            raise UserError(f"regions={regions} and proposals={proposals}: whole numbers from 1 on")
        self.model = model.train_parts("image", "regions", "boxes")
        self.base, self.template = base, template
        self.backbone_scale, self.background_weight = backbone_scale, background_weight
        self.regions, self.proposals = regions, proposals
        self.frozen_texts = FrozenTexts()
        self.number: Tensor | None = None
        self.tokens: Any = None

    def begin(self, data: DataInfo) -> None:
        super().begin(data)
        names = list(data.classes or ())
        if not names:
            raise UserError(f"{data.name} names no classes, which boxes are to be called by: give the source classes")
        base = names if self.base is None else list(self.base)
        if unknown := [name for name in base if name not in names]:
            some = ", ".join(names[:9]) + ", ..." * (len(names) > 9)
            raise UserError(f"base has {unknown[0]!r}, which is none of the classes of {data.name}: {some}")
        self.number = torch.tensor([base.index(name) if name in base else -1 for name in names] + [-1])
        self.tokens = self.model.tokenize(["", *(self.template.format(name) for name in base)])

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        if self.number is None:
            raise UserError("detection knows no class names yet: call begin with the data's first")
        pixels, side = batch["image"], batch["image"].shape[-1]
        boxes, label = batch["boxes"].to(pixels), self.number.to(pixels.device)[batch["box_label"]]
        if "geometry" in batch:
            boxes, label = things_in_view(boxes, label, batch["geometry"][0], side)
        maps = self.model.pyramid_maps(pixels)
        scores, proposed = self.model.proposals(maps, side)
        counted, losses = _proposal_losses(maps, scores, proposed, boxes, label, side)
        weight = self._weight(counted)
        losses = {name: weight * loss for name, loss in losses.items()}
        with torch.no_grad():
            chosen, _ = best_proposals(scores, proposed, self.proposals, side)
            regions, target, things = sampled_regions(chosen, boxes, label, count=self.regions)
            texts = self.frozen_texts(self.model, self.tokens)
        features = self.model.region_features(maps, regions, side)
        logits = text_logits(self.model.head.embeddings(features), texts, 0.01 * self.model.class_temperature)
        weight = self._weight((target >= 0).sum())
        losses["class_loss"] = weight * class_loss(logits[target >= 0], target[target >= 0], self.background_weight)
        on_things = target > 0
        change = self.model.head.boxes(features[on_things])
        goal = box_corrections(regions[on_things], things[on_things])
        box = F.smooth_l1_loss(change, goal, reduction="sum") / max(1, int((target >= 0).sum()))
        losses["box_loss"] = weight * box
        return {"loss": torch.stack(list(losses.values())).sum()} | {
            name: each.detach() for name, each in losses.items()
        }

    def _weight(self, count: Tensor) -> Tensor | float:
        """Of a mean over so many of this process's places or regions, so that the mean over processes is that over all
        of them."""
        return distributed.mean_weight(count) if self.training else 1.0

    def param_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """Four groups: with and without weight decay, the transformer's at `backbone_scale` times the learning rate."""
        image = list(self.model.pair.image.parameters())
        own = {id(p) for p in image}
        rest = [p for p in self.model.parameters() if id(p) not in own]
        slow = [{**group, "lr_scale": self.backbone_scale} for group in decay_groups(image, weight_decay)]
        return [*slow, *decay_groups(rest, weight_decay)]


def class_loss(logits: Tensor, target: Tensor, background_weight: float) -> Tensor:
    """The mean cross-entropy of logits `[N, 1 + K]`, floating point, with `target` `[N]` int64, in which rows of the
    background, class 0, count `background_weight`.

    >>> logits = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    >>> one, other = (-logits.log_softmax(1)[i, i] for i in (0, 1))
    >>> bool(torch.isclose(class_loss(logits, torch.tensor([0, 1]), 0.9), (0.9 * one + other) / 2))
    True
    """
    each = F.cross_entropy(logits, target, reduction="none")
    return (each * torch.where(target == 0, background_weight, 1.0)).sum() / max(1, len(target))


def _proposal_losses(
    maps: Any, scores: Tensor, proposed: Tensor, boxes: Tensor, label: Tensor, side: int
) -> tuple[Tensor, dict[str, Tensor]]:
    """How many places count; and, by that number, the losses of centerness, L1, and of boxes, 1 - IoU."""
    with torch.no_grad():
        centres, anchors = (torch.cat(parts) for parts in zip(*places(maps, side).values(), strict=True))
        target = place_targets(centres, anchors, boxes, label >= 0)
    counted = target.counts.sum()
    count = max(1, int(counted))
    central = ((scores.sigmoid() - target.centerness).abs() * target.counts).sum() / count
    overlap = box_iou(proposed[target.positive], target.boxes[target.positive])
    return counted, {"centerness_loss": central, "proposal_loss": IOU_WEIGHT * (1 - overlap).sum() / count}
