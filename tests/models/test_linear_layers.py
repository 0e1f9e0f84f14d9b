"""Linear layers by oneDNN: the same numbers within the order of sums, where asked for and nowhere else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from nearfar import train
from nearfar.errors import UserError
from nearfar.methods.base import EmbeddingMethod
from nearfar.models.towers import linear_layers as module
from nearfar.models.towers.linear_layers import linear_layers
from nearfar.ops.tiling.float_products import has_onednn
from nearfar.training.config import TrainConfig

pytestmark = pytest.mark.skipif(not has_onednn(), reason="torch was built without oneDNN")
B, T, D, M = 8, 40, 288, 256
"""Large enough for oneDNN."""


@pytest.fixture(autouse=True)
def products(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shapes of oneDNN's products, as they come."""
    shapes: list[tuple[int, ...]] = []
    multiply = module.onednn_mm

    def noted(a: Tensor, b: Tensor) -> Tensor:
        shapes.append((*a.shape, b.shape[1]))
        return multiply(a, b)

    monkeypatch.setattr(module, "onednn_mm", noted)
    return shapes


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


INPUTS: dict[str, Callable[[], Tensor]] = {
    "rows": lambda: drawn(B * T, D),
    "tokens": lambda: drawn(B, T, D),
    "tokens of another order": lambda: drawn(T, B, D).transpose(0, 1),
    "every other row": lambda: drawn(2 * B * T, D)[::2],
    "a slice of columns": lambda: drawn(B * T, 2 * D)[:, D:],
    "columns": lambda: drawn(D, B * T).t(),
}
WEIGHTS: dict[str, Callable[[], Tensor]] = {
    "rows": lambda: drawn(M, D),
    "tied and transposed": lambda: drawn(D, M).t(),
    "a slice of columns": lambda: drawn(M, 2 * D)[:, :D],
}


def results(x: Tensor, weight: Tensor, bias: Tensor | None, dtype: torch.dtype, library: Any = "torch") -> list[Tensor]:
    """The output, and the gradients of a sum of it in which each entry counts differently."""
    layer = layer_of(weight.to(dtype), None if bias is None else bias.to(dtype))
    x = x.detach().to(dtype).requires_grad_()
    with linear_layers(layer, library):
        y = layer(x)
        (y * drawn(*y.shape).to(dtype)).sum().backward()
    return [y.detach(), *(each.grad for each in (x, layer.weight, layer.bias) if each is not None)]


def layer_of(weight: Tensor, bias: Tensor | None = None) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    layer.weight = nn.Parameter(weight.detach())  # as it lies in memory
    layer.bias = None if bias is None else nn.Parameter(bias.detach())
    return layer


def distance(computed: list[Tensor], exact: list[Tensor]) -> float:
    return max(float((a - b).norm() / b.norm()) for a, b in zip(computed, exact, strict=True))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("weight", WEIGHTS)
@pytest.mark.parametrize("x", INPUTS)
def test_values_and_gradients_are_those_of_float64(x: str, weight: str, bias: bool, products: list[object]) -> None:
    tensors = INPUTS[x](), WEIGHTS[weight](), drawn(M) if bias else None
    exact, plain = (results(*tensors, dtype) for dtype in (torch.float64, torch.float32))
    computed = results(*tensors, torch.float32, "onednn")
    assert products == [(B * T, D, M), (B * T, M, D), (M, B * T, D)]
    assert computed[0].shape == plain[0].shape
    assert distance(computed, exact) < 2 * distance(plain, exact) < 2e-6


def test_a_frozen_weight_takes_no_product_and_no_gradient(products: list[object]) -> None:
    layer, x = nn.Linear(D, M).requires_grad_(False), drawn(B * T, D).requires_grad_()
    with linear_layers(layer):
        layer(x).sum().backward()
    assert products == [(B * T, D, M), (B * T, M, D)]
    assert layer.weight.grad is layer.bias.grad is None
    assert torch.allclose(x.grad, layer.weight.sum(0).expand_as(x), atol=1e-4)


