"""Workers of a real Ray cluster, here: the blocks are those of one process, and a killed worker costs its block."""

import os
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from nearfar import cli
from nearfar.data import AltTextFilter, open_source
from nearfar.embedding import curate, embed, embed_blocks
from nearfar.embedding.blocks.block_folder import MadeOf
from nearfar.embedding.blocks.embed_blocks import EmbedJob
from nearfar.embedding.blocks.ray_workers import RayWorkers, check_answers
from nearfar.errors import UserError
from nearfar.models import load
from nearfar.search import Index
from nearfar.search.index.block_vectors import vectors_by_blocks

ray = pytest.importorskip("ray")
pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]


def below(process):
    """The ids of the processes that a process started, and of theirs."""
    children = [
        int(child) for task in Path(f"/proc/{process}/task").glob("*/children") for child in task.read_text().split()
    ]
    return [*children, *(each for child in children for each in below(child))]


def workers():
    names = {process: Path(f"/proc/{process}/cmdline").read_bytes() for process in below(os.getpid())}
    return [process for process, name in names.items() if b"BlockWorker" in name]


def killing(*of):
    """An engine of two workers that kills one after the first block of each folder in `of`, the names of the folders
    where it did, and the times of what was finished by then."""
    killed, before = {}, {}

    class Killing(RayWorkers):
        def __call__(self, job, numbers):
            others, name = set(workers()), Path(job.out).name  # of the job before, which may not have gone yet
            for result in super().__call__(job, numbers):
                if name in of and name not in killed:
                    before.update({path: path.stat().st_mtime_ns for path in Path(job.out).glob("block-*.json")})
                    killed[name] = next(process for process in workers() if process not in others)
                    os.kill(killed[name], signal.SIGKILL)
                yield result

    return Killing(workers=2), killed, before


def untouched(before):
    """Whether there were any files, and none was written again."""
    return bool(before) and all(path.stat().st_mtime_ns == time for path, time in before.items())


@pytest.mark.parametrize("file_format", ["safetensors", "parquet"])
def test_a_killed_worker_costs_its_block(file_format, model, photos, tmp_path):
    """One of two workers is killed after the first block; what is finished by then is not made again, and a second run
    makes what is missing."""
    engine, killed, before = killing("many")
    many, one = tmp_path / "many", tmp_path / "one"
    settings = {"block": 1, "batch_size": 1, "file_format": file_format}
    run = embed_blocks(model, str(photos), many, engine=engine, **settings)
    assert killed
    assert not Path(f"/proc/{killed['many']}").exists()
    assert (run.made, run.kept) == (11, 0)
    assert untouched(before)
    assert not ray.is_initialized()
    (many / "block-000007.json").unlink()
    run = embed_blocks(model, str(photos), many, engine=RayWorkers(workers=2), **settings)
    assert (run.made, run.kept) == (1, 10)
    assert untouched({path: time for path, time in before.items() if path.exists()})
    torch.set_num_threads(1)
    embed_blocks(model, str(photos), one, **settings)
    names = sorted(path.name for path in one.glob("block-*"))
    assert len(names) == 22
    assert names == sorted(path.name for path in many.glob("block-*"))
    assert all((many / name).read_bytes() == (one / name).read_bytes() for name in names)


