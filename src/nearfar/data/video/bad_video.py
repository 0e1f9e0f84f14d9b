"""What is wrong with a video, and which one it is."""

from __future__ import annotations

from typing import Any

from nearfar.data.pictures.images import MAX_PIXELS, describe
from nearfar.data.sources.skipped import BadRecord


class BadVideo(BadRecord):
    """A video that cannot be used. The message says which and why."""


def describe_video(video: Any) -> str:
    """A few words that say which video this is."""
    if isinstance(video, bytes | bytearray | memoryview):
        return f"video of {len(video)} bytes"
    name = describe(video)
    return "video" if name == "image" else name


def check_size(width: int, height: int, where: str) -> None:
    """Refuse frames of more pixels than a picture may have: a small file may unpack to more memory than there is.

    Raises:
        BadVideo: they have more.
    """
    if width * height > MAX_PIXELS:
        raise BadVideo(f"{where}: frames of {width} x {height} pixels are more than the {MAX_PIXELS} allowed")
