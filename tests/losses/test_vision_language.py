"""A student beside its teacher's texts (arXiv 2307.03135): values by hand, and what each term does not depend on."""

import math

import pytest
import torch
from torch.nn import functional as F

from nearfar.errors import UserError
from nearfar.losses import VisionLanguageAlignment
from nearfar.losses.alignment_uniformity import feature_distance
from nearfar.losses.functional import alignment, info_nce, soft_target_info_nce, vision_language_alignment
from nearfar.losses.soft_target import cosine_classification

STUDENT = torch.tensor([[1.0, 0.0], [0.6, 0.8]], dtype=torch.float64)
TEACHER = torch.eye(2, dtype=torch.float64)
TAU = 0.07


def rows(count=7, classes=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    student, teacher = torch.randn(2, count, 6, generator=generator, dtype=torch.float64)
    return student, teacher, torch.randn(classes, 6, generator=generator, dtype=torch.float64)


def with_cosines(*cosines):
    """Unit rows `[1, 4]` whose cosines with the first three axes are these."""
    row = torch.tensor(cosines, dtype=torch.float64)
    return torch.cat([row, (1 - row.square().sum()).sqrt()[None]])[None]


AXES = torch.eye(4, dtype=torch.float64)[:3]
BY_TEACHER, BY_STUDENT = with_cosines(0.30, 0.25, 0.10), with_cosines(0.20, 0.22, 0.40)


@pytest.mark.parametrize(("top_k", "expected"), [(1, 0.0), (2, 0.1190529), (3, 2.0178703), (256, 2.0178703)])
def test_plausible_labels_by_hand(top_k, expected):
    loss = vision_language_alignment(BY_STUDENT, BY_TEACHER, AXES, top_k=top_k)
    assert loss.item() == pytest.approx(expected, abs=5e-8)


@pytest.mark.parametrize("top_k", [1, 2, 4, 5, 9])
def test_it_is_the_slow_formula(top_k):
    student, teacher, text = rows()
    total = 0.0
    for o, t in zip(student, teacher, strict=True):
        q, p = ([F.cosine_similarity(x, w, dim=0).item() / TAU for w in text] for x in (t, o))
        nearest = sorted(range(len(text)), key=lambda c: -q[c])[:top_k]
        zq, zp = (sum(math.exp(values[c]) for c in nearest) for values in (q, p))
        total += sum(math.exp(q[c]) / zq * (q[c] - math.log(zq) - p[c] + math.log(zp)) for c in nearest)
    assert vision_language_alignment(student, teacher, text, top_k=top_k).item() == pytest.approx(total / 7, rel=1e-12)


def test_with_all_labels_it_is_soft_targets_less_the_teachers_entropy():
    student, teacher, text = rows()
    student.requires_grad_()
    share = (F.normalize(teacher, dim=1) @ F.normalize(text, dim=1).T / TAU).softmax(1)
    entropy = -(share * share.log()).sum(1).mean()
    soft = soft_target_info_nce(
        student, text, teacher_q=teacher, alpha=1.0, q_group=torch.zeros(7).long(), k_group=torch.arange(5)
    )
    loss = vision_language_alignment(student, teacher, text)
    torch.testing.assert_close(loss, soft - entropy)
    own, other = (torch.autograd.grad(each, student)[0] for each in (loss, soft))
    torch.testing.assert_close(own, other)


def test_a_student_that_is_its_teacher_has_nothing_to_learn():
    _, teacher, text = rows()
    student = teacher.clone().requires_grad_()
    for loss in (vision_language_alignment(student, teacher, text, top_k=3), feature_distance(student, teacher)):
        assert loss.item() == 0
        assert torch.autograd.grad(loss, student)[0].abs().max() < 1e-15


def test_the_filter_leaves_out_what_the_teacher_misreads():
    student, teacher, text = rows()
    read = (F.normalize(teacher, dim=1) @ F.normalize(text, dim=1).T).argmax(1)
    loss = VisionLanguageAlignment(top_k=3, learnable=False)
    torch.testing.assert_close(loss(student, teacher, text, read), loss(student, teacher, text))
    some = read.where(torch.arange(7) < 3, (read + 1) % 5)
    torch.testing.assert_close(loss(student, teacher, text, some), loss(student[:3], teacher[:3], text))
    student.requires_grad_()
    nothing = loss(student, teacher, text, (read + 1) % 5)
    assert nothing.item() == 0
    assert torch.autograd.grad(nothing, student)[0].abs().max() == 0


def test_no_gradient_reaches_the_teacher_and_texts_get_theirs_through_the_student():
    student, teacher, text = (x.requires_grad_() for x in rows())
    vision_language_alignment(student, teacher, text, top_k=3).backward()
    assert teacher.grad is None
    assert student.grad.abs().max() > 0
    assert text.grad.abs().max() > 0
    (feature_distance(student, teacher) + feature_distance(student, teacher, normalise=False)).backward()
    assert teacher.grad is None


def test_lengths_order_of_pictures_and_order_of_texts_say_nothing():
    student, teacher, text = rows()
    label, order, names = torch.tensor([0, 1, 2, 3, 4, 0, 1]), torch.randperm(7), torch.tensor([3, 0, 4, 1, 2])

    def terms(student, teacher, text, label):
        return torch.stack(
            [
                vision_language_alignment(student, teacher, text, label, top_k=3),
                feature_distance(student, teacher),
                cosine_classification(student, text, label),
                info_nce(student, teacher),
            ]
        )

    own = terms(student, teacher, text, label)
    torch.testing.assert_close(terms(3 * student, 0.2 * teacher, 5 * text, label), own)
    torch.testing.assert_close(terms(student[order], teacher[order], text, label[order]), own)
    torch.testing.assert_close(terms(student, teacher, text[names], names.argsort()[label]), own)


def test_a_temperature_a_row():
    student, teacher, text = rows(2)
    both = vision_language_alignment(student, teacher, text, temperature=torch.tensor([0.1, 0.5]).double(), top_k=3)
    one, other = (
        vision_language_alignment(student[i : i + 1], teacher[i : i + 1], text, temperature=tau, top_k=3)
        for i, tau in enumerate((0.1, 0.5))
    )
    torch.testing.assert_close(both, (one + other) / 2)


def test_the_distance_by_hand():
    assert feature_distance(STUDENT, TEACHER).item() == pytest.approx(0.2, abs=1e-12)
    student, teacher, _ = rows()
    torch.testing.assert_close(feature_distance(student, teacher), alignment(student, teacher))
    by_cosine = (2 - 2 * F.cosine_similarity(student, teacher)).mean()
    torch.testing.assert_close(feature_distance(student, teacher), by_cosine)
    assert feature_distance(student, student.clone(), normalise=False).item() == 0
    ten = torch.full((3, 10), 2.0).double()  # squared distance 10 in each row
    assert feature_distance(ten, ten - 1, normalise=False).item() == pytest.approx(math.log(2), abs=1e-12)


def test_the_contrast_with_the_teacher_by_hand():
    """Of the paper's two forms of `info_nce`, both directions and that from student to teacher."""
    for student, symmetric, expected in [
        (TEACHER, True, 6.2487e-7),
        (STUDENT, False, 0.0279223),
        (STUDENT, True, 0.0147871),
    ]:
        loss = info_nce(student, TEACHER, temperature=TAU, symmetric=symmetric)
        assert loss.item() == pytest.approx(expected, rel=1e-5)
    assert info_nce(TEACHER, STUDENT, temperature=TAU, symmetric=False).item() == pytest.approx(0.0016520, rel=1e-4)
    assert info_nce(STUDENT[:1], TEACHER[:1], temperature=TAU).item() == 0
    same = torch.ones(8, 3).double()
    assert info_nce(same, same, temperature=TAU).item() == pytest.approx(math.log(8), abs=1e-12)


def test_captions_of_one_label_are_no_negatives():
    """Of all labels different it is plain contrast in one direction, of all the same nothing is left; and it cannot
    fall below log(1 + 127 e^-2) for a batch of 128."""
    student, caption, _ = rows()
    form = {"temperature": 1.0, "symmetric": False}
    apart = info_nce(student, caption, group=torch.arange(7), **form)
    torch.testing.assert_close(apart, info_nce(student, caption, **form))
    assert info_nce(student, caption, group=torch.zeros(7).long(), **form).abs().item() < 1e-6
    label, cosines = torch.tensor([0, 0, 1, 1, 2, 2, 2]), F.normalize(student, dim=1) @ F.normalize(caption, dim=1).T
    masked = cosines.masked_fill((label[:, None] == label) & ~torch.eye(7).bool(), -1e7)
    loss = info_nce(student, caption, group=label, **form)
    torch.testing.assert_close(loss, F.cross_entropy(masked, torch.arange(7)))


def test_classification_is_cross_entropy_of_a_cosine_classifier():
    student, _, text = rows()
    label = torch.tensor([0, 1, 2, 3, 4, 0, 1])
    logits = F.normalize(student, dim=1) @ F.normalize(text, dim=1).T / TAU
    torch.testing.assert_close(cosine_classification(student, text, label), F.cross_entropy(logits, label))


def test_what_is_refused():
    student, teacher, text = rows()
    for label in (-1, 5):
        with pytest.raises(UserError, match="label must be from 0 to 4"):
            cosine_classification(student, text, torch.full((7,), label))
    with pytest.raises(UserError, match="student and teacher must have one shape"):
        feature_distance(student, teacher[:3])
    with pytest.raises(UserError, match="text must be as wide as student"):
        vision_language_alignment(student, teacher, text[:, :3])
    for top_k in (0, -2):
        with pytest.raises(UserError, match=f"top_k must be at least 1, got {top_k}"):
            VisionLanguageAlignment(top_k=top_k)
        with pytest.raises(UserError, match="top_k must be at least 1"):
            vision_language_alignment(student, teacher, text, top_k=top_k)


def test_settings_of_the_module_reach_its_loss():
    student, teacher, text = rows()
    loss = VisionLanguageAlignment(0.4, top_k=2).double()
    value = loss(student, teacher, text)
    torch.testing.assert_close(value, vision_language_alignment(student, teacher, text, temperature=0.4, top_k=2))
    value.backward()
    assert loss.temperature.value.grad.abs() > 1e-6
    assert not VisionLanguageAlignment(learnable=False).temperature.value.requires_grad
