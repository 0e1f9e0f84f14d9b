"""Small videos of known frames: frame i is grey, 20 + 4 i of 255."""

from __future__ import annotations

import struct
from fractions import Fraction

import numpy as np


def shade(i):
    return 20 + 4 * i


def grey(i, size=(64, 48)):
    return np.full((size[1], size[0], 3), shade(i), np.uint8)


def number_of(picture):
    """The number of a grey frame, by its shade."""
    return round((picture.getpixel((picture.width // 2, picture.height // 2))[0] - 20) / 4)


def write(path, count=50, *, codec="libx264", rate=25, milliseconds=None, frames=None, **options):
    """Write a video; `milliseconds` says when each frame begins, for a rate that varies."""
    import av

    frames = [grey(i) for i in range(count)] if frames is None else frames
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt, stream.options = "yuv420p", {key: str(value) for key, value in options.items()}
        if milliseconds is not None:
            stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        for i, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            if milliseconds is not None:
                frame.pts, frame.time_base = milliseconds[i], Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def shown_by(path, right, down):
    """Say in an mp4 file where a step to the right (x, y) and one down lead when it is shown: its track's matrix."""
    data = bytearray(path.read_bytes())
    one = 1 << 16
    place = data.index(b"tkhd") + 4 + 40
    assert struct.unpack(">9i", data[place : place + 36]) == (one, 0, 0, 0, one, 0, 0, 0, 1 << 30)
    matrix = [round(one * value) for value in (*right, 0, *down, 0, 0, 0)]
    data[place : place + 36] = struct.pack(">9i", *matrix, 1 << 30)
    path.write_bytes(data)
    return path


def turned(path, quarter):
    """Say in an mp4 file that it is to be shown turned clockwise by so many quarters."""
    cosine, sine = [(1, 0), (0, 1), (-1, 0), (0, -1)][quarter % 4]
    return shown_by(path, (cosine, sine), (-sine, cosine))
