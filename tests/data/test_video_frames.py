"""Frames of videos in every form, by their number: written with known shades, read again."""

import io
import sys
from fractions import Fraction

import numpy as np
import pytest
import torch
from PIL import Image

from data.video_files import grey, number_of, shade, shown_by, write
from nearfar.data import BadVideo, FrameChoice, read_frames
from nearfar.data.pictures import images
from nearfar.errors import UserError

ORDER = [49, 7, 13, 25, 25, 0, 38, 38]
CODECS = {"a.mp4": "libx264", "a.webm": "libvpx-vp9", "a.mkv": "libx264", "a.avi": "mpeg4", "a.mov": "libx264"}


@pytest.fixture
def av():
    return pytest.importorskip("av")


@pytest.mark.parametrize("name", CODECS)
def test_frames_are_those_of_sequential_decoding_in_any_order(name, av, tmp_path):
    """A key frame every 12, and B-frames: after a seek the last key frame would be returned (0 for 7, 12 for 13)."""
    options = {"libx264": {"bf": 2}, "mpeg4": {"b": 4_000_000}, "libvpx-vp9": {}}[CODECS[name]]
    path = write(tmp_path / name, codec=CODECS[name], g=12, **options)
    frames = read_frames(path, ORDER)
    assert [number_of(picture) for picture in frames.pictures] == ORDER
    assert frames.numbers.tolist() == ORDER
    assert frames.seconds == pytest.approx(np.array(ORDER) / 25, abs=1e-3)
    assert (frames.total, frames.size) == (50, (64, 48))


def edges_of(video):
    """When its frames begin, and the last one ends, as a choice of frames gets them once it was read."""
    edges = []
    read_frames(video, lambda each: edges.append(each) or [0])
    return edges[-1]


@pytest.mark.parametrize("name", ["a.mp4", "a.webm", "a.mkv"])
def test_the_last_frames_are_there(name, av, tmp_path):
    """What a decoder still holds when the file ends, and a container that names no number of frames."""
    path = write(tmp_path / name, 30, codec=CODECS[name])
    assert [number_of(picture) for picture in read_frames(path, range(30)).pictures] == list(range(30))
    with pytest.raises(BadVideo, match="there is no frame 30: it has 30, counted from 0"):
        read_frames(path, [3, 30])
    chosen = read_frames(path.read_bytes(), FrameChoice(8).numbers)
    assert chosen.numbers.tolist() == [1, 5, 9, 13, 16, 20, 24, 28]
    assert [number_of(picture) for picture in chosen.pictures] == chosen.numbers.tolist()
    assert edges_of(path) == pytest.approx(np.arange(31) / 25, abs=2e-3)  # the last frame lasts as long as others


@pytest.mark.parametrize(("name", "codec"), [("v.mp4", "libx264"), ("v.webm", "libvpx-vp9")])
def test_a_rate_that_varies(name, codec, av, tmp_path):
    begins = [0, 40, 80, 400, 440, 900]
    path = write(tmp_path / name, 6, codec=codec, milliseconds=begins)
    frames = read_frames(path, range(6))
    assert frames.seconds == pytest.approx(np.array(begins) / 1000, abs=2e-3)
    assert [number_of(picture) for picture in frames.pictures] == list(range(6))
    assert read_frames(path, FrameChoice(4, spacing="time").numbers).numbers.tolist() == [2, 2, 4, 4]


def test_times_count_from_the_first_frame(av, tmp_path):
    """A recording whose clock ran before it began."""
    path = write(tmp_path / "late.mkv", 3, milliseconds=[500, 900, 1000])
    frames = read_frames(path, range(3))
    assert frames.seconds == pytest.approx([0, 0.4, 0.5], abs=2e-3)
    assert read_frames(path, FrameChoice(2, spacing="time").numbers).numbers.tolist() == [0, 1]


def test_a_number_of_frames_that_is_wrong_is_not_believed(av, tmp_path, monkeypatch):
    """The frames are chosen anew once the video was read."""
    from nearfar.data.video.containers import ContainerFrames

    path = write(tmp_path / "a.mp4", 30)
    for claimed in (7, 300):
        monkeypatch.setattr(ContainerFrames, "expected", lambda self, n=claimed: np.arange(n + 1.0))
        frames = read_frames(path, FrameChoice(8).numbers)
        assert [number_of(picture) for picture in frames.pictures] == [1, 5, 9, 13, 16, 20, 24, 28]


SHOWN = {  # how the stored pixels are shown, by where a step to the right and one down lead
    "as stored": ((1, 0), (0, 1), lambda stored: stored),
    "a quarter": ((0, 1), (-1, 0), lambda stored: np.rot90(stored, -1)),
    "a half": ((-1, 0), (0, -1), lambda stored: np.rot90(stored, 2)),
    "three quarters": ((0, -1), (1, 0), np.rot90),
    "left to right": ((-1, 0), (0, 1), np.fliplr),
    "upside down": ((1, 0), (0, -1), np.flipud),
    "mirrored, a quarter": ((0, 1), (1, 0), lambda stored: stored.swapaxes(0, 1)),
    "mirrored, three quarters": ((0, -1), (-1, 0), lambda stored: np.rot90(stored, 2).swapaxes(0, 1)),
    "nearly as stored, and scaled": ((1.5, 0.01), (-0.01, 1.5), lambda stored: stored),
}


