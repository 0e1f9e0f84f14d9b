"""Fashion-MNIST from its files: what they hold by value, its splits, a sentence where they are missing or damaged."""

import gzip

import numpy as np
import pytest

from nearfar.data import Loader, open_source
from nearfar.data.pictures import fashion as fashion_module
from nearfar.data.pictures.fashion import CLASSES, FOLDER
from nearfar.errors import UserError

TRAIN, TEST = 24, 5


def idx(values):
    """An IDX file of bytes."""
    sides = np.array(values.shape, ">u4").tobytes()
    return bytes([0, 0, 8, values.ndim]) + sides + values.astype(np.uint8).tobytes()


def picture(place):
    return (np.arange(28 * 28).reshape(28, 28) + 7 * place) % 256


def written(folder, *, packed=True):
    """Files as the package has them, smaller: picture i is of class i modulo 10."""
    for name, count, first in (("train", TRAIN, 0), ("t10k", TEST, TRAIN)):
        pictures = np.stack([picture(first + i) for i in range(count)])
        labels = np.arange(first, first + count) % 10
        for kind, values in (("images-idx3", pictures), ("labels-idx1", labels)):
            file = folder / f"{name}-{kind}-ubyte{'.gz' if packed else ''}"
            file.write_bytes(gzip.compress(idx(values)) if packed else idx(values))
    return folder


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize(
    ("split", "places"),
    [("train", range(22)), ("val", range(22, 24)), ("test", range(24, 29)), ("all", range(29))],
)
def test_pictures_labels_and_ids_of_each_split(tmp_path, split, places, packed):
    source = open_source("world/fashion", split=split, folder=written(tmp_path, packed=packed))
    assert source.classes == CLASSES
    assert source.ids() == list(places)
    assert [record["label"] for record in source] == [place % 10 for place in places]
    assert [record["text"] for record in source] == [CLASSES[place % 10] for place in places]
    for record, place in zip(source, places, strict=True):
        assert np.array_equal(np.asarray(record["image"]), picture(place))


def test_it_trains_as_other_pictures_do(tmp_path):
    source = open_source("world/fashion", folder=written(tmp_path))
    loader = Loader(source, batch_size=4, views="simclr-half", n_views=2, image_size=32)
    batch = next(iter(loader))
    assert batch["views"].shape == (2, 4, 3, 32, 32)
    assert batch["label"].tolist() == [place % 10 for place in batch["index"].tolist()]
    assert source.first(3).ids() == [0, 1, 2]
    assert source.select([5, 4])[0]["label"] == 5


def test_without_the_package_it_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(fashion_module, "FOLDER", str(tmp_path / "none"))
    with pytest.raises(UserError, match=r"no train-images-idx3-ubyte.gz.*apt install dataset-fashion-mnist"):
        open_source("world/fashion")
    with pytest.raises(UserError, match="split"):
        open_source("world/fashion", split="dev", folder=written(tmp_path))
    (tmp_path / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(UserError, match=r"no t10k-labels-idx1-ubyte.gz"):
        open_source("world/fashion", split="test", folder=tmp_path)
    assert len(open_source("world/fashion", folder=tmp_path)) == 22
    assert FOLDER == "/usr/share/datasets/fashion-mnist"


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        pytest.param(
            "images-idx3", gzip.compress(idx(np.zeros((24, 28, 28))))[:60], "cannot be read to its end", id="cut off"
        ),
        pytest.param("images-idx3", b"not packed", "cannot be read to its end", id="not packed"),
        pytest.param(
            "images-idx3", gzip.compress(idx(np.zeros((24, 28, 28)))[:-1]), "no whole IDX file", id="a byte too few"
        ),
        pytest.param(
            "images-idx3", gzip.compress(idx(np.zeros((24, 28, 28))) + b"x"), "no whole IDX file", id="a byte too many"
        ),
        pytest.param(
            "images-idx3", gzip.compress(b"\0\0\x0d\x03" + bytes(20)), "no whole IDX file", id="of another type"
        ),
        pytest.param("images-idx3", gzip.compress(b""), "no whole IDX file", id="empty"),
        pytest.param(
            "images-idx3",
            gzip.compress(idx(np.zeros((23, 28, 28)))),
            r"pictures \[23, 28, 28\].*labels \[24\]",
            id="a picture too few",
        ),
        pytest.param("images-idx3", gzip.compress(idx(np.zeros(24))), r"pictures \[24\]", id="without sides"),
        pytest.param("labels-idx1", gzip.compress(idx(np.full(24, 10))), "has a label 10", id="an unknown class"),
    ],
)
def test_damaged_files_are_named(tmp_path, file, content, message):
    (written(tmp_path) / f"train-{file}-ubyte.gz").write_bytes(content)
    with pytest.raises(UserError, match=message):
        open_source("world/fashion", folder=tmp_path)


def test_a_huge_length_in_a_damaged_head_takes_no_memory(tmp_path):
    (written(tmp_path) / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(b"\0\0\x08\x01" + b"\xff" * 4))
    with pytest.raises(UserError, match="no whole IDX file"):
        open_source("world/fashion", folder=tmp_path)
