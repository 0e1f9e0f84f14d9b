"""Blocks are the whole in pieces: the same vectors and ids, made once, and refused where they would not fit."""

import os
import tracemalloc
from dataclasses import replace

import pytest
import torch

from nearfar import cli
from nearfar.data import Records, open_source
from nearfar.embedding import Embeddings, embed, embed_blocks, load_blocks
from nearfar.embedding.blocks.block_folder import finished
from nearfar.embedding.blocks.block_records import BlockPlan
from nearfar.embedding.blocks.embed_blocks import BlockEmbedder, open_for_blocks
from nearfar.embedding.blocks.ray_workers import RayWorkers
from nearfar.embedding.blocks.source_stamp import source_stamp
from nearfar.errors import UserError
from nearfar.models import load


def held_against_whole(blocks, whole):
    """Pictures to the bit; texts are batched by block, and so equal but for rounding."""
    assert torch.equal(blocks.image, whole.image)
    torch.testing.assert_close(blocks.text, whole.text, atol=1e-6, rtol=0)
    for name in ("row", "index", "image_of_text", "label", "group", "picture"):
        now, then = getattr(blocks, name), getattr(whole, name)
        assert now is None if then is None else torch.equal(now, then), name
    for name in ("captions", "names", "columns", "classes", "source"):
        assert getattr(blocks, name) == getattr(whole, name), name


@pytest.mark.parametrize("kind", ["photos", "table", "shards", "tables"])
def test_blocks_are_the_whole_in_pieces(kind, model, tmp_path, request):
    """Of the table, the same picture lies in the first and in the last block."""
    spec = str(request.getfixturevalue(kind))
    run = embed_blocks(model, spec, tmp_path / "out", block=4, batch_size=2)
    assert (run.made, run.kept) == (3, 0)
    options = {"streaming": True} if kind == "shards" else {}
    held_against_whole(load_blocks(tmp_path / "out"), embed(load(model), open_source(spec, **options), batch_size=2))


def test_a_block_is_whole_batches():
    assert BlockPlan.of(Records([{"text": str(number)} for number in range(10)]), block=5, batch_size=4).size == 8


def test_groups_of_the_data_stay_in_blocks_that_have_none(model, photos, tmp_path):
    rows = [
        "image,text,group",
        *(f"{number:02}.png,one,{7 if number < 3 else ''}" for number in range(6)),
        "00.png,two,",
    ]
    (photos / "groups.csv").write_text("\n".join(rows) + "\n")
    embed_blocks(model, str(photos / "groups.csv"), tmp_path / "out", block=2, batch_size=2)
    made = load_blocks(tmp_path / "out")
    assert made.group.tolist()[:3] == [7, 7, 7]
    assert len(set(made.group.tolist()[3:6])) == 3
    assert made.picture.tolist() == [0, 1, 2, 3, 4, 5, 0]


def test_a_second_run_makes_what_is_missing(model, photos, tmp_path):
    """A run that is stopped after its first block, and one of which a block is gone."""
    out = tmp_path / "out"

    def stopped(job, numbers):
        yield BlockEmbedder(job)(numbers[0])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        embed_blocks(model, str(photos), out, block=4, batch_size=4, engine=stopped)
    with pytest.raises(UserError, match="1 of 3 blocks: run `nearfar embed` again"):
        load_blocks(out)
    first = (out / "block-000000.safetensors").stat().st_mtime_ns
    (out / ".block-000001.safetensors.1.1.tmp").write_bytes(b"half")
    assert embed_blocks(model, str(photos), out, block=4, batch_size=4).made == 2
    assert (out / "block-000000.safetensors").stat().st_mtime_ns == first
    assert not list(out.glob("*.tmp")) + list(out.glob(".*.tmp"))
    (out / "block-000002.json").unlink()
    run = embed_blocks(model, str(photos), out, block=4, batch_size=4)
    assert (run.made, run.kept) == (1, 2)
    assert len(load_blocks(out)) == 11


def test_what_would_not_fit_is_refused(model, photos, tmp_path):
    out = tmp_path / "out"
    embed_blocks(model, str(photos), out, block=4, batch_size=4)
    with pytest.raises(UserError, match="were made with batch size 4, not 2: name another --out, or remove"):
        embed_blocks(model, str(photos), out, block=4, batch_size=2)
    with pytest.raises(UserError, match="with plan 4 records a block, not 8 records a block"):
        embed_blocks(model, str(photos), out, block=8, batch_size=4)
    other = load(model)
    with torch.no_grad():
        next(other.parameters()).add_(0.1)
    other.save_pretrained(tmp_path / "other")
    with pytest.raises(UserError, match="were made by another model than"):
        embed_blocks(str(tmp_path / "other"), str(photos), out, block=4, batch_size=4)
    wider = load(model)
    wider.pixels = replace(wider.pixels, std=(0.25, 0.25, 0.25))  # the same weights, other inputs
    wider.save_pretrained(tmp_path / "wider")
    with pytest.raises(UserError, match="were made by another model than"):
        embed_blocks(str(tmp_path / "wider"), str(photos), out, block=4, batch_size=4)
    os.utime(photos / "03.png", ns=(1, 1))
    with pytest.raises(UserError, match=r"the files of .*photos have changed since the blocks in"):
        embed_blocks(model, str(photos), out, block=4, batch_size=4)
    with pytest.raises(UserError, match="holds no blocks of embeddings"):
        load_blocks(photos)
    with pytest.raises(UserError, match="is a folder: blocks are read with"):
        Embeddings.load(out)


