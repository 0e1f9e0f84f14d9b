"""Numbers and temperatures keep their digits: float64 from plain numbers, float32 from half precision."""

import pytest
import torch

from nearfar import losses, ops
from nearfar.losses import functional as F


def vectors(dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(24, 16, generator=generator, dtype=torch.float64).to(dtype) for _ in range(2)]


@pytest.mark.parametrize("backend", ["tiled", "dense"])
def test_a_plain_number_keeps_the_digits_of_float64(backend):
    q, k = vectors(dtype=torch.float64)
    exact = torch.tensor(0.1, dtype=torch.float64)
    for op in (ops.log_partition, ops.pairwise_softplus):
        assert torch.equal(op(q, k, 0.1, backend=backend), op(q, k, exact, backend=backend))
    assert torch.equal(ops.sigmoid(q, k, 1.0, 0.1, backend=backend), ops.sigmoid(q, k, 1.0, exact, backend=backend))


def test_a_temperature_in_half_precision_is_read_in_float32():
    loss = losses.InfoNCE(0.01).bfloat16()
    scale = loss.temperature.value.detach().float().exp()  # 98.5: what bfloat16 holds of log(100)
    assert loss.temperature().dtype == torch.float32
    assert 1 / loss.temperature().item() == pytest.approx(scale.item(), rel=1e-6)
    assert loss.temperature.scale().item() == pytest.approx(scale.item(), rel=1e-6)
    a, b = vectors()
    assert F.info_nce(a, b, temperature=torch.tensor(0.07).bfloat16()).item() == pytest.approx(
        F.info_nce(a, b, temperature=torch.tensor(0.07).bfloat16().float()).item(), rel=1e-6
    )
