from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from nearfar.errors import UserError
from nearfar.models import MomentumEncoder


def test_old_share_after_n_steps_is_the_power_of_the_momentum():
    student = nn.Linear(3, 2).double()
    teacher = MomentumEncoder(student, momentum=0.995)
    start = [p.clone() for p in teacher.module.parameters()]
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(torch.randn_like(parameter))
    for _ in range(200):
        teacher.update()
    share = 0.995**200
    assert share == pytest.approx(0.366958, abs=1e-6)
    for old, new, slow in zip(start, student.parameters(), teacher.module.parameters(), strict=True):
        torch.testing.assert_close(slow, share * old + (1 - share) * new, atol=1e-12, rtol=1e-10)
    assert math.log(0.5) / math.log(0.995) == pytest.approx(138.3, abs=0.05)


def test_momentum_one_keeps_and_zero_copies_to_the_bit():
    student = nn.Linear(3, 2)
    for momentum, expect in ((1.0, "old"), (0.0, "new")):
        teacher = MomentumEncoder(student, momentum=momentum)
        old = copy.deepcopy(teacher.module.state_dict())
        with torch.no_grad():
            student.weight.mul_(1.7).add_(0.1)
        teacher.update()
        expected = old if expect == "old" else student.state_dict()
        assert all(torch.equal(value, expected[name]) for name, value in teacher.module.state_dict().items())


def test_no_gradient_and_no_parameter_to_train(model):
    teacher = MomentumEncoder(model)
    assert not any(p.requires_grad for p in teacher.parameters())
    image, text = teacher(torch.randn(2, 3, 32, 32, requires_grad=True), model.tokenize(["cat", "dog"]))
    assert not image.requires_grad
    assert not text.requires_grad


def test_always_in_evaluation_mode(model):
    teacher = MomentumEncoder(model.train())
    both = nn.ModuleList([model, teacher]).train()
    assert both[0].text.training
    assert not any(module.training for module in teacher.modules())
    tokens = model.tokenize(["a red fox"])
    with torch.no_grad():
        assert torch.equal(teacher.module.encode_text(tokens), teacher.module.encode_text(tokens))
        assert not torch.equal(model.encode_text(tokens), model.encode_text(tokens))  # dropout


def test_buffers_are_copied():
    student = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    teacher = MomentumEncoder(student, momentum=0.9)
    student.train()(torch.randn(8, 3) + 5)
    teacher.update()
    assert torch.equal(teacher.module[1].running_mean, student[1].running_mean)
    assert teacher.module[1].num_batches_tracked == 1
    before = copy.deepcopy(teacher.state_dict())
    teacher(torch.randn(8, 3))
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())


def test_state_holds_the_copy_alone_and_resumes():
    student = nn.Linear(2, 2)
    teacher = MomentumEncoder(student)
    assert set(teacher.state_dict()) == {"module.weight", "module.bias"}
    with torch.no_grad():
        student.weight.add_(1)
    teacher.update()
    saved = copy.deepcopy(teacher.state_dict())
    again = MomentumEncoder(student)
    again.load_state_dict(saved)
    for one in (teacher, again):
        one.update()
    assert torch.equal(teacher.module.weight, again.module.weight)


def test_deep_copy_of_both_follows_the_copied_student():
    student = nn.Linear(2, 2)
    pair = nn.ModuleList([student, MomentumEncoder(student, momentum=0.0)])
    twin = copy.deepcopy(pair)
    with torch.no_grad():
        twin[0].weight.fill_(3.0)
    twin[1].update()
    assert torch.equal(twin[1].module.weight, twin[0].weight)
    pair[1].update()
    assert not torch.equal(pair[1].module.weight, twin[0].weight)


def test_update_takes_a_scheduled_momentum_and_reset_copies():
    student = nn.Linear(1, 1, bias=False)
    teacher = MomentumEncoder(student, momentum=1.0)
    with torch.no_grad():
        student.weight.fill_(1.0)
        teacher.module.weight.fill_(0.0)
    teacher.update(momentum=0.75)
    assert teacher.module.weight.item() == 0.25
    teacher.reset()
    assert torch.equal(teacher.module.weight, student.weight)


def test_mistakes_are_explained(model):
    with pytest.raises(UserError, match="in \\[0, 1\\]"):
        MomentumEncoder(nn.Linear(1, 1), momentum=1.5)
    teacher = MomentumEncoder(model)
    model.add_lora("text")
    with pytest.raises(UserError, match="add adapters or heads"):
        teacher.update()


class Scaled(nn.Module):
    """A weight of each number of dimensions."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(2.0))
        self.bias = nn.Parameter(torch.ones(3))
        self.matrix = nn.Parameter(torch.ones(2, 3))
        self.shift = nn.Parameter(torch.zeros(5))


@pytest.mark.parametrize("name", ["scale", "bias", "matrix", "shift"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_weight_that_is_not_finite_is_named_and_moves_nothing(name, value):
    student = Scaled()
    teacher = MomentumEncoder(student, momentum=0.5)
    with torch.no_grad():
        for weight in student.parameters():
            weight.add_(1)
        getattr(student, name).view(-1)[-1] = value
    before = copy.deepcopy(teacher.state_dict())
    with pytest.raises(UserError, match=f"the weight {name} is NaN or infinite"):
        teacher.update()
    assert all(torch.equal(slow, before[each]) for each, slow in teacher.state_dict().items())


@pytest.mark.parametrize("name", ["scale", "bias", "matrix", "shift"])
def test_finite_weights_whose_norm_overflows_are_followed(name):
    student = Scaled()
    teacher = MomentumEncoder(student, momentum=0.0)
    with torch.no_grad():
        getattr(student, name).fill_(3e38)
    teacher.update()
    assert torch.equal(getattr(teacher.module, name), getattr(student, name))


def test_weights_that_were_replaced_after_the_copy_was_made_are_followed():
    student = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    teacher = MomentumEncoder(student, momentum=0.0)
    teacher.update()
    loaded = {name: torch.rand_like(value.float()).to(value.dtype) for name, value in student.state_dict().items()}
    student.load_state_dict(loaded, assign=True)
    teacher.module.load_state_dict(copy.deepcopy(loaded), assign=True)
    with torch.no_grad():
        for weight in student.parameters():
            weight.add_(1)
    teacher.update()
    assert all(torch.equal(slow, student.state_dict()[name]) for name, slow in teacher.module.state_dict().items())
    student[0] = nn.Linear(2, 2)
    teacher.update()
    assert torch.equal(teacher.module[0].weight, student[0].weight)
