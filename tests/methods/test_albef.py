"""ALBEF's invariants (arXiv 2107.07651): targets, teacher, queues, matching, masking, resuming."""

import copy
import math

import pytest
import torch
from torch.nn.functional import cross_entropy, log_softmax

from nearfar.losses.functional import info_nce, soft_target_info_nce
from nearfar.methods.image_text.albef import ALBEF
from nearfar.methods.parts.matching import masked_language_loss, matching_loss
from nearfar.methods.parts.momentum_contrast import MomentumContrast


def test_worked_numbers_of_the_soft_targets():
    """s, teacher and diagonal positives as given, tau 1: what the loss does to logits, against the paper's mixture."""
    s = torch.tensor([[0.8, 0.2, 0.1], [0.3, 0.7, 0.0]], dtype=torch.float64)
    t = torch.tensor([[0.9, 0.1, 0.2], [0.2, 0.8, 0.1]], dtype=torch.float64)
    # Keys e_1..e_3 beside private axes, so that any logits can be had from unit vectors.
    keys = torch.eye(3, 6, dtype=torch.float64)

    def queries(rows, axis):
        private = torch.eye(6, dtype=torch.float64)[axis]
        return torch.cat([rows, torch.zeros(2, 3)], 1) + (1 - rows.square().sum(1, keepdim=True)).sqrt() * private

    for alpha, value in [(0.0, 0.744446), (0.4, 0.863337), (1.0, 1.041673)]:
        got = soft_target_info_nce(queries(s, 3), keys, teacher_q=queries(t, 4), temperature=1.0, alpha=alpha)
        assert got.item() == pytest.approx(value, abs=2e-6)


def test_alpha_zero_and_no_queue_is_clip_with_detached_keys(model, batch_of):
    moco = MomentumContrast(model.eval(), queue_size=0, alpha=0.0)
    batch = batch_of(model)
    _, _, v_m, w_m = moco.teach(batch["image"], batch["text"])
    v, w = model.encode_image(batch["image"]), model.encode_text(batch["text"])
    keys = moco.keys(v_m, w_m, None)
    both = (moco.contrast(v, keys.text, None, v_m) + moco.contrast(w, keys.image, None)) / 2
    forth = info_nce(v, w.detach(), temperature=0.07, symmetric=False)
    back = info_nce(w, v.detach(), temperature=0.07, symmetric=False)
    torch.testing.assert_close(both, (forth + back) / 2, rtol=1e-5, atol=0)
    leaves = [p for p in model.parameters() if p.requires_grad]
    mine = torch.autograd.grad(both, leaves, retain_graph=True, allow_unused=True)
    theirs = torch.autograd.grad((forth + back) / 2, leaves, allow_unused=True)
    for x, y in zip(mine, theirs, strict=True):
        assert (x is None) == (y is None)
        if x is not None:
            torch.testing.assert_close(x, y, rtol=1e-3, atol=1e-5)


def test_gradients_reach_student_and_tau_only(model, batch_of):
    method = ALBEF(model, queue_size=8, alpha=0.4)
    method(batch_of(model))["loss"].backward()
    assert method.momentum.temperature.value.grad.abs() > 0
    assert all(p.grad is None for p in method.momentum.teacher.parameters())
    assert sum(p.grad is None for p in model.parameters()) == 0
    assert not method.momentum.image_queue.features.requires_grad


def test_loss_is_affine_in_alpha(model, batch_of):
    model.eval()
    values = []
    for alpha in (0.0, 0.4, 1.0):
        torch.manual_seed(1)  # the same random queue, the same masks
        values.append(ALBEF(model, queue_size=8, alpha=alpha).eval()(batch_of(model)))
    for term in ("itc", "mlm"):
        v = [value[term].item() for value in values]
        assert v[1] == pytest.approx(0.6 * v[0] + 0.4 * v[2], rel=1e-4)


def test_teacher_and_queue_move_in_after_step_only(model, batch_of):
    method = ALBEF(model, queue_size=8, momentum=0.5)
    batch = batch_of(model)
    before = copy.deepcopy(method.state_dict())
    method(batch)["loss"].backward()
    for key, value in method.state_dict().items():
        assert torch.equal(value, before[key]), key
    method.after_step(1)
    queue = method.momentum.image_queue
    assert len(queue) == 4
    assert queue.group[:4].tolist() == [0, 1, 2, 3]
    torch.testing.assert_close(queue.features.norm(dim=1), torch.ones(8))


