"""One picture that stands for a record (of a sound its spectrogram), and a few small ones that move."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image

from nearfar.data.video.frame_choice import FrameChoice
from nearfar.data.video.video_frames import read_frames


def picture_of(record: Mapping[str, Any]) -> Any:
    """A record's picture, as the record has it; of a video, the frame in its middle; of a sound, its spectrogram.

    Raises:
        nearfar.data.BadVideo, nearfar.data.BadSound: the video, or the sound, cannot be read.
        KeyError: the record has none of them.
    """
    if (still := _still(record)) is not None:
        return still
    return read_frames(record["video"], lambda edges: [(len(edges) - 1) // 2]).pictures[0]


def film_of(record: Mapping[str, Any], frames: int = 3) -> list[Any]:
    """The pictures that show a record on a page: its picture, or the spectrogram of its sound, or of a video so many of
    its frames, in order.

    Raises:
        nearfar.data.BadVideo, nearfar.data.BadSound: the video, or the sound, cannot be read.
        KeyError: the record has none of them.
    """
    if (still := _still(record)) is not None:
        return [still]
    return list(read_frames(record["video"], FrameChoice(frames).numbers).pictures)


def _still(record: Mapping[str, Any]) -> Any:
    """The one picture of a record that does not move; None of a video."""
    if record.get("image") is not None or not {"video", "audio"} & record.keys():
        return record["image"]
    if "video" in record:
        return None
    from nearfar.data.sound.sound_preview import spectrogram

    return spectrogram(record["audio"])


def moving_picture(pictures: Sequence[Image.Image], *, side: int = 256, milliseconds: int = 200) -> bytes:
    """Pictures as one animated WebP, which browsers play over and over.

    Args:
        pictures: the frames, in order.
        side: the longer side of what is written is at most this.
        milliseconds: how long each frame is shown.
    """
    small = []
    for picture in pictures:
        copy = picture.copy()
        copy.thumbnail((side, side))
        small.append(copy)
    sink = io.BytesIO()
    small[0].save(
        sink, "WEBP", save_all=True, append_images=small[1:], duration=milliseconds, loop=0, quality=80, method=0
    )
    return sink.getvalue()
