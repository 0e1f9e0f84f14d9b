"""The parts of OGEN by themselves: the generator, the bank of pictures by class, the teacher of latest checkpoints."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from nearfar.errors import UserError
from nearfar.methods.prompts.extrapolation import squared_distance
from nearfar.methods.prompts.feature_bank import FeatureBank, nearest_classes, nearest_names
from nearfar.methods.prompts.feature_generator import ClassConditionalFeatureGenerator
from nearfar.methods.prompts.local_mean_teacher import AdaptiveLocalMeanTeacher, almt_window


def inputs(n=5, k=3, dim=8, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    return (F.normalize(torch.randn(n, r, dim, generator=generator, dtype=dtype), dim=-1) for r in (1, k, k))


def slow_attention(module, query, key, value):
    """Multi-head attention in plain products, one head and row at a time."""
    dim, heads = module.embed_dim, module.num_heads
    width = dim // heads
    weights, biases = module.in_proj_weight.split(dim), module.in_proj_bias.split(dim)
    q, k, v = (x @ w.T + b for x, w, b in zip((query, key, value), weights, biases, strict=True))
    rows = []
    for i in range(len(query)):
        parts = []
        for h in range(heads):
            own = slice(h * width, (h + 1) * width)
            share = (q[i, :, own] @ k[i, :, own].T / math.sqrt(width)).softmax(-1)
            parts.append(share @ v[i, :, own])
        rows.append(torch.cat(parts, dim=-1))
    return torch.stack(rows) @ module.out_proj.weight.T + module.out_proj.bias


@pytest.mark.parametrize("form", ["paper", "code"])
def test_the_generator_by_the_slow_way(form):
    generator = ClassConditionalFeatureGenerator(8, 2, hidden=6, form=form).double().eval()
    query, key, value = inputs()
    attended = slow_attention(generator.attention, query, key, value)
    if form == "paper":
        x = query + attended
        mean, variance = x.mean(-1, keepdim=True), x.var(-1, unbiased=False, keepdim=True)
        expected = (x - mean) / (variance + 1e-5).sqrt() * generator.norm.weight + generator.norm.bias
    else:
        first, _, second = generator.mlp
        expected = attended + (query @ first.weight.T + first.bias).clamp(min=0) @ second.weight.T + second.bias
        assert (first.out_features, second.out_features) == (6, 8)
    expected = expected / expected.norm(dim=-1, keepdim=True)
    made = generator(query, key, value)
    torch.testing.assert_close(made, expected)
    torch.testing.assert_close(made.norm(dim=-1), torch.ones(5, 1, dtype=torch.float64))  # oracle 4


@pytest.mark.parametrize("form", ["paper", "code"])
def test_the_order_of_neighbours_does_not_matter(form):
    """Oracle 3."""
    generator = ClassConditionalFeatureGenerator(8, form=form).double().eval()
    query, key, value = inputs()
    order = torch.tensor([2, 0, 1])
    torch.testing.assert_close(generator(query, key[:, order], value[:, order]), generator(query, key, value))
    assert not torch.allclose(generator(query, key[:, order], value), generator(query, key, value), atol=1e-6)


def test_of_a_single_neighbour_attention_is_a_linear_map_of_its_picture():
    """Oracle 2: whatever the query and the key are."""
    generator = ClassConditionalFeatureGenerator(8).double().eval()
    query, key, value = inputs(k=1)
    module = generator.attention
    weight, bias = module.in_proj_weight[16:], module.in_proj_bias[16:]
    expected = module.out_proj(value @ weight.T + bias)
    torch.testing.assert_close(module(query, key, value)[0], expected, atol=1e-12, rtol=0)
    assert torch.equal(generator(query, torch.randn_like(key), value), generator(query, key, value))


def test_what_the_generator_refuses():
    for settings, words in [
        ({"heads": 3}, "heads is 3, and embeddings are 8 wide"),
        ({"heads": 0}, "heads is 0"),
        ({"form": "papers"}, "form is 'papers': choose paper or code"),
        ({"dropout": 1.0}, "dropout is 1.0"),
    ]:
        with pytest.raises(UserError, match=words):
            ClassConditionalFeatureGenerator(8, **settings)


def test_the_squared_distance_of_unit_vectors():
    """Oracle 4, at another width than the released code's 512, too."""
    a, t = (F.normalize(torch.randn(7, 24, dtype=torch.float64), dim=-1) for _ in range(2))
    cosine = (a * t).sum(-1).mean()
    torch.testing.assert_close(squared_distance(a, t), 2 - 2 * cosine)
    torch.testing.assert_close(squared_distance(a, t), 24 * F.mse_loss(a, t))
    assert squared_distance(a, a) == 0
    torch.testing.assert_close(squared_distance(a, -a), torch.tensor(4.0, dtype=torch.float64))


