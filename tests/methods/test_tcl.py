"""TCL's invariants (arXiv 2202.10401). The loss from global to local has its own tests beside the other losses."""

import copy
import math

import pytest
import torch
from torch.nn.functional import normalize

from nearfar.methods.image_text.albef import ALBEF
from nearfar.methods.image_text.tcl import TCL, pooled_patches


def terms(method, batch, seed=0):
    torch.manual_seed(seed)
    with torch.no_grad():
        return method(batch)


def test_pooling_averages_and_does_not_normalise():
    constant = torch.ones(2, 64, 3) / 3**0.5
    torch.testing.assert_close(pooled_patches(constant), constant[:, :16])
    patches = torch.nn.functional.normalize(torch.randn(2, 256, 5), dim=2)
    cells = pooled_patches(patches)
    torch.testing.assert_close(cells.mean(1), patches.mean(1))
    assert cells.norm(dim=2).max() < 0.9
    grid = torch.arange(64.0).view(1, 8, 8, 1)
    assert pooled_patches(grid.reshape(1, 64, 1))[0, 0].item() == grid[0, :2, :2].mean().item()


@pytest.mark.parametrize("patches", [15, 36])
def test_a_grid_that_does_not_split_says_so(patches):
    with pytest.raises(ValueError, match="4 x 4 cells"):
        pooled_patches(torch.ones(1, patches, 2))


def test_half_and_half_is_albefs_contrast(model, batch_of):
    model.eval()
    batch = batch_of(model)
    batch["views"][1] = batch["views"][0]
    torch.manual_seed(5)
    albef = ALBEF(model, queue_size=8, alpha=0.4).eval()
    torch.manual_seed(5)
    tcl = TCL(model, queue_size=8, alpha=0.4, weights=(0.5, 0.5, 0, 0, 0, 0)).eval()
    ours, theirs = terms(tcl, batch), terms(albef, batch)
    assert ours["loss"].item() == pytest.approx(theirs["loss"].item(), rel=1e-6)
    assert "i2i" not in ours


def test_intra_modal_terms_have_hard_targets(model, batch_of):
    model.eval()
    batch = batch_of(model)
    values = []
    for alpha in (0.0, 0.4):
        torch.manual_seed(5)
        values.append(terms(TCL(model, queue_size=8, alpha=alpha).eval(), batch))
    assert values[0]["i2i"] == values[1]["i2i"]
    assert values[0]["t2t"] == values[1]["t2t"]
    assert values[0]["i2t"] != values[1]["i2t"]


def test_same_view_and_student_is_its_own_best_match(model, batch_of):
    model.eval()
    batch = batch_of(model)
    batch["views"][1] = batch["views"][0]
    values = [
        terms(TCL(model, queue_size=0, alpha=0, temperature=tau).eval(), batch)["i2i"].item() for tau in (0.07, 0.002)
    ]
    assert values[1] < values[0]


def test_default_weights_are_a_sixth_each(model, batch_of):
    method = TCL(model.eval(), queue_size=8).eval()
    out = terms(method, batch_of(model))
    names = ("i2t", "t2i", "i2i", "t2t", "lmi_image", "lmi_text")
    expected = sum(out[name] for name in names) / 6 + out["itm"] + out["mlm"]
    assert out["loss"].item() == pytest.approx(expected.item(), rel=1e-5)


def test_gradients_reach_student_only(model, batch_of):
    method = TCL(model, queue_size=8)
    method(batch_of(model))["loss"].backward()
    assert all(p.grad is None for p in method.momentum.teacher.parameters())
    assert method.momentum.temperature.value.grad.abs() > 0


def moved_apart(module):
    """A teacher whose weights are not the student's."""
    for p in module.parameters():
        p.add_(0.05 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())))


@torch.no_grad()
def test_the_local_image_term_by_hand(model, batch_of):
    """The student's summary of view 0 among the teacher's pooled patches of view 1, the class token left out."""
    batch = batch_of(model)
    method = TCL(model.eval(), queue_size=0, temperature=0.2).eval()
    teacher = method.momentum.teacher.module
    moved_apart(teacher)
    actual = method(batch)["lmi_image"]
    v = model.encode_image(batch["views"][0], normalize=True)
    patches = teacher.image_projection(teacher.image_tokens(batch["views"][1])[:, 1:])
    s = torch.einsum("id,jkd->ijk", v, pooled_patches(normalize(patches, dim=2))) / 0.2
    losses = []
    for i in range(4):
        others = s[i, [j for j in range(4) if j != i]].exp().sum()
        losses.append(-(s[i, i].exp() / (s[i, i].exp() + others)).log().mean())
    torch.testing.assert_close(actual, torch.stack(losses).mean(), rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("group", [None, [4, 4, 5, 6]])
def test_each_contrast_has_its_own_queries_and_keys(model, batch_of, group):
    """Against the plain matrices, the teacher apart from the student, hard targets (alpha 0)."""
    batch = batch_of(model)
    if group:
        batch["group"] = torch.tensor(group)
    method = TCL(model.eval(), queue_size=8, alpha=0.0, temperature=0.3).eval()
    moco = method.momentum
    teacher = moco.teacher.module
    moved_apart(teacher)
    actual = method(batch)
    v, w = model.encode_image(batch["views"][0], True), model.encode_text(batch["text"], True)
    v_m, w_m = teacher.encode_image(batch["views"][1], True), teacher.encode_text(batch["text"], True)
    ids = torch.tensor(group) if group else torch.arange(4)
    same = (ids[:, None] == ids).float()
    target = torch.cat([same / same.sum(1, keepdim=True), torch.zeros(4, 8)], 1)
    images, texts = torch.cat([v_m, moco.image_queue.features]), torch.cat([w_m, moco.text_queue.features])
    for name, q, k in [("i2t", v, texts), ("t2i", w, images), ("i2i", v, images), ("t2t", w, texts)]:
        expected = torch.nn.functional.cross_entropy(q @ k.T / 0.3, target)
        torch.testing.assert_close(actual[name], expected, rtol=1e-4, atol=1e-5)


def test_tau_returns_within_its_bounds_after_a_step(model):
    method = TCL(model, queue_size=0)
    for value, expected in [(3.0, 0.5), (-1.0, 0.001), (0.2, 0.2)]:
        with torch.no_grad():
            method.momentum.temperature.value.fill_(value)
        method.after_step(1)
        assert method.momentum.temperature().item() == pytest.approx(expected)


def test_batch_of_one(model, batch_of):
    out = terms(TCL(model, queue_size=0), batch_of(model, 1))
    assert out["lmi_image"] == 0
    assert math.isfinite(out["loss"].item())


def test_needs_two_views_and_six_weights(model, batch_of):
    batch = batch_of(model)
    del batch["views"]
    with pytest.raises(ValueError, match="two views"):
        TCL(copy.copy(model), queue_size=0)(batch)
    with pytest.raises(ValueError, match="six"):
        TCL(model, weights=(1.0,))


def test_train_gives_it_two_views_by_itself(model):
    from PIL import Image

    import nearfar
    from nearfar.data import Records

    pictures = [Image.effect_noise((20, 20), 90).convert("RGB") for _ in range(4)]
    pairs = Records([{"image": picture, "text": "a red car"} for picture in pictures])
    method = TCL(model, queue_size=4)
    run = nearfar.train(method, pairs, validation=pairs, steps=2, batch_size=2, progress=False, report=False)
    assert {"i2i", "lmi_image", "val_loss"} <= {name for row in run.history for name in row}
    assert len(method.momentum.image_queue) == 4
