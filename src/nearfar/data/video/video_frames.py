"""Frames of a video, whatever it is kept in: each one is what decoding from the start gives as that number.

Nothing is taken on a container's word: some say no number of frames (WebM), or a wrong one, and seeking leads to the
last key frame. So a video is read once from its start, keeping the frames that are to be there if the container is
right, and once more where it was not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nearfar.data.video.bad_video import BadVideo, describe_video
from nearfar.data.video.frame_readers import reader_of

Choose = Callable[[np.ndarray], Any]


@dataclass(frozen=True)
class VideoFrames:
    """Frames that were taken of a video.

    Attributes:
        pictures: T pictures in the order of `numbers`, or what `shape` made of them.
        numbers: int64 `[T]`, which frames they are, counted from 0.
        seconds: float64 `[T]`, when each begins, the video's first frame at 0.
        total: how many frames the video has.
        size: upright width and height of the video in pixels.
    """

    pictures: list[Any]
    numbers: np.ndarray
    seconds: np.ndarray
    total: int
    size: tuple[int, int]


def read_frames(
    video: Any, choose: Choose | Sequence[int], *, shape: Callable[[Any], Any] | None = None
) -> VideoFrames:
    """Read some frames of a video, upright and in RGB.

    Args:
        video: a path, bytes, a dict with `bytes` or `path`: an animated GIF, WebP or PNG (Pillow reads them), or what
            PyAV reads (`pip install "nearfar[video]"`): mp4, webm, mov, mkv, avi and the like; or an array uint8
            `[T, H, W, 3]`, or a list of pictures. A still picture is a video of one frame.
        choose: the frames' numbers, in any order and with repetitions, or a function that returns them for `edges`
            `[n + 1]`: when each of the n frames begins and the last one ends, in seconds (`FrameChoice.numbers`). Of
            arrays and lists of pictures, each frame lasts a second.
        shape: what is kept of each picture (a `PIL.Image`): a small copy, say, so that few are in memory at their full
            size at once.

    Raises:
        BadVideo: a missing, empty or broken file, one without frames, frames that are too large, a number that there
            is no frame of.
        UserError: PyAV is needed and not installed.

    >>> grey = np.arange(5, dtype=np.uint8)[:, None, None, None].repeat(2, 1).repeat(2, 2).repeat(3, 3)
    >>> frames = read_frames(grey, [4, 0, 4])
    >>> [picture.getpixel((0, 0)) for picture in frames.pictures], frames.total
    ([(4, 4, 4), (0, 0, 0), (4, 4, 4)], 5)
    """
    reader, where = reader_of(video), describe_video(video)
    select = choose if callable(choose) else lambda edges: np.asarray(choose, np.int64)
    kept: dict[int, Any] = {}
    size = (0, 0)

    def keep(number: int, picture: Any) -> None:
        nonlocal size
        size = picture.size
        kept[number] = picture if shape is None else shape(picture)

    numbers = _numbers(select, reader.expected())
    edges = reader.read(set(numbers.tolist()), keep)
    if len(edges) < 2:
        raise BadVideo(f"{where}: no frame of it can be decoded: it is damaged, or cut off; copy it anew")
    actual = _numbers(select, edges)
    if missing := set(actual.tolist()) - kept.keys():
        if outside := [n for n in missing if not 0 <= n < len(edges) - 1]:
            raise BadVideo(f"{where}: there is no frame {outside[0]}: it has {len(edges) - 1}, counted from 0")
        reader.read(missing, keep)
    return VideoFrames([kept[n] for n in actual.tolist()], actual, edges[actual] - edges[0], len(edges) - 1, size)


def _numbers(select: Choose, edges: np.ndarray) -> np.ndarray:
    return np.asarray(select(edges), np.int64)
