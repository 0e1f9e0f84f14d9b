"""What every loss has in common: float32 or float64 from half precision, under autocast and from plain numbers; NaN
shows; no graph breaks; one signature. A loss that joins the package is held to it by walking the package."""

import inspect
import pkgutil
from importlib import import_module

import pytest
import torch

from nearfar import losses, ops
from nearfar.errors import UserError
from nearfar.losses import functional as F
from nearfar.losses.global_contrastive import SampleState
from nearfar.losses.individual_temperature import TemperatureRule

LABEL = torch.arange(24) // 3
GATES = torch.rand(24, 16, generator=torch.Generator().manual_seed(0))


def vectors(seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(24, 16, generator=generator, dtype=torch.float64).to(dtype) for _ in range(2)]


def cells(z):
    """The rows `[24, 16]` as two pictures of three by four cells."""
    return z.unflatten(0, (2, 12)).mT.unflatten(2, (3, 4))


def parts(z):
    """The rows `[24, 16]` as four parts each."""
    return z.unflatten(1, (4, 4))


NAMED = torch.tensor([[0, 0], [0, 7], [1, 1], [5, 3], [5, 4], [3, 0]])
NEAR = (torch.arange(12)[:, None] - torch.arange(12)).abs().lt(2).expand(2, -1, -1)
FORMS = {
    "InfoNCE": lambda a, b: F.info_nce(a, b, temperature=0.01),
    "InfoNCE, one direction": lambda a, b: F.info_nce(a, b, temperature=0.01, symmetric=False),
    "InfoNCE, everything": lambda a, b: F.info_nce(
        a, b, label_smoothing=0.1, group=LABEL, negatives_a=b[:3], negatives_b=a[:3]
    ),
    "SogCLR": lambda a, b: F.global_contrastive(a, b, (SampleState.fresh(24, 0.02),) * 2, group=LABEL).loss,
    "iSogCLR, one modality": lambda a, b: (
        F.global_contrastive(a, b, (SampleState.fresh(24),), rule=TemperatureRule(), inner="similarities").loss
    ),
    "NT-Xent": lambda a, b: F.nt_xent(a, b, temperature=0.01),
    "SupCon": lambda a, b: F.supcon(torch.cat([a, b]), LABEL.repeat(2)),
    "sigmoid": lambda a, b: F.sigmoid_loss(a, b, group=LABEL),
    "binary NCE": lambda a, b: F.binary_nce(a, b),
    "binary NCE, groups": lambda a, b: F.binary_nce(a, b[:20], q_group=LABEL, k_group=LABEL[:20], bias=-2.0),
    "binary NCE, named positives": lambda a, b: F.binary_nce(
        a, b, positive=NAMED, q_group=LABEL, k_group=LABEL, log_q=-1 - LABEL / 8, similarity="dot", reduction="sum"
    ),
    "margin": lambda a, b: F.margin_ranking(a, b),
    "margin, all triplets": lambda a, b: F.margin_ranking(a, b, q_group=LABEL, k_group=LABEL, against="mean"),
    "margin, named positives": lambda a, b: F.margin_ranking(
        a, b, positive=NAMED, q_group=LABEL, k_group=LABEL, margin=1.0, similarity="dot"
    ),
    "alignment": lambda a, b: F.alignment(a, b),
    "alignment, alpha 1": lambda a, b: F.alignment(a, b, alpha=1.0),
    "target alignment": lambda a, b: F.target_alignment(a, b, b.roll(1, 0), image_weight=0.3),
    "uniformity": lambda a, b: F.uniformity(torch.cat([a, b])),
    "global to local": lambda a, b: F.global_local_info_nce(a, torch.stack([a, b], 1)),
    "global to local, padded": lambda a, b: F.global_local_info_nce(
        a, torch.stack([a, b, b * torch.nan], 1), mask=LABEL[:, None] % 2 > torch.arange(3) - 1, group=LABEL - 4
    ),
    "matchmap": lambda a, b: F.matchmap_info_nce(parts(a), parts(b)),
    "matchmap, padded": lambda a, b: F.matchmap_info_nce(
        parts(a),
        torch.cat([parts(b), parts(b) * torch.nan], 1),
        mask=LABEL[:, None] % 4 >= torch.arange(8),
        group=LABEL,
    ),
    "MV-InfoNCE": lambda a, b: F.mv_info_nce(torch.stack([a, b, b.roll(1, 1)]), temperature=0.05),
    "MV-InfoNCE, the code's": lambda a, b: F.mv_info_nce([a, b], same_view_negatives=True, group=LABEL),
    "MV-DHEL": lambda a, b: F.mv_dhel([a, b, a.roll(1, 1)], temperature=0.05),
    "MV-DHEL, as printed": lambda a, b: F.mv_dhel([a, b], as_printed=True, group=LABEL),
    "poly-view": lambda a, b: F.poly_view([a, b, b.roll(1, 1)]),
    "poly-view, arithmetic": lambda a, b: F.poly_view([a, b, b.roll(1, 1)], average="arithmetic", group=LABEL),
    "pairs of views": lambda a, b: F.pairwise_views([a, b, b.roll(1, 1)]),
    "views against their mean": lambda a, b: F.pairwise_views([a, b, b.roll(1, 1)], against="mean"),
    "first view": lambda a, b: F.first_view_info_nce([a, b, b.roll(1, 1)], group=LABEL, negatives=b.roll(1, 0)),
    "first view, weighted": lambda a, b: F.first_view_info_nce(
        [a, b], negatives=b.roll(1, 0)[:9], negative_of=LABEL[:9], negative_weight=0.7, temperature=0.2
    ),
    "first view, negatives of their own": lambda a, b: F.first_view_info_nce(
        [a, b], negatives=b.roll(1, 0)[:9], negative_of=LABEL[:9], negatives_for="own", group=LABEL
    ),
    "pixel consistency": lambda a, b: F.pixel_consistency(cells(a), cells(b), NEAR, scale=2.0),
    "PixContrast": lambda a, b: F.pix_contrast(cells(a), cells(b), NEAR),
    "SepCLR": lambda a, b: F.sepclr([a, b], [a[:, :3], b[:, 3:6]], LABEL % 2 == 0),
    "gated pairs, open": lambda a, b: F.gated_pairs(a, b, None, LABEL, LABEL, LABEL),
    "gated pairs": lambda a, b: F.gated_pairs(a, b, GATES, LABEL, LABEL.roll(3), LABEL, temperature=0.02),
    "gated pairs, one view": lambda a, b: F.gated_pairs(
        a, a, GATES, LABEL, LABEL.roll(3), LABEL, form="dot", alpha=0.5, reduction="pair", exclude_self=True
    ),
    "soft targets": lambda a, b: F.soft_target_info_nce(a, b, teacher_q=b.roll(1, 0), temperature=0.05, alpha=0.4),
    "NSPT": lambda a, b: F.rehearsal_contrastive_loss(a, b, LABEL, LABEL < 5),
    "NTPT, current negatives": lambda a, b: F.rehearsal_contrastive_loss(
        a, b, LABEL, LABEL < 5, negatives_from="teacher", negatives="current", self_positive=False
    ),
    "NSPT, as printed": lambda a, b: F.rehearsal_contrastive_loss(a, b, LABEL % 4, LABEL < 5, denominator="literal"),
    "two modalities": lambda a, b: F.supervised_cross_modal_loss(a, b, LABEL),
    "plausible labels": lambda a, b: F.vision_language_alignment(a, b, b, torch.arange(24) * (LABEL % 2), top_k=4),
    "SimCTG": lambda a, b: F.simctg_loss(torch.stack([a, b]), margin=0.9),
}
LAST = {form.partition(",")[0]: form for form in FORMS}.values()