def test_broken_records_are_counted_over_all_blocks(model, photos, tmp_path):
    """A block of which nothing can be used has no vectors; its records are listed by their place in the whole."""
    rows = ["image,text", *(f"{number:02}.png,one" for number in range(4)), "gone.png,two", "gone2.png,three"]
    (photos / "broken.csv").write_text("\n".join(rows) + "\n")
    spec = str(photos / "broken.csv")
    run = embed_blocks(model, spec, tmp_path / "out", block=2, batch_size=2, max_skipped=0.5)
    assert [result.kept for result in run.results] == [2, 2, 0]
    places = [problem.where.partition(" (")[0] for problem in run.skipped]
    assert places == ["broken.csv, record 4", "broken.csv, record 5"]
    assert load_blocks(tmp_path / "out").row.tolist() == [0, 1, 2, 3]
    rows += [f"gone{number}.png,four" for number in range(200)]
    (photos / "broken.csv").write_text("\n".join(rows) + "\n")
    with pytest.raises(UserError, match="more than the 10% allowed"):
        embed_blocks(model, spec, tmp_path / "again", block=50, batch_size=2)


def test_a_plan_of_a_hundred_million_rows_takes_no_memory():
    tracemalloc.start()
    plan = BlockPlan(records=100_000_000, size=4096)
    assert len(plan) == 24_415
    assert plan.range_of(24_414) == range(99_999_744, 100_000_000)
    assert tracemalloc.get_traced_memory()[1] < 1 << 16
    tracemalloc.stop()


def test_a_plan_of_two_thousand_shards_takes_some_bytes_a_name(shards, tmp_path):
    """Tar shards are opened, stamped and planned by their names: the samples in them are not looked at."""
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(2_000):
        (folder / f"{number:04}.tar").hardlink_to(shards.with_name("0.tar"))
    spec = str(folder / "{0000..1999}.tar")
    source_stamp(str(folder / "0000.tar"), {})  # what is imported for it does not count
    BlockPlan.of(open_for_blocks(str(folder / "0000.tar"), {}), block=4096, batch_size=64)
    tracemalloc.start()
    plan = BlockPlan.of(open_for_blocks(spec, {}), block=4096, batch_size=64)
    source_stamp(spec, {})
    assert len(plan) == 2_000
    assert tracemalloc.get_traced_memory()[1] < 2_000 * 400
    tracemalloc.stop()


def test_the_command_writes_a_folder(model, photos, tmp_path, capsys):
    command = ["embed", model, str(photos), "--out", str(tmp_path / "out"), "--block", "4", "--batch-size", "4"]
    cli.main(command)
    assert "11 records; vectors: 11 of image, 11 of text\n3 blocks made, 0 were there" in capsys.readouterr().out
    cli.main(command)
    assert "0 blocks made, 3 were there" in capsys.readouterr().out
    assert len(finished(tmp_path / "out", BlockPlan(records=11, size=4))) == 3


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--out", "x.safetensors", "--block", "4"], "x.safetensors is one file, and blocks are written to a folder"),
        (["--workers", "2"], "--workers says how many of a Ray cluster embed: add --ray"),
        (["--out", "x", "--workers", "2"], "--workers says how many of a Ray cluster embed: add --ray"),
        (["--ray", "photos/"], "'photos/' is no address of a Ray cluster: write HOST:PORT, ray://HOST:PORT or auto"),
        (["--out", "x.npy"], "embeddings are written as .safetensors or .parquet; name the file x.safetensors"),
        (["--out", "x.safetensors", "--format", "parquet"], "x.safetensors is no .parquet file: leave out --format"),
        (["--out", "x", "--block", "0"], "block is 0, but must be 1 or more"),
    ],
)
def test_wrong_flags_are_one_sentence(flags, sentence, model, photos):
    with pytest.raises(SystemExit, match=sentence):
        cli.main(["embed", model, str(photos), *flags])


def test_addresses_of_clusters():
    for address in ("auto", "10.0.0.1:6379", "ray://head:10001", None):
        assert RayWorkers(address).address == address
