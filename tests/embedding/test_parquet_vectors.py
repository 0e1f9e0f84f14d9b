"""Embeddings in Parquet: the bits and ids of the safetensors file, in columns that other programs read as they are."""

import json

import numpy as np
import pytest
import torch
from pyarrow import dataset, parquet

from nearfar import cli
from nearfar.embedding import Embeddings, embed_blocks, load_blocks
from nearfar.embedding.embeddings import Side
from nearfar.errors import UserError


def held_equal(one, other):
    assert list(one.sides) == list(other.sides)
    for name, side in one.sides.items():
        assert torch.equal(side.vectors.view(torch.int32), other.sides[name].vectors.view(torch.int32)), name
        assert torch.equal(side.owner, other.sides[name].owner), name
    for name in ("row", "index", "group", "picture", "label", "domain"):
        now, then = getattr(one, name), getattr(other, name)
        assert now is None if then is None else torch.equal(now, then), name
    for name in ("names", "captions", "columns", "classes", "domains", "source"):
        assert getattr(one, name) == getattr(other, name), name
    assert [*one.skipped] == [*other.skipped]
    assert one.skipped.count == other.skipped.count


@pytest.mark.parametrize("kind", ["photos", "table", "shards"])
def test_blocks_of_parquet_are_those_of_safetensors(kind, model, tmp_path, request):
    spec = str(request.getfixturevalue(kind))
    folders = {}
    for form in ("safetensors", "parquet"):
        folders[form] = tmp_path / form
        embed_blocks(model, spec, folders[form], block=4, batch_size=2, file_format=form)
    assert [path.suffix for path in sorted(folders["parquet"].glob("block-*.p*"))] == [".parquet"] * 3
    held_equal(load_blocks(folders["parquet"]), load_blocks(folders["safetensors"]))


def test_a_folder_is_one_table(model, table, tmp_path):
    """Its columns are the same in all blocks; the rows of a side are the data's, in order."""
    embed_blocks(model, str(table), tmp_path / "out", block=4, batch_size=2, file_format="parquet")
    whole = load_blocks(tmp_path / "out")
    files = sorted(str(path) for path in (tmp_path / "out").glob("*.parquet"))
    rows = dataset.dataset(files).to_table(filter=dataset.field("side") == "image")
    assert rows["id"].to_pylist() == whole.index.tolist()
    assert rows.schema.field("vector").type.list_size == 8
    vectors = np.stack(rows.select(["id", "vector"]).to_pandas()["vector"])
    assert vectors.dtype == np.float32
    assert np.array_equal(vectors, whole.image.numpy())
    assert json.loads(rows["about"][0].as_py())["columns"]["path"].endswith("00.png")
    groups = parquet.ParquetFile(files[0])
    assert [set(groups.read_row_group(i)["side"].to_pylist()) for i in range(2)] == [{"image"}, {"text"}]


def test_what_other_data_have_comes_back(tmp_path):
    """Several captions a record in any order, a further side, no captions' words, records without a vector, names that
    are not UTF-8, values of several kinds."""
    made = Embeddings(
        sides={
            "video": Side(torch.tensor([[0.0, -0.0, 3e-45]]), torch.tensor([2])),
            "text": Side(torch.randn(3, 3), torch.tensor([2, 0, 2])),
        },
        row=torch.tensor([4, 5, 9]),
        index=torch.tensor([-(2**62), 7, 8]),
        label=torch.tensor([0, -1, 2]),
        classes=["a", "b", "c"],
        names=["caf\udce9", "b", "c"],
        columns={"size": [1, None, 2.5], "name": ["x", True, None], "none": [None] * 3},
    )
    held_equal(Embeddings.load(made.save(tmp_path / "a.parquet")), made)
    pictures = Embeddings(torch.eye(2), torch.zeros(0, 2))
    held_equal(Embeddings.load(pictures.save(tmp_path / "b.parquet")), pictures)


def test_what_cannot_be_a_table_is_refused(tmp_path):
    unlike = Embeddings(sides={"image": torch.eye(2), "audio": torch.ones(2, 3)})
    with pytest.raises(UserError, match=r"of one width, and these have 2 of image, 3 of audio: write \.safetensors"):
        unlike.save(tmp_path / "a.parquet")
    assert not list(tmp_path.iterdir())
    parquet.write_table(
        parquet.read_table(Embeddings(torch.eye(2)).save(tmp_path / "b.parquet"))[:1], tmp_path / "c.parquet"
    )
    whole = (tmp_path / "b.parquet").read_bytes()
    (tmp_path / "d.parquet").write_bytes(whole[:-9])
    for name in ("c", "d"):
        with pytest.raises(UserError, match="holds no embeddings: make it with `nearfar embed`"):
            Embeddings.load(tmp_path / f"{name}.parquet")


def test_the_command_writes_parquet(model, photos, tmp_path, capsys):
    """To one file by its ending, to a folder by --format; a folder of the one kind takes no blocks of the other."""
    small = ["--batch-size", "4"]
    cli.main(["embed", model, str(photos), "--out", str(tmp_path / "a.parquet"), *small])
    cli.main(["embed", model, str(photos), "--out", str(tmp_path / "a.safetensors"), *small])
    held_equal(Embeddings.load(tmp_path / "a.parquet"), Embeddings.load(tmp_path / "a.safetensors"))
    folder = ["embed", model, str(photos), "--out", str(tmp_path / "out"), "--block", "8", *small]
    cli.main([*folder, "--format", "parquet"])
    assert len(list((tmp_path / "out").glob("*.parquet"))) == 2
    with pytest.raises(SystemExit, match="were made with file format parquet, not safetensors"):
        cli.main(folder)
