"""WhitenedCSE: each pass whitened by itself, the released layer's numbers and layout, and what is left out again."""

import json
import math
from pathlib import Path

import pytest
import torch
from torch import nn

from methods.whitening_work import steps_of_both
from nearfar.errors import UserError
from nearfar.losses.functional import first_view_info_nce
from nearfar.methods.text.simcse import SimCSE
from nearfar.methods.text.whitened import WhitenedCSE
from nearfar.methods.text.whitening_layer import ShuffledGroupWhitening
from nearfar.ops.whitening import group_whitening
from training.ranks import run

RELEASED = json.loads((Path(__file__).parent / "released" / "whitenedcse.json").read_text())


class Rows(nn.Module):
    """An encoder of vectors with dropout."""

    embed_dim = 12

    def __init__(self, p=0.1):
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.dropout = nn.Linear(12, 12), nn.Dropout(p)

    def encode_text(self, rows):
        return self.layer(self.dropout(rows))


def vectors(n, d=12, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def released_rows():
    i, j = torch.arange(24.0)[:, None], torch.arange(6.0)[None]
    return torch.sin(1.3 * i * (j + 1) + 0.7 * j * j) + 0.3 * j


def drawn(monkeypatch, permutations):
    left = [torch.tensor(each) for each in permutations]
    monkeypatch.setattr(ShuffledGroupWhitening, "draw", lambda self, generator=None: left.pop(0))


def test_the_layer_is_the_released_one():
    """Output and gradient of its three thirds, with the permutations that it drew."""
    x = released_rows().requires_grad_()
    layer = ShuffledGroupWhitening(6, 3, detach=True)
    thirds = [layer(part, torch.tensor(p)) for part, p in zip(x.chunk(3), RELEASED["permutations"], strict=True)]
    y = torch.cat(thirds)
    torch.testing.assert_close(y, torch.tensor(RELEASED["output"]), atol=2e-4, rtol=1e-3)
    (y * torch.cos(torch.arange(144.0)).view(24, 6)).sum().backward()
    torch.testing.assert_close(x.grad, torch.tensor(RELEASED["gradient"]), atol=2e-3, rtol=2e-3)


def test_the_released_layout_is_another_loss(monkeypatch):
    """Rows 0, 1, 2 are three passes of one sentence, and the layer cuts rows 0 to 7, 8 to 15, 16 to 23."""
    method = WhitenedCSE(
        type("Six", (nn.Module,), {"embed_dim": 6})(), groups=3, layout="interleaved", head="none"
    ).train()
    passes = list(released_rows().view(8, 3, 6).unbind(1))
    drawn(monkeypatch, RELEASED["permutations"])
    released = method.objective({f"view_{r}": z for r, z in enumerate(passes)}, {})["loss"].item()
    assert released == pytest.approx(RELEASED["loss"], rel=1e-3)
    drawn(monkeypatch, RELEASED["permutations"])
    method.interleaved = False
    intended = method.objective({f"view_{r}": z for r, z in enumerate(passes)}, {})["loss"].item()
    assert abs(intended - released) > 0.1


def test_each_pass_has_statistics_and_groups_of_its_own():
    method = WhitenedCSE(Rows(), groups=3, head="none").train()
    batch = {"text": vectors(32)}
    torch.manual_seed(1)
    views = method.embed(batch)
    state = torch.get_rng_state()
    out = method.objective(views, {})
    torch.set_rng_state(state)
    expected = [group_whitening(z, 3, permutation=torch.randperm(12)) for z in views.values()]
    assert out["loss"].item() == pytest.approx(first_view_info_nce(expected).item(), rel=1e-6)


def test_one_permutation_shared_and_none(monkeypatch):
    views = [vectors(32, seed=seed) for seed in range(3)]
    order = torch.randperm(12).tolist()
    shared = WhitenedCSE(Rows(), groups=3, shuffle="shared").train()
    drawn(monkeypatch, [order])  # one draw serves all
    for z, y in zip(views, shared.whitened(views), strict=True):
        torch.testing.assert_close(y, group_whitening(z, 3, permutation=torch.tensor(order)))
    monkeypatch.undo()
    plain = WhitenedCSE(Rows(), groups=3, shuffle="none").train()
    for z, y in zip(views, plain.whitened(views), strict=True):
        torch.testing.assert_close(y, group_whitening(z, 3))


def test_without_whitening_it_is_simcse():
    batch = {"text": vectors(16)}
    losses = []
    for method in (WhitenedCSE(Rows(), copies=2, whitening=False), SimCSE(Rows())):
        method.head.load_state_dict({"0.weight": torch.eye(12), "0.bias": torch.zeros(12)})
        torch.manual_seed(3)
        losses.append(method.train()(batch)["loss"].item())
    assert losses[0] == losses[1]


def test_all_vectors_equal():
    """m = 3, N = 128: 2 log 128."""
    method = WhitenedCSE(Rows(), whitening=False, head="none").train()
    same = {f"view_{r}": torch.ones(128, 12) for r in range(3)}
    assert method.objective(same, {})["loss"].item() == pytest.approx(9.7041, abs=1e-4)
    mean = WhitenedCSE(Rows(), whitening=False, head="none", reduction="mean").train()
    assert mean.objective(same, {})["loss"].item() == pytest.approx(math.log(128), rel=1e-6)


def test_views_that_are_equal_stay_equal_under_one_permutation():
    """Dropout 0 and equal permutations: alignment 0."""
    method = WhitenedCSE(Rows(0.0), groups=3, shuffle="shared").train()
    z = vectors(32)
    out = method.objective({f"view_{r}": z for r in range(3)}, {})
    assert out["alignment"].item() == pytest.approx(0, abs=1e-10)
    with pytest.raises(UserError, match="no dropout"):
        method({"text": z})


def test_the_gradient_through_the_whitening_is_an_option():
    gradients = []
    for detach in (True, False):
        method = WhitenedCSE(Rows(), groups=3, detach=detach).train()
        torch.manual_seed(4)
        method({"text": vectors(32)})["loss"].backward()
        gradients.append(method.model.layer.weight.grad)
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert ((gradients[0] - gradients[1]).norm() / gradients[1].norm()).item() > 0.02


def test_what_is_evaluated_is_the_encoder_alone():
    """Neither the batch nor chance is in an embedding; a validation loss has no whitening and no head."""
    method = WhitenedCSE(Rows(), groups=3).eval()
    z = vectors(5)
    with torch.no_grad():
        torch.testing.assert_close(method.model.encode_text(z)[:1], method.model.encode_text(z[:1]))
        encoded = method.model.encode_text(z)
        expected = first_view_info_nce([encoded] * 3).item()
        assert [method({"text": z})["loss"].item() for _ in range(2)] == pytest.approx([expected] * 2, rel=1e-5)
    with pytest.raises(UserError, match="for training alone"):
        method.whitening(z)


def test_a_batch_too_small_for_its_groups_is_named():
    method = WhitenedCSE(Rows(), groups=3).train()
    with pytest.raises(UserError, match="4 rows cannot whiten groups of 4 channels"):
        method({"text": vectors(4)})


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, "groups=128 do not divide 12 features: choose one of 1, 2, 3, 4, 6, 12"),
        ({"groups": 3, "shuffle": "all"}, "choose one of each, shared, none"),
        ({"groups": 3, "statistics": "batch"}, "choose one of all, process"),
        ({"groups": 3, "layout": "thirds"}, "choose one of views, interleaved"),
        ({"groups": 3, "copies": 1}, "two passes at least"),
    ],
)
def test_wrong_settings_are_named(settings, words):
    with pytest.raises(UserError, match=words):
        WhitenedCSE(Rows(), **settings)


def test_statistics_are_of_all_processes_or_of_each():
    """Over all rows two processes give loss and gradient of one with the whole batch; each by itself, another loss."""
    (alone,) = run(steps_of_both, 1)
    both = run(steps_of_both, 2)
    assert alone["all"] == alone["process"]
    for rank in both:
        for name, expected in alone["all"].items():
            torch.testing.assert_close(torch.tensor(rank["all"][name]), torch.tensor(expected), rtol=1e-6, atol=1e-9)
        assert rank["process"]["loss"] != pytest.approx(alone["all"]["loss"], rel=0.1)
