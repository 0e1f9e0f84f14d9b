#!/usr/bin/env bash
# PyAV 18.1.0: a mirrored video is given as a turned one.
#
# Behaviour: a video file's display matrix may mirror its pictures, as front cameras and editors leave it. frame.rotation
# knows turns alone: of a file that is mirrored from left to right it says 180 degrees, of one mirrored from top to bottom
# 0, and of a mirrored quarter a plain quarter. Who turns frames by it sees the first upside down and the second as it is
# stored, without a sign. The matrix itself is in frame.side_data["DISPLAYMATRIX"].
# In nearfar: the whole matrix is read, and frames are turned and mirrored as they are to be shown.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv env
env/bin/pip install -q numpy==2.4.6 pillow==13.0.0 av==18.1.0
env/bin/python - <<'PYTHON'
import struct
from pathlib import Path

import av
import numpy as np

ONE = 1 << 16
MATRICES = {  # where a step to the right and one down lead, and what PyAV says
    "turned by a half": ((-1, 0), (0, -1), -180),
    "turned by a quarter": ((0, 1), (-1, 0), -90),
    "mirrored, left to right": ((-1, 0), (0, 1), -180),
    "mirrored, top to bottom": ((1, 0), (0, -1), 0),
    "mirrored, a quarter": ((0, 1), (1, 0), -90),
}
for name, (right, down, said) in MATRICES.items():
    with av.open("clip.mp4", "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 32, "yuv420p"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((32, 64, 3), np.uint8), format="rgb24")))
        container.mux(stream.encode())
    data = bytearray(Path("clip.mp4").read_bytes())
    place = data.index(b"tkhd") + 44  # the matrix in the header of the track
    values = [ONE * value for value in (*right, 0, *down, 0, 0, 0)]
    data[place : place + 36] = struct.pack(">9i", *values, 1 << 30)
    Path("clip.mp4").write_bytes(data)
    with av.open("clip.mp4") as container:
        frame = next(container.decode(video=0))
        matrix = np.frombuffer(frame.side_data.get("DISPLAYMATRIX"), np.int32)[[0, 1, 3, 4]] // ONE
        print(f"{name}: matrix {matrix.tolist()}, rotation {frame.rotation}")
        assert frame.rotation == said
        assert matrix.tolist() == [*right, *down]
PYTHON
echo "as described"
