"""Videos on the page: they move in the gallery, play in the larger view, and nothing else of their files gets out."""

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image

from data.video_files import turned, write
from installed import needs
from nearfar.data import open_source
from nearfar.data.sources.source import Records, concat
from nearfar.search import build, query
from nearfar.search.page.clips import clip_of
from nearfar.search.page.gate import part_of
from nearfar.search.page.hit_gallery import gallery
from nearfar.search.page.search_page import SearchService
from nearfar.search.page.uploads import Uploads
from search.colours import COLOURS, ColourEncoder, draw, png
from search.visitors import Visitor, served

av = pytest.importorskip("av")
pytestmark = needs("gradio")


def frames(colour):
    """Six frames, from white to a colour."""
    return [np.full((32, 48, 3), (245, 245, 245) if i < 2 else COLOURS[colour], np.uint8) for i in range(6)]


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    write(folder / "a_red_thing.mp4", frames=frames("red"))
    write(folder / "a_blue_thing.webm", frames=frames("blue"), codec="libvpx-vp9")
    write(folder / "a_green_thing.avi", frames=frames("green"), codec="mpeg4")
    return build(ColourEncoder(), open_source(str(folder)), tmp_path_factory.mktemp("index"), model="colours")


@pytest.fixture(scope="module")
def uploads():
    with Uploads() as folder:
        yield folder


@pytest.fixture
def service(index, uploads):
    return SearchService(index, ColourEncoder(), uploads)


def test_videos_are_counted_as_videos(index, tmp_path):
    assert index.counted == "3 videos"
    (tmp_path / "one").mkdir()
    (tmp_path / "one/red.png").write_bytes(png(draw("red")))
    pictures = build(ColourEncoder(), open_source(str(tmp_path / "one")), index.directory, model="colours")
    assert pictures.counted == "1 picture and 3 videos"
    in_memory = Records([{"video": np.stack(frames(colour))} for colour in ("red", "green", "blue")], name="films")
    assert build(ColourEncoder(), in_memory, tmp_path / "index", model="colours").counted == "3 videos"
    pictures.remove([row for row in pictures.table["key"].to_pylist() if row.endswith("red.png")])


def test_the_gallery_takes_files_that_move(service):
    (path, title), *others = service.search("red", None, "", "", 1, 3)[0]
    assert title.endswith("a red thing")
    assert len(others) == 2
    with Image.open(path) as shown:
        assert shown.format == "WEBP"
        assert shown.n_frames > 1


@pytest.mark.parametrize(("colour", "ending"), [("red", "mp4"), ("blue", "webm")])
def test_the_larger_view_plays_what_a_browser_can_play(service, uploads, colour, ending):
    hits = service.search(colour, None, "", "", 1, 3)[1]
    path, name = re.search(
        r'<video src="/gradio_api/file=([^"]+)" aria-label="([^"]+)"', service.larger(hits, 0)
    ).groups()
    assert name == f"a {colour} thing"
    assert path.endswith(f".{ending}")
    content = uploads.read(path, visitor="anybody")
    with av.open(io.BytesIO(content)) as clip:
        shown = [frame.to_ndarray(format="rgb24")[16, 24] for frame in clip.decode(video=0)]
    assert len(shown) == 6
    assert np.abs(shown[-1].astype(int) - COLOURS[colour]).max() < 25


def test_more_like_a_video_starts_from_the_middle_of_it(service):
    """Its first frame is white, and so like no colour."""
    hits = service.search("blue", None, "", "", 1, 3)[1]
    assert hits[0].image().getpixel((24, 16))[2] > 150
    assert hits[0].image().getpixel((24, 16))[0] < 120
    alike = service.like(hits, 0, None, 1, 3)[1]
    assert alike[0].caption == "a blue thing"
    assert alike[0].score > alike[1].score + 0.1


def test_what_a_browser_cannot_play_moves_as_an_animation(service):
    hits = service.search("green", None, "", "", 1, 3)[1]
    assert hits[0].path.endswith(".avi")
    assert clip_of(hits[0]) is None
    shown = service.larger(hits, 0)
    assert "<video" not in shown
    with Image.open(re.search(r'<img src="/gradio_api/file=([^"]+)"', shown).group(1)) as picture:
        assert picture.n_frames > 1


