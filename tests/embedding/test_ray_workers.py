"""Workers of a real Ray cluster, here: the blocks are those of one process, and a killed worker costs its block."""

import os
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from nearfar import cli
from nearfar.embedding import curate, embed_blocks
from nearfar.embedding.blocks.block_folder import MadeOf
from nearfar.embedding.blocks.embed_blocks import EmbedJob
from nearfar.embedding.blocks.ray_workers import RayWorkers
from nearfar.errors import UserError
from nearfar.search import Index

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


def killing(of):
    """An engine of two workers that kills one after the first block of the folder `of`, the process that it killed, and
    the times of what was finished by then."""
    killed, before = [], {}

    class Killing(RayWorkers):
        def __call__(self, job, numbers):
            for result in super().__call__(job, numbers):
                if not killed and Path(job.out).name == of:
                    before.update({path: path.stat().st_mtime_ns for path in Path(job.out).glob("block-*.json")})
                    killed.append(workers()[0])
                    os.kill(killed[0], signal.SIGKILL)
                yield result

    return Killing(workers=2), killed, before


def test_a_killed_worker_costs_its_block(model, photos, tmp_path):
    """One of two workers is killed after the first block; what is finished by then is not made again."""
    engine, killed, before = killing("many")
    many, one = tmp_path / "many", tmp_path / "one"
    run = embed_blocks(model, str(photos), many, block=1, batch_size=1, engine=engine)
    assert killed
    assert not Path(f"/proc/{killed[0]}").exists()
    assert (run.made, run.kept) == (11, 0)
    assert before
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())
    assert not ray.is_initialized()
    torch.set_num_threads(1)
    embed_blocks(model, str(photos), one, block=1, batch_size=1)
    names = sorted(path.name for path in one.glob("block-*"))
    assert len(names) == 22
    assert names == sorted(path.name for path in many.glob("block-*"))
    assert all((many / name).read_bytes() == (one / name).read_bytes() for name in names)


def test_a_curation_by_workers_is_that_of_one_process(model, photos, tmp_path):
    """Every file of every block of all steps, with a worker killed in one of them."""
    (photos / "00b.png").write_bytes((photos / "00.png").read_bytes())
    (photos / "00b.txt").write_text("red again")
    settings = {"model": model, "near_pictures": 0.9999, "near_captions": 0.9999, "block": 2, "batch_size": 2}
    engine, killed, before = killing("pictures")
    many = curate(str(photos), tmp_path / "many", engine=engine, **settings)
    assert killed
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())
    torch.set_num_threads(1)
    one = curate(str(photos), tmp_path / "one", **settings)
    assert (many.kept, many.dropped, many.made) == (one.kept, one.dropped, one.made)
    assert one.dropped["picture within 0.9999 of an earlier one"] >= 1
    made = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*-0*.*"))
    assert len(made) == 6 * (2 + 3 + 3 + 3)
    assert all((tmp_path / "many" / path).read_bytes() == (tmp_path / "one" / path).read_bytes() for path in made)


def test_an_index_by_workers_is_that_of_one_process(model, photos, tmp_path):
    small = ["--block", "3", "--batch-size", "3"]
    cli.main(["index", model, str(photos), "--out", str(tmp_path / "one"), *small])
    cli.main(["index", model, str(photos), "--out", str(tmp_path / "many"), *small, "--ray", "--workers", "2"])
    one, many = Index(tmp_path / "one"), Index(tmp_path / "many")
    assert len(many) == 11
    assert np.array_equal(one.vectors, many.vectors)
    assert not (tmp_path / "many" / ".blocks").exists()


def test_what_a_worker_refuses_is_one_sentence(model, photos, tmp_path):
    """A worker that sees another model than the run was planned with."""
    embed_blocks(model, str(photos), tmp_path / "out", block=4, batch_size=4)
    made_of = MadeOf.load(tmp_path / "out")
    other = EmbedJob(replace(made_of, weights="0" * 32), str(tmp_path / "out"))
    with pytest.raises(UserError, match="is another model where a worker reads it") as refused:
        list(RayWorkers(workers=1)(other, [0]))
    assert "Traceback" not in str(refused.value)


def test_an_address_where_nothing_listens(model, photos, tmp_path):
    with pytest.raises(UserError, match=r"no Ray cluster answers at 127\.0\.0\.1:1: is it running"):
        embed_blocks(model, str(photos), tmp_path / "out", engine=RayWorkers("127.0.0.1:1"))
