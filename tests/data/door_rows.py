"""The rows of the table in `docs/data.md` of what is read, skipped and refused, and files to test them with."""

import io
import tarfile
from pathlib import Path

from PIL import Image

from nearfar.data import Loader, train_tokenizer

PAGE = Path(__file__).parents[2] / "docs" / "data.md"
ROWS = {}


def row(source, holds):
    """The test of a row, by its first two cells."""

    def keep(test):
        ROWS[source, holds] = test
        return test

    return keep


def png(shade=0):
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (shade, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def write(**folders):
    """Files by folder: a list of pictures' names, or contents by name."""
    for folder, files in folders.items():
        for number, name in enumerate(files):
            path = Path(folder, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            data = files[name] if isinstance(files, dict) else png(number)
            path.write_bytes(data if isinstance(data, bytes) else data.encode())


def many(folder, count=20):
    write(**{folder: {f"red_{i}.png": png(i) for i in range(count)}})


def pack(name, members):
    with tarfile.open(name, "w") as shard:
        for member, data in members.items():
            info = tarfile.TarInfo(member)
            info.size = len(data)
            shard.addfile(info, io.BytesIO(data))


def pairs(count=20):
    return {f"k{i}.{e}": d for i in range(count) for e, d in (("png", png(i)), ("txt", b"text"))}


def unusable(source):
    """What a loader could not use in an epoch."""
    tokenizer = train_tokenizer(["a"], 300)
    options = {"batch_size": 4, "shuffle": False, "drop_last": False, "max_skipped": 1}
    loader = Loader(source, image_size=8, tokenizer=tokenizer, **options)
    for _ in loader:
        pass
    return str(loader.skipped)