def test_each_queue_takes_the_teacher_s_features_of_its_own_side(model, batch_of):
    method, batch = ALBEF(model, queue_size=8), batch_of(model)
    _, _, v_m, w_m = method.momentum.teach(batch["image"], batch["text"])
    method(batch)["loss"].backward()
    method.after_step(1)
    torch.testing.assert_close(method.momentum.image_queue.features[:4], v_m)
    torch.testing.assert_close(method.momentum.text_queue.features[:4], w_m)
    assert (v_m - w_m).abs().max() > 0.1


def test_what_is_differentiated_in_evaluation_mode_is_not_queued(model, batch_of):
    method = ALBEF(model, queue_size=8).eval()
    method(batch_of(model))["loss"].backward()
    method.after_step(1)
    assert len(method.momentum.image_queue) == len(method.momentum.text_queue) == 0


def test_an_evaluation_in_between_leaves_nothing_behind(model, batch_of):
    method = ALBEF(model, queue_size=8)
    method(batch_of(model))["loss"].backward()
    method.eval()
    with torch.no_grad():
        method(batch_of(model, seed=1))
    method.train()
    method.after_step(1)
    assert len(method.momentum.image_queue) == 4  # the training batch alone


def test_resumes_from_its_state_dict(model, batch_of):
    method = ALBEF(model, queue_size=8, ramp_steps=10)
    method(batch_of(model))["loss"].backward()
    method.after_step(1)
    again = ALBEF(copy.deepcopy(model), queue_size=8, ramp_steps=10)
    again.load_state_dict(method.state_dict())
    outputs = []
    for m in (method, again):
        torch.manual_seed(3)
        outputs.append(m.train()(batch_of(model, seed=2)))
    assert all(torch.equal(outputs[0][key], outputs[1][key]) for key in outputs[0])
    assert outputs[0]["alpha"].item() == pytest.approx(0.04)


def test_duplicates_share_the_target_and_are_no_negatives(model, batch_of):
    method = ALBEF(model.eval(), queue_size=0, alpha=0.0).eval()
    batch = batch_of(model)
    batch["group"] = torch.tensor([5, 5, 6, 7])
    batch["image"] = batch["image"][[0, 0, 2, 3]]
    with torch.no_grad():
        out = method(batch)
        v, w = model.encode_image(batch["image"], True), model.encode_text(batch["text"], True)
    target = torch.eye(4)
    target[:2, :2] = 0.5
    s = v @ w.T / 0.07
    expected = -(target * log_softmax(s, 1)).sum(1).mean() / 2 - (target * log_softmax(s.T, 1)).sum(1).mean() / 2
    assert out["itc"].item() == pytest.approx(expected.item(), rel=1e-4)


@pytest.mark.parametrize("n", [1, 3])
def test_all_duplicates_and_batches_of_one_do_something_sensible(model, n, batch_of):
    method = ALBEF(model, queue_size=0)
    batch = batch_of(model, n)
    batch["group"] = torch.zeros(n, dtype=torch.long)
    out = method(batch)
    assert math.isfinite(out["loss"].item())
    out["loss"].backward()


def test_matching_with_a_zero_head_is_ln_2(model, batch_of):
    torch.nn.init.zeros_(model.matching.linear.weight)
    torch.nn.init.zeros_(model.matching.linear.bias)
    batch = batch_of(model)
    image, text = model.image_tokens(batch["image"]), model.text_tokens(batch["text"])
    rolled = torch.arange(4).roll(1)
    mask = batch["text"]["attention_mask"]
    loss, _ = matching_loss(model, image, text, mask, hard_text=rolled, hard_image=rolled)
    assert loss.item() == pytest.approx(math.log(2), abs=1e-6)


def test_matching_pairs_each_text_with_its_hard_image_and_each_image_with_its_hard_text(model):
    batches = []
    model.match = lambda image, text, mask, rows: batches.append((image[rows], text)) or torch.zeros(len(text), 2)
    image, text = torch.arange(3.0).view(3, 1, 1), torch.arange(10.0, 13.0).view(3, 1, 1)
    hard_image, hard_text = torch.tensor([2, 0, 1]), torch.tensor([1, 2, -1])
    matching_loss(model, image, text, torch.ones(3, 1), hard_text=hard_text, hard_image=hard_image)
    pairs = [(i.item(), t.item() - 10) for i, t in zip(*(x.flatten() for x in batches[0]), strict=True)]
    assert pairs[:3] == [(0, 0), (1, 1), (2, 2)]
    assert pairs[3:6] == [(2, 0), (0, 1), (1, 2)]
    assert pairs[6:] == [(0, 1), (1, 2)]  # the third image has none


