"""Products of tiles by oneDNN: the same numbers within the order of sums, chosen only where it is clearly faster."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from nearfar.errors import UserError
from nearfar.losses import functional
from nearfar.ops.tiling import float_products
from nearfar.ops.tiling.float_products import LEAST, VARIABLE, add_mm, library, mm

needs_onednn = pytest.mark.skipif(not float_products.has_onednn(), reason="torch was built without oneDNN")
N, D, M = 320, 288, 256
"""Large enough for oneDNN."""


@pytest.fixture(autouse=True)
def chosen_anew(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv(VARIABLE, raising=False)
    library.cache_clear()
    yield
    library.cache_clear()


@pytest.fixture
def onednn(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """oneDNN is what multiplies; the shapes of its products, as they come."""
    monkeypatch.setenv(VARIABLE, "onednn")
    shapes: list[tuple[int, ...]] = []
    by_onednn = float_products.onednn_mm

    def noted(a: Tensor, b: Tensor) -> Tensor:
        shapes.append((*a.shape, b.shape[1]))
        return by_onednn(a, b)

    monkeypatch.setattr(float_products, "onednn_mm", noted)
    return shapes


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "rows": lambda x: x,
    "columns": lambda x: x.t().contiguous().t(),
    "a slice of rows": lambda x: torch.cat([x, x])[len(x) :],
    "a slice of columns": lambda x: torch.cat([x, x], 1)[:, x.shape[1] :],
}


@needs_onednn
@pytest.mark.parametrize("right", LAYOUTS)
@pytest.mark.parametrize("left", LAYOUTS)
def test_products_are_those_of_float64(left: str, right: str, onednn: list[tuple[int, ...]]) -> None:
    a, b = LAYOUTS[left](drawn(N, D)), LAYOUTS[right](drawn(D, M))
    exact = a.double() @ b.double()
    out, total = torch.full((N, M), torch.nan), drawn(2 * N, M)
    before = total.clone()
    assert mm(a, b, out=out) is out
    add_mm(total[N:], a, b, alpha=-0.5)
    assert onednn == [(N, D, M)] * 2
    assert (out - exact).norm() < 1e-6 * exact.norm()
    torch.testing.assert_close(total[N:].double(), before[N:] - 0.5 * exact, rtol=0, atol=1e-4)
    assert torch.equal(total[:N], before[:N])


@needs_onednn
def test_small_products_and_those_of_other_types_are_torchs(onednn: list[tuple[int, ...]]) -> None:
    side = round(LEAST ** (1 / 3))
    small, large = torch.ones(side - 1, side - 1), torch.ones(side, side)
    mm(small, small, out=torch.empty_like(small))
    mm(large.double(), large.double(), out=torch.empty_like(large.double()))
    mm(torch.empty(side, 0), torch.empty(0, side), out=torch.empty(side, side))
    assert onednn == []
    mm(large, large, out=torch.empty_like(large))
    assert onednn == [(side, side, side)]


@needs_onednn
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", ["info_nce", "nt_xent", "sigmoid"])
def test_losses_are_those_of_float64(name: str, threads: int, onednn: list[tuple[int, ...]]) -> None:
    q, k = (torch.nn.functional.normalize(drawn(1536, size), dim=1)[:, :64] for size in (96, 97))

    def computed(dtype: torch.dtype) -> list[Tensor]:
        inputs = [each.to(dtype).requires_grad_() for each in (q, k)]
        loss = {
            "info_nce": lambda: functional.info_nce(*inputs, temperature=0.05),
            "nt_xent": lambda: functional.nt_xent(*inputs, temperature=0.05),
            "sigmoid": lambda: functional.sigmoid_loss(*inputs, bias=-5.0),
        }[name]()
        loss.backward()
        return [loss.detach(), *(each.grad for each in inputs)]  # type: ignore[list-item]

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        exact = computed(torch.float64)
        assert onednn == []
        by_onednn = computed(torch.float32)
    finally:
        torch.set_num_threads(before)
    assert len(onednn) >= 4
    for value, expected in zip(by_onednn, exact, strict=True):
        assert (value - expected).norm() < 1e-6 * expected.norm()


@needs_onednn
def test_autocast_does_not_reach_it(onednn: list[tuple[int, ...]]) -> None:
    a, b = drawn(N, D), drawn(D, M)
    expected = mm(a, b, out=torch.empty(N, M))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(mm(a, b, out=torch.empty(N, M)), expected)


AMD = {"avx512_f": True, "cpu_name": "AMD EPYC 9654"}


@needs_onednn
@pytest.mark.parametrize(
    ("able", "share", "expected"),
    [
        (AMD, 0.5, "onednn"),
        (AMD, 0.79, "onednn"),
        (AMD, 0.81, "torch"),
        (AMD | {"avx512_f": False}, 0.5, "torch"),
        (AMD | {"cpu_name": "INTEL(R) XEON(R)"}, 0.5, "torch"),
        ({}, 0.5, "torch"),
    ],
)
def test_it_is_chosen_where_mkl_leaves_half_of_the_processor(
    able: dict[str, object], share: float, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []

    def timed(run: Callable[[], object], other: Callable[[], object], repeats: int) -> float:
        other()
        assert not calls
        run()
        assert calls == [1], "on one thread"
        return share

    monkeypatch.setattr(float_products, "onednn_mm", lambda a, b: calls.append(torch.get_num_threads()))
    monkeypatch.setattr(float_products, "time_share", timed)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able)
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: True)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert library() == expected
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)


def test_the_variable_decides_or_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: AMD)
    monkeypatch.setattr(float_products, "_onednn_is_faster", lambda: True)
    monkeypatch.setenv(VARIABLE, "torch")
    assert library() == "torch"
    library.cache_clear()
    monkeypatch.setenv(VARIABLE, "onednn")
    monkeypatch.setattr(float_products, "has_onednn", lambda: False)
    assert library() == "torch"  # where torch has no oneDNN
    library.cache_clear()
    monkeypatch.setenv(VARIABLE, "mkl")
    with pytest.raises(UserError, match="NEARFAR_PRODUCTS is 'mkl' in the environment, but must be auto, torch or one"):
        library()
