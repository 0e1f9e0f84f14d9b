"""Frames out of video files: mp4, webm and what else PyAV reads. `pip install "nearfar[video]"` brings it."""

from __future__ import annotations

import io
from collections.abc import Callable, Set
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from nearfar.data.video.bad_video import BadVideo, check_size
from nearfar.errors import need

FORMATS = "mov,matroska,avi,mpegts,mpeg,flv,ogg"
"""FFmpeg's names of the containers that are opened. Others, playlists among them, name further files or addresses."""

AS_SHOWN = {
    (1, 0, 0, 1): None,
    (0, -1, 1, 0): Image.Transpose.ROTATE_90,
    (-1, 0, 0, -1): Image.Transpose.ROTATE_180,
    (0, 1, -1, 0): Image.Transpose.ROTATE_270,
    (-1, 0, 0, 1): Image.Transpose.FLIP_LEFT_RIGHT,
    (1, 0, 0, -1): Image.Transpose.FLIP_TOP_BOTTOM,
    (0, 1, 1, 0): Image.Transpose.TRANSPOSE,
    (0, -1, -1, 0): Image.Transpose.TRANSVERSE,
}
"""By where a file's matrix takes the steps to the right (x, y) and down (x, y) of its stored pixels."""
NEARLY = 0.02
"""How far a step may be from one along a side: about a degree, as FFmpeg's own tools have it."""

REMEDY = "copy it anew, or write it anew with a video editor"


class ContainerFrames:
    """The frames of a video file, turned, mirrored and stretched as it says they are to be shown.

    Raises:
        BadVideo: it is damaged, holds no video, or is of a kind that is not read.
        UserError: PyAV is not installed.
    """

    def __init__(self, content: Path | bytes, where: str) -> None:
        self.av = need("av", "video")
        self.content, self.where = content, where
        self._ready = self._opened()  # at its start, for the first time that it is read: to open it is half the work

    def expected(self) -> np.ndarray:
        stream = self._ready.streams.video[0]
        rate = float(stream.average_rate or stream.base_rate or 25)
        # WebM and Matroska say no number of frames, only how long they last.
        count = stream.frames or round((self._ready.duration or 0) / self.av.time_base * rate)
        return np.arange(max(1, count) + 1) / rate

    def read(self, numbers: Set[int], keep: Callable[[int, Image.Image], None]) -> np.ndarray:
        times: list[float] = []
        lasts = None
        container, self._ready = self._ready or self._opened(), None
        with container:
            stream = container.streams.video[0]
            usual = 1 / float(stream.average_rate or stream.base_rate or 25)
            aspect = float(stream.sample_aspect_ratio or 1)
            try:
                # `decode` gives the frames that the decoder still holds at the end, too.
                for number, frame in enumerate(container.decode(stream)):
                    times.append(frame.time if frame.time is not None else times[-1] + usual if times else 0.0)
                    lasts = frame.duration
                    if number in numbers:
                        keep(number, self._upright(frame, aspect))
            except self.av.error.FFmpegError as error:
                raise BadVideo(f"{self.where}: broken after {len(times)} frames ({error.strerror}): {REMEDY}") from None
            end = float(lasts * stream.time_base) if lasts and stream.time_base else usual
        return np.array([*times, times[-1] + end]) if times else np.zeros(0)

    def _upright(self, frame: Any, aspect: float) -> Image.Image:
        size = _stretched(frame.width, frame.height, aspect)
        check_size(*size, self.where)
        picture, steps = frame.to_image(), _steps(frame)
        if size != picture.size:
            picture = picture.resize(size, Image.Resampling.BICUBIC)
        if steps not in AS_SHOWN:
            raise BadVideo(f"{self.where}: it is to be shown aslant, by no whole quarter, which is not read: {REMEDY}")
        how = AS_SHOWN[steps]
        return picture if how is None else picture.transpose(how)

    def _opened(self) -> Any:
        file = io.BytesIO(self.content) if isinstance(self.content, bytes) else f"file:{self.content.absolute()}"
        try:
            options = {"format_whitelist": FORMATS, "protocol_whitelist": "file"}
            container = self.av.open(file, options=options)
        except (self.av.error.FFmpegError, OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or error
            raise BadVideo(f"{self.where}: not a video that can be read ({why}): {REMEDY}") from None
        if not container.streams.video:
            container.close()
            raise BadVideo(f"{self.where}: there is no video in it, only sound or text")
        return container


def _stretched(width: int, height: int, aspect: float) -> tuple[int, int]:
    """The size at which pixels `aspect` times as wide as high, as those of DVDs and of tapes, are squares: one side is
    stretched, so that none is lost."""
    if not 0 < aspect < float("inf"):
        return width, height
    return round(width * max(aspect, 1.0)), round(height / min(aspect, 1.0))


def _steps(frame: Any) -> tuple[int, ...]:
    """The key of AS_SHOWN for a frame; 2 stands for what is neither a step along a side nor none.

    PyAV's own `rotation` knows turns alone: it says 180 of a video that is mirrored from left to right.
    """
    stored = frame.side_data.get("DISPLAYMATRIX")
    if stored is None:
        return 1, 0, 0, 1
    right, down = np.frombuffer(stored, np.int32).reshape(3, 3)[:2, :2] / 2.0**16
    units = np.concatenate([each / max(np.hypot(*each), 1e-9) for each in (right, down)])
    whole = np.round(units)
    return tuple(np.where(np.abs(units - whole) < NEARLY, whole, 2).astype(int).tolist())
