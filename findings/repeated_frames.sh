#!/usr/bin/env bash
# Pillow 13.0.0 and PyAV 18.1.0: an animation saved from eight frames has four, and its frames are no steps of time.
#
# Behaviour: Image.save(save_all=True) to GIF, WebP and APNG leaves out each frame that equals the one before it and adds
# its time to that one: eight frames of 100 ms with repeats come back as four, of 100, 300, 200 and 200 ms. Frame number 2
# is then no longer what was shown at 0.2 s, so that clips drawn at even numbers are not drawn at even times, and a motion
# that pauses does so no more. PyAV decodes the same four, at 0.0, 0.1, 0.4 and 0.6 s, and names 5 frames a second for the
# stream; for APNG it names 0 frames. It refuses the animated WebP with InvalidDataError; Pillow reads it.
# In nearfar: a picture field takes an animation's first frame.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv env
env/bin/pip install -q pillow==13.0.0 av==18.1.0
env/bin/python - <<'PYTHON'
import av
from PIL import Image

frames = []
for place in (0, 1, 1, 1, 2, 2, 3, 3):
    frame = Image.new("RGB", (32, 32), "black")
    frame.paste("white", (8 * place, 8, 8 * place + 8, 16))
    frames.append(frame)
for ending, options in (("gif", {}), ("webp", {"lossless": True}), ("png", {})):
    file = f"clip.{ending}"
    frames[0].save(file, save_all=True, append_images=frames[1:], duration=100, loop=0, **options)
    with Image.open(file) as clip:
        times = []
        for number in range(clip.n_frames):
            clip.seek(number)
            clip.load()
            times.append(round(clip.info["duration"]))
    print(file, "in Pillow, ms a frame:", times)
    assert times == [100, 300, 200, 200]
    try:
        with av.open(file) as container:
            stream = container.streams.video[0]
            starts = [float(frame.time) for frame in container.decode(stream)]
            print(file, "in PyAV, s:", starts, "frames named:", stream.frames, "a second:", stream.average_rate)
            assert starts == [0.0, 0.1, 0.4, 0.6]
            assert (stream.frames, stream.average_rate) == ({"gif": 4, "png": 0}[ending], 5)
    except av.error.InvalidDataError as error:
        print(file, "in PyAV:", type(error).__name__)
        assert ending == "webp"
    else:
        assert ending != "webp"
PYTHON
echo "as described"