def numbered(f, a, b):
    """A loss with a state for each sample: the module knows it by the samples' numbers."""
    if isinstance(f, torch.nn.Module):
        return f(a, b, torch.arange(24), group=LABEL)
    return f(a, b, (SampleState.fresh(24), SampleState.fresh(24)), group=LABEL).loss


TWINS = {
    "alignment": (losses.AlignmentUniformity(weight=0.0), lambda f, a, b: f(a, b)),
    "binary_nce": (
        losses.BinaryNCE(),
        lambda f, a, b: f(a, b, positive=NAMED, q_group=LABEL, k_group=LABEL, log_q=-1 - LABEL / 8),
    ),
    "first_view_info_nce": (
        losses.FirstViewInfoNCE(),
        lambda f, a, b: f([a, b, b.roll(1, 1)], group=LABEL, negatives=b.roll(1, 0)[:9], negative_of=LABEL[:9]),
    ),
    "gated_pairs": (losses.GatedPairs(), lambda f, a, b: f(a, b, GATES, LABEL, LABEL.roll(3), LABEL)),
    "global_contrastive": (losses.GlobalContrastive(24), numbered),
    "global_local_info_nce": (
        losses.GlobalLocalInfoNCE(),
        lambda f, a, b: f(a, torch.stack([a, b], 1), mask=LABEL[:, None] > torch.arange(2), group=LABEL),
    ),
    "info_nce": (losses.InfoNCE(), lambda f, a, b: f(a, b, group=LABEL, negatives_a=b[:3], negatives_b=a[:3])),
    "matchmap_info_nce": (
        losses.MatchmapInfoNCE(),
        lambda f, a, b: f(parts(a), parts(b), mask=LABEL[:, None] > torch.arange(4), group=LABEL),
    ),
    "margin_ranking": (losses.MarginRanking(), lambda f, a, b: f(a, b, positive=NAMED, q_group=LABEL, k_group=LABEL)),
    "mv_dhel": (
        losses.MVDHEL(),
        lambda f, a, b: f([a, b], mask=(LABEL + torch.arange(2)[:, None]) % 4 > 0, group=LABEL),
    ),
    "mv_info_nce": (
        losses.MVInfoNCE(),
        lambda f, a, b: f([a, b], mask=(LABEL + torch.arange(2)[:, None]) % 4 > 0, group=LABEL),
    ),
    "nt_xent": (losses.NTXent(), lambda f, a, b: f(a, b)),
    "pairwise_views": (losses.PairwiseViews(), lambda f, a, b: f([a, b, b.roll(1, 1)])),
    "pix_contrast": (losses.PixContrast(), lambda f, a, b: f(cells(a), cells(b), NEAR)),
    "pixel_consistency": (losses.PixelConsistency(), lambda f, a, b: f(cells(a), cells(b), NEAR)),
    "poly_view": (
        losses.PolyView(),
        lambda f, a, b: f([a, b, b.roll(1, 1)], mask=(LABEL + torch.arange(3)[:, None]) % 4 > 0, group=LABEL),
    ),
    "sepclr": (losses.SepCLRLoss(), lambda f, a, b: f([a, b], [b, a], LABEL % 2)),
    "sigmoid_loss": (losses.SigmoidLoss(), lambda f, a, b: f(a, b, group=LABEL)),
    "simctg_loss": (losses.SimCTGLoss(), lambda f, a, b: f(torch.stack([a, b]), LABEL.expand(2, -1))),
    "soft_target_info_nce": (
        losses.SoftTargetInfoNCE(),
        lambda f, a, b: f(a, b, teacher_q=b.roll(1, 0), alpha=0.4, q_group=LABEL, k_group=LABEL),
    ),
    "rehearsal_contrastive_loss": (losses.RehearsalContrastive(), lambda f, a, b: f(a, b, LABEL, LABEL < 5)),
    "supervised_cross_modal_loss": (losses.SupervisedCrossModal(), lambda f, a, b: f(a, b, LABEL)),
    "supcon": (losses.SupCon(), lambda f, a, b: f(torch.cat([a, b]), LABEL.repeat(2))),
    "target_alignment": (losses.TargetAlignment(), lambda f, a, b: f(a, b, b.roll(1, 0))),
    "uniformity": (losses.AlignmentUniformity(), lambda f, a, b: f(a, a)),
    "vision_language_alignment": (losses.VisionLanguageAlignment(), lambda f, a, b: f(a, b, b.roll(1, 0)[:9])),
}
"""Each function, the module whose defaults are its own, and a call of either with all that they take."""
DENSE = {
    "dense InfoNCE": lambda a, b: F.info_nce(a, b, backend="dense"),
    "dense NT-Xent": lambda a, b: F.nt_xent(a, b, backend="dense"),
    "dense soft targets": lambda a, b: F.soft_target_info_nce(a, b, teacher_q=b.roll(1, 0), alpha=0.4, backend="dense"),
    "dense sigmoid": lambda a, b: F.sigmoid_loss(a, b, temperature=0.1, bias=-1.0, backend="dense"),
}


