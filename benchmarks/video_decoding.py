"""Frames of videos beside a bare PyAV loop that does the same and checks nothing.

    python benchmarks/video_decoding.py

Videos of 320 x 240 pixels are written, H.264 and VP9. Both read them from the start; either 8 frames are kept as RGB
pictures (`FrameChoice`), or all. "To PyAV" is frames decoded a second over those of the bare loop: 1 is as fast.
Needs `pip install "nearfar[video]"`.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from _measure import interleave
from nearfar.data import FrameChoice, read_frames

RESULTS = Path(__file__).parent / "results" / "video_decoding.json"
KINDS = {"H.264 in mp4": ("libx264", "mp4"), "VP9 in webm": ("libvpx-vp9", "webm")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=120)
    parser.add_argument("--videos", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()

    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for kind, (codec, ending) in KINDS.items():
            paths = [Path(folder) / f"{i}.{ending}" for i in range(options.videos)]
            for seed, path in enumerate(paths):
                write(path, codec, options.frames, seed)
            for keep, choice in (("8", FrameChoice(8)), ("all", FrameChoice(options.frames))):
                numbers = choice.numbers(np.arange(options.frames + 1.0))
                runs: dict[str, Callable[[], object]] = {
                    "bare": lambda p=paths, n=numbers: [bare(path, n) for path in p],  # type: ignore[misc]
                    "nearfar": lambda p=paths, c=choice: [read_frames(path, c.numbers) for path in p],  # type: ignore[misc]
                }
                same(paths[0], numbers, choice)
                timing = interleave(runs, "bare", options.rounds)
                decoded = options.frames * options.videos
                rows.append(
                    {
                        "videos": kind,
                        "kept": keep,
                        "bare_frames_per_cpu_second": round(decoded / timing["bare"].cpu_s),
                        "frames_per_cpu_second": round(decoded / timing["nearfar"].cpu_s),
                        "to_pyav": round(1 / timing["nearfar"].cpu_ratio, 3),
                        "to_pyav_on_the_clock": round(1 / timing["nearfar"].wall_ratio, 3),
                    }
                )
    facts = {"frames": options.frames, "videos": options.videos, "rounds": options.rounds}
    facts |= {"load": round(os.getloadavg()[0], 1), "av": version("av")}
    table = as_table(rows, facts)
    print(table)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(facts | {"rows": rows}, indent=1) + "\n")
    options.output.with_suffix(".md").write_text(table)


def bare(path: Path, numbers: Sequence[int]) -> list[Any]:
    """What a program without a library would do."""
    import av

    kept, kept_numbers = [], {*map(int, numbers)}
    with av.open(str(path)) as container:
        for number, frame in enumerate(container.decode(video=0)):
            if number in kept_numbers:
                kept.append(frame.to_image())
    return kept


def same(path: Path, numbers: Sequence[int], choice: FrameChoice) -> None:
    """Both must return the same pictures."""
    ours = read_frames(path, choice.numbers).pictures
    for left, right in zip(bare(path, numbers), ours, strict=True):
        assert np.array_equal(np.asarray(left), np.asarray(right))


def write(path: Path, codec: str, count: int, seed: int) -> None:
    """A pattern that drifts over noise: something to decode."""
    import av

    rng = np.random.default_rng(seed)
    ground = rng.integers(0, 256, (240, 320, 3), np.uint8) // 4
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
        for i in range(count):
            pixels = ground.copy()
            pixels[60:180, (40 + 2 * i) % 200 : (40 + 2 * i) % 200 + 120] = (200, 60 + i % 100, 40)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())


def as_table(rows: Sequence[dict[str, Any]], facts: dict[str, Any]) -> str:
    about = (
        f"{facts['videos']} videos of {facts['frames']} frames, 320 x 240 pixels; {facts['rounds']} rounds, PyAV "
        f"{facts['av']}, load average {facts['load']}.\n"
    )
    head = "| videos | frames kept | bare PyAV, frames a CPU second | nearfar | to PyAV | on the clock |"
    lines = [
        f"| {row['videos']} | {row['kept']} | {row['bare_frames_per_cpu_second']:,} | {row['frames_per_cpu_second']:,} "
        f"| {row['to_pyav']:.2f} | {row['to_pyav_on_the_clock']:.2f} |"
        for row in rows
    ]
    return "\n".join([about, head, "|:--|:--|--:|--:|--:|--:|", *lines]) + "\n"


if __name__ == "__main__":
    main()
