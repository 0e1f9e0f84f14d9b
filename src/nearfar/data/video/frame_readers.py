"""Readers of frames, one a way in which videos are kept: containers, animated pictures, arrays, lists of pictures."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Sequence, Set
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from nearfar.data.pictures.images import load_image
from nearfar.data.video.bad_video import BadVideo, check_size, describe_video
from nearfar.data.video.containers import ContainerFrames
from nearfar.rgb import to_rgb

_PICTURES = (b"GIF8", b"\x89PNG", b"\xff\xd8\xff", b"BM", b"II*\0", b"MM\0*")

Keep = Callable[[int, Image.Image], None]


class FrameReader(Protocol):
    """What reads a video's frames, in order and from the start."""

    def expected(self) -> np.ndarray:
        """When its frames are to begin, and the last one to end, `[n + 1]` seconds, as far as that is known without
        reading it."""

    def read(self, numbers: Set[int], keep: Keep) -> np.ndarray:
        """Call `keep` with those of `numbers` that there are; return `[n + 1]` when frames began and the last ended."""


def reader_of(video: Any) -> FrameReader:
    """The reader that a video needs.

    Raises:
        BadVideo: it is none, or is not there.
        UserError: PyAV is needed and not installed.
    """
    if hasattr(video, "detach"):  # a tensor
        video = video.detach().cpu().numpy()
    if isinstance(video, np.ndarray):
        return ArrayFrames(video)
    if isinstance(video, Image.Image):
        return PictureFrames([video])
    if isinstance(video, list | tuple):
        return PictureFrames(video)
    if isinstance(video, dict):
        video = video["bytes"] if video.get("bytes") is not None else video.get("path")
    if video is None or video == "":
        raise BadVideo("video: there is none")
    if not isinstance(video, str | os.PathLike):
        content: Path | bytes = video.read() if hasattr(video, "read") else bytes(video)
        start, where = content[:16], describe_video(content)  # type: ignore[index]
    else:
        content, where = _file(os.fspath(video)), describe_video(video)
        with content.open("rb") as opened:
            start = opened.read(16)
    if not start:
        raise BadVideo(f"{where}: the file is empty")
    is_picture = start.startswith(_PICTURES) or start[8:12] in (b"WEBP", b"avif", b"avis")
    if is_picture:
        return AnimationFrames(content.read_bytes() if isinstance(content, Path) else content, where)
    return ContainerFrames(content, where)


class ArrayFrames:
    """Frames that lie in memory, uint8 `[T, H, W, 3]`."""

    def __init__(self, frames: np.ndarray) -> None:
        if frames.ndim != 4 or frames.shape[3] != 3 or frames.dtype != np.uint8:
            raise BadVideo(f"video: an array is uint8 [T, H, W, 3], not {frames.dtype} {list(frames.shape)}")
        self.frames = frames

    def expected(self) -> np.ndarray:
        return np.arange(len(self.frames) + 1, dtype=float)

    def read(self, numbers: Set[int], keep: Keep) -> np.ndarray:
        for number in sorted(numbers & {*range(len(self.frames))}):
            keep(number, Image.fromarray(self.frames[number]))
        return self.expected()


class PictureFrames:
    """Frames that are pictures of their own: paths, bytes or `PIL.Image`s, in order."""

    def __init__(self, pictures: Sequence[Any]) -> None:
        self.pictures = pictures

    def expected(self) -> np.ndarray:
        return np.arange(len(self.pictures) + 1, dtype=float)

    def read(self, numbers: Set[int], keep: Keep) -> np.ndarray:
        for number in sorted(numbers & {*range(len(self.pictures))}):
            keep(number, load_image(self.pictures[number]))
        return self.expected()


class AnimationFrames:
    """The frames of a GIF, WebP, PNG or AVIF, as long as each says it lasts. Transparency is laid on white."""

    def __init__(self, content: bytes, where: str) -> None:
        self.where, self.content = where, content
        self.count = self._open().n_frames if hasattr(self._open(), "n_frames") else 1

    def expected(self) -> np.ndarray:
        return np.arange(self.count + 1, dtype=float)

    def read(self, numbers: Set[int], keep: Keep) -> np.ndarray:
        picture, edges = self._open(), [0.0]
        try:
            for number in range(self.count):
                picture.seek(number)
                picture.load()  # some formats say only now how long the frame lasts
                # Browsers hold a frame that says 0 for a tenth of a second.
                edges.append(edges[-1] + (picture.info.get("duration") or 100) / 1000)
                if number in numbers:
                    keep(number, to_rgb(picture.copy()))  # the next seek paints over this one
        except Exception as error:  # decoders meet broken data with nearly every kind of exception
            raise BadVideo(f"{self.where}: broken after {len(edges) - 1} frames ({error}): copy it anew") from error
        return np.array(edges)

    def _open(self) -> Any:
        try:
            opened = Image.open(io.BytesIO(self.content))
        except Exception as error:  # as above
            raise BadVideo(f"{self.where}: not an animation that can be read: copy it anew") from error
        check_size(opened.width, opened.height, self.where)
        return opened


def _file(name: str) -> Path:
    if name.startswith(("http://", "https://")):
        raise BadVideo(f"{name}: an address, not a file: download the videos first")
    path = Path(name)
    if not path.exists():
        raise BadVideo(f"{describe_video(name)}: no such file")
    if not path.is_file():  # a pipe or device would be waited for, or read, without end
        raise BadVideo(f"{describe_video(name)}: a folder, or no regular file: a video is one file")
    return path
