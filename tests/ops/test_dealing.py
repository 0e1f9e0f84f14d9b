"""Tiles dealt to threads: what each form gives, whatever the number of threads, and what becomes of the threads."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch.nn.functional import normalize

from nearfar import ops
from nearfar.ops.tiling import dealing, inputs
from nearfar.ops.tiling.dealing import deal, each
from nearfar.ops.tiling.tiles import Pairs

N, D = 192, 24
GROUP = torch.arange(N) % 50
FORMS = {
    "two directions": lambda q, k: ops.info_nce(q, k, 20.0, tile=32),
    "two directions, far apart": lambda q, k: ops.info_nce(q, k, 900.0, tile=32),
    "two directions, nothing kept": lambda q, k: ops.info_nce(q, k, 20.0, tile=(16, 64), budget=0),
    "one direction": lambda q, k: ops.info_nce(q, k, 20.0, symmetric=False, tile=(32, N)),
    "queue": lambda q, k: ops.info_nce(q, k.detach(), 9.0, symmetric=False, positive=k.detach() + 1, tile=(32, N)),
    "one set": lambda q, k: ops.nt_xent(torch.cat([q, k]), 20.0, tile=64),
    "sigmoid": lambda q, k: ops.sigmoid(q, k, 10.0, -5.0, tile=32),
    "sigmoid, rows": lambda q, k: ops.sigmoid(q, k, 10.0, -5.0, reduction="none", tile=32).mul(torch.arange(N)).sum(),
    "two-way": lambda q, k: sum(
        s.log_sum.sum() + s.mean_logit.sum() for s in ops.two_way_partition(q, k, 5.0, 9.0, tile=32)
    ),
    "two-way, one set": lambda q, k: ops.two_way_partition(q, q, 5.0, 5.0, one_set=True, tile=32)[0].log_sum.sum(),
    "soft targets": lambda q, k: ops.soft_target(q, k, 10.0, teacher_q=k.detach().roll(1, 0), alpha=0.4, tile=32),
    "pair contrast": lambda q, k: ops.pair_contrast(
        q, k, 10.0, q_group=GROUP, partner=GROUP.flip(0), k_group=GROUP, tile=32
    )[0],
    "pair contrast, gated": lambda q, k: ops.pair_contrast(
        q, k, 10.0, q_group=GROUP, partner=GROUP.flip(0), k_group=GROUP, key_gate=q.sigmoid(), tile=32
    )[0],
    "margin": lambda q, k: ops.margin_ranking(q, k, 0.2, against="mean", tile=32),
}


@pytest.fixture(params=[2, 3], ids="{} threads".format)
def threads(request):
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(1)


def vectors(dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    q, k = (torch.randn(N, D, generator=generator, dtype=dtype) for _ in range(2))
    return [normalize(q, dim=1).requires_grad_(), normalize(q + k, dim=1).requires_grad_()]


def value_and_gradients(form, dtype=torch.float64):
    both = vectors(dtype)
    loss = FORMS[form](*both)
    return [loss.detach(), *(g for g in torch.autograd.grad(loss, both, allow_unused=True) if g is not None)]


@pytest.mark.parametrize("form", FORMS)
def test_threads_give_what_one_gives_and_the_same_bits_each_time(form, threads):
    dealt = value_and_gradients(form)
    again = value_and_gradients(form)
    torch.set_num_threads(1)
    for one, many, more in zip(value_and_gradients(form), dealt, again, strict=True):
        torch.testing.assert_close(many, one, rtol=1e-11, atol=1e-13)
        assert torch.equal(many, more)


@pytest.mark.parametrize("form", FORMS)
def test_tiles_are_dealt(form, threads, monkeypatch):
    """Or the comparison above compares nothing."""
    at_work = set()
    value_and_gradients(form)  # threads begin
    submit = ThreadPoolExecutor.submit

    def watched(pool, compute, index):
        return submit(pool, lambda: (at_work.add(threading.get_ident()), compute(index)))

    monkeypatch.setattr(ThreadPoolExecutor, "submit", watched)
    value_and_gradients(form)
    assert threading.get_ident() not in at_work
    assert 0 < len(at_work) <= threads


def pairs(n, m, tile, **options):
    return Pairs(torch.zeros(n, 1), torch.zeros(m, 1), torch.ones(n), tile=tile, **options)


@pytest.mark.parametrize(
    "case", [pairs(96, 70, (16, 32)), pairs(90, 90, (45, 45), one_set=True), pairs(600, 600, (300, 300), one_set=True)]
)
def test_each_tile_is_dealt_once_and_no_two_shares_have_a_row(case, threads):
    shares = deal(case)
    assert sorted(tile.index for share in shares for tile in share) == list(range(len(case.tiles)))
    assert all(share == sorted(share, key=lambda tile: tile.index) for share in shares)
    if len(shares) > 1:
        sizes = [sum(tile.size for tile in share) for share in shares]
        assert max(sizes) * threads <= 1.25 * sum(sizes)
    if not case.one_set:
        rows = [{tile.rows.start for tile in share} for share in shares]
        assert sum(map(len, rows)) == len(set.union(*rows))


def test_tiles_are_not_dealt_where_a_thread_would_go_without(threads):
    assert len(deal(pairs(32, 32, (32, 32)))) == 1
    assert len(deal(pairs(16 * (threads + 1), 8, (16, 8)))) == 1
    assert len(deal(pairs(16 * threads, 8, (16, 8)))) == threads


def test_two_threads_get_as_much_of_any_batch():
    torch.set_num_threads(2)
    try:
        for n in (1100, 2500, 3000, 5000):
            first, second = deal(inputs.pairs(torch.zeros(n, 2), torch.zeros(n, 2), 1.0))
            assert sum(tile.size for tile in first) == pytest.approx(sum(tile.size for tile in second), rel=0.01)
    finally:
        torch.set_num_threads(1)


def test_many_threads_do_not_hold_sums_of_large_keys(monkeypatch):
    case = pairs(64, 2 << 20, (16, 2 << 20))
    for count, shares in ((2, 2), (4, 4), (16, 1)):
        monkeypatch.setattr(torch, "get_num_threads", lambda count=count: count)
        assert len(deal(case)) == shares
    wide = pairs(64, 24 << 20, (16, 24 << 20))  # 96 MiB
    for count, shares in ((2, 2), (4, 1)):
        monkeypatch.setattr(torch, "get_num_threads", lambda count=count: count)
        assert len(deal(wide)) == shares


def test_a_fault_in_one_share_is_raised_when_all_have_ended(threads):
    case, done = pairs(16 * threads, 8, (16, 8)), []

    def work(index, _, tiles):
        if not index:
            raise ArithmeticError("the first")
        torch.mm(torch.ones(300, 300), torch.ones(300, 300))
        done.append(index)

    with pytest.raises(ArithmeticError, match="the first"):
        each(case, deal(case), work)
    assert len(done) == threads - 1


def test_threads_of_the_user_keep_their_number(threads):
    dealing._threads.cache_clear()  # it is making them that could change it
    value_and_gradients("two directions")
    numbers = []
    other = threading.Thread(target=lambda: numbers.append(torch.get_num_threads()))
    other.start()
    other.join()
    assert [torch.get_num_threads(), *numbers] == [threads, threads]


def test_in_inference_mode_and_under_autocast(threads):
    q, k = (t.detach() for t in vectors(torch.float32))
    loss = ops.info_nce(q, k, 20.0, tile=32)
    with torch.inference_mode():
        assert torch.equal(ops.info_nce(q, k, 20.0, tile=32), loss)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(ops.info_nce(q, k, 20.0, tile=32), loss)


def test_in_bfloat16_each_thread_has_scratch_of_its_own(threads, monkeypatch):
    monkeypatch.setattr("nearfar.ops.tiling.partition.half_pays", lambda q, k: True)
    dealt = value_and_gradients("two directions", torch.float32)
    torch.set_num_threads(1)
    for one, many in zip(value_and_gradients("two directions", torch.float32), dealt, strict=True):
        torch.testing.assert_close(many, one, rtol=1e-5, atol=1e-7)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_has_threads_of_its_own(threads):
    value_and_gradients("sigmoid")
    child = os.fork()
    if not child:
        torch.set_num_threads(threads)
        os._exit(0 if len(value_and_gradients("margin")) == 3 else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