@pytest.fixture(scope="module")
def corners():
    """Stored 64 wide and 32 high, the left half light above and grey below."""
    stored = np.zeros((32, 64, 3), np.uint8)
    stored[:16, :32] = 240
    stored[16:, :32] = 120
    return stored


@pytest.mark.parametrize("how", SHOWN)
def test_a_turned_or_mirrored_video_is_read_as_it_is_shown(how, corners, av, tmp_path):
    """A phone says how a video is to be turned, and one of its front camera may be mirrored."""
    right, down, shown = SHOWN[how]
    path = write(tmp_path / "phone.mp4", frames=[corners] * 3)
    frames = read_frames(path if how == "as stored" else shown_by(path, right, down), [1])
    upright = shown(corners)
    assert frames.size == (upright.shape[1], upright.shape[0]) == frames.pictures[0].size
    read = np.asarray(frames.pictures[0]).astype(int)
    away = np.abs(read - upright)[4:-4, 4:-4]  # compression blurs edges
    assert np.median(away) <= 4
    for y in (0.25, 0.75):
        for x in (0.25, 0.75):
            place = int(y * read.shape[0]), int(x * read.shape[1])
            assert abs(int(read[place][0]) - int(upright[place][0])) < 12


@pytest.mark.parametrize(
    ("aspect", "size"), [("16/11", (93, 32)), ("10/11", (64, 35)), ("1", (64, 32)), ("0", (64, 32))]
)
def test_pixels_that_are_no_squares_are_stretched_to_some(aspect, size, corners, av, tmp_path):
    """As of DVDs and of tapes: a circle is stored as an ellipse."""
    path = tmp_path / "tape.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 32, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(aspect)
        for _ in range(2):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(corners, "rgb24")))
        container.mux(stream.encode())
    frames = read_frames(path, [1])
    assert frames.size == frames.pictures[0].size == size
    read = np.asarray(frames.pictures[0]).astype(int)[..., 0]
    light, grey = read[: size[1] // 2 - 5, : size[0] // 2 - 5], read[size[1] // 2 + 5 :, : size[0] // 2 - 5]
    assert (light.mean(), grey.mean()) == (pytest.approx(240, abs=6), pytest.approx(120, abs=6))


def test_a_video_that_is_shown_aslant_is_refused(corners, av, tmp_path):
    path = shown_by(write(tmp_path / "aslant.mp4", frames=[corners]), (0.8, 0.6), (-0.6, 0.8))
    with pytest.raises(BadVideo, match=r"aslant\.mp4: it is to be shown aslant, .*write it anew"):
        read_frames(path, [0])


def animation(ending, count=5, **options):
    pictures = [Image.fromarray(grey(i, (16, 16))) for i in range(count)]
    file, durations = io.BytesIO(), [100, 200, 300, 100, 50][:count]
    lossless = {"lossless": True} if ending == "webp" else {}
    pictures[0].save(
        file, ending, save_all=True, append_images=pictures[1:], duration=durations, loop=0, **lossless, **options
    )
    return file.getvalue()


@pytest.mark.parametrize("ending", ["gif", "webp", "png"])
def test_animated_pictures_and_how_long_their_frames_last(ending, tmp_path):
    data = animation(ending)
    (tmp_path / f"a.{ending}").write_bytes(data)
    for video in (data, tmp_path / f"a.{ending}", str(tmp_path / f"a.{ending}"), {"bytes": data, "path": None}):
        frames = read_frames(video, [4, 0, 2, 2, 1, 3])
        assert [number_of(picture) for picture in frames.pictures] == [4, 0, 2, 2, 1, 3]
        assert frames.seconds == pytest.approx([0.7, 0, 0.3, 0.3, 0.1, 0.6])
        assert (frames.total, frames.size) == (5, (16, 16))
    assert read_frames(data, FrameChoice(4, spacing="time").numbers).numbers.tolist() == [0, 1, 2, 3]


def test_frames_that_say_0_last_as_browsers_show_them():
    file, pictures = io.BytesIO(), [Image.fromarray(grey(i, (16, 16))) for i in range(3)]
    pictures[0].save(file, "GIF", save_all=True, append_images=pictures[1:], duration=[0, 40, 0])
    assert edges_of(file.getvalue()) == pytest.approx([0, 0.1, 0.14, 0.24])


@pytest.mark.parametrize(("disposal", "left"), [(1, (255, 0, 0)), (2, (255, 255, 255)), (3, (255, 255, 255))])
def test_what_a_gif_leaves_of_the_frame_before(disposal, left):
    """A red square, then a blue one on a clear ground: the red one stays (1), or is taken off again (2, 3)."""
    frames = []
    for place, colour in ((0, "red"), (8, "blue")):
        frame = Image.new("RGBA", (16, 16), (0, 0, 0, 0))
        frame.paste(colour, (place, 4, place + 8, 12))
        frames.append(frame)
    file = io.BytesIO()
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:], duration=100, disposal=disposal)
    second = read_frames(file.getvalue(), [1]).pictures[0]
    assert [second.getpixel(at) for at in ((12, 8), (12, 1), (4, 8))] == [(0, 0, 255), (255, 255, 255), left]


