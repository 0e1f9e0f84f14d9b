"""Every kind of picture that people really have, and every way in which a file can be broken."""

import io
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from nearfar.data.pictures.images import BadImage, decode, image_size, load_image, resize


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def test_transparency_is_laid_on_white():
    half_red = Image.new("RGBA", (4, 4), (255, 0, 0, 128))
    assert load_image(encoded(half_red)).getpixel((1, 1)) == pytest.approx((255, 127, 127), abs=1)
    assert load_image(encoded(Image.new("LA", (4, 4), (0, 0)))).getpixel((1, 1)) == (255, 255, 255)


def test_palette_with_a_transparent_colour_is_laid_on_white():
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([0, 0, 0, 10, 200, 30])
    assert load_image(encoded(palette)).getpixel((0, 0)) == (10, 200, 30)
    assert load_image(encoded(palette, transparency=1)).getpixel((0, 0)) == (255, 255, 255)


def test_grey_picture_with_a_transparent_value():
    assert load_image(encoded(Image.new("L", (4, 4), 7), transparency=7)).getpixel((0, 0)) == (255, 255, 255)


def test_sixteen_bits_are_scaled_and_not_cut_off():
    ramp = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    for kind in ("PNG", "TIFF"):
        values = np.asarray(load_image(encoded(Image.fromarray(ramp), kind)))[..., 0]
        assert np.array_equal(values, np.arange(256).reshape(16, 16))


def test_floats_and_32_bit_integers():
    assert load_image(Image.fromarray(np.full((2, 2), 0.5, np.float32))).getpixel((0, 0)) == (128, 128, 128)
    assert load_image(Image.fromarray(np.full((2, 2), 100, np.int32))).getpixel((0, 0)) == (100, 100, 100)
    assert load_image(Image.fromarray(np.full((2, 2), 65535, np.int32))).getpixel((0, 0)) == (255, 255, 255)


