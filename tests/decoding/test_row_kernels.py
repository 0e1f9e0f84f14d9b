"""Products of a few rows by compiled loops: the same numbers, on any number of threads, only while needed."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import nn

from nearfar.decoding import contrastive_search
from nearfar.decoding.contrastive import few_rows as module
from nearfar.decoding.contrastive import row_kernels
from nearfar.decoding.contrastive.few_rows import few_rows, few_rows_linear
from nearfar.decoding.contrastive.row_kernels import RowProduct

pytest.importorskip("numba", reason="needs numba: pip install 'nearfar[decoding]'")


@pytest.fixture(params=[1, 3])
def threads(request, monkeypatch):
    """Torch's number of threads, each of which may take the smallest share."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    monkeypatch.setattr(row_kernels, "A_THREAD", 1)
    with ThreadPoolExecutor(request.param) as pool:
        yield pool
    torch.set_num_threads(before)


@pytest.fixture
def small_models(monkeypatch):
    """Models of any size are worth the compilation."""
    monkeypatch.setattr(module, "WORTH_COMPILING", 1)


@pytest.mark.parametrize("loops", [row_kernels.four_rows, row_kernels.eight_rows])
def test_the_loops_are_a_product(loops):
    generator = np.random.default_rng(0)
    count = 4 if loops is row_kernels.four_rows else 8
    rows, matrix, out = generator.normal(size=(count, 5)), generator.normal(size=(7, 5)), np.empty((count, 7))
    loops(matrix, rows, out)
    np.testing.assert_allclose(out, rows @ matrix.T, atol=1e-14)


@pytest.mark.parametrize("rows", range(1, 9))
@pytest.mark.parametrize(("m", "d"), [(1, 1), (2, 33), (37, 70), (64, 576)])
def test_it_is_as_exact_as_torchs(threads, rows, m, d):
    generator = torch.Generator().manual_seed(rows + m)
    states, matrix = torch.randn(rows, d, generator=generator), torch.randn(m, d, generator=generator)
    exact = states.double() @ matrix.double().T
    out = RowProduct(matrix, threads)(states)
    assert out.shape == (rows, m)
    assert (out - exact).norm() <= 4e-7 * exact.norm()


def test_any_leading_shape_and_any_strides(threads):
    product, states = RowProduct(torch.randn(6, 5), threads), torch.randn(5, 2, 3)
    turned = states.permute(1, 2, 0)
    torch.testing.assert_close(product(turned), turned @ torch.from_numpy(np.concatenate(product.parts)).T)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_broken_numbers_stay_where_they_are(threads, bad):
    states = torch.randn(4, 9)
    states[2, 3] = bad
    out = RowProduct(torch.rand(5, 9) + 0.1, threads)(states)
    assert torch.isfinite(out).all(dim=1).tolist() == [True, True, False, True]


def test_the_rows_of_a_large_matrix_are_shared_out(threads, monkeypatch):
    matrix = torch.randn(8, 4)
    assert [len(part) for part in RowProduct(matrix, threads).parts] == {1: [8], 3: [3, 3, 2]}[torch.get_num_threads()]
    monkeypatch.setattr(row_kernels, "A_THREAD", 17)
    assert [len(part) for part in RowProduct(matrix, threads).parts] == [8], "a thread would have too little to do"


@pytest.mark.parametrize(("rows", "kernel"), [(2, "by_four"), (4, "by_four"), (5, "by_eight"), (8, "by_eight")])
def test_no_more_rows_are_multiplied_than_need_be(threads, monkeypatch, rows, kernel):
    calls = []
    for name in ("by_four", "by_eight"):
        monkeypatch.setattr(row_kernels, name, lambda name=name: lambda *_: calls.append(name))
    RowProduct(torch.ones(3, 2), threads)(torch.ones(rows, 2))
    assert set(calls) == {kernel}