def test_the_bank_keeps_the_latest_of_each_class():
    bank = FeatureBank(1, classes=3, shots=2)
    bank.write(torch.tensor([[1.0], [2.0], [3.0], [4.0]]), torch.tensor([2, 0, 2, 2]))  # 1 is the oldest of three
    assert sorted(bank.features[2].flatten().tolist()) == [3.0, 4.0]
    assert (bank.known.tolist(), bank.written.tolist()) == ([True, False, True], [1, 0, 3])
    bank.write(torch.tensor([[5.0], [6.0]]), torch.tensor([2, 1]))
    assert sorted(bank.features[2].flatten().tolist()) == [4.0, 5.0]
    assert bank.mean.flatten().tolist() == [2.0, 6.0, 4.5]
    assert bank.std.flatten().tolist() == [0.0, 0.0, 0.5]


def test_neighbours_are_others_by_their_means():
    """Oracle 9."""
    bank = FeatureBank(2, classes=4, shots=4)
    points = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]])
    bank.write(points, torch.arange(3))
    assert bank.neighbours(1)[:3].flatten().tolist() == [1, 0, 1]
    assert bank.neighbours(2)[:3].tolist() == [[1, 2], [0, 2], [1, 0]]
    for row, near in enumerate(bank.neighbours(2).tolist()):
        assert row not in near
        assert 3 not in near, "a class without pictures is nobody's neighbour"
    means = 3 * points  # their lengths count: means are not scaled
    assert nearest_classes(means * torch.tensor([[1.0], [1.0], [9.0]]), 1).flatten().tolist() == [1, 2, 1]
    for k in (3, 9, 0):
        with pytest.raises(UserError, match=f"each class is to have {k} neighbours among 3 classes with pictures"):
            bank.neighbours(k)
    names = nearest_names(points[:1], points, 2, torch.tensor([False, True, True]))
    assert names.tolist() == [[1, 2]]


def test_what_stands_for_a_neighbour():
    torch.manual_seed(0)
    bank = FeatureBank(3, classes=2, shots=8)
    pictures = torch.randn(8, 3, dtype=torch.float64)
    bank = bank.double()
    bank.write(pictures, torch.tensor([0] * 8))
    bank.write(pictures[:3] + 9, torch.tensor([1] * 3))
    which = torch.tensor([0, 1] * 400).view(400, 2)
    drawn = bank.draw(which, "picture")
    assert {tuple(row) for row in drawn[:, 0].tolist()} == {tuple(row) for row in pictures.tolist()}
    assert len({tuple(row) for row in drawn[:, 1].tolist()}) == 3, "of three pictures no empty place"
    mean, std = pictures.mean(0), pictures.std(0, correction=0)
    drawn = bank.draw(which[:, :1].repeat(50, 1), "gaussian")[:, 0]
    torch.testing.assert_close(drawn.mean(0), mean, atol=0.05, rtol=0)
    torch.testing.assert_close(drawn.std(0), std, atol=0.05, rtol=0)
    drawn = bank.draw(which, "uniform")[:, 0]
    assert torch.equal(drawn, drawn[:1].expand_as(drawn)), "the same for all rows"
    share = (drawn[0] - mean) / std
    assert ((share >= 0) & (share < 1)).all()
    assert share.std() > 0


