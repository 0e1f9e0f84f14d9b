"""What a model that reads videos says of them: which frames it takes, and what it makes of each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from nearfar.data.video.frame_choice import FrameChoice
from nearfar.data.video.video_frames import read_frames


class ReadsVideos:
    """For a model with `frame_choice`, `image_size` and `preprocess`, which makes pixels of pictures."""

    frame_choice: FrameChoice
    image_size: int
    preprocess: Callable[[Sequence[Any]], Tensor]

    def read_video(self, video: Any, keep: Callable[[Any], None] | None = None) -> Tensor:
        """Pixels `[T, 3, S, S]` float32 of the frames that this model takes of a video, as `read_frames` reads it. What
        runs an encoder calls it in the threads that read. `keep` is called with each picture as it is decoded.

        Raises:
            nearfar.data.BadVideo: the video cannot be read.
        """

        def shape(picture: Any) -> Tensor:
            if keep is not None:
                keep(picture)
            return self.preprocess([picture])[0]

        return torch.stack(read_frames(video, self.frame_choice.numbers, shape=shape).pictures)

    def preprocess_video(self, videos: Sequence[Any]) -> Tensor:
        """Pixels `[B, T, 3, S, S]` float32 of videos, or of what `read_video` made of them."""
        if not videos:
            return torch.empty(0, self.frame_choice.frames, 3, self.image_size, self.image_size)
        return torch.stack([each if is_read(each) else self.read_video(each) for each in videos])


def is_read(video: Any) -> bool:
    """Whether a video is pixels already, `[T, 3, S, S]` in floating point."""
    return isinstance(video, Tensor) and video.is_floating_point()
