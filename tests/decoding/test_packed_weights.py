"""Weights packed for products of a few rows: the same numbers, only where it pays, and only while they are needed."""

import pytest
import torch
from torch import nn

from nearfar.decoding import contrastive_search
from nearfar.decoding.contrastive import few_rows as module
from nearfar.decoding.contrastive import packed_weights as packing
from nearfar.decoding.contrastive.few_rows import few_rows, few_rows_linear
from nearfar.ops.tiling.float_products import has_onednn

pytestmark = pytest.mark.skipif(not has_onednn(), reason="torch was built without oneDNN")


@pytest.fixture
def pays(monkeypatch):
    """A processor of AMD with memory to spare, on which packed products take half of the time."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"cpu_name": "AMD EPYC"}, raising=False)
    monkeypatch.setattr(packing, "free_memory", lambda: 1 << 40)
    monkeypatch.setattr(packing, "time_share", lambda packed, plain, repeats: (packed(), plain(), 0.5)[-1])
    monkeypatch.setattr(packing, "LOOKED_AT", 1)


def llama():
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=97, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, eos_token_id=None, initializer_range=0.3,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1, 1), (1, 4), (2, 4), (8,), (3, 5)])
def test_it_is_the_layer_itself(bias, shape):
    torch.manual_seed(0)
    layer, states = nn.Linear(33, 70, bias=bias), torch.randn(*shape, 33)
    with torch.no_grad():
        out = few_rows_linear(layer, states, packing.pack(layer.weight, 4))
        expected = layer.double()(states.double())
    torch.testing.assert_close(out.double(), expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(("rows", "few"), [(1, False), (2, True), (8, True), (9, False)])
def test_few_rows_alone_are_onednns(monkeypatch, rows, few):
    layer, calls = nn.Linear(33, 70), []
    plain = packing.packed_linear
    monkeypatch.setattr(module, "packed_linear", lambda *args: calls.append(args[0]) or plain(*args))
    with torch.no_grad():
        few_rows_linear(layer, torch.randn(rows, 33), packing.pack(layer.weight, 4))
    assert bool(calls) == few


def test_leaves_write_the_same_with_packed_weights(pays, monkeypatch):
    model, prompt = llama(), torch.randint(3, 97, (1, 7))
    calls, packed = [], []
    plain, pack = packing.packed_linear, packing.packed_weights
    monkeypatch.setattr(module, "packed_linear", lambda *args: calls.append(args[0]) or plain(*args))
    monkeypatch.setattr(module, "packed_weights", lambda *args: packed.extend(args[0]) or pack(*args))
    arguments = {"k": 4, "alpha": 0.6, "max_new_tokens": 64}
    text = contrastive_search(model, prompt, **arguments)
    linear = [part for part in model.modules() if type(part) is nn.Linear]
    assert {*calls} == {*packed} == {*linear} - {model.lm_head}
    assert not any("forward" in vars(part) for part in linear)
    calls.clear()
    assert torch.equal(text, contrastive_search(model, prompt, strategy="copy", **arguments))
    assert calls == []


@pytest.mark.parametrize("threads", [1, 2])
def test_one_thread_takes_packed_weights_alone(pays, threads):
    before, model = torch.get_num_threads(), nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8, dtype=torch.float64))
    torch.set_num_threads(threads)
    try:
        with few_rows(model, 4, 64):
            assert vars(model[0])["forward"].keywords["packed"] is not None
            assert ("forward" in vars(model[1])) == (threads > 1), "packed are weights in float32 alone"
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("name", "value"),
    [("free_memory", lambda: 100), ("time_share", lambda *_: 0.81), ("has_onednn", lambda: False), ("LOOKED_AT", 1025)],
)
def test_only_where_it_pays(pays, monkeypatch, name, value):
    layers = [nn.Linear(16, 16, bias=False)]  # 1 KiB
    assert {*packing.packed_weights(layers, 4, 64)} == {*layers}
    assert packing.packed_weights(layers, 4, 63) == {}, "the text is too short"
    monkeypatch.setattr(packing, name, value)
    assert packing.packed_weights(layers, 4, 64) == {}


@pytest.mark.parametrize("able", [{"cpu_name": "GenuineIntel"}, {}])
def test_other_processors_keep_mkls_products(pays, monkeypatch, able):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able, raising=False)
    assert packing.packed_weights([nn.Linear(16, 16)], 4, 99) == {}
