from contextlib import nullcontext
from functools import partial

import pytest
import torch
from torch import nn

from nearfar.decoding import contrastive_search
from nearfar.decoding.contrastive.few_rows import few_rows, few_rows_linear, reordered


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1, 1), (1, 4), (2, 4), (3, 3), (8,)])
def test_it_is_the_layer_itself(bias, shape):
    torch.manual_seed(0)
    layer = nn.Linear(16, 24, bias=bias, dtype=torch.float64)
    states = torch.randn(*shape, 16, dtype=torch.float64)
    out = few_rows_linear(layer, partial(reordered, layer.weight), states)
    assert torch.allclose(out, layer(states), rtol=0, atol=1e-14)
    assert out.shape == layer(states).shape


def test_layers_are_changed_only_inside_the_block(two_threads):
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4, dtype=torch.bfloat16), nn.Linear(4, 4))
    mine = model[2].forward = lambda states: states  # somebody else's change stays
    with few_rows(model, 4):
        assert "forward" in vars(model[0])
        assert "forward" not in vars(model[1]), "half precision is not MKL's"
        assert model[2].forward is mine
    assert "forward" not in vars(model[0])
    assert model[2].forward is mine
    with few_rows(model, 9):
        assert "forward" not in vars(model[0]), "so many rows are multiplied in the usual order"
    torch.set_num_threads(1)
    with few_rows(model, 4):
        assert "forward" not in vars(model[0])


def test_leaves_on_two_threads_write_what_copies_write(two_threads):
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=97, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, eos_token_id=None, initializer_range=0.3,
    )  # fmt: skip
    model = LlamaForCausalLM(config).double().eval()
    prompt = torch.randint(3, 97, (2, 7))
    texts = [
        contrastive_search(model, prompt, k=4, alpha=0.6, max_new_tokens=16, strategy=strategy)
        for strategy in ("leaves", "copy")
    ]
    assert torch.equal(*texts)


@pytest.mark.parametrize(("k", "alpha", "reordered"), [(4, 0.6, True), (1, 0.6, False), (4, 0.0, False)])
def test_greedy_search_keeps_the_usual_products(two_threads, monkeypatch, k, alpha, reordered):
    from transformers import GPT2Config, GPT2LMHeadModel

    import nearfar.decoding.contrastive.loop

    model = GPT2LMHeadModel(GPT2Config(vocab_size=17, n_embd=8, n_layer=1, n_head=2, eos_token_id=None)).eval()
    entered = []
    monkeypatch.setattr(
        nearfar.decoding.contrastive.loop, "few_rows", lambda *args: entered.append(args[1:]) or nullcontext()
    )
    contrastive_search(model, torch.tensor([[3, 4], [5, 6]]), k=k, alpha=alpha, max_new_tokens=2)
    assert entered == ([(8,)] if reordered else []), "two texts of four leaves"