@pytest.mark.parametrize(("m", "windows"), [((2, 9), [2, 2, 2, 3, 4, 5, 6, 7, 8, 8, 9]), ((4, 4), [4] * 11)])
def test_the_window_of_the_teacher(m, windows):
    """Oracle 6."""
    assert [almt_window(t / 10, *m) for t in range(11)] == windows


class Value(nn.Module):
    def __init__(self):
        super().__init__()
        self.value = nn.Parameter(torch.zeros(1))

    def forward(self, x):
        return self.value + x


def pushed(values, **settings):
    student = Value()
    teacher = AdaptiveLocalMeanTeacher(student, **settings)
    for value in values:
        nn.init.constant_(student.value, value)
        teacher.push(1.0)
    return teacher


def test_the_average_of_a_window():
    """Oracles 6 and 7."""
    zero = torch.zeros(1)
    assert pushed([0, 1, 2, 3], m_min=3, m_max=3, decay=0.9)(zero).item() == pytest.approx(0.561)
    assert pushed([5] * 6, m_min=3, m_max=3, decay=0.9)(zero).item() == pytest.approx(5)
    assert pushed([1, 2, 7], m_min=0, m_max=0)(zero).item() == 7, "a window of none is the student"
    # What is older has no influence, and nothing is read of places that were never written.
    old = pushed([1e6, -1e6, 0, 1, 2, 3], m_min=3, m_max=3, decay=0.9)
    assert old(zero).item() == pytest.approx(0.561)
    assert pushed([4.0, 6.0], m_min=3, m_max=5, decay=0.5)(zero).item() == 5.0
    # At the beginning the window is small, however many checkpoints there are.
    student = Value()
    early = AdaptiveLocalMeanTeacher(student, 1, 3, decay=0.9)
    for value in (50, 60, 2, 4):
        nn.init.constant_(student.value, value)
        early.push(0.0)
    assert early(zero).item() == pytest.approx(0.9 * 2 + 0.1 * 4)


def test_the_teacher_has_no_dropout_no_gradient_and_leaves_the_student_alone():
    student = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5))
    teacher = AdaptiveLocalMeanTeacher(student)
    assert not teacher.ready
    teacher.push(0.0)
    kept = student[0].weight.detach().clone()
    nn.init.zeros_(student[0].weight)
    x = torch.randn(3, 4)
    made = teacher(x)
    assert not made.requires_grad
    assert torch.equal(made, x @ kept.T + student[0].bias.detach())
    assert student.training
    assert student[1].training
    assert student[0].weight.abs().sum() == 0
    assert [name for name, _ in teacher.named_parameters()] == []


def test_the_state_goes_on():
    first, student = pushed([1, 2, 3], m_min=2, m_max=4, decay=0.5), Value()
    second = AdaptiveLocalMeanTeacher(student, 2, 4, decay=0.5)
    second.load_state_dict(first.state_dict())
    assert second(torch.zeros(1)) == first(torch.zeros(1))
    nn.init.constant_(student.value, 4.0)
    second.push(1.0)
    assert second(torch.zeros(1)).item() == pytest.approx(
        pushed([1, 2, 3, 4], m_min=2, m_max=4, decay=0.5)(torch.zeros(1)).item()
    )
    bank, other = FeatureBank(2, classes=3, shots=2), FeatureBank(2, shots=2)
    bank.write(torch.eye(2), torch.tensor([1, 2]))
    other.load_state_dict(bank.state_dict())
    assert torch.equal(other.mean, bank.mean)


def test_what_the_teacher_refuses():
    for settings, words in [
        ({"m_min": 3, "m_max": 2}, "m_min is 3 and m_max 2"),
        ({"m_min": -1}, "m_min is -1"),
        ({"decay": 1.0}, "decay is 1.0"),
    ]:
        with pytest.raises(UserError, match=words):
            AdaptiveLocalMeanTeacher(Value(), **settings)
    with pytest.raises(UserError, match="shots is 0"):
        FeatureBank(2, shots=0)
