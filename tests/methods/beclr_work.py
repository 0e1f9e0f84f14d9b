"""What one process does in the test of BECLR under two processes."""

from __future__ import annotations

from methods.image_batches import batch, encoder
from methods.shuffle_work import Stop, mine
from nearfar import train
from nearfar.methods import BECLR


def trained_in_modes(out):
    """By mode, what `trained` returns of a whole run, and of one that stops after five steps and goes on."""
    modes = ("live", "official")
    return {mode: [trained(f"{out}/{mode}-{stop}", mode, stop) for stop in (0, 5)] for mode in modes}


def trained(out, mode, stop):
    """Two epochs of four global batches of 4; with `stop`, stop after that step and go on. The final state, and how
    many neighbours counted in each step."""
    whole = [batch(4, seed=i, first=4 * i) for i in range(4)]
    data = [{"views": mine(each["views"], 1), "index": mine(each["index"])} for each in whole]
    common = {"steps": 8, "progress": False, "report": False, "lr": 1e-3, "save_every": 1, "warmup": 0}

    def make():
        memory = {"memory_size": 16, "clusters": 3, "neighbours": 2, "start_epoch": 1, "recluster_every": 1}
        return BECLR(encoder(norm="all"), mode=mode, predictor_hidden=8, masked=0.4, patch=8, **memory)

    method = make()
    if stop:
        original = method.after_step

        def after_step(step: int) -> None:
            original(step)
            if step == stop:
                raise Stop

        method.after_step = after_step
        try:
            train(method, data, out=out, **common)
        except Stop:
            method = make()
    run = train(method, data, out=out, resume=bool(stop), **common)
    counts = [row["neighbours"] for row in run.history if "neighbours" in row]
    return {key: value.numpy() for key, value in run.method.state_dict().items()}, counts
