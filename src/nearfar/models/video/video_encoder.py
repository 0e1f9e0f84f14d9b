"""X-CLIP (arXiv 2208.02816): an image-text model made into one of videos, by three small parts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nearfar.data.video.frame_choice import FrameChoice
from nearfar.errors import UserError
from nearfar.models import model_folder
from nearfar.models.dual.around_pair import AroundPair, open_pair
from nearfar.models.dual.dual_encoder import DualEncoder
from nearfar.models.hub import push_to_hub
from nearfar.models.towers.tokens import Tokens
from nearfar.models.video.frame_integration import FrameIntegration
from nearfar.models.video.frame_messages import add_messages, set_frames
from nearfar.models.video.reads_videos import ReadsVideos
from nearfar.models.video.video_prompts import VideoPrompts


class VideoEncoder(ReadsVideos, AroundPair):
    """Videos and texts in one space. `nearfar.models.video_encoder` makes one of any dual encoder.

    Frames send one another messages inside the image tower; a small transformer makes one embedding of theirs; texts
    are adapted to each video before they are compared with it. Without all three, the embedding of a video is the mean
    of its frames', the same as `FrameMean`.

    Args:
        pair: the dual encoder, which becomes part of this model.
        frame_choice: which frames of a video are read.
        messages: whether frames send messages in every layer of the image tower, which must be a transformer with a
            class token; or how many heads the attention over time has.
        integration_layers: of the transformer over frames (paper: 1); 0 takes the mean.
        prompt_layers: of the prompts (paper: 2); 0 leaves texts as they are.
        integration_heads, prompt_heads: by default one for each 64 numbers of an embedding.

    Attributes:
        image_size, mean, std: what `preprocess` makes of frames.
        tokenizer, max_length: what `tokenize` makes of texts.
        embed_dim: width of the shared space.
        temperature: the divisor of similarities that it was trained with; None where there is none.

    Raises:
        UserError: messages for an image tower without a class token, or without layers.
    """

    push_to_hub = push_to_hub

    NEEDED: ClassVar[tuple[str, ...]] = ("pair",)
    """What its saved config must have."""

    MODELS_WITHIN: ClassVar[dict[str, type]] = {"pair": DualEncoder}
    """Which of these are models themselves."""

    def __init__(
        self,
        pair: DualEncoder,
        *,
        frame_choice: FrameChoice | None = None,
        messages: bool | int = True,
        integration_layers: int = 1,
        prompt_layers: int = 2,
        integration_heads: int | None = None,
        prompt_heads: int | None = None,
    ) -> None:
        super().__init__()
        self.frame_choice = FrameChoice() if frame_choice is None else frame_choice
        self.pair = pair
        self.messages = messages
        self.made_of = {
            "integration_layers": integration_layers,
            "prompt_layers": prompt_layers,
            "integration_heads": integration_heads,
            "prompt_heads": prompt_heads,
        }
        if messages:
            if pair.image.prefix < 1:
                raise UserError(
                    f"{type(pair.image.backbone).__name__} has no class token for frames to make messages of: take a "
                    "pair with one, such as a CLIP, or messages=False"
                )
            add_messages(pair.image.backbone, pair.image.width, None if messages is True else messages)
        self.integration = FrameIntegration(
            pair.embed_dim, self.frame_choice.frames, integration_layers, integration_heads
        )
        self.prompts = (
            VideoPrompts(pair.image.width, pair.embed_dim, prompt_layers, prompt_heads) if prompt_layers else None
        )

    @property
    def temperature(self) -> float | None:
        """The divisor of similarities; None where there is none."""
        return self.pair.temperature

    @temperature.setter
    def temperature(self, value: float | None) -> None:
        self.pair.temperature = value

    @property
    def frozen(self) -> tuple[str, ...]:
        """The parts of the pair that are not trained."""
        return self.pair.frozen

    def freeze(self, *parts: str) -> Self:
        """Stop training parts of the pair: "image" with its messages, "text", "image_projection", "text_projection"."""
        self.pair.freeze(*parts)
        return self

    def unfreeze(self, *parts: str) -> Self:
        """Train these parts again; without names, all."""
        self.pair.unfreeze(*parts)
        return self

    def resize_images(self, image_size: int) -> Self:
        """Take frames of another size from here on; see `DualEncoder.resize_images`."""
        self.pair.resize_images(image_size)
        return self

    def tokenize(self, texts: Any) -> Tokens:
        """`input_ids` and `attention_mask` `[B, L]` long."""
        return self.pair.tokenize(texts)

    def frame_tokens(self, frames: Tensor) -> Tensor:
        """The summary of each frame and its P patches, `[B, T, 1 + P, W]`, of frames `[B, T, 3, S, S]` float32, in the
        weights' dtype. Frames of one video exchange messages, and know nothing of other videos.

        Raises:
            UserError: frames of another shape than the image tower takes.
        """
        if frames.ndim != 5:
            size = self.image_size
            raise UserError(f"frames are [B, T, 3, {size}, {size}] here; these are {list(frames.shape)}")
        set_frames(self.pair.image, frames.shape[1])
        try:
            return self.pair.image_tokens(frames.flatten(0, 1)).unflatten(0, frames.shape[:2])
        finally:
            set_frames(self.pair.image, 1)

    def encode_video(self, frames: Tensor, normalize: bool = False) -> Tensor:
        """Embeddings `[B, embed_dim]` of frames `[B, T, 3, S, S]` float32, in the weights' dtype; of unit length with
        `normalize=True`. Raises UserError for frames of another shape."""
        embedding = self._integrated(self.frame_tokens(frames))
        return F.normalize(embedding, dim=-1) if normalize else embedding

    def encode_text(self, tokens: Mapping[str, Tensor] | Tensor, normalize: bool = False) -> Tensor:
        """Embeddings `[K, embed_dim]` of tokens `[K, L]` int64, in the weights' dtype, not adapted to any video; of
        unit length with `normalize=True`."""
        return self.pair.encode_text(tokens, normalize)

    def similarities(self, frames: Tensor, texts: Tensor) -> Tensor:
        """Cosines `[B, K]` of videos, frames `[B, T, 3, S, S]` float32, with texts adapted to each of them; `texts`
        are embeddings `[K, embed_dim]` as `encode_text` returns them, not of unit length. Divided by `temperature` they
        are the paper's logits."""
        tokens = self.frame_tokens(frames)
        video = F.normalize(self._integrated(tokens), dim=-1)
        if self.prompts is None:
            return video @ F.normalize(texts, dim=-1).T
        adapted = self.prompts(texts, self.prompts.patches(tokens[:, :, 1:]))
        return torch.einsum("bd,bkd->bk", video, F.normalize(adapted, dim=-1))

    def forward(self, frames: Tensor, tokens: Mapping[str, Tensor]) -> Tensor:
        """`similarities` `[B, K]` of frames `[B, T, 3, S, S]` float32 and of K texts' tokens `[K, L]` int64."""
        return self.similarities(frames, self.encode_text(tokens))

    def added(self) -> Iterator[tuple[str, nn.Parameter]]:
        """The parameters that the dual encoder did not bring, with their names."""
        return (
            (name, parameter)
            for name, parameter in self.named_parameters()
            if "message_" in name or not name.startswith("pair.")
        )

    def config(self) -> dict[str, Any]:
        """Everything but weights and tokenizer, as plain data: what `from_config` builds the model from."""
        made = {**asdict(self.frame_choice), "messages": self.messages, **self.made_of}
        return {"pair": self.pair.config(), "video": made}

    @classmethod
    def from_config(cls, config: Mapping[str, Any], tokenizer: Any) -> Self:
        """A model of this shape with fresh weights."""
        made = dict(config.get("video", {}))
        choice = {name: made.pop(name) for name in asdict(FrameChoice()) if name in made}
        pair = DualEncoder.from_config(config["pair"], tokenizer)
        return cls(pair, frame_choice=FrameChoice(**choice), **made)

    def save_pretrained(self, folder: str | Path, *, state_dict: Mapping[str, Tensor] | None = None) -> Path:
        """Write `config.json`, `model.safetensors`, tokenizer and card to `folder`, each file whole or not at all.

        `state_dict` gives the weights where the module does not hold them all (sharded training).
        """
        return model_folder.write(folder, self, state_dict or self.state_dict())

    def _integrated(self, tokens: Tensor) -> Tensor:
        """Embeddings of videos of the tokens of their frames."""
        frames = self.pair.image_projection(tokens[:, :, 0])
        return self.integration(frames)


