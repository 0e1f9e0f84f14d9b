"""A video as the mean of its frames: how any model of pictures embeds videos. It cannot know the frames' order."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from nearfar.data.video.frame_choice import FrameChoice
from nearfar.errors import UserError
from nearfar.models.video.reads_videos import ReadsVideos


class FrameMean(ReadsVideos, nn.Module):
    """A model of pictures that reads videos: the mean of the embeddings of frames, each as the model gives it (the
    baseline of X-CLIP, arXiv 2208.02816). Texts are the model's own.

    Args:
        encoder: anything with `encode_image`, `preprocess` and `image_size`.
        frame_choice: which frames; by default 8, one of each eighth of a video.

    Raises:
        UserError: a model that takes no pictures.

    >>> import nearfar, numpy as np
    >>> model = FrameMean(nearfar.load("towers"))
    >>> grey = np.zeros((25, 32, 32, 3), np.uint8)
    >>> model.encode_video(model.preprocess_video([grey])).shape
    torch.Size([1, 256])
    """

    def __init__(self, encoder: Any, frame_choice: FrameChoice | None = None) -> None:
        super().__init__()
        if not (hasattr(encoder, "encode_image") and hasattr(encoder, "preprocess")):
            raise UserError(f"a {type(encoder).__name__} takes no pictures, and so no frames of videos")
        self.encoder = encoder
        self.frame_choice = FrameChoice() if frame_choice is None else frame_choice
        # A model of pictures alone has no such attributes, and so this one has none.
        for name in ("tokenize", "encode_text"):
            if hasattr(encoder, name):
                setattr(self, name, getattr(encoder, name))

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name not in ("image_size", "mean", "std", "embed_dim", "tokenizer", "max_length", "preprocess"):
                raise
        return getattr(self.encoder, name)

    def encode_video(self, frames: Tensor, normalize: bool = False) -> Tensor:
        """Embeddings `[B, D]` of frames `[B, T, 3, S, S]` float32; of unit length with `normalize=True`."""
        each = self.encoder.encode_image(frames.flatten(0, 1)).unflatten(0, frames.shape[:2])
        embedding = each.mean(1)
        return F.normalize(embedding, dim=-1) if normalize else embedding


def for_videos(encoder: Any, source: Any) -> Any:
    """The encoder; in the form of `FrameMean` where records have videos and no pictures, and it takes pictures alone.

    Args:
        encoder: any encoder.
        source: what it is to embed, with `columns`, or records that do not say what they hold.
    """
    columns = getattr(source, "columns", ())
    still = hasattr(encoder, "encode_image") and not hasattr(encoder, "encode_video")
    return FrameMean(encoder) if still and "video" in columns and "image" not in columns else encoder