@pytest.mark.parametrize("error", [RuntimeError("cannot cache function: no locator"), OSError("no space left")])
def test_kernels_are_compiled_where_nothing_can_be_kept(monkeypatch, error):
    import numba

    plain, calls = numba.njit, []

    def njit(signature, *, cache=False, **options):
        calls.append(cache)
        if cache:
            raise error
        return plain(signature, **options)

    monkeypatch.setattr(numba, "njit", njit)
    rows, matrix, out = np.ones((4, 3), np.float32), np.ones((2, 3), np.float32), np.empty((4, 2), np.float32)
    row_kernels._compiled(row_kernels.four_rows)(matrix, rows, out)
    assert calls == [True, False]
    assert (out == 3).all()


@pytest.mark.parametrize("bias", [True, False])
def test_layers_take_kernels_inside_the_block(small_models, monkeypatch, bias):
    model = nn.Sequential(nn.Linear(6, 5, bias=bias), nn.Linear(5, 4, dtype=torch.float64))
    states = torch.randn(1, 4, 6)
    with few_rows(model, 4), torch.no_grad():
        layer, product = vars(model[0])["forward"].args
        assert (layer, type(product)) == (model[0], RowProduct)
        assert "forward" not in vars(model[1]) or not isinstance(vars(model[1])["forward"].args[1], RowProduct)
        out = model[0](states)
    torch.testing.assert_close(out, model[0](states))


@pytest.mark.parametrize("state", ["no numba", "a small model", "a view", "one row", "nine rows"])
def test_others_keep_torchs_product(small_models, monkeypatch, state):
    layer, rows = nn.Linear(6, 6), {"one row": 1, "nine rows": 9}.get(state, 4)
    if state == "no numba":
        monkeypatch.setattr(row_kernels, "has_numba", lambda: False)
    if state == "a small model":
        monkeypatch.setattr(module, "WORTH_COMPILING", 36 * 4 + 1)
    if state == "a view":
        layer.weight = nn.Parameter(torch.randn(6, 6).t())
    with few_rows(nn.Sequential(layer), rows):
        forward = vars(layer).get("forward")
        assert forward is None or forward.args[1].func is module.reordered


@pytest.mark.parametrize(("missing", "warned"), [("numba", 0), (None, 1)])
def test_a_numba_that_cannot_be_imported_is_warned_of(monkeypatch, recwarn, missing, warned):
    """Where it is not installed there is nothing to say; where it does not know so new a numpy, there is."""
    import builtins

    plain = builtins.__import__

    def broken(name, *args, **kwargs):
        if name == "numba":
            raise ImportError("Numba needs NumPy 2.5 or less", name=missing)
        return plain(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", broken)
    assert not row_kernels.has_numba.__wrapped__()
    assert ["takes longer" in str(each.message) for each in recwarn] == [True] * warned


@pytest.mark.parametrize(("rows", "few"), [(0, False), (1, False), (2, True), (8, True), (9, False)])
def test_few_rows_alone_are_the_products(rows, few):
    layer, calls = nn.Linear(6, 5), []
    few_rows_linear(layer, lambda states: calls.append(states) or torch.zeros(rows, 5), torch.randn(rows, 6))
    assert bool(calls) == few


def test_autocast_keeps_the_layers_own_product():
    layer = nn.Linear(6, 5)
    with torch.autocast("cpu", torch.bfloat16):
        out = few_rows_linear(layer, lambda states: pytest.fail("not in float32"), torch.randn(4, 6))
    assert out.dtype == torch.bfloat16


def test_leaves_write_what_copies_write(small_models, monkeypatch):
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=97, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, eos_token_id=None, initializer_range=0.3,
    )  # fmt: skip
    model, calls, plain = LlamaForCausalLM(config).eval(), [], RowProduct.__call__
    monkeypatch.setattr(RowProduct, "__call__", lambda *args: calls.append(args[0].ends[-1]) or plain(*args))
    prompt, arguments = torch.randint(3, 97, (2, 7)), {"k": 4, "alpha": 0.6, "max_new_tokens": 24}
    text = contrastive_search(model, prompt, **arguments)
    assert {*calls} == {32, 16, 48, 97}
    assert not any("forward" in vars(part) for part in model.modules())
    calls.clear()
    assert torch.equal(text, contrastive_search(model, prompt, strategy="copy", **arguments))
    assert calls == []
