"""A trial as a model: new heads on the same towers, that saves, loads, searches and serves as any other."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nearfar.adaptation.frozen_features import FrozenFeatures
from nearfar.adaptation.maps import CENTRES, LinearSetting, Pairs, Setting
from nearfar.adaptation.ridge import KernelFeatures, LinearFeatures, RidgePath
from nearfar.adaptation.training_plan import TrainSetting
from nearfar.adaptation.trials import Trial, centres
from nearfar.models.dual.blended import Blend, KernelMap, UnitLinear
from nearfar.models.dual.dual_encoder import DualEncoder
from nearfar.models.dual.projection import Kind
from nearfar.models.folder_checks import PARTS


@dataclass(frozen=True)
class Part:
    """One head of a blend: its kind, the width of what it gives, the centre `[width]` of that, and its share."""

    head: nn.Module
    kind: Kind
    width: int
    centre: Tensor
    share: float


def adapted(model: DualEncoder, features: FrozenFeatures, trial: Trial, *, seed: int = 0) -> DualEncoder:
    """The model of a trial, its map fitted on all of `features`. It shares the towers and the old heads with `model`;
    all of it is frozen."""
    if trial.setting is None:
        return model
    assert not isinstance(trial.setting, TrainSetting)
    image: list[Part] = []
    text: list[Part] = []
    if trial.start > 0:
        of_image, of_text = centres(features)
        for parts, side, centre in ((image, "image", of_image), (text, "text", of_text)):
            head = getattr(model, f"{side}_projection")
            parts.append(Part(head, head_kind(model, side), model.embed_dim, centre, trial.start))
    if trial.start < 1:
        picture_head, kind, centre = fitted(features, trial.setting, seed=seed)
        width = len(centre)
        image.append(Part(picture_head, kind, width, torch.zeros(width), 1 - trial.start))
        text.append(Part(nn.Identity(), "none", width, centre, 1 - trial.start))
    made = with_heads(model, image, text)
    made.temperature = trial.temperature
    return made.to(model.device).freeze(*PARTS).eval()


def fitted(features: FrozenFeatures, setting: Setting, *, seed: int = 0) -> tuple[nn.Module, Kind, Tensor]:
    """A head for pictures that brings them to their captions, its kind, and the captions' centre `[T]`."""
    pairs = Pairs.of(features)
    out = pairs.y.shape[1]
    if isinstance(setting, LinearSetting):
        about_mean = LinearFeatures.of(pairs.x)
        path = RidgePath(about_mean, pairs.x, pairs.y)
        size = float(path.values.sum()) / min(pairs.x.shape)
        weight = about_mean.widen(path.weight(setting.penalty * size))
        linear = UnitLinear(pairs.x.shape[1], out)
        linear.weight.data = weight.T.float().contiguous()
        linear.bias.data = -(about_mean.mean @ weight).float()
        return linear, {"unit": "linear"}, pairs.centre
    nearness = KernelFeatures.of(pairs.x, setting.gamma, centres=CENTRES, seed=seed)
    weight = nearness.whiten @ RidgePath(nearness, pairs.x, pairs.y).weight(setting.penalty)
    head = KernelMap(pairs.x.shape[1], len(nearness.centres), out)
    head.centres, head.scale = nearness.centres.float(), torch.tensor(nearness.scale)
    head.weight.data = weight.float()
    return head, {"kernel": len(nearness.centres)}, pairs.centre


def head_kind(model: DualEncoder, side: str) -> Kind:
    """How a model's own head is described as a part of a blend."""
    made_of = model.config()
    kind: Kind = made_of[f"{side}_projection"]
    return {"heads": made_of["image_heads"], "of": kind} if side == "image" and made_of["image_heads"] > 1 else kind


def with_heads(model: DualEncoder, image: list[Part], text: list[Part]) -> DualEncoder:
    """Another model with the same towers, and blends of these parts as its projections."""
    made = DualEncoder(
        model.image,
        model.text,
        tokenizer=model.tokenizer,
        pixels=model.pixels,
        embed_dim=sum(part.width for part in image),
        image_projection=blend_kind(image),
        text_projection=blend_kind(text),
        projection_dropout=model.config()["projection_dropout"],
        max_length=model.max_length,
    )
    made.image_projection, made.text_projection = blended(image), blended(text)
    made.adapters = dict(model.adapters)
    return made


def blend_kind(parts: list[Part]) -> Kind:
    """How a blend is described in a model's config."""
    return {"blend": [[part.kind, part.width] for part in parts]}


def blended(parts: list[Part]) -> Blend:
    """The heads side by side, each about its centre and with its share."""
    made = Blend([part.head for part in parts], [part.width for part in parts])
    return made.centred([part.centre for part in parts], [part.share for part in parts])