def walked():
    """Every public class and function that a file of `nearfar.losses` defines."""
    for info in pkgutil.walk_packages(losses.__path__, "nearfar.losses."):
        module = import_module(info.name)
        for name, value in vars(module).items():
            if getattr(value, "__module__", None) == module.__name__ and not name.startswith("_"):
                yield name, value


PARTS = {"Temperature", "Matryoshka"}
"""Modules that are no loss of their own: what losses share, and what goes around one (`test_matryoshka.py`)."""
MODULES = {n: v for n, v in walked() if isinstance(v, type) and issubclass(v, torch.nn.Module) and n not in PARTS}
FUNCTIONS = {n: v for n, v in walked() if n in F.__all__}
STATEFUL = {"GlobalContrastive", "global_contrastive"}
"""They keep a temperature, and more, of each sample, and return it: `test_global_contrastive.py`."""
TEMPERED = [
    name
    for name, module in MODULES.items()
    if "temperature" in inspect.signature(module).parameters and name not in STATEFUL
]
PLAIN = {f"{name}Loss" for name in ("SepCLR", "SimCTG")} | {"AlignmentUniformity", "MarginRanking", "PairwiseViews"}
PLAIN |= {"PixelConsistency", "TargetAlignment"}  # which have no temperature
VIEWED = lambda f, z, **more: f([z, z.roll(1, 1)], **more)  # noqa: E731
SIX = {
    "FirstViewInfoNCE": VIEWED,
    "MVDHEL": VIEWED,
    "MVInfoNCE": VIEWED,
    "PolyView": VIEWED,
    "GatedPairs": lambda f, z, **more: f(z, z.roll(1, 1), z.sigmoid(), *[torch.arange(len(z)) // 2] * 3, **more),
    "GlobalLocalInfoNCE": lambda f, z, **more: f(z, z.roll(1, 1)[:, None], **more),
    "MatchmapInfoNCE": lambda f, z, **more: f(z.unflatten(1, (2, -1)), z.roll(1, 1).unflatten(1, (2, -1)), **more),
    "PixContrast": lambda f, z, **more: f(z.mT[None], z.roll(1, 1).mT[None], torch.eye(len(z))[None], **more),
    "SepCLRLoss": lambda f, z, **more: f([z, z], [z, z], torch.arange(len(z)) % 2, **more),
    "SoftTargetInfoNCE": lambda f, z, **more: f(z, z, **more),
    "RehearsalContrastive": lambda f, z, **more: f(
        z, z.roll(1, 1), torch.arange(len(z)) // 2, torch.arange(len(z)) < 4, **more
    ),
    "SupervisedCrossModal": lambda f, z, **more: f(z, z.roll(1, 1), torch.arange(len(z)) // 2, **more),
    "SupCon": lambda f, z, **more: f(z, torch.arange(len(z)) // 2, **more),
    "VisionLanguageAlignment": lambda f, z, **more: f(z, z.roll(1, 1), z.roll(1, 0), **more),
}
"""How a loss is called with vectors `[6, D]`, where not as `(a, b)`."""


def called(name, f, z, **more):
    return SIX.get(name, lambda f, z, **more: f(z, z.roll(1, 1), **more))(f, z, **more)


def twin(name):
    return getattr(F, next(f for f, (module, _) in TWINS.items() if type(module).__name__ == name))


def test_the_walk_finds_what_the_package_names():
    assert set(MODULES) == set(losses.__all__) - {*PARTS, "functional"}
    assert set(FUNCTIONS) == set(F.__all__)
    assert set(MODULES) - set(TEMPERED) - STATEFUL == PLAIN


@pytest.mark.parametrize("name", TEMPERED)
def test_every_loss_takes_its_temperature_in_three_forms(name):
    parameters = inspect.signature(MODULES[name]).parameters
    assert next(iter(parameters)) == "temperature"
    assert parameters["learnable"].default is True
    assert "temperature" in inspect.signature(twin(name)).parameters
    z = vectors()[0][:6]
    shared = losses.Temperature(0.2)
    temperatures = [0.2, torch.tensor(0.2), shared]
    values = [called(name, MODULES[name](tau), z).item() for tau in temperatures]
    values += [called(name, twin(name), z, temperature=tau).item() for tau in temperatures]
    assert values == pytest.approx([values[0]] * 6, rel=1e-6)
    assert MODULES[name](shared).temperature is shared
    for tau in (0.2, torch.tensor(0.2)):
        assert MODULES[name](tau).temperature.value.requires_grad
        assert not MODULES[name](tau, learnable=False).temperature.value.requires_grad
    called(name, twin(name), z, temperature=shared).backward()
    assert shared.value.grad.abs() > 0


@pytest.mark.parametrize("name", TEMPERED)
def test_a_temperature_that_is_none_is_named(name):
    z = vectors()[0][:6]
    for tau in (0.0, -1.0, float("nan"), torch.ones(2), torch.tensor(0.1, requires_grad=True)):
        with pytest.raises(UserError, match="temperature"):
            MODULES[name](tau)
    for tau in (0.0, torch.ones(5), torch.ones(6, 1)):
        with pytest.raises(UserError, match="temperature must be"):
            called(name, twin(name), z, temperature=tau)


@pytest.mark.parametrize("name", sorted(FUNCTIONS.keys() - STATEFUL))
def test_wrong_shapes_are_one_kind_of_error_and_name_the_argument(name):
    """Every tensor that the function takes, one after the other, in a shape that fits nothing."""
    good = {
        **dict.fromkeys(("a", "b", "z", "g", "q", "k", "teacher_q", "negatives_a", "negatives_b"), vectors()[0][:6]),
        **dict.fromkeys(("teacher", "student", "image", "text"), vectors()[1][:6]),
        "is_memory": torch.arange(6) < 4,
        "negatives": vectors()[0][:6],
        **dict.fromkeys(
            ("group", "q_group", "k_group", "label", "negative_of", "partner", "key_label"), torch.arange(6) // 2
        ),
        "gate": vectors()[1][:6].sigmoid(),
        "local": vectors()[0][:6, None],
        "mask": torch.ones(6, 1),
        "hidden": vectors()[0].view(4, 6, 16),
        **dict.fromkeys(("common", "salient"), torch.stack(vectors())[:, :6]),
        "target": torch.arange(6) % 2,
        "positive": torch.arange(6)[:, None].expand(6, 2),
        "log_q": torch.zeros(6),
    }
    if name == "rehearsal_contrastive_loss":
        del good["negatives"]  # a choice there
    if name == "simctg_loss":
        good["mask"] = torch.ones(4, 6)
    if name == "matchmap_info_nce":
        good |= {**dict.fromkeys(("cells", "words"), parts(vectors()[0][:6])), "mask": torch.ones(6, 4)}
    if name.startswith("pix"):
        good |= {**dict.fromkeys(("y", "q", "k"), torch.stack(vectors())[:, :6].mT), "mask": torch.ones(2, 6, 6)}
    if "views" in inspect.signature(FUNCTIONS[name]).parameters:
        good |= {"views": torch.stack(vectors())[:, :6], "mask": torch.ones(2, 6)}
    takes = {p: good[p] for p in inspect.signature(FUNCTIONS[name]).parameters if p in good}
    assert FUNCTIONS[name](**takes).ndim == 0
    for argument in takes:
        with pytest.raises(UserError, match=rf"\b{argument}\b") as caught:
            FUNCTIONS[name](**takes | {argument: torch.ones(3, 2, 2, 2)})
        assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize("name", [*MODULES, *FUNCTIONS])
def test_nobody_says_ids_or_chunk(name):
    call = MODULES[name].forward if name in MODULES else FUNCTIONS[name]
    assert not {"ids", "chunk", "tau"} & set(inspect.signature(call).parameters)


@pytest.mark.parametrize("name", MODULES)
def test_every_page_says_inputs_relations_and_variants(name):
    text = inspect.getdoc(MODULES[name])
    for section in ("Inputs:", "Returns:", "Raises:", "Relations:", "Variants:", "Example:"):
        assert f"\n{section}\n" in text, section
    assert "arXiv" in text
    documented = set(inspect.signature(MODULES[name].forward).parameters) - {"self"}
    assert all(f"`{argument}`" in text for argument in documented)


@pytest.mark.parametrize("name", ops.__all__)
def test_every_op_says_shapes_errors_and_an_example(name):
    text = inspect.getdoc(getattr(ops, name))
    shapes = {"nt_xent": "[2N, D]", "sinkhorn": "[B, P]", "transport_plan": "[..., N, M]"}
    shapes |= dict.fromkeys(("near_log_ratio", "propagated"), "[N, P, C]") | {"near_sums": "[N, Q, C]"}
    shapes |= dict.fromkeys(("matchmap", "matchmap_contrast"), "[N, P, D]")
    shape = shapes.get(name, "[N, D]")
    for part in ("Args:", shape, "Raises:", "UserError", ">>> "):
        assert part in text, part
    options = set(inspect.signature(getattr(ops, name)).parameters)
    assert not {"ids", "chunk"} & options
    assert all(argument in text for argument in options)


def test_every_function_has_a_module_and_every_module_a_function():
    assert set(TWINS) == set(F.__all__)
    modules = {name for name in losses.__all__ if isinstance(getattr(losses, name), type)} - PARTS
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
    actual, gradient = value_and_gradient(FORMS[form], a, b)
    expected, expected_gradient = value_and_gradient(FORMS[form], a.float(), b.float())
    assert actual.dtype == torch.float32
    assert torch.equal(actual, expected)
    assert gradient.dtype == dtype
    # Only the sum over the paths that lead to one embedding is rounded to its type.
    step = torch.finfo(dtype).eps
    atol = step * float(expected_gradient.std())
    torch.testing.assert_close(gradient.float(), expected_gradient, rtol=step, atol=atol)


@pytest.mark.parametrize("form", [pytest.param(x, marks=[] if x in LAST else pytest.mark.slow) for x in FORMS])
def test_compiles_without_a_graph_break(form):
    a, b = vectors()
    torch._dynamo.reset()
    compiled = torch.compile(FORMS[form], backend="aot_eager", fullgraph=True)
    actual, gradient = value_and_gradient(compiled, a, b)
    expected, expected_gradient = value_and_gradient(FORMS[form], a, b)
    torch.testing.assert_close(actual, expected, rtol=1e-6, atol=0)
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
        actual, gradient = value_and_gradient((FORMS | DENSE)[form], a, b)
    assert actual.dtype == torch.float32
    torch.testing.assert_close(actual, expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-5, atol=1e-7)
