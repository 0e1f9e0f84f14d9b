"""An index made block by block is the index made at once, and is brought up to date like it."""

import numpy as np
import pytest
from PIL import Image

from nearfar import cli
from nearfar.embedding.blocks.block_folder import finished
from nearfar.embedding.blocks.block_records import BlockPlan
from nearfar.models import load
from nearfar.search import Index
from nearfar.search.index import block_vectors
from nearfar.search.index.block_vectors import vectors_by_blocks

SMALL = ["--batch-size", "2"]


def index(model, source, out, *flags):
    cli.main(["index", model, str(source), "--out", str(out), *SMALL, *flags])
    return Index(out)


@pytest.mark.parametrize("kind", ["photos", "shards", "table"])
def test_blocks_make_the_same_index(kind, model, tmp_path, request):
    """To the bit where batches are the same; in the table the first picture's second row is in the last batch."""
    source = request.getfixturevalue(kind)
    whole = index(model, source, tmp_path / "whole")
    blocks = index(model, source, tmp_path / "blocks", "--block", "4")
    if kind == "table":
        np.testing.assert_allclose(blocks.vectors, whole.vectors, atol=1e-6)
    else:
        assert np.array_equal(blocks.vectors, whole.vectors)
    rows = np.arange(len(whole))
    assert blocks.table.records(rows) == whole.table.records(rows)
    pictures = [
        next(folder.glob("pictures-*.bin")).read_bytes() for folder in (tmp_path / "whole", tmp_path / "blocks")
    ]
    assert pictures[0] == pictures[1]
    assert not (tmp_path / "blocks" / ".blocks").exists()


def test_a_stream_is_indexed_without_blocks(model, tables, tmp_path):
    assert len(index(model, tables, tmp_path / "index")) == 11
    with pytest.raises(SystemExit, match="is a stream, which is indexed without blocks: leave out --block and --ray"):
        index(model, tables, tmp_path / "index", "--block", "4")


def test_only_what_is_new_or_changed_meets_the_model(model, photos, tmp_path, capsys):
    index(model, photos, tmp_path / "index", "--block", "4")
    Image.new("RGB", (40, 20), "teal").save(photos / "03.png")
    Image.new("RGB", (20, 20), "cyan").save(photos / "99.png")
    (photos / "99.txt").write_text("cyan")
    (photos / "05.png").unlink()
    (photos / "05.txt").unlink()
    met = []

    def counting(job, numbers):
        for result in map(job.worker(), numbers):
            met.append(result.vectors["image"])
            yield result

    vectors_by_blocks(
        load(model), model, str(photos), tmp_path / "index", name=str(photos), options={}, block=4, batch_size=2,
        dim=None, max_skipped=0.1, engine=counting,
    )  # fmt: skip
    assert met == [1, 0, 1]
    capsys.readouterr()
    updated = index(model, photos, tmp_path / "index", "--block", "4")
    assert "1 added, 1 updated, 9 unchanged, 1 removed" in capsys.readouterr().out
    assert len(updated) == 11


def test_a_run_that_was_stopped_goes_on(model, photos, tmp_path, monkeypatch):
    """Blocks that are finished stay in the index's folder until it has taken them in."""
    work = block_vectors.BlockVectors.__call__

    def stopped(self, number):
        if number == 1:
            raise KeyboardInterrupt
        return work(self, number)

    monkeypatch.setattr(block_vectors.BlockVectors, "__call__", stopped)
    with pytest.raises(SystemExit):
        index(model, photos, tmp_path / "index", "--block", "4")
    assert [*finished(tmp_path / "index" / ".blocks", BlockPlan(records=11, size=4))] == [0]
    made = []
    monkeypatch.setattr(block_vectors.BlockVectors, "__call__", lambda self, n: made.append(n) or work(self, n))
    assert len(index(model, photos, tmp_path / "index", "--block", "4")) == 11
    assert made == [1, 2]
