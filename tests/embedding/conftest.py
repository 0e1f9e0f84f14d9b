"""A small model in a folder, and the same few pictures as a folder, a table and shards."""

import csv
import io
import tarfile

import pytest
import torch
from PIL import Image
from pyarrow import Table, parquet

from nearfar.data import train_tokenizer
from nearfar.models import create

NAMES = ["red", "green", "blue", "white", "black", "yellow", "pink", "brown", "orange", "purple", "gold"]


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    torch.manual_seed(0)
    made = create("tiny", tokenizer=train_tokenizer(NAMES, 300), image_size=32, embed_dim=8)
    return str(made.save_pretrained(tmp_path_factory.mktemp("model") / "tiny"))


@pytest.fixture
def photos(tmp_path):
    """11 pictures with captions of unlike lengths."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number, name in enumerate(NAMES):
        Image.new("RGB", (20 + number, 20), name).save(folder / f"{number:02}.png")
        (folder / f"{number:02}.txt").write_text(" ".join([name] * (1 + number % 3)))
    return folder


@pytest.fixture
def table(photos):
    """A row a picture, the first picture in the last row again."""
    with (photos / "table.csv").open("w") as file:
        rows = [(f"{number:02}.png", f"a {name} square") for number, name in enumerate(NAMES)]
        csv.writer(file).writerows([("image", "text"), *rows, ("00.png", "red again")])
    return photos / "table.csv"


@pytest.fixture
def tables(photos, tmp_path):
    """Three Parquet files of 4, 4 and 3 rows, which hold the pictures."""
    paths = sorted(photos.glob("*.png"))
    rows = [{"image": path.read_bytes(), "text": path.with_suffix(".txt").read_text()} for path in paths]
    for shard in range(3):
        parquet.write_table(Table.from_pylist(rows[4 * shard : 4 * shard + 4]), tmp_path / f"{shard}.parquet")
    return tmp_path / "{0..2}.parquet"


@pytest.fixture
def shards(photos, tmp_path):
    """Three shards of 4, 4 and 3 samples."""
    for shard in range(3):
        with tarfile.open(tmp_path / f"{shard}.tar", "w") as tar:
            for path in sorted(photos.glob("*.*"))[8 * shard : 8 * shard + 8]:
                member = tarfile.TarInfo(path.name)
                member.size = path.stat().st_size
                tar.addfile(member, io.BytesIO(path.read_bytes()))
    return tmp_path / "{0..2}.tar"
