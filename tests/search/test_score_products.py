"""Which library computes the scores of a search, and on how many threads."""

import numpy as np
import pytest
import torch
from threadpoolctl import ThreadpoolController

from nearfar.evaluation.measures.retrieval_ranks import rank
from nearfar.nearest import nearest, score_products

OPENBLAS = bool(len(ThreadpoolController().select(internal_api="openblas")))
needs_openblas = pytest.mark.skipif(not OPENBLAS, reason="this numpy multiplies by another library")


@pytest.fixture
def calls(monkeypatch):
    """A processor of AMD on which numpy is faster, and on how many threads each of its products runs."""
    monkeypatch.delenv("NEARFAR_PRODUCTS", raising=False)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"cpu_name": "AMD EPYC"}, raising=False)
    monkeypatch.setattr(score_products, "_numpy_is_faster", lambda: True)
    product, threads, calls = np.matmul, ThreadpoolController().select(internal_api="openblas"), []

    def watched(*arguments, **options):
        calls.append({part["num_threads"] for part in threads.info()})
        return product(*arguments, **options)

    monkeypatch.setattr(np, "matmul", watched)
    score_products.numpy_threads.cache_clear()
    yield calls
    score_products.numpy_threads.cache_clear()


def vectors(count, dim=256, seed=0):
    x = torch.randn(count, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.nn.functional.normalize(x, dim=1)


@pytest.fixture
def torch_threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@needs_openblas
@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("shape", [(30, 3001), (3001, 30)])
def test_large_products_are_numpys_on_torchs_number_of_threads(calls, torch_threads, threads, shape):
    query, key = vectors(shape[0]), vectors(shape[1], seed=1)
    before = ThreadpoolController().select(internal_api="openblas")
    torch_threads(threads)
    with before.limit(limits=2):
        out = score_products.score_product(query.float(), key.float(), torch.empty(shape))
        assert {part["num_threads"] for part in before.info()} == {2}, "set back"
    assert calls == [{1}] * threads, "each has a part of its own, and OpenBLAS no threads beside them"
    torch.testing.assert_close(out.double(), query @ key.T, atol=1e-6, rtol=0)


@needs_openblas
@pytest.mark.parametrize("queries", [5, 6, 19, 20])
def test_few_queries_are_torchs(calls, queries):
    query, key = vectors(queries), vectors(20_000, seed=1)
    out = score_products.score_product(query.float(), key.float(), torch.empty(queries, 20_000))
    assert bool(calls) == (queries >= 6)
    torch.testing.assert_close(out.double(), query @ key.T, atol=1e-6, rtol=0)


@needs_openblas
def test_what_numpy_cannot_multiply_is_torchs(calls):
    query, key = vectors(40), vectors(4000, seed=1)
    score_products.score_product(query, key, torch.empty(40, 4000, dtype=torch.float64))
    score_products.score_product(query.bfloat16(), key.bfloat16(), torch.empty(40, 4000, dtype=torch.bfloat16))
    with torch.no_grad():
        score_products.score_product(query.float().requires_grad_(), key.float(), torch.empty(40, 4000))
    score_products.score_product(query[:, :8].float(), key[:, :8].float(), torch.empty(40, 4000))  # not worth it
    assert calls == []


@needs_openblas
def test_search_and_ranks_are_the_same_by_either(calls, monkeypatch):
    query, key = vectors(900).float(), vectors(900, seed=1).float()
    key[:300] = query[:300] + 0.01 * key[:300]
    own = torch.arange(900)
    by_numpy = nearest(query, key, 7)[1], rank(query, key, own, own).rank()
    assert len(calls) >= 2
    monkeypatch.setenv("NEARFAR_PRODUCTS", "torch")
    score_products.numpy_threads.cache_clear()
    calls.clear()
    by_torch = nearest(query, key, 7)[1], rank(query, key, own, own).rank()
    assert calls == []
    assert torch.equal(by_numpy[0], by_torch[0])
    assert np.array_equal(by_numpy[1], by_torch[1])


@needs_openblas
@pytest.mark.parametrize("other", ["GenuineIntel", "", None])
def test_other_processors_keep_torchs(calls, monkeypatch, other):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {} if other is None else {"cpu_name": other})
    score_products.score_product(vectors(40).float(), vectors(4000).float(), torch.empty(40, 4000))
    assert calls == []


@needs_openblas
@pytest.mark.parametrize(("numpys", "taken"), [(0.91, False), (0.89, True)])
def test_it_has_to_be_clearly_faster(calls, monkeypatch, numpys, taken):
    monkeypatch.undo()
    monkeypatch.delenv("NEARFAR_PRODUCTS", raising=False)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"cpu_name": "AMD EPYC"}, raising=False)
    monkeypatch.setattr(score_products, "time_share", lambda numpy, torch, repeats: numpys)
    assert (score_products.numpy_threads() is not None) == taken


@needs_openblas
@pytest.mark.parametrize("choice", ["torch", "auto"])
def test_numpy_s_product_takes_no_turns_with_faiss(calls, monkeypatch, choice):
    pytest.importorskip("faiss")
    from nearfar.search.kinds import faster_scan, neighbours

    monkeypatch.setenv("NEARFAR_PRODUCTS", choice)
    score_products.numpy_threads.cache_clear()
    turns = []
    plain = faster_scan.faster_scan
    monkeypatch.setattr(faster_scan, "faster_scan", lambda *arguments: turns.append(1) or plain(*arguments))
    query, key = vectors(2000, 64).float().numpy(), vectors(faster_scan.LEAST, 64, seed=1).float().numpy()
    scores, rows = neighbours.neighbours("flat", key, None, query, 3)
    assert (bool(turns), bool(calls)) == (choice == "torch", choice == "auto")
    expected = np.sort(query[:5].astype(np.float64) @ key.T.astype(np.float64))[:, ::-1][:, :3]
    np.testing.assert_allclose(scores[:5], expected, atol=1e-6)
    assert rows.shape == (2000, 3)
