"""What every loss has in common: float32 or float64 from half precision, under autocast and from plain numbers; NaN
shows; no graph breaks."""

import pytest
import torch

from nearfar import losses, ops
from nearfar.losses import functional as F

LABEL = torch.arange(24) // 3


def vectors(seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(24, 16, generator=generator, dtype=torch.float64).to(dtype) for _ in range(2)]


FORMS = {
    "InfoNCE": lambda a, b: F.info_nce(a, b, temperature=0.01),
    "InfoNCE, one direction": lambda a, b: F.info_nce(a, b, temperature=0.01, symmetric=False),
    "InfoNCE, everything": lambda a, b: F.info_nce(
        a, b, label_smoothing=0.1, group=LABEL, negatives_a=b[:3], negatives_b=a[:3]
    ),
    "NT-Xent": lambda a, b: F.nt_xent(a, b, temperature=0.01),
    "SupCon": lambda a, b: F.supcon(torch.cat([a, b]), LABEL.repeat(2)),
    "sigmoid": lambda a, b: F.sigmoid_loss(a, b, group=LABEL),
    "alignment": lambda a, b: F.alignment(a, b),
    "alignment, alpha 1": lambda a, b: F.alignment(a, b, alpha=1.0),
    "uniformity": lambda a, b: F.uniformity(torch.cat([a, b])),
    "global to local": lambda a, b: F.global_local_info_nce(a, torch.stack([a, b], 1)),
    "global to local, padded": lambda a, b: F.global_local_info_nce(
        a, torch.stack([a, b, b * torch.nan], 1), mask=LABEL[:, None] % 2 > torch.arange(3) - 1, group=LABEL - 4
    ),
    "soft targets": lambda a, b: F.soft_target_info_nce(a, b, teacher_q=b.roll(1, 0), temperature=0.05, alpha=0.4),
    "SimCTG": lambda a, b: F.simctg_loss(torch.stack([a, b]), margin=0.9),
}
TWINS = {
    "alignment": (losses.AlignmentUniformity(weight=0.0), lambda f, a, b: f(a, b)),
    "global_local_info_nce": (
        losses.GlobalLocalInfoNCE(),
        lambda f, a, b: f(a, torch.stack([a, b], 1), mask=LABEL[:, None] > torch.arange(2), group=LABEL),
    ),
    "info_nce": (losses.InfoNCE(), lambda f, a, b: f(a, b, group=LABEL, negatives_a=b[:3], negatives_b=a[:3])),
    "nt_xent": (losses.NTXent(), lambda f, a, b: f(a, b)),
    "sigmoid_loss": (losses.SigmoidLoss(), lambda f, a, b: f(a, b, group=LABEL)),
    "simctg_loss": (losses.SimCTGLoss(), lambda f, a, b: f(torch.stack([a, b]), LABEL.expand(2, -1))),
    "soft_target_info_nce": (
        losses.SoftTargetInfoNCE(),
        lambda f, a, b: f(a, b, teacher_q=b.roll(1, 0), alpha=0.4, q_group=LABEL, k_group=LABEL),
    ),
    "supcon": (losses.SupCon(), lambda f, a, b: f(torch.cat([a, b]), LABEL.repeat(2))),
    "uniformity": (losses.AlignmentUniformity(), lambda f, a, b: f(a, a)),
}
"""Each function, the module whose defaults are its own, and a call of either with all that they take."""
DENSE = {
    "dense InfoNCE": lambda a, b: F.info_nce(a, b, backend="dense"),
    "dense NT-Xent": lambda a, b: F.nt_xent(a, b, backend="dense"),
    "dense soft targets": lambda a, b: F.soft_target_info_nce(a, b, teacher_q=b.roll(1, 0), alpha=0.4, backend="dense"),
    "dense sigmoid": lambda a, b: F.sigmoid_loss(a, b, temperature=0.1, bias=-1.0, backend="dense"),
}


def test_every_function_has_a_module_and_every_module_a_function():
    assert set(TWINS) == set(F.__all__)
    modules = {name for name in losses.__all__ if isinstance(getattr(losses, name), type)} - {"Temperature"}
    assert {type(module).__name__ for module, _ in TWINS.values()} == modules


@pytest.mark.parametrize("name", TWINS)
def test_a_module_is_its_function(name):
    a, b = vectors()
    module, call = TWINS[name]
    function = getattr(F, name)
    if name == "uniformity":  # of one set, the module takes two; where both are one, they do not differ
        function = lambda a, b: F.uniformity(a)  # noqa: E731
    torch.testing.assert_close(call(module, a, b), call(function, a, b), rtol=1e-6, atol=0)


def value_and_gradient(form, a, b):
    a = a.clone().requires_grad_()
    loss = form(a, b)
    return loss.detach(), torch.autograd.grad(loss, a)[0]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("form", FORMS)
def test_half_precision_is_lifted_before_it_is_normalised(form, dtype):
    a, b = vectors(dtype=dtype)
    found, gradient = value_and_gradient(FORMS[form], a, b)
    expected, expected_gradient = value_and_gradient(FORMS[form], a.float(), b.float())
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)
    assert gradient.dtype == dtype
    # Only the sum over the paths that lead to one embedding is rounded to its type.
    torch.testing.assert_close(gradient.float(), expected_gradient, rtol=0.02, atol=float(expected_gradient.std()) / 50)


@pytest.mark.parametrize("form", FORMS)
def test_compiles_without_a_graph_break(form):
    a, b = vectors()
    torch._dynamo.reset()
    compiled = torch.compile(FORMS[form], backend="aot_eager", fullgraph=True)
    found, gradient = value_and_gradient(compiled, a, b)
    expected, expected_gradient = value_and_gradient(FORMS[form], a, b)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("form", FORMS)
def test_nan_shows(form):
    a, b = vectors()
    a[3, 3] = torch.nan
    assert FORMS[form](a, b).isnan()


@pytest.mark.parametrize("form", FORMS | DENSE)
def test_autocast_reaches_no_product(form):
    a, b = vectors()
    expected, expected_gradient = value_and_gradient((FORMS | DENSE)[form], a, b)
    with torch.autocast("cpu", torch.bfloat16):
        found, gradient = value_and_gradient((FORMS | DENSE)[form], a, b)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-5, atol=1e-7)


def test_autocast_reaches_no_second_derivative():
    def second(q, k):
        q = torch.nn.functional.normalize(q, dim=1).requires_grad_()
        (g,) = torch.autograd.grad(ops.log_partition(q, k, 5.0).sum(), q, create_graph=True)
        return torch.autograd.grad(g.square().sum(), q)[0]

    a, b = vectors()
    with torch.autocast("cpu", torch.bfloat16):
        found = second(a, b)
    torch.testing.assert_close(found, second(a, b), rtol=1e-6, atol=1e-6)


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
