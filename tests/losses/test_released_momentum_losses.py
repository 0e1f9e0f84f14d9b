"""The losses of ALBEF and TCL against values that their released code gave on the same vectors."""

import json
import math
from pathlib import Path

import pytest
import torch
from torch.nn.functional import normalize

from nearfar.losses.functional import global_local_info_nce, soft_target_info_nce
from nearfar.methods.image_text.tcl import pooled_patches

RELEASED = json.loads((Path(__file__).parent / "released" / "momentum_losses.json").read_text())
B, Q, D = 4, 8, 6
IDS = torch.tensor([3, 7, 3, 9])
QUEUE_IDS = torch.tensor([7, -100, 3, -100, 9, 11, -100, 7])
WORDS = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0], [1, 1, 1, 1, 0]])


def wave(*shape, phase):
    values = torch.sin(1.7 * torch.arange(math.prod(shape), dtype=torch.float64) + phase)
    return normalize(values.view(shape), dim=-1)


def exact(case):
    """The temperature in float64: a plain float is held in float32."""
    return torch.tensor(case["temperature"], dtype=torch.float64)


v, w, v_m, w_m = (wave(B, D, phase=phase) for phase in (0.1, 0.2, 0.3, 0.4))
images = torch.cat([v_m, wave(Q, D, phase=0.5)])
texts = torch.cat([w_m, wave(Q, D, phase=0.6)])


@pytest.mark.parametrize("case", RELEASED["albef"]["itc"], ids=str)
def test_contrast_of_pretraining(case):
    mix = {"alpha": case["alpha"], "temperature": exact(case)}
    both = soft_target_info_nce(v, texts, teacher_q=v_m, **mix) + soft_target_info_nce(w, images, teacher_q=w_m, **mix)
    assert both.item() / 2 == pytest.approx(case["loss"], rel=1e-10)


@pytest.mark.parametrize("case", RELEASED["albef"]["itc_with_ids"], ids=str)
def test_contrast_of_retrieval_fine_tuning(case):
    mix = {"alpha": case["alpha"], "temperature": exact(case)}
    mix |= {"q_group": IDS, "k_group": torch.cat([IDS, QUEUE_IDS])}
    both = soft_target_info_nce(v, texts, teacher_q=v_m, **mix) + soft_target_info_nce(w, images, teacher_q=w_m, **mix)
    assert both.item() / 2 == pytest.approx(case["loss"], rel=1e-10)


@pytest.mark.parametrize("case", RELEASED["tcl"]["imc"], ids=str)
def test_contrast_across_and_within_modalities(case):
    tau = exact(case)
    within = [soft_target_info_nce(q, k, temperature=tau) for q, k in ((v, images), (w, texts))]
    across = [
        soft_target_info_nce(q, k, teacher_q=t, temperature=tau, alpha=0.4)
        for q, k, t in ((v, texts, v_m), (w, images, w_m))
    ]
    actual = dict(zip(("i2i", "t2t", "i2t", "t2i"), (loss.item() for loss in within + across), strict=True))
    assert actual == pytest.approx({name: case[name] for name in actual}, rel=1e-10)


@pytest.mark.parametrize("case", RELEASED["tcl"]["lmi"], ids=str)
def test_from_global_to_local(case):
    cells = pooled_patches(wave(B, 256, D, phase=0.7))
    assert cells.sum((1, 2)).tolist() == pytest.approx(RELEASED["tcl"]["pooled_sum"], abs=1e-10)
    image = global_local_info_nce(v, cells, temperature=exact(case))
    text = global_local_info_nce(w, wave(B, 5, D, phase=0.8), mask=WORDS, temperature=exact(case))
    assert (image.item(), text.item()) == pytest.approx((case["image"], case["text"]), rel=1e-10)