def test_what_is_small_half_or_double_is_torchs(products: list[object]) -> None:
    layer, x = nn.Linear(D, M), drawn(B * T, D)
    with linear_layers(layer):
        assert torch.equal(layer(x[:4]), layer(x[:4]))
        layer.double()(x.double())
        layer.bfloat16()(x.bfloat16())
        with torch.autocast("cpu", torch.bfloat16):
            assert layer.float()(x).dtype == torch.bfloat16
        assert layer(x[:0]).shape == (0, M)
    assert products == []


def test_outside_and_by_torch_nothing_changes(products: list[object]) -> None:
    layer, x = nn.Linear(D, M), drawn(B * T, D)
    with linear_layers(layer), linear_layers(nn.Sequential(layer)):
        pass
    plain = layer(x)
    with linear_layers(layer, "torch"), linear_layers(nn.Linear(D, M)):
        assert torch.equal(layer(x), plain)
    assert products == []


def test_a_layer_with_a_forward_of_its_own_keeps_it(products: list[object]) -> None:
    class Doubled(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    one, other, x = Doubled(D, M), nn.Linear(D, M), drawn(B * T, D)
    other.forward = lambda x: x  # type: ignore[method-assign]
    with linear_layers(nn.ModuleList([one, other])):
        assert torch.equal(one(x), 2 * F.linear(x, one.weight, one.bias))
        assert other(x) is x
    assert other(x) is x
    assert products == []


def test_second_derivatives_are_right() -> None:
    """Of the squared gradient of a cubed output, by weight and input."""

    def second(dtype: torch.dtype, library: Any = "torch") -> list[Tensor]:
        x, layer = drawn(B * T, D).to(dtype).div(10).requires_grad_(), layer_of(drawn(M, D).to(dtype).div(10))
        with linear_layers(layer, library):
            (first,) = torch.autograd.grad(layer(x).pow(3).sum(), x, create_graph=True)
            return list(torch.autograd.grad(first.square().sum(), (x, layer.weight)))

    exact, plain, computed = second(torch.float64), second(torch.float32), second(torch.float32, "onednn")
    assert distance(computed, exact) < 3 * distance(plain, exact)


def test_a_checkpointed_block_computes_again_what_it_computed(products: list[object]) -> None:
    layer, x = nn.Linear(D, M), drawn(B, T, D).requires_grad_()
    with linear_layers(layer):
        checkpoint(layer, x, use_reentrant=False).square().sum().backward()
    forward = (B * T, D, M)
    assert products == [forward, forward, (B * T, M, D), (M, B * T, D)]


class Pull(EmbeddingMethod):
    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Linear(D, M)

    def embed(self, batch):
        return {"image": self.model(batch["image"])}

    def objective(self, embeddings, batch):
        return {"loss": embeddings["image"].square().mean()}


@pytest.mark.parametrize("chunk", [None, 256])
def test_a_run_takes_them_where_its_settings_say_so(chunk: int | None, products: list[object]) -> None:
    batch = {"index": torch.arange(512), "image": drawn(512, D)}

    def weights(**settings: object) -> Tensor:
        torch.manual_seed(0)
        method = Pull()
        train(method, [batch], steps=3, chunk=chunk, progress=False, report=False, device="cpu", **settings)
        return method.model.weight.detach()

    plain = weights()
    assert products == []
    first, second = (weights(linear_layers="onednn") for _ in range(2))
    assert len(products) >= 2 * 3 * 2  # each run, each step, forward and the weight's gradient
    assert torch.equal(first, second)
    assert torch.allclose(first, plain, atol=1e-4)


def test_an_unknown_library_is_named() -> None:
    unknown: Any = "mkl"
    with (
        pytest.raises(UserError, match=r"no library of linear layers 'mkl'.* torch, onednn"),
        linear_layers(nn.Linear(1, 1), unknown),
    ):
        pass


def test_a_torch_without_onednn_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nearfar.models.towers.linear_layers.has_onednn", lambda: False)
    monkeypatch.setattr("nearfar.training.loop.setting_checks.has_onednn", lambda: False)
    with pytest.raises(UserError, match="no oneDNN"), linear_layers(nn.Linear(1, 1)):
        pass
    batch = {"index": torch.arange(4), "image": drawn(4, D)}
    with pytest.raises(UserError, match=r"training\.linear_layers is 'onednn'"):
        train(Pull(), [batch], config=TrainConfig(steps=1, linear_layers="onednn"))