def video_encoder(
    pair: Any = "tiny-vit",
    *,
    frames: int = 8,
    sampling: str = "uniform",
    spacing: str = "frame",
    step: int = 1,
    short: str = "hold",
    messages: bool = True,
    integration_layers: int = 1,
    prompt_layers: int = 2,
    tokenizer: Any = None,
    image_size: int | None = None,
) -> VideoEncoder:
    """A video encoder around a copy of a dual encoder (X-CLIP, arXiv 2208.02816).

    Args:
        pair: a dual encoder, a folder or a name that `nearfar.load` opens as one, or the arguments of
            `nearfar.models.create` by name.
        frames, sampling, spacing, step, short: which frames of a video are read; see `nearfar.data.FrameChoice`.
        messages: whether frames send messages inside the image tower.
        integration_layers: layers of the transformer over frames; 0 takes the frames' mean.
        prompt_layers: layers of the video-specific prompts; 0 leaves texts as they are.
        tokenizer: for a pair that is made from scratch.
        image_size: side of the frames, where the pair's own is not to be taken.

    Raises:
        UserError: no such pair, or one that is no dual encoder; a setting that it cannot have.

    >>> from nearfar.data import train_tokenizer
    >>> model = video_encoder("tiny-vit", frames=4, tokenizer=train_tokenizer(["moving to the left"], 300)).eval()
    >>> model(torch.rand(2, 4, 3, 64, 64), model.tokenize(["moving to the left", "moving up", "growing"])).shape
    torch.Size([2, 3])
    """
    opened = open_pair(
        pair, "a video encoder is made of a DualEncoder, such as a CLIP", tokenizer=tokenizer, image_size=image_size
    )
    choice = FrameChoice(frames, sampling, spacing, step, short)  # type: ignore[arg-type]
    return VideoEncoder(
        opened,
        frame_choice=choice,
        messages=messages,
        integration_layers=integration_layers,
        prompt_layers=prompt_layers,
    )