def test_a_clip_says_nothing_else_of_its_file_and_stays_upright(tmp_path):
    (tmp_path / "clips").mkdir()
    path = turned(write(tmp_path / "clips/red.mp4", frames=frames("red")), 1)
    plain = path.read_bytes()
    with av.open(io.BytesIO(plain)) as source, av.open(str(path), "w") as out:
        out.metadata.update({"location": "+48.1374+011.5755/", "title": "at home"})
        stream = out.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                out.mux(packet)
    with av.open(str(path)) as source:
        assert source.metadata["title"] == "at home", "else there is nothing to lose"
    index = build(ColourEncoder(), open_source(str(tmp_path / "clips")), tmp_path / "index", model="colours")
    content, _ = clip_of(index.hits([1.0], [0])[0])
    assert b"at home" not in content
    assert b"48.1374" not in content
    with av.open(io.BytesIO(plain)) as before, av.open(io.BytesIO(content)) as after:
        assert next(after.decode(video=0)).rotation == next(before.decode(video=0)).rotation != 0


def test_a_video_that_has_gone_still_has_its_animation(tmp_path, uploads):
    (tmp_path / "clips").mkdir()
    path = write(tmp_path / "clips/red.mp4", frames=frames("red"))
    index = build(ColourEncoder(), open_source(str(tmp_path / "clips")), tmp_path / "index", model="colours")
    path.write_bytes(b"no video")
    service = SearchService(index, ColourEncoder(), uploads)
    hits = service.search("red", None, "", "", 1, 1)[1]
    assert "<img" in service.larger(hits, 0)
    path.unlink()
    assert "<img" in service.larger(hits, 0)


def test_a_clip_is_sent_in_parts(index, tmp_path):
    with Uploads() as uploads, served(index, ColourEncoder(), uploads) as address:
        visitor = Visitor(address)
        path = uploads.share(bytes(range(100)), "mp4")
        whole = visitor.http.get(f"/gradio_api/file={path}")
        assert (whole.status_code, whole.headers["content-type"]) == (200, "video/mp4")
        part = visitor.http.get(f"/gradio_api/file={path}", headers={"range": "bytes=10-19"})
        assert (part.status_code, part.content) == (206, bytes(range(10, 20)))
        assert part.headers["content-range"] == "bytes 10-19/100"


@pytest.mark.parametrize(
    ("part", "status", "content"),
    [
        ("bytes=0-", 206, b"0123456789"),
        ("bytes=7-900", 206, b"789"),
        ("bytes=10-", 416, b""),
        ("bytes=5-2", 416, b""),
        ("bytes=-3", 200, b"0123456789"),
        ("lines=1-2", 200, b"0123456789"),
        ("", 200, b"0123456789"),
    ],
)
def test_parts_outside_a_clip(part, status, content):
    answer = part_of(b"0123456789", part, "video/webm")
    assert (answer.status_code, answer.body) == (status, content)


def test_the_worlds_videos_are_indexed_as_videos(tmp_path):
    """Each has its middle frame beside it, which says less; where some of the data are pictures alone, all are."""
    source = open_source("world/video", split="test", n=3, frames=4, vocabulary="basic")
    built = build(ColourEncoder(), source, tmp_path / "index", model="colours")
    assert built.counted == "3 videos"
    joined = concat(source, Records([{"image": draw("red"), "text": "a red disc"}], name="pictures"))
    assert build(ColourEncoder(), joined, tmp_path / "both", model="colours").counted == "4 pictures"


def test_a_gallery_stands_still_for_whoever_wants_less_motion(index):
    page = gallery(query(index, ColourEncoder(), text="red", top=1))
    still, moving = re.search(
        r'<source media="\(prefers-reduced-motion: reduce\)" srcset="data:image/webp;base64,([^"]+)">\s*'
        r'<img src="data:image/webp;base64,([^"]+)"',
        page,
    ).groups()
    frames = [Image.open(io.BytesIO(base64.b64decode(each))).n_frames for each in (still, moving)]
    assert frames[0] == 1 < frames[1]
