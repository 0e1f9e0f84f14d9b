"""A rank that ends too early ends the others, who say which it was."""

import socket
import time

import pytest
import ranks
from peer_work import AT, train_and_lose

from nearfar.training.loop.peers import GRACE
from nearfar.training.state.run_checkpoint import Checkpoints


def started(world, *args):
    """Processes of one run, by rank."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    actual = [
        ranks.server().Process(target=ranks._rank, args=(train_and_lose, rank, world, port, args, {}))
        for rank in range(world)
    ]
    for process in actual:
        process.start()
    return actual


@pytest.mark.parametrize(
    ("world", "lost", "how"),
    [
        (2, 1, "is killed"),
        (3, 0, "is killed"),
        (3, 2, "raises"),
        (3, 2, "is killed while another computes"),
    ],
)
def test_the_others_end_and_say_which_it_was(world, lost, how, tmp_path):
    out = tmp_path / "run"
    running = started(world, str(out), lost, how)
    try:
        running[lost].join(120)
        assert running[lost].exitcode is not None
        since = time.monotonic()
        for process in running:
            process.join(GRACE + 20)
        assert all(process.exitcode is not None for process in running), "a rank goes on alone"
        assert time.monotonic() - since < GRACE + 10
    finally:
        for process in running:
            process.kill()
    assert (running[lost].exitcode != 0) == how.startswith("is killed")
    others = [rank for rank in range(world) if rank != lost]
    if how == "is killed while another computes":
        assert [running[rank].exitcode for rank in others] == [1, 1]
    else:
        why = r"LookupError: a word" if how == "raises" else "it said nothing, as a process that is killed"
        for rank in others:
            said = (tmp_path / f"run-{rank}-of-{world}").read_text()
            assert said.startswith(
                f"UserError: rank {lost} (process {running[lost].pid} on {socket.gethostname()}) ended before the run "
                f"was over ({why}), so rank {rank} ends too"
            )
    if how == "raises":
        assert (tmp_path / f"run-{lost}-of-{world}").read_text().startswith("LookupError: a word"), "its own error"
    assert Checkpoints(out / "checkpoints", 2).latest().name == f"step-{AT - 1:08d}", "the state before is whole"
