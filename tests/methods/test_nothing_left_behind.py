"""A forward pass changes no queue, no teacher and no count unless a step was taken on its loss."""

import copy

import numpy as np
import pytest
import torch

from methods.skipped_work import trained
from nearfar.errors import UserError
from nearfar.methods.image_text.albef import ALBEF
from nearfar.methods.image_text.answering import Answering
from nearfar.methods.image_text.ensemble import Ensemble
from nearfar.methods.image_text.entailment import Entailment
from nearfar.methods.image_text.tcl import TCL
from training.ranks import run

QUEUED = [ALBEF, TCL]


def step(method, *batches):
    method.before_step()
    for batch in batches:
        method(batch)["loss"].backward()


def unchanged(method, before):
    for name, value in method.state_dict().items():
        assert torch.equal(value, before[name]), name


@pytest.mark.parametrize("make", QUEUED)
def test_only_what_was_sent_back_is_queued(make, model, batch_of):
    method = make(model, queue_size=16).train()
    queue = method.momentum.image_queue
    first, second = batch_of(model), batch_of(model, seed=1) | {"index": torch.arange(4) + 10}
    with torch.no_grad():
        method(second)
    method(second)  # its loss is never sent back
    with torch.no_grad():
        method(second)
    step(method, first)
    method(second)
    method.after_step(1)
    assert queue.group[:4].tolist() == [0, 1, 2, 3]
    assert len(queue) == 4
    step(method, second)
    step(method, first)  # the step before was skipped
    method.after_step(3)
    assert queue.group[:12].tolist() == [0, 1, 2, 3, 0, 1, 2, 3] + [-100] * 4
    step(method, first, second)  # one step of two accumulated batches
    method.after_step(4)
    assert queue.group.tolist() == [0, 1, 2, 3] * 3 + [10, 11, 12, 13]
    assert method.momentum.steps == 3


def test_a_graph_that_is_sent_back_twice_counts_once(model, batch_of):
    method = ALBEF(model, queue_size=8)
    loss = method(batch_of(model))["loss"]
    loss.backward(retain_graph=True)
    loss.backward()
    method.after_step(1)
    assert len(method.momentum.image_queue) == 4


def labelled(model, batch):
    words = model.tokenize(["red", "two dogs", "house", "sea"])
    answers = {"answers": words, "answer_weight": torch.ones(4, 1)}
    return batch | answers | {"label": torch.tensor([0, 1, 2, 0])}


@pytest.mark.parametrize("make", [ALBEF, TCL, Answering, Entailment])
def test_forward_and_backward_alone_change_no_state(make, model, batch_of):
    method = make(model, **({"queue_size": 8} if make in QUEUED else {})).train()
    batch = labelled(method.model, batch_of(model))
    before = copy.deepcopy(method.state_dict())
    with torch.no_grad():
        method(batch)
    step(method, batch)
    step(method, batch)
    unchanged(method, before)


def test_an_ensemble_passes_both_calls_to_its_members():
    from nearfar.models import create

    model = create("towers", text_projection="none", embed_dim=384, image_heads=2).freeze("image", "text")
    method = Ensemble(model, of={"name": "clip"})
    calls = []
    for number, member in enumerate(method.members):
        member.before_step = lambda number=number: calls.append(("before", number))
        member.after_step = lambda step, number=number: calls.append((step, number))
    method.before_step()
    method.after_step(7)
    assert calls == [("before", 0), ("before", 1), (7, 0), (7, 1)]


@pytest.mark.parametrize(("world", "name", "accumulate"), [(1, "albef", 2), (2, "tcl", 1)])
def test_a_step_that_the_scaler_skips_leaves_nothing(world, name, accumulate, base, tmp_path):
    folder = str(base.save_pretrained(tmp_path / "model"))
    settings = {"queue_size": 16, "momentum": 0.5, "ramp_steps": 8}
    arguments = (folder, name, settings, accumulate)
    for state in run(trained, world, *arguments) if world > 1 else [trained(*arguments)]:
        assert state["called"] == [1, 3]
        assert state["momentum.steps"] == 2
        taken = [*range(4 * accumulate), *range(8 * accumulate, 12 * accumulate)]
        assert state["momentum.image_queue.group"][: len(taken)].tolist() == taken
        assert state["momentum.text_queue.filled"] == len(taken)
        moved = state["model.text_projection.weight"] - state["momentum.teacher.module.text_projection.weight"]
        assert np.abs(moved).max() > 0


def test_a_queue_refuses_what_is_not_finite_by_name(model, batch_of):
    method = ALBEF(model, queue_size=8, share_duplicates=False)
    queue = method.momentum.text_queue
    before = copy.deepcopy(queue.state_dict())
    features = torch.ones(4, 8)
    features[2, 3] = torch.nan
    with pytest.raises(UserError, match=r"samples 42 are NaN or infinite"):
        queue.push(features, index=torch.tensor([40, 41, 42, 43]))
    with pytest.raises(UserError, match=r"samples 7 are"):
        queue.push(features / features.new_tensor([1, 1, 0, 1])[:, None], torch.tensor([5, 6, 7, 8]))
    with pytest.raises(UserError, match=r"rows 2 are"):
        queue.push(features)
    unchanged(queue, before)