def test_cmyk_and_bilevel():
    assert load_image(encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "TIFF")).getpixel((0, 0)) == (255, 0, 0)
    assert load_image(encoded(Image.new("CMYK", (8, 8), (0, 0, 0, 255)), "JPEG")).getpixel((0, 0)) == (0, 0, 0)
    assert load_image(encoded(Image.new("1", (8, 8), 1))).getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_an_animation_gives_its_first_frame(kind):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue", "green")]
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], duration=10, **options)
    assert load_image(data).getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_applied(orientation):
    upright = Image.new("RGB", (48, 32), "white")
    upright.paste((255, 0, 0), (0, 0, 8, 8))  # red at the top left
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # the transpose that the orientation calls for, undone
    stored = upright if orientation == 1 else upright.transpose(Image.Transpose(undo[orientation]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(stored, "JPEG", exif=exif.tobytes(), quality=95, subsampling=0)
    image, size = decode(data)
    assert image.size == size == image_size(data) == (48, 32)
    assert np.abs(np.asarray(image, int) - np.asarray(upright, int)).mean() < 3


def test_a_large_jpeg_is_decoded_small_and_its_size_is_kept():
    data = encoded(Image.new("RGB", (800, 400), "red"), "JPEG")
    image, size = decode(data, near=90)
    assert size == (800, 400)
    assert min(image.size) >= 90
    assert image.width < 400


def test_a_given_image_is_left_as_it_was(tmp_path):
    Image.new("RGB", (640, 640)).save(tmp_path / "a.jpg")
    mine = Image.open(tmp_path / "a.jpg")
    decode(mine, near=8)
    assert mine.size == (640, 640)


def test_what_an_image_may_be(tmp_path):
    red = Image.new("RGB", (3, 3), "red")
    data = encoded(red)
    (tmp_path / "red.png").write_bytes(data)
    forms = [red, data, bytearray(data), io.BytesIO(data), tmp_path / "red.png", str(tmp_path / "red.png")]
    forms += [{"bytes": data, "path": None}, {"bytes": None, "path": str(tmp_path / "red.png")}, np.asarray(red)]
    assert all(load_image(form).getpixel((0, 0)) == (255, 0, 0) for form in forms)
    assert load_image("red.png", root=tmp_path).size == (3, 3)


def bomb() -> bytes:
    """A PNG of a few bytes that claims to be 60,000 pixels wide and high."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


PICTURE = encoded(Image.effect_noise((64, 64), 50).convert("RGB"))
BROKEN = {
    "empty": (b"", "empty"),
    "text": (b"this is no picture", "not an image"),
    "truncated png": (PICTURE[: len(PICTURE) // 2], "broken"),
    "truncated jpeg": (encoded(Image.effect_noise((64, 64), 50), "JPEG")[:500], "broken"),
    "only a header": (PICTURE[:20], "broken"),
    "bomb": (bomb(), "pixels"),
    "svg": (b"<svg xmlns='http://www.w3.org/2000/svg'></svg>", "SVG"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_are_named(tmp_path, name):
    data, why = BROKEN[name]
    (tmp_path / "picture.png").write_bytes(data)
    with pytest.raises(BadImage, match=rf"picture\.png: .*{why}"):
        load_image(tmp_path / "picture.png")
    with pytest.raises(BadImage, match=why):
        load_image(data)


@pytest.mark.parametrize(
    ("image", "why"),
    [
        ("gone.png", "no such file"),
        (".", "folder"),
        ("https://example.org/a.png", "download"),
        (None, "none"),
        ({}, "none"),
    ],
)
def test_no_file_at_all(tmp_path, image, why):
    with pytest.raises(BadImage, match=why):
        load_image(image, root=tmp_path)


def test_the_limit_of_pixels():
    data = encoded(Image.new("RGB", (100, 100)))
    assert load_image(data, max_pixels=10_000).size == (100, 100)
    with pytest.raises(BadImage, match="100 x 100 pixels"):
        load_image(data, max_pixels=9_999)


def test_resize_crops_the_middle_or_squashes():
    stripes = Image.new("RGB", (90, 30), "red")
    stripes.paste("blue", (30, 0, 60, 30))
    cropped, squashed = resize(stripes, 30), resize(stripes, 30, fit="squash")
    assert (cropped == (0, 0, 255)).all()
    assert (squashed[:, 2] == (255, 0, 0)).all()
    assert (squashed[:, 15] == (0, 0, 255)).all()


@pytest.mark.parametrize("capability", ["AVX2", "DEFAULT"])
@pytest.mark.parametrize("shape", [(48, 64), (64, 48), (300, 37), (1, 1), (2, 3), (7, 120), (24, 24)])
def test_resize_is_pillows_within_the_rounding_of_one_resampling(shape, capability, monkeypatch):
    """On the hardest pictures, black and white pixels at random: 2 levels of 255 at most, 0.05 on average."""
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    pixels = np.random.default_rng(0).integers(0, 2, (*shape, 3), dtype=np.uint8) * np.uint8(255)
    picture = Image.fromarray(pixels)
    for size in (24, 53):
        away = np.abs(resize(picture, size, fit="squash") - np.asarray(picture.resize((size, size), 3), int))
        assert away.max() <= (2 if capability == "AVX2" else 0)
        assert away.mean() < 0.05


def test_the_central_square_takes_its_edges_from_what_lies_beside_it():
    """As CLIP's own preprocessing, which resizes the whole picture and then cuts: an odd difference in half pixels."""
    pixels = np.random.default_rng(0).integers(0, 256, (40, 83, 3), dtype=np.uint8)
    whole = np.asarray(Image.fromarray(pixels).resize((166, 80), Image.Resampling.BICUBIC), int)
    assert np.abs(resize(Image.fromarray(pixels), 80) - whole[:, 43:123]).max() <= 2


def test_resize_of_a_line_takes_little_memory():
    assert resize(Image.new("RGB", (60_000, 1)), 64).shape == (64, 64, 3)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP"])
def test_damaged_files_are_read_or_refused_and_nothing_else(kind):
    rng = np.random.default_rng(0)
    whole = np.frombuffer(encoded(Image.effect_noise((24, 24), 60).convert("RGB"), kind), np.uint8)
    read = 0
    for _ in range(60):
        damaged = whole.copy()
        for place in rng.integers(0, len(whole), rng.integers(1, 6)):
            damaged[place] = rng.integers(0, 256)
        data = damaged[: rng.integers(len(whole) // 2, len(whole) + 1)].tobytes()
        try:
            read += load_image(data).mode == "RGB"
        except BadImage:
            continue
    assert read < 60
