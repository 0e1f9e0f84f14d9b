import copy

import numpy as np
import pytest
import torch
from torch import nn

from methods.memory_work import teach
from nearfar.errors import UserError
from nearfar.methods.parts.mean_teacher import MeanTeacher, cosine_momentum
from training.ranks import run

KEYS = torch.tensor([[10.0], [14.0]])


def norm():
    return nn.BatchNorm1d(1, affine=False)


def test_the_momentum_rises_along_a_cosine_and_its_count_is_saved():
    assert [round(cosine_momentum(k, 8, 0.99), 6) for k in (0, 2, 4, 6, 8)] == [0.99, 0.991464, 0.995, 0.998536, 1.0]
    student = nn.Linear(1, 1, bias=False)
    teacher = MeanTeacher(student, 0.0, total_steps=2)
    with torch.no_grad():
        student.weight.fill_(1.0)
    teacher.update()  # a share of 0: a copy
    with torch.no_grad():
        student.weight.fill_(3.0)
    again = MeanTeacher(student, 0.0, total_steps=2)
    again.load_state_dict(copy.deepcopy(teacher.state_dict()))
    assert again.momentum == 0.5
    again.update()
    assert again.module.weight.item() == 0.5 * 1 + 0.5 * 3
    again.update()
    again.update()
    assert again.module.weight.item() == 2.0, "a share of 1 keeps it"


def test_statistics_that_are_copied():
    """One batch [0, 2] through the student: mean 0.1, variance 0.9 + 0.1 * 2."""
    student = norm()
    teacher = MeanTeacher(student, statistics="copied")
    student(torch.tensor([[0.0], [2.0]]))
    teacher.update()
    module = teacher.module
    assert (module.running_mean.item(), module.running_var.item()) == pytest.approx((0.1, 1.1))
    assert module.num_batches_tracked == 1
    assert module.num_batches_tracked.dtype == torch.int64


def test_what_normalises_keys_is_an_option_that_train_does_not_change():
    student = norm()
    student(torch.tensor([[0.0], [2.0]]))
    batch, running = (MeanTeacher(student, normalise=how, statistics="copied") for how in ("batch", "running"))
    both = nn.ModuleList([batch, running])
    for mode in (True, False):
        both.train(mode)
        torch.testing.assert_close(batch(KEYS), torch.tensor([[-1.0], [1.0]]), atol=1e-4, rtol=0)
        torch.testing.assert_close(running(KEYS), torch.tensor([[9.439], [13.253]]), atol=1e-3, rtol=0)


def test_views_are_normalised_one_by_one():
    """Concatenated they would give [-1.1358, -0.7863] and [0.6116, 1.3106]."""
    teacher = MeanTeacher(norm())
    for view in (torch.tensor([[0.0], [2.0]]), KEYS):
        torch.testing.assert_close(teacher(view), torch.tensor([[-1.0], [1.0]]), atol=1e-4, rtol=0)
    teacher.update()
    # 0.9 * (0.9 * 0 + 0.1 * 1) + 0.1 * 12, as two forward passes in training leave it.
    assert teacher.module.running_mean.item() == pytest.approx(1.29)
    assert teacher.module.num_batches_tracked == 2


def test_forward_leaves_nothing_behind():
    teacher = MeanTeacher(nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Dropout(0.5)))
    before = copy.deepcopy(teacher.state_dict())
    rows = torch.randn(5, 2, requires_grad=True)
    actual = teacher(rows)
    assert not actual.requires_grad
    assert torch.equal(actual, teacher(rows)), "no dropout"
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    teacher.forget()  # the step was skipped
    teacher.eval()
    teacher(rows)  # a validation
    teacher.train().update()
    assert torch.equal(teacher.module[1].running_mean, before["slow.module.1.running_mean"])


def test_statistics_follow_a_copy_a_move_and_saved_ones():
    """Of one batch [10, 14]: the mean 0.1 * 12; of two, 0.9 of that and as much again."""
    teacher = MeanTeacher(norm())
    teacher(KEYS)
    other = copy.deepcopy(teacher)
    teacher.update()
    assert (teacher.module.running_mean.item(), other.module.running_mean.item()) == (pytest.approx(1.2), 0.0)
    other.update()
    assert other.module.running_mean.item() == pytest.approx(1.2)
    other.double()
    other(KEYS.double())
    other.update()
    assert other.module.running_mean.dtype == torch.float64
    assert other.module.running_mean.item() == pytest.approx(2.28)
    other.load_state_dict(MeanTeacher(norm()).state_dict())
    other(KEYS.double())
    other.update()
    assert other.module.running_mean.item() == pytest.approx(1.2)
    assert other.module.num_batches_tracked == 1


def test_other_methods_of_the_network():
    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = norm()

        def encode(self, rows):
            return self.norm(rows)

    teacher = MeanTeacher(Network())
    with teacher.teaching() as module:
        torch.testing.assert_close(module.encode(KEYS), torch.tensor([[-1.0], [1.0]]), atol=1e-4, rtol=0)
    assert teacher.module.norm.running_mean.item() == 0


def test_weights_that_are_not_finite_are_refused_by_name():
    student = nn.Linear(2, 1)
    teacher = MeanTeacher(student)
    before = copy.deepcopy(teacher.state_dict())
    with torch.no_grad():
        student.bias.fill_(torch.nan)
    with pytest.raises(UserError, match="the weight bias is NaN or infinite, and would stay in the teacher"):
        teacher.update()
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())


def test_two_processes_have_one_teacher():
    """Its weights are those of one process; running means too, as the batches are of one size."""
    views = torch.randn(2, 8, 3, generator=torch.Generator().manual_seed(0))
    alone = teach(views)
    first, second = run(teach, 2, views)
    for name, value in alone.items():
        assert np.array_equal(first[name], second[name]), name
        if "running_var" not in name:  # a part's variance is not that of the whole: SyncBatchNorm's is
            np.testing.assert_allclose(first[name], value, atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"normalise": "none"}, "choose batch or running"),
        ({"normalise": "running"}, "say statistics='copied'"),
        ({"total_steps": 0}, "at least 1"),
        ({"momentum": 1.5}, r"in \[0, 1\]"),
    ],
)
def test_mistakes_are_sentences(settings, message):
    with pytest.raises(UserError, match=message):
        MeanTeacher(norm(), **settings)