def test_a_curation_by_workers_is_that_of_one_process(model, photos, tmp_path):
    """Every file of every block of all steps, with a worker killed while they filter and while they look for near
    pictures and captions; then a step's block is gone, and made."""
    (photos / "00b.png").write_bytes((photos / "00.png").read_bytes())
    (photos / "00b.txt").write_text("red again")
    made = embed(load(model), open_source(str(photos)), batch_size=2)
    score = (made.image[made.image_of_text] * made.text).sum(1).sort().values
    settings = {
        "model": model, "min_score": float(score[1:3].mean()), "near_pictures": 0.9999, "near_captions": 0.99,
        "alt_text": AltTextFilter(min_side=10, min_words=1, max_words=2, vocabulary=30), "block": 2, "batch_size": 2,
    }  # fmt: skip
    steps = ("filtered", "pictures", "captions")
    engine, killed, before = killing(*steps)
    many = curate(str(photos), tmp_path / "many", engine=engine, **settings)
    assert (*killed,) == steps
    assert untouched(before)
    torch.set_num_threads(1)
    one = curate(str(photos), tmp_path / "one", **settings)
    assert (many.kept, many.dropped, many.made) == (one.kept, one.dropped, one.made)
    assert {why.partition(" ")[0] for why in one.dropped} == {"more", "score", "picture", "caption"}
    made = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*-0*.*"))
    assert len(made) == 6 * (2 + 2 + 3 + 3 + 3)
    gone = tmp_path / "many/filtered/block-000004.json"
    gone.unlink()
    again = curate(str(photos), tmp_path / "many", engine=RayWorkers(workers=2), **settings)
    assert (again.kept, again.made, again.there) == (one.kept, 1, 5 * 6 - 1)
    assert all((tmp_path / "many" / path).read_bytes() == (tmp_path / "one" / path).read_bytes() for path in made)


def test_an_index_by_workers_is_that_of_one_process(model, photos, tmp_path):
    """With a worker killed on the way, before the command goes on with what there is."""
    small, out = ["--block", "2", "--batch-size", "2"], {name: tmp_path / name for name in ("one", "many")}
    torch.set_num_threads(1)
    cli.main(["index", model, str(photos), "--out", str(out["one"]), *small])
    engine, killed, before = killing(".blocks")
    vectors_by_blocks(
        load(model), model, str(photos), out["many"], name=str(photos), options={}, block=2, batch_size=2, dim=None,
        max_skipped=0.1, engine=engine,
    )  # fmt: skip
    assert killed
    assert untouched(before)
    next(path for path in sorted((out["many"] / ".blocks").glob("block-*.json")) if path not in before).unlink()
    cli.main(["index", model, str(photos), "--out", str(out["many"]), *small, "--ray", "--workers", "2"])
    one, many = Index(out["one"]), Index(out["many"])
    rows = np.arange(11)
    assert len(many) == 11
    assert np.array_equal(one.vectors, many.vectors)
    assert one.table.records(rows) == many.table.records(rows)
    pictures = [next(folder.glob("pictures-*.bin")).read_bytes() for folder in out.values()]
    assert pictures[0] == pictures[1]
    assert not (out["many"] / ".blocks").exists()


def test_what_a_worker_refuses_is_one_sentence(model, photos, tmp_path):
    """A worker that sees another model than the run was planned with."""
    embed_blocks(model, str(photos), tmp_path / "out", block=4, batch_size=4)
    made_of = MadeOf.load(tmp_path / "out")
    other = EmbedJob(replace(made_of, weights="0" * 32), str(tmp_path / "out"))
    with pytest.raises(UserError, match="is another model where a worker reads it") as refused:
        list(RayWorkers(workers=1)(other, [0]))
    assert "Traceback" not in str(refused.value)


def test_workers_of_a_cluster_that_runs_already(model, photos, tmp_path):
    """By its address; it runs on when they are done."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    small = ["--block", "4", "--batch-size", "4"]
    torch.set_num_threads(1)
    try:
        cli.main(["embed", model, str(photos), "--out", str(tmp_path / "many"), *small, "--ray", cluster.address])
        check_answers(cluster.address)
    finally:
        cluster.shutdown()
    cli.main(["embed", model, str(photos), "--out", str(tmp_path / "one"), *small])
    names = sorted(path.name for path in (tmp_path / "one").glob("block-*"))
    assert len(names) == 6
    assert all((tmp_path / "many" / name).read_bytes() == (tmp_path / "one" / name).read_bytes() for name in names)


def test_an_address_where_nothing_listens(model, photos, tmp_path):
    with pytest.raises(UserError, match=r"no Ray cluster answers at 127\.0\.0\.1:1: is it running"):
        embed_blocks(model, str(photos), tmp_path / "out", engine=RayWorkers("127.0.0.1:1"))
