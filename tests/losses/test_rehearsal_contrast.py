"""Rehearsed samples against a frozen teacher, and two modalities (COCONUT, arXiv 2310.02699): sums by hand, numbers
worked out, which rows a gradient reaches."""

import itertools
import math

import pytest
import torch

from nearfar.errors import UserError
from nearfar.losses.functional import (
    info_nce,
    rehearsal_contrastive_loss,
    supcon,
    supervised_cross_modal_loss,
)

LABEL = torch.tensor([0, 0, 1, 2, 1, 0, 4, 4, 3])
MEMORY = torch.tensor([1, 1, 1, 1, 1, 1, 0, 0, 0], dtype=torch.bool)
EYE, THREE, TWO_OLD = torch.eye(3), torch.tensor([0, 1, 2]), torch.tensor([True, True, False])


def rows(n=9, seed=0, near=None):
    made = torch.randn(n, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return made if near is None else near + 0.2 * made


def ntpt(z, teacher, label=LABEL, memory=MEMORY, **settings):
    return rehearsal_contrastive_loss(z, teacher, label, memory, negatives_from="teacher", **settings)


def by_hand(z, teacher, label, memory, tau, positives_from, negatives_from, denominator, negatives, self_positive):
    """The formula, one term after the other."""
    z, teacher = (torch.nn.functional.normalize(each, dim=1) for each in (z, teacher))
    side = {"student": z, "teacher": teacher}
    losses = []
    for k in (i for i in range(len(z)) if memory[i]):
        positive = [p for p in range(len(z)) if memory[p] and label[p] == label[k] and (self_positive or p != k)]
        among = [i for i in range(len(z)) if negatives == "all" or not memory[i]]
        if denominator == "literal":
            negative = [i for i in among if i != k]
        else:
            negative = [i for i in among if label[i] != label[k]]
        up = {p: math.exp(float(z[k] @ side[positives_from][p]) / tau) for p in positive}
        down = sum(math.exp(float(z[k] @ side[negatives_from][i]) / tau) for i in negative)
        total = down + (sum(up.values()) if denominator == "softmax" else 0)
        if positive and total:
            losses.append(sum(-math.log(each / total) for each in up.values()) / len(up))
    return sum(losses) / len(losses) if losses else 0.0


CHOICES = list(
    itertools.product(
        ("teacher", "student"), ("student", "teacher"), ("softmax", "literal"), ("all", "current"), (0, 1)
    )
)


@pytest.mark.parametrize("choice", CHOICES, ids=str)
def test_every_reading_is_the_sum_that_it_says(choice):
    names = ("positives_from", "negatives_from", "denominator", "negatives", "self_positive")
    settings = dict(zip(names, choice, strict=True))
    z, teacher = rows(), rows(seed=1)
    if settings["positives_from"] == "student" and settings["self_positive"]:
        with pytest.raises(UserError, match="self_positive=True with positives_from='student'"):
            rehearsal_contrastive_loss(z, teacher, LABEL, MEMORY, **settings)
        return
    for tau in (0.1, 1.0):
        ours = rehearsal_contrastive_loss(z, teacher, LABEL, MEMORY, temperature=tau, **settings)
        assert ours.item() == pytest.approx(by_hand(z, teacher, LABEL, MEMORY, tau, **settings), rel=1e-9)


def test_student_and_teacher_alike_make_one_loss_of_both():
    z = rows()
    for settings in ({}, {"denominator": "literal"}, {"negatives": "current"}, {"self_positive": False}):
        nspt = rehearsal_contrastive_loss(z, z, LABEL, MEMORY, **settings)
        assert nspt.item() == pytest.approx(ntpt(z, z, **settings).item(), rel=1e-12)


def test_as_printed_with_all_rehearsed_it_is_supcon():
    z, everything = rows(), torch.ones(9, dtype=torch.bool)
    settings = {"denominator": "literal", "self_positive": False, "temperature": 0.2}
    ours = rehearsal_contrastive_loss(z, z, LABEL, everything, **settings)
    assert ours.item() == pytest.approx(supcon(z, LABEL, temperature=0.2).item(), rel=1e-9)
    alone = rehearsal_contrastive_loss(
        z, rows(seed=5), LABEL, everything, positives_from="student", denominator="literal", temperature=0.2
    )
    assert alone.item() == pytest.approx(supcon(z, LABEL, temperature=0.2).item(), rel=1e-9)


def test_which_rows_a_gradient_reaches():
    """Of 4 rehearsed and 4 new samples NSPT reaches all 8 rows of the student, NTPT the 4 anchors; the teacher none."""
    label, memory = torch.tensor([0, 0, 1, 1, 2, 2, 3, 3]), torch.arange(8) < 4
    for loss, reached in ((rehearsal_contrastive_loss, 8), (ntpt, 4)):
        z, teacher = rows(8).requires_grad_(), rows(8, 1).requires_grad_()
        loss(z, teacher, label, memory).backward()
        assert int((z.grad.abs().sum(1) > 0).sum()) == reached
        assert teacher.grad is None


def test_without_a_rehearsed_sample_it_is_nothing():
    z = rows().requires_grad_()
    for settings in ({}, {"denominator": "literal"}, {"self_positive": False}, {"negatives": "current"}):
        for memory in (torch.zeros(9, dtype=torch.bool), torch.arange(9) == 3):
            if memory.any() and settings.get("self_positive", True):
                continue  # its own teacher is a positive
            z.grad = None
            loss = rehearsal_contrastive_loss(z, rows(seed=1), LABEL, memory, **settings)
            loss.backward()
            assert loss.item() == 0
            assert not z.grad.any()


def test_a_collision_that_only_negative_students_see():
    """Orthonormal, classes 0 and 1 rehearsed, 2 new: log(e + 2) - 1. Then the new sample falls onto class 0."""
    settings = {"temperature": 1.0}
    assert rehearsal_contrastive_loss(EYE, EYE, THREE, TWO_OLD, **settings).item() == pytest.approx(0.551445, abs=1e-6)
    assert math.log(math.e + 2) - 1 == pytest.approx(0.551445, abs=1e-6)
    fallen = torch.stack([EYE[0], EYE[1], EYE[0]])
    assert rehearsal_contrastive_loss(fallen, EYE, THREE, TWO_OLD, **settings).item() == pytest.approx(
        0.706720, abs=1e-6
    )
    assert ntpt(fallen, EYE, THREE, TWO_OLD, **settings).item() == pytest.approx(0.551445, abs=1e-6)


def test_the_printed_denominator_goes_below_zero_and_a_softmax_does_not():
    """Its numerator is not in it: with 8 samples and a teacher near the student it was negative in about a quarter."""
    below = dict.fromkeys(("softmax", "literal"), 0)
    for seed, form in itertools.product(range(60), below):
        z = rows(8, seed)
        label, memory = torch.tensor([0, 0, 1, 1, 2, 2, 3, 3]), torch.arange(8) < 4
        loss = rehearsal_contrastive_loss(z, rows(8, 1000 + seed, near=z), label, memory, denominator=form)
        below[form] += int(loss < 0)
    assert below["softmax"] == 0
    assert below["literal"] > 5


def test_at_an_endless_temperature_all_terms_count_the_same():
    """Each anchor's loss tends to log(|P| + |N|)."""
    ours = rehearsal_contrastive_loss(rows(), rows(seed=1), LABEL, MEMORY, temperature=1e7)
    counts = [((MEMORY & (y == LABEL)).sum() + (y != LABEL).sum()).item() for y in LABEL[MEMORY]]
    assert ours.item() == pytest.approx(sum(map(math.log, counts)) / len(counts), rel=1e-5)


def test_order_and_names_of_classes_change_nothing():
    z, teacher, order = rows(), rows(seed=1), torch.randperm(9, generator=torch.Generator().manual_seed(3))
    ours = rehearsal_contrastive_loss(z, teacher, LABEL, MEMORY, self_positive=False)
    mixed = rehearsal_contrastive_loss(z[order], teacher[order], LABEL[order], MEMORY[order], self_positive=False)
    renamed = rehearsal_contrastive_loss(z, teacher, 7 - 1000 * LABEL, MEMORY, self_positive=False)
    assert ours.item() == pytest.approx(mixed.item(), rel=1e-12)
    assert ours.item() == pytest.approx(renamed.item(), rel=1e-12)


def test_positives_close_by_leave_no_rounding():
    """One positive, far from all negatives: the loss is their share, exp(-100), and not a rounding of 1 - 1."""
    z = torch.eye(2)
    loss = rehearsal_contrastive_loss(z, z, torch.tensor([0, 1]), torch.tensor([True, True]), temperature=0.01)
    assert 0 <= loss.item() < 1e-30


def test_two_modalities_in_numbers():
    """Identical orthonormal rows, N = 4: log(e + 3) - 1 with a class each, the CLIP loss; log(e + 3) - 1/4 with one."""
    eye, apart, one = torch.eye(4), torch.arange(4), torch.zeros(4, dtype=torch.long)
    assert supervised_cross_modal_loss(eye, eye, apart, temperature=1.0).item() == pytest.approx(0.743668, abs=1e-6)
    assert supervised_cross_modal_loss(eye, eye, one, temperature=1.0).item() == pytest.approx(1.493668, abs=1e-6)
    a, b = rows(), rows(seed=1)
    clip = info_nce(a, b, temperature=0.1).item()
    assert supervised_cross_modal_loss(a, b, torch.arange(9)).item() == pytest.approx(clip, rel=1e-9)
    assert supervised_cross_modal_loss(a, b, LABEL, positives="instance").item() == pytest.approx(clip, rel=1e-9)


def test_two_modalities_swap_and_mix():
    a, b, order = rows(), rows(seed=1), torch.arange(8, -1, -1)
    ours = supervised_cross_modal_loss(a, b, LABEL).item()
    assert supervised_cross_modal_loss(b, a, LABEL).item() == pytest.approx(ours, rel=1e-12)
    mixed = supervised_cross_modal_loss(a[order], b[order], LABEL[order]).item()
    assert mixed == pytest.approx(ours, rel=1e-12)
    logits = torch.nn.functional.normalize(a, dim=1) @ torch.nn.functional.normalize(b, dim=1).T / 0.1
    same = (LABEL[:, None] == LABEL).double()
    ways = [-(each.log_softmax(1) * same).sum(1) / same.sum(1) for each in (logits, logits.T)]
    assert ours == pytest.approx(((ways[0].mean() + ways[1].mean()) / 2).item(), rel=1e-9)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"positives_from": "both"}, "positives_from='both': choose one of student, teacher"),
        ({"negatives_from": "memory"}, "negatives_from='memory'"),
        ({"denominator": "sum"}, "denominator='sum': choose one of softmax, literal"),
        ({"negatives": "new"}, "negatives='new': choose one of all, current"),
        ({"backend": "ring"}, "needs all rows in one process"),
    ],
)
def test_choices_that_there_are_not(settings, words):
    with pytest.raises(UserError, match=words):
        rehearsal_contrastive_loss(rows(), rows(), LABEL, MEMORY, **settings)
    with pytest.raises(UserError, match="positives='label': choose one of class, instance"):
        supervised_cross_modal_loss(rows(), rows(), LABEL, positives="label")


@pytest.mark.parametrize("choice", [each for each in CHOICES if each[0] == "teacher"], ids=str)
def test_a_new_sample_of_a_rehearsed_class_is_no_positive(choice):
    """Row 6 is new and of class 0, as rows 0, 1 and 5 of the memory are."""
    positives_from, negatives_from, denominator, negatives, own = choice
    label = torch.tensor([0, 0, 1, 2, 1, 0, 0, 4, 3])
    z, teacher = rows(seed=3), rows(seed=4)
    settings = {
        "positives_from": positives_from,
        "negatives_from": negatives_from,
        "denominator": denominator,
        "negatives": negatives,
        "self_positive": bool(own),
    }
    expected = by_hand(z, teacher, label, MEMORY, 0.5, positives_from, negatives_from, denominator, negatives, own)
    loss = rehearsal_contrastive_loss(z, teacher, label, MEMORY, temperature=0.5, **settings)
    assert loss.item() == pytest.approx(expected, rel=1e-9)
