"""Builds the embedded world, `src/nearfar/data/world_files`, out of pinned packages.

    python tools/build_world.py                 # fetches into a temporary folder
    python tools/build_world.py --cache FOLDER  # keeps what it fetched there, and uses it again

Needs `npm`, `apt-get` and `dpkg-deb` for fetching, and `pip install "nearfar[world]"` for drawing. Every archive is
checked against its recorded sha256 before anything is made of it.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).parent))

from world_build import clipart, emoji
from world_build.concepts import Naming
from world_build.packages import PACKAGES, fetch

ROOT = Path(__file__).parents[1]
OUT = ROOT / "src/nearfar/data/world_files"

# Words that a registry gives as another name of a concept, though they stand for far more than it.
TOO_GENERAL = {"computer", "clothes", "person", "people", "symbol", "sign"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, help="keep the fetched packages in this folder")
    cache = parser.parse_args().cache
    if cache:
        build(cache, OUT)
    else:
        with tempfile.TemporaryDirectory() as folder:
            build(Path(folder), OUT)


def build(cache: Path, out: Path) -> None:
    """Fetch into `cache`, write the tables and the licences into `out`, and print what is in them."""
    packages = fetch(cache)
    out.mkdir(parents=True, exist_ok=True)
    concepts = emoji.concepts(packages)
    drawings = list(clipart.drawings(packages, held_out(concepts)))
    _write(out / "emoji.parquet", concepts)
    _write(out / "emoji_images.parquet", list(emoji.pictures(packages, concepts)), images=True)
    _write(out / "emoji_names.parquet", list(emoji.names(packages, concepts)))
    _write(out / "clipart.parquet", drawings, images=True)
    _write(out / "packages.parquet", [package.__dict__ for package in PACKAGES])
    _licences(packages, out / "licences")
    for name, rows in (("emoji concepts", concepts), ("clip art", drawings)):
        print(f"{name}: {len(rows)}, {dict(Counter(row['split'] for row in rows))}")
    print(f"{sum(path.stat().st_size for path in out.rglob('*') if path.is_file()) / 1e6:.1f} MB in {out.name}")


def held_out(concepts: list[dict]) -> Naming:
    """Finds the concepts of val and test by their names, the names of their base concepts and, but for symbols, whose
    other names are everyday words, the other names that the packages know them by."""
    owner = {name: c["base"] for c in concepts for name in (c["name"], c["base"])}
    phrases = []
    for c in concepts:
        if c["split"] != "train":
            known = {c["name"], c["base"]}
            if c["category"] != "symbols":
                known |= {s for s in c["synonyms"] if owner.get(s, c["base"]) == c["base"]} - TOO_GENERAL
            phrases += [(name, f"{c['split']}:{c['base']}") for name in sorted(known)]
    return Naming(phrases)


def _write(path: Path, rows: list[dict], *, images: bool = False) -> None:
    # Encoded pictures do not compress, so they are stored as they are and read without a copy.
    compression = {key: "NONE" if key == "image" else "ZSTD" for key in rows[0]} if images else "ZSTD"
    table = pa.Table.from_pylist(rows)
    pq.write_table(table, path, compression=compression, use_dictionary=[k for k in rows[0] if k != "image"])


def _licences(packages: dict[str, Path], folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    shutil.copy(ROOT / "LICENSE", folder / "Apache-2.0.txt")
    shutil.copy(packages["openmoji"] / "LICENSE.txt", folder / "CC-BY-SA-4.0.txt")
    shutil.copy(packages["names"] / "LICENSE", folder / "MIT-emojibase.txt")
    shutil.copy(packages["annotations"] / "LICENSE", folder / "Unicode-3.0.txt")
    mit = (packages["names"] / "LICENSE").read_text("utf-8").splitlines()
    holder = next(i for i, line in enumerate(mit) if line.startswith("Copyright"))
    mit[holder] = "Copyright (c) Microsoft Corporation"
    (folder / "MIT-fluent.txt").write_text("\n".join(mit) + "\n", "utf-8")
    dedication = packages["clipart-svg"] / "usr/share/doc/openclipart-svg/copyright"
    shutil.copy(dedication, folder / "public-domain-openclipart.txt")
    (folder / "NOTICE.md").write_text(_notice(), "utf-8")


def _notice() -> str:
    rows = "\n".join(f"| {p.name} | {p.version} | {p.attribution} | {p.licence} |" for p in PACKAGES)
    return f"""# Where the pictures and words come from

| package | version | whose | licence |
|---|---|---|---|
{rows}

Changes made: pictures were converted to WebP; OpenMoji was drawn at {emoji.VECTOR_SIZE} pixels; Fluent Emoji was
scaled from 256 to {emoji.VECTOR_SIZE} pixels; clip art was cropped to what is drawn and scaled to at most
{clipart.SIZE} pixels.
The OpenMoji pictures, as changed here, stay under CC BY-SA 4.0. CC BY 4.0 (Twemoji) is at
<https://creativecommons.org/licenses/by/4.0/>; the texts of the other licences are in this folder. Each row of the
picture tables names the file of the package that it was made from and, where known, the person who drew it.
"""


if __name__ == "__main__":
    main()