def test_transparency_lies_on_white():
    clear = [Image.new("RGBA", (8, 8), (0, 0, 0, 0)), Image.new("RGBA", (8, 8), (9, 9, 9, 255))]
    file = io.BytesIO()
    clear[0].save(file, "WEBP", save_all=True, append_images=clear[1:], lossless=True)
    assert [p.getpixel((0, 0)) for p in read_frames(file.getvalue(), [0, 1]).pictures] == [(255,) * 3, (9,) * 3]


def test_arrays_lists_and_still_pictures(tmp_path):
    array = np.stack([grey(i, (8, 8)) for i in range(4)])
    Image.fromarray(array[3]).save(tmp_path / "3.png")
    forms = [array, torch.from_numpy(array), [*map(Image.fromarray, array[:3]), tmp_path / "3.png"]]
    for video in forms:
        frames = read_frames(video, [3, 0])
        assert [number_of(picture) for picture in frames.pictures] == [3, 0]
        assert frames.seconds.tolist() == [3, 0]
    still = read_frames(tmp_path / "3.png", FrameChoice(4).numbers)
    assert [number_of(picture) for picture in still.pictures] == [3] * 4
    assert still.total == 1
    assert read_frames(Image.fromarray(array[2]), FrameChoice(2).numbers).total == 1


def test_one_frame_is_taken_as_often_as_it_takes(av, tmp_path):
    frames = read_frames(write(tmp_path / "a.mp4", 1), FrameChoice(8).numbers)
    assert [number_of(picture) for picture in frames.pictures] == [0] * 8
    assert read_frames(animation("gif", 1), FrameChoice(3).numbers).numbers.tolist() == [0] * 3


def test_pictures_are_shaped_one_by_one_and_each_number_once(av, tmp_path):
    path, made = write(tmp_path / "a.mp4"), []

    def shape(picture):
        made.append(number_of(picture))
        return made[-1]

    assert read_frames(path, ORDER, shape=shape).pictures == ORDER
    assert made == sorted({*ORDER})


def sound_alone(path):
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())


def test_what_cannot_be_read_says_which_why_and_the_remedy(av, tmp_path, monkeypatch):
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("this is no video " * 20)
    (tmp_path / "list.mp4").write_text("#EXTM3U\n#EXTINF:1,\na.mp4\n")  # a playlist would lead to other files
    (tmp_path / "joined.mp4").write_text("ffconcat version 1.0\nfile a.mp4\n")
    sound_alone(tmp_path / "sound.mp4")
    whole = write(tmp_path / "a.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "half.gif").write_bytes(animation("gif")[:60])
    for name, why in {
        "empty.mp4": "the file is empty",
        "text.mp4": "not a video that can be read .*write it anew",
        "list.mp4": "not a video that can be read .*write it anew",
        "joined.mp4": "not a video that can be read .*write it anew",
        "sound.mp4": "there is no video in it, only sound or text",
        "cut.mp4": "not a video that can be read .*copy it anew",
        "half.gif": "copy it anew",
        "none.mp4": "no such file",
    }.items():
        with pytest.raises(BadVideo, match=why) as raised:
            read_frames(tmp_path / name, [0])
        assert name in str(raised.value)
    for video, why in (
        (None, "there is none"),
        (tmp_path, "a folder"),
        ("https://example.org/a.mp4", "download the videos first"),
        (np.zeros((2, 3, 8, 8)), r"uint8 \[T, H, W, 3\], not float64 \[2, 3, 8, 8\]"),
        (np.zeros((0, 8, 8, 3), np.uint8), "no frame of it"),
        ([], "no frame of it"),
        (b"", "the file is empty"),
    ):
        with pytest.raises(BadVideo, match=why):
            read_frames(video, FrameChoice(2).numbers)
    monkeypatch.setattr("nearfar.data.video.bad_video.MAX_PIXELS", 100)
    for video in (tmp_path / "a.mp4", animation("gif")):
        with pytest.raises(BadVideo, match=r"frames of \d+ x \d+ pixels are more than the 100 allowed"):
            read_frames(video, [0])
    assert images.MAX_PIXELS > 100


def test_without_pyav_the_extra_is_named(tmp_path, monkeypatch):
    (tmp_path / "a.mp4").write_bytes(b"\0\0\0\x20ftypisom" + b"\0" * 32)
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(UserError, match=r"'av': pip install \"nearfar\[video\]\""):
        read_frames(tmp_path / "a.mp4", [0])
    assert number_of(read_frames(animation("gif"), [2]).pictures[0]) == 2  # Pillow's need none
    assert shade(2) == 28
