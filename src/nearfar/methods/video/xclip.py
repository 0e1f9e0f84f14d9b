"""X-CLIP (arXiv 2208.02816): an image-text model becomes a recogniser of videos, with class names for classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from nearfar.data.batches.data_info import DataInfo
from nearfar.errors import UserError
from nearfar.methods.base import Batch, Method
from nearfar.methods.video.clip_mixing import mix_clips, smoothed
from nearfar.methods.video.frozen_texts import FrozenTexts

TEMPERATURE = 0.01
"""What cosines are divided by where the model says nothing: what released CLIPs learned."""


class XCLIP(Method):
    """Cross-entropy between the class of a video and the cosines of the video with all class names.

    With v the embedding of a video and u'_k the name of class k adapted to it, the logits are `cos(v, u'_k) / tau`
    (equation 1), and the loss is `-sum_k y_k log softmax(logits)_k` with soft targets y: labels are smoothed, and clips
    mixed in training. Names are compared with videos, not videos with one another: a batch has no negatives.

    The text tower and its projection are frozen, as in all of the paper's settings, and names are embedded once. The
    image tower is trained, unless it is frozen, and with a learning rate of its own all that a video encoder added.

    Args:
        model: a `nearfar.models.VideoEncoder`, as `nearfar.models.video_encoder` makes it; `.model` is what to evaluate
            and save. Its parts may be left out one by one: without all of them this fine-tunes the mean of frames.
        classes: the name of each label; by default those of the training data.
        template: what a name is put into (paper: the name alone).
        smoothing: the share of the target that is spread over all classes (paper: 0.1).
        mixup: of the Beta distribution of mixup's shares (paper: 0.8); 0 is without.
        cutmix: the same of cutmix (paper: 1.0). With both, one of them is drawn for each batch.
        added_lr: the learning rate of what was added, in those of the image tower (paper: 10). All end at the same
            `training.min_lr`.
        temperature: tau, fixed; by default the model's, else 0.01.

    The batch has `video` `[B, T, 3, H, W]` float32 and `label` `[B]` int64; texts of single videos are not read. Logs
    `accuracy`, the share of videos whose name comes first, in training of the larger part of each mixture.

    Raises:
        UserError: another model, no class names, or a video without a label among them.

    >>> from nearfar.data import train_tokenizer
    >>> from nearfar.models import video_encoder
    >>> names = ["moving up", "moving down"]
    >>> model = video_encoder("tiny-vit", frames=2, tokenizer=train_tokenizer(names, 300))
    >>> batch = {"video": torch.rand(2, 2, 3, 64, 64), "label": torch.tensor([0, 1])}
    >>> XCLIP(model, classes=names)(batch)["loss"].ndim
    0
    """

    captions = False

    def __init__(
        self,
        model: Any,
        *,
        classes: Sequence[str] | None = None,
        template: str = "{}",
        smoothing: float = 0.1,
        mixup: float = 0.8,
        cutmix: float = 1.0,
        added_lr: float = 10.0,
        temperature: float | None = None,
    ) -> None:
        super().__init__()
        if not (hasattr(model, "similarities") and hasattr(model, "added")):
            raise UserError(
                f"xclip trains a model of videos, and this is a {type(model).__name__}: make one of it with "
                "nearfar.models.video_encoder (in a recipe, model.make: video_encoder)"
            )
        if not 0 <= smoothing < 1:
            raise UserError(f"smoothing is {smoothing}: it is a share, from 0 to below 1")
        for name, value in (("mixup", mixup), ("cutmix", cutmix)):
            if value < 0:
                raise UserError(f"{name} is {value}: it is above 0, or 0 for none")
        if added_lr <= 0:
            raise UserError(f"added_lr is {added_lr}: it must be above 0")
        if temperature is not None and temperature <= 0:
            raise UserError(f"temperature is {temperature}: it must be above 0")
        if "{}" not in template:
            raise UserError(f"template is {template!r}: it has no {{}} for the name")
        self.model = model.freeze("text", "text_projection")
        self.classes, self.template = classes, template
        self.smoothing, self.mixup, self.cutmix, self.added_lr = smoothing, mixup, cutmix, added_lr
        self.temperature = float(temperature or model.temperature or TEMPERATURE)
        self.frozen_texts = FrozenTexts()
        self.tokens: Any = None
        if classes is not None:
            self._name(classes)

    def begin(self, data: DataInfo) -> None:
        super().begin(data)
        if self.classes is None:
            if not data.classes:
                raise UserError(f"{data.name} names no classes, which xclip compares videos with: set method.classes")
            self._name(data.classes)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        if self.tokens is None:
            raise UserError("xclip knows no class names yet: set classes, or call begin with the data's first")
        if "label" not in batch:
            raise UserError(
                "xclip needs the class of each video, and these data have no labels: name the column with label=NAME, "
                "or use class folders"
            )
        video, label = batch["video"], batch["label"]
        texts = self.frozen_texts(self.model, self.tokens)
        if (unknown := label[(label < 0) | (label >= len(texts))]).numel():
            raise UserError(
                f"a video has the label {int(unknown[0])}, and there are names for 0 to {len(texts) - 1}: leave such "
                "videos out, or set method.classes"
            )
        targets = smoothed(label, len(texts), self.smoothing)
        if self.training:
            video, targets = mix_clips(video, targets, mixup_alpha=self.mixup, cutmix_alpha=self.cutmix)
        cosines = self.model.similarities(video, texts)
        logits = cosines.to(torch.promote_types(cosines.dtype, torch.float32)) / self.temperature
        hits = logits.argmax(1) == targets.argmax(1)
        return {"loss": F.cross_entropy(logits, targets.to(logits)), "accuracy": hits.to(logits).mean()}

    def learned(self) -> dict[str, float]:
        """The temperature of the similarities, fixed as it is."""
        return {"temperature": self.temperature}

    def param_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """Four groups: of what was added and of the rest, those with weight decay and those without, which are vectors,
        scalars and embeddings of places. What was added has `added_lr` times the learning rate."""
        added = {name for name, _ in self.model.added()}
        groups: dict[tuple[bool, bool], list[Any]] = {(a, d): [] for a in (False, True) for d in (True, False)}
        for name, parameter in self.model.named_parameters():
            if parameter.requires_grad:
                groups[name in added, parameter.ndim >= 2 and not of_places(name)].append(parameter)
        return [
            {
                "params": parameters,
                "weight_decay": weight_decay if decays else 0.0,
                "lr_scale": self.added_lr if is_added else 1.0,
                "absolute_floor": True,
            }
            for (is_added, decays), parameters in groups.items()
        ]

    def _name(self, classes: Sequence[str]) -> None:
        self.tokens = self.model.tokenize([self.template.format(name) for name in classes])


def of_places(name: str) -> bool:
    """Whether a parameter of this name holds embeddings of places or times, or a class token.

    >>> [of_places(name) for name in ("pair.image.backbone.embeddings.position_embeddings", "integration.time", "a.w")]
    [True, True, False]
    """
    return "position" in name or "pos_embed" in name or "cls_token" in name or name.endswith("integration.time")
