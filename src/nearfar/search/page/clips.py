"""A hit's video as a file that browsers play: its streams as they are, in a container of its own without anything else
that the file says (where it was filmed, by whom)."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nearfar.data.video.containers import FORMATS
from nearfar.errors import UserError, need
from nearfar.search.page.uploads import MOST_BYTES

if TYPE_CHECKING:
    from nearfar.search.index.items import Hit

CONTAINERS = {"h264": "mp4", "av1": "mp4", "vp8": "webm", "vp9": "webm"}
"""What browsers play, by the name of the codec, and in which container."""
SOUNDS = {"mp4": ("aac", "mp3"), "webm": ("opus", "vorbis")}


def clip_of(hit: Hit) -> tuple[bytes, str] | None:
    """The video and the ending of its name; None where there is no file, or none that a browser plays.

    Files of more than MOST_BYTES are none, so that a look at a hit never holds much memory.
    """
    if not hit.moves or hit.path is None:
        return None
    path = Path(hit.path)
    try:
        if not path.is_file() or path.stat().st_size > MOST_BYTES:
            return None
        content = repacked(need("av", "video"), path)
    except (OSError, ValueError, UserError):  # what PyAV raises is an OSError or a ValueError
        return None
    return content if content and len(content[0]) <= MOST_BYTES else None


def repacked(av: Any, path: Path) -> tuple[bytes, str] | None:
    """The packets of a file's video and sound in a new container."""
    options = {"format_whitelist": FORMATS, "protocol_whitelist": "file"}
    with av.open(f"file:{path.absolute()}", options=options) as source:
        video = source.streams.video[0] if source.streams.video else None
        ending = CONTAINERS.get(video.codec_context.name if video else "", "")
        if not video or not ending or (ending == "mp4" and not video.codec_context.pix_fmt.startswith("yuv")):
            return None
        sound = next((each for each in source.streams.audio if each.codec_context.name in SOUNDS[ending]), None)
        sink = io.BytesIO()
        with av.open(sink, "w", format=ending) as out:
            made = {each.index: out.add_stream_from_template(each) for each in (video, sound) if each}
            for packet in source.demux([each for each in (video, sound) if each]):
                if packet.dts is None:  # what ends a stream
                    continue
                packet.stream = made[packet.stream.index]
                out.mux(packet)
    return sink.getvalue(), ending