def test_each_direction_draws_by_its_own_similarities(model):
    """So sharp that only the nearest key of another group can be drawn."""
    moco = MomentumContrast(model, queue_size=0, temperature=0.001)
    e = torch.eye(3)
    v, w_m = e, (e + 0.5 * e.roll(1, 0))  # text t is like images t and t - 1
    w, v_m = e, (e + 0.5 * e.roll(2, 0))  # image i is like texts i and i - 2
    hard_text, hard_image = moco.hard_negatives(v, w, v_m, w_m, None)
    assert hard_text.tolist() == [1, 2, 0]
    assert hard_image.tolist() == [2, 0, 1]
    hard_text, hard_image = moco.hard_negatives(v, w, v_m, w_m, torch.tensor([0, 0, 1]))
    assert hard_text.tolist() == [2, 2, 0]
    assert hard_image.tolist() == [2, 2, 1]


@pytest.mark.parametrize(("hard", "easy_steps"), [(True, 0), (True, 1), (False, 0)])
def test_negatives_are_drawn_as_the_contrast_sees_them(model, batch_of, monkeypatch, hard, easy_steps):
    """The student's queries against the teacher's keys, over tau; evenly at first, where some steps are to be easy."""
    from nearfar.methods.parts import momentum_contrast

    calls = []

    def record(q, k, scale, **groups):
        calls.append((q, k, torch.as_tensor(scale).item(), groups))
        return torch.arange(len(q)).roll(1)

    monkeypatch.setattr(momentum_contrast, "sample_hard_negatives", record)
    method = ALBEF(model.eval(), queue_size=0, temperature=0.5, hard_negatives=hard, easy_steps=easy_steps).eval()
    with torch.no_grad():
        for p in method.momentum.teacher.module.image_projection.parameters():
            p.add_(0.3)
        batch = batch_of(model)
        method(batch)
        v, w = model.encode_image(batch["image"], True), model.encode_text(batch["text"], True)
        v_m = method.momentum.teacher.module.encode_image(batch["image"], True)
    scale = 2.0 if hard and not easy_steps else 0.0
    for (q, k, fill, groups), expected in zip(calls, [(v, w), (w, v_m)], strict=True):
        torch.testing.assert_close((q, k), expected)
        assert fill == pytest.approx(scale)
        assert groups["q_group"].tolist() == groups["k_group"].tolist() == [0, 1, 2, 3]
    if easy_steps:
        method.after_step(1)
        method(batch)
        assert calls[-1][2] == pytest.approx(2.0)


def test_masked_language_loss_mixes_words_and_teacher(model, batch_of):
    model.eval()
    batch = batch_of(model)
    image = model.image_tokens(batch["image"]).detach()
    values = []
    for alpha in (0.0, 0.5, 1.0):
        torch.manual_seed(0)
        values.append(
            masked_language_loss(model, model, batch["text"], image, image, alpha=alpha, probability=0.5).item()
        )
    assert values[1] == pytest.approx((values[0] + values[2]) / 2, rel=1e-5)
    none = masked_language_loss(model, model, batch["text"], image, image, alpha=0.0, probability=0.0)
    assert none.item() == 0


def test_fusion_needs_no_contrast(model, batch_of):
    out = ALBEF(model, queue_size=0, contrast=False)(batch_of(model))
    assert "itc" not in out
    assert math.isfinite(out["loss"].item())


def test_a_queue_may_have_another_size_than_a_multiple_of_the_batch(model, batch_of):
    method = ALBEF(model, queue_size=6)
    for step in (1, 2):
        method.before_step()
        method(batch_of(model) | {"index": torch.arange(4) + 4 * step})["loss"].backward()
        method.after_step(step)
    for queue in (method.momentum.image_queue, method.momentum.text_queue):
        assert queue.group.tolist() == [10, 11, 6, 7, 8, 9]


def test_itc_against_the_plain_matrix_with_a_queue(model, batch_of):
    method = ALBEF(model.eval(), queue_size=8, alpha=0.4, share_duplicates=False).eval()
    batch = batch_of(model)
    with torch.no_grad():
        itc = method(batch)["itc"]
        v, w = model.encode_image(batch["image"], True), model.encode_text(batch["text"], True)
    moco = method.momentum

    def direction(q, keys):
        s = q @ torch.cat([keys[0], keys[1]]).T / 0.07
        target = 0.4 * s.softmax(1) + 0.6 * torch.eye(4, 12)
        return cross_entropy(s, target)

    expected = (direction(v, (w, moco.text_queue.features)) + direction(w, (v, moco.image_queue.features))) / 2
    assert itc.item() == pytest.approx(expected.item(), rel=1e-4)
