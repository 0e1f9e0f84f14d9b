"""A tiny model with random weights of every family of transformers that has features of pictures and of texts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from models.tower_configs import BERT, EFFICIENTNET, SMALL

VISION = {**SMALL, "image_size": 32, "patch_size": 8}
TEXT = {
    **SMALL,
    "vocab_size": 20,
    "max_position_embeddings": 16,
    "pad_token_id": 0,
    "bos_token_id": 2,
    "eos_token_id": 3,
}
SIDES = {"text_config": TEXT, "vision_config": VISION}


def clip() -> Any:
    from transformers import CLIPConfig, CLIPModel

    return CLIPModel(CLIPConfig(**SIDES, projection_dim=24))


def metaclip2() -> Any:
    from transformers import MetaClip2Config, MetaClip2Model

    return MetaClip2Model(MetaClip2Config(**SIDES, projection_dim=24))


def siglip() -> Any:
    from transformers import SiglipConfig, SiglipModel

    return SiglipModel(SiglipConfig(**SIDES))


def siglip2() -> Any:
    from transformers import Siglip2Config, Siglip2Model

    vision = {**SMALL, "patch_size": 8, "num_patches": 16}
    return Siglip2Model(Siglip2Config(text_config={**TEXT, "projection_size": 32}, vision_config=vision))


def siglip_of_two_widths() -> Any:
    """As SigLIP 2's largest: the text tower is narrower than the image tower, and its head makes up for it."""
    from transformers import SiglipConfig, SiglipModel

    vision = {**VISION, "hidden_size": 48, "num_attention_heads": 3}
    return SiglipModel(SiglipConfig(text_config={**TEXT, "projection_size": 48}, vision_config=vision))


def align() -> Any:
    from transformers import AlignConfig, AlignModel

    vision = {name: value for name, value in EFFICIENTNET.items() if name != "model_type"} | {"hidden_dim": 24}
    return AlignModel(AlignConfig(text_config=TEXT, vision_config=vision, projection_dim=24))


def altclip() -> Any:
    from transformers import AltCLIPConfig, AltCLIPModel

    text = {**TEXT, "max_position_embeddings": 24, "project_dim": 28}
    return AltCLIPModel(AltCLIPConfig(text_config=text, vision_config=VISION, projection_dim=24))


def chinese_clip() -> Any:
    from transformers import ChineseCLIPConfig, ChineseCLIPModel

    return ChineseCLIPModel(ChineseCLIPConfig(**SIDES, projection_dim=24))


def clipseg() -> Any:
    from transformers import CLIPSegConfig, CLIPSegModel

    return CLIPSegModel(CLIPSegConfig(**SIDES, projection_dim=24))


def blip() -> Any:
    from transformers import BlipConfig, BlipModel

    return BlipModel(BlipConfig(**SIDES, projection_dim=24))


def aimv2() -> Any:
    from transformers import Aimv2Config, Aimv2Model

    return Aimv2Model(Aimv2Config(**SIDES, projection_dim=24))


def vision_text() -> Any:
    from transformers import BertConfig, VisionTextDualEncoderConfig, VisionTextDualEncoderModel, ViTConfig

    text = BertConfig(**{**BERT, "vocab_size": 20})
    config = VisionTextDualEncoderConfig.from_vision_text_configs(ViTConfig(**VISION), text, projection_dim=24)
    return VisionTextDualEncoderModel(config)


def groupvit() -> Any:
    from transformers import GroupViTConfig, GroupViTModel

    vision = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "depths": [1, 1, 1],
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "image_size": 32,
        "patch_size": 8,
        "num_group_tokens": [8, 4, 0],
        "num_output_groups": [8, 4, 0],
    }
    config = GroupViTConfig(text_config=TEXT, vision_config=vision, projection_dim=24, projection_intermediate_dim=40)
    return GroupViTModel(config)


def owlvit() -> Any:
    from transformers import OwlViTConfig, OwlViTModel

    return OwlViTModel(OwlViTConfig(**SIDES, projection_dim=24))


def owlv2() -> Any:
    from transformers import Owlv2Config, Owlv2Model

    return Owlv2Model(Owlv2Config(**SIDES, projection_dim=24))


def flava() -> Any:
    from transformers import FlavaConfig, FlavaModel

    config = FlavaConfig(
        image_config=VISION, text_config=TEXT, multimodal_config=SMALL, hidden_size=32, projection_dim=24
    )
    return FlavaModel(config)


def xclip() -> Any:
    from transformers import XCLIPConfig, XCLIPModel

    vision = {
        **VISION,
        "mit_hidden_size": 32,
        "mit_intermediate_size": 48,
        "mit_num_hidden_layers": 1,
        "mit_num_attention_heads": 2,
        "num_frames": 2,
    }
    return XCLIPModel(XCLIPConfig(text_config=TEXT, vision_config=vision, projection_dim=24))


def blip2() -> Any:
    from transformers import Blip2Config, Blip2ForImageTextRetrieval

    qformer = {**SMALL, "encoder_hidden_size": 32, "vocab_size": 20}
    config = Blip2Config(vision_config=VISION, qformer_config=qformer, image_text_hidden_size=24)
    config.use_qformer_text_input = True
    return Blip2ForImageTextRetrieval(config)


def tipsv2() -> Any:
    from transformers import Tipsv2Config, Tipsv2Model

    return Tipsv2Model(Tipsv2Config(**SIDES))


def clap() -> Any:
    from transformers import ClapConfig, ClapModel

    text = {**TEXT, "max_position_embeddings": 24}
    audio = {
        "hidden_size": 32,
        "patch_embeds_hidden_size": 16,
        "depths": [1, 1],
        "num_attention_heads": [2, 2],
        "spec_size": 32,
        "num_mel_bins": 8,
        "window_size": 4,
        "patch_size": 4,
        "patch_stride": [4, 4],
    }
    return ClapModel(ClapConfig(text_config=text, audio_config=audio, projection_dim=24))


WORK: dict[str, Callable[[], Any]] = {
    "CLIP": clip,
    "MetaCLIP 2": metaclip2,
    "SigLIP": siglip,
    "SigLIP of two widths": siglip_of_two_widths,
    "SigLIP 2": siglip2,
    "ALIGN": align,
    "AltCLIP": altclip,
    "ChineseCLIP": chinese_clip,
    "CLIPSeg": clipseg,
    "BLIP": blip,
    "AIMv2": aimv2,
    "VisionTextDualEncoder": vision_text,
    "OWL-ViT": owlvit,
    "OWLv2": owlv2,
    "TIPSv2": tipsv2,
}
"""Families whose embeddings equal their own features."""

REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "GroupViT": (groupvit, "a GroupViTModel projects by a Sequential, not by one linear layer"),
    "FLAVA": (flava, "a FlavaModel has no vision_model"),
    "X-CLIP": (xclip, r"a XCLIPModel whose integration layers are 48 numbers wide inside: .* \(96\)"),
    "BLIP-2": (blip2, "a Blip2ForImageTextRetrieval has no get_image_features"),
    "CLAP": (clap, r"a ClapModel has no get_image_features \(get_text_features, get_audio_features\)"),
}
"""Families that are refused, and how the sentence begins."""
