"""Draws the contact sheets of the guide to the embedded world: `python tools/draw_world.py` writes docs/assets."""

from __future__ import annotations

import io
import textwrap
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from nearfar.data import world
from nearfar.data.scenes import scenes, video
from nearfar.data.sources.source import Record

ASSETS = Path(__file__).parents[1] / "docs/assets"
FONT = ImageFont.load_default(size=13)
CELL = 128


def main() -> None:
    ASSETS.mkdir(exist_ok=True)
    names = ["crab", "strawberry", "guitar", "taxi", "octopus", "elephant", "pizza", "rose"]
    emoji = [r for name in names for r in world.emoji("test") if r["name"] == name]
    by_style = [emoji[c * len(world.STYLES) + s] for s in range(len(world.STYLES)) for c in range(len(names))]
    _sheet("world_emoji", [(_opened(r), r["name"] if r["style"] == "noto" else "") for r in by_style], len(names))
    art = world.clipart("train")
    _sheet("world_clipart", [(_opened(art[i]), art[i]["text"][0]) for i in range(40, 1896, 118)], 8)
    made = scenes("train", vocabulary="basic", objects=2)
    looks = scenes("test", attributes=("size", "turned"), styles=["noto", "twemoji", "fluent-3d"])
    _sheet("world_scenes", [(r["image"], r["text"][0]) for r in (*made[:16], *looks[:8])], 8)
    clips = {r["motion"]: r for r in video("train", n=60, vocabulary="basic")}
    frames = [
        (Image.fromarray(f), r["text"][0] if not t else "") for r in clips.values() for t, f in enumerate(r["video"])
    ]
    _sheet("world_video", frames[: 4 * 8], 8)


def _opened(record: Record) -> Image.Image:
    return Image.open(io.BytesIO(record["image"])).convert("RGBA")


def _sheet(name: str, pictures: list[tuple[Image.Image, str]], columns: int) -> None:
    """Pictures in rows with what is said of them underneath."""
    lines = [textwrap.wrap(text, 19)[:4] for _, text in pictures]
    rows = [lines[i : i + columns] for i in range(0, len(lines), columns)]
    heights = [CELL + 14 + 15 * max(map(len, row)) for row in rows]
    sheet = Image.new("RGB", (columns * (CELL + 12), sum(heights)), "white")
    draw = ImageDraw.Draw(sheet)
    for i, (picture, _) in enumerate(pictures):
        x, y = i % columns * (CELL + 12) + 6, sum(heights[: i // columns]) + 6
        scale = CELL / max(picture.size)
        sized = picture.resize((round(picture.width * scale), round(picture.height * scale)), Image.Resampling.LANCZOS)
        corner = (x + (CELL - sized.width) // 2, y + (CELL - sized.height) // 2)
        sheet.paste(sized, corner, sized if sized.mode == "RGBA" else None)
        draw.rectangle((x - 1, y - 1, x + CELL, y + CELL), outline="#dddddd")
        for k, line in enumerate(lines[i]):
            draw.text((x, y + CELL + 2 + 15 * k), line, fill="#222222", font=FONT)
    sheet.save(ASSETS / f"{name}.webp", quality=85, method=4)


if __name__ == "__main__":
    main()
