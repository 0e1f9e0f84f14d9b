"""Checkpoints of X-CLIP from transformers as a `VideoEncoder`: the same numbers, or a refusal."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from nearfar.data.video.frame_choice import FrameChoice
from nearfar.errors import UserError
from nearfar.models.dual.own_features import same
from nearfar.models.dual.pretrained import from_transformers
from nearfar.models.towers.pixels import IMAGENET, Pixels
from nearfar.models.towers.processors import as_pixels
from nearfar.models.towers.tokens import PROBE
from nearfar.models.video.frame_messages import layers_of
from nearfar.models.video.video_encoder import VideoEncoder
from nearfar.modes import evaluating

VISION = (
    *("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_channels", "image_size"),
    *("patch_size", "hidden_act", "layer_norm_eps", "attention_dropout"),
)
TEXT = (
    *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
    *("max_position_embeddings", "hidden_act", "layer_norm_eps", "attention_dropout", "pad_token_id", "bos_token_id"),
)


def is_xclip(model: Any) -> bool:
    """Whether a model is transformers' X-CLIP."""
    return getattr(getattr(model, "config", None), "model_type", None) == "xclip"


def from_xclip(model: Any, tokenizer: Any, *, preprocess: Any = None) -> VideoEncoder:
    """A `VideoEncoder` in float32 with the weights of transformers' `XCLIPModel`, in the mode that is in. It stays as
    it is.

    Args:
        model: the model.
        tokenizer: its tokenizer, a CLIP's.
        preprocess: its image processor, or `Pixels`; by default what the released ones were trained with.

    Raises:
        UserError: one whose logits come out otherwise here; another tokenizer.
    """
    config, name = model.config, type(model).__name__
    inside, outside = config.vision_config.mit_intermediate_size, config.projection_dim
    if inside != 4 * outside:
        raise UserError(
            f"a {name} whose integration layers are {inside} numbers wide inside: here they are four times the width "
            f"of its embeddings ({4 * outside}), as in the released ones; use it through transformers"
        )
    state = {name: value.detach().float() for name, value in model.state_dict().items()}
    pixels = _pixels(preprocess, int(config.vision_config.image_size))
    pair = from_transformers(_clip(config, state), tokenizer, preprocess=pixels, copy=False)
    made = VideoEncoder(
        pair,
        frame_choice=FrameChoice(config.vision_config.num_frames),
        messages=config.vision_config.num_attention_heads,
        integration_layers=config.vision_config.mit_num_hidden_layers,
        integration_heads=config.vision_config.mit_num_attention_heads,
        prompt_layers=config.prompt_layers,
        prompt_heads=config.prompt_num_attention_heads,
    )
    _fill(made, state)
    _check(made, model)
    return made.train(model.training)


def _clip(config: Any, state: dict[str, Tensor]) -> Any:
    """The CLIP inside."""
    from transformers import CLIPConfig, CLIPModel

    vision = {name: getattr(config.vision_config, name) for name in VISION}
    # The summary of a text is its token of the largest id, which CLIP does of one that ends texts with the id 2.
    text = {name: getattr(config.text_config, name) for name in TEXT} | {"eos_token_id": 2}
    clip = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=config.projection_dim))
    names = {name: name.replace("pre_layrnorm", "pre_layernorm") for name in clip.state_dict()}
    clip.load_state_dict({ours: state[theirs] for ours, theirs in names.items()})
    return clip.eval()


def _fill(made: VideoEncoder, state: dict[str, Tensor]) -> None:
    """The weights of the added parts."""
    with torch.no_grad():
        layer: Any
        for place, layer in enumerate(layers_of(made.pair.image.backbone)):
            theirs = f"vision_model.encoder.layers.{place}."
            _copy(layer.message_fc, state, f"{theirs}message_fc")
            _copy(layer.message_ln, state, f"{theirs}message_ln")
            _copy_attention(layer.message_attn, state, f"{theirs}message_attn")
        if made.integration.time is not None:
            made.integration.time.copy_(state["mit.position_embedding"])
        for place, layer in enumerate(made.integration.layers):
            theirs = f"mit.encoder.layers.{place}."
            _copy_attention(layer.attention, state, f"{theirs}self_attn")
            pairs = {"norm1": "layer_norm1", "norm2": "layer_norm2", "mlp.0": "mlp.fc1", "mlp.2": "mlp.fc2"}
            for ours, name in pairs.items():
                _copy(layer.get_submodule(ours), state, theirs + name)
        if (prompts := made.prompts) is not None:
            _copy(prompts.norm_patches, state, "prompts_visual_layernorm")
            prompts.projection.copy_(state["prompts_visual_projection"])
            prompts.alpha.copy_(state["prompts_generator.alpha"])
            _copy(prompts.norm, state, "prompts_generator.layernorm")
            for place, layer in enumerate(prompts.layers):
                theirs = f"prompts_generator.decoder.{place}."
                pairs = {"norm1": "norm1", "norm2": "norm3", "mlp.0": "mlp.0", "mlp.2": "mlp.3"}
                pairs |= {"query": "cross_attn.q_proj", "key": "cross_attn.k_proj", "value": "cross_attn.v_proj"}
                for ours, name in (pairs | {"out": "cross_attn.proj"}).items():
                    _copy(layer.get_submodule(ours), state, theirs + name)


def _copy(module: nn.Module, state: dict[str, Tensor], name: str) -> None:
    module.load_state_dict({part: state[f"{name}.{part}"] for part in module.state_dict()})


def _copy_attention(attention: nn.MultiheadAttention, state: dict[str, Tensor], name: str) -> None:
    """Query, key and value lie one below the other in torch's own."""
    for part in ("weight", "bias"):
        rows = torch.cat([state[f"{name}.{which}_proj.{part}"] for which in "qkv"])
        getattr(attention, f"in_proj_{part}").copy_(rows)
    _copy(attention.out_proj, state, f"{name}.out_proj")


def _check(made: VideoEncoder, model: Any) -> None:
    """Hold the logits of one video with two texts against the model's own."""
    frames = made.frame_choice.frames
    noise = torch.Generator().manual_seed(0)
    video = torch.randn(1, frames, 3, made.image_size, made.image_size, generator=noise)
    tokens = made.tokenize(list(PROBE))
    like = next(model.parameters())
    with evaluating(model), evaluating(made):
        own = model(pixel_values=video.to(like), **{name: value.to(like.device) for name, value in tokens.items()})
        ours = made(video, tokens) / made.temperature
        own_video, ours_video = own.video_embeds.float().cpu(), made.encode_video(video, normalize=True)
    if not (same(ours, own.logits_per_video.float().cpu()) and same(ours_video, own_video)):
        raise UserError(
            f"this {type(model).__name__} compares videos and texts in a way that is not followed here: its logits for "
            "a probe are others; use it through transformers"
        )


def _pixels(preprocess: Any, size: int) -> Pixels:
    if preprocess is None:
        return Pixels(size, *IMAGENET, resample="bilinear")
    return preprocess if isinstance(preprocess, Pixels) else as_pixels(preprocess, default=size)
