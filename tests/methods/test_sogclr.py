"""SogCLR and iSogCLR as methods: both forms, the state by the records' ids, resume, other data, evaluation."""

import copy

import pytest
import torch
from torch import nn

from nearfar.data import Records
from nearfar.data.batches.data_info import DataInfo
from nearfar.errors import UserError
from nearfar.losses.functional import global_contrastive
from nearfar.losses.global_contrastive import SampleState
from nearfar.methods import ISogCLR, SogCLR


class Pictures(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.image = nn.Linear(6, 4)

    def encode_image(self, pixels):
        return self.image(pixels)


class Pairs(Pictures):
    def __init__(self):
        super().__init__()
        self.text = nn.Linear(6, 4)

    def encode_text(self, tokens):
        return self.text(tokens)


RECORDS = Records([{"text": str(i), "index": 10 * i} for i in range(8)])
EVEN = RECORDS.filter(lambda record: record["index"] % 20 == 0)  # ids 0, 20, 40, 60


def batch(ids, seed=0):
    views = torch.randn(2, len(ids), 6, generator=torch.Generator().manual_seed(seed))
    return {"views": views, "image": views[0], "text": views[1], "index": torch.tensor(ids)}


def made(kind=ISogCLR, model=Pictures, data=RECORDS, **settings):
    method = kind(model(), temperature=0.3, **settings).train()
    method.begin(DataInfo.of(data))
    return method


def step(method, data, number=1):
    method.zero_grad()
    method.before_step()
    out = method(data)
    out["loss"].backward()
    with torch.no_grad():
        for p in method.parameters():
            p -= 0.1 * p.grad
    method.after_step(number)
    return out


def tables(method):
    return {name: value.clone() for name, value in method.state_dict().items() if "tables" in name}


@pytest.mark.parametrize("model", [Pictures, Pairs])
@pytest.mark.parametrize("kind", [SogCLR, ISogCLR])
def test_steps_are_those_of_the_function_with_states_by_id(kind, model):
    method, data = made(kind, model), [batch([30, 0, 70], 1), batch([0, 50, 70, 10], 2)]
    sides = 2 if model is Pairs else 1
    kept = [{i: SampleState.fresh(1, 0.3) for i in range(0, 80, 10)} for _ in range(sides)]
    for number, each in enumerate(data, 1):
        embeddings, ids = method.embed(each), each["index"].tolist()
        states = tuple(SampleState(*(torch.cat([side[i][at] for i in ids]) for at in range(4))) for side in kept)
        expected = global_contrastive(embeddings["a"], embeddings["b"], states, gamma=0.8, rule=method.rule)
        torch.testing.assert_close(step(method, each, number)["loss"], expected.loss)
        for side, state in zip(kept, expected.states, strict=True):
            side.update({i: SampleState(*(value[at : at + 1] for value in state)) for at, i in enumerate(ids)})
    for table, side in zip(method.states.tables, kept, strict=True):
        for at, column in enumerate(SampleState._fields):
            torch.testing.assert_close(table.get_buffer(column), torch.cat([side[i][at] for i in range(0, 80, 10)]))
    moved = method.states.tables[0].get_buffer("temperature") != torch.tensor(0.3)
    assert bool(moved.any()) == (kind is ISogCLR)


def test_only_a_step_that_was_taken_changes_the_tables():
    method = made()
    before = tables(method)
    with torch.no_grad():
        method(batch([0, 10, 20]))
    method.before_step()
    method(batch([0, 10, 20]))["loss"].backward()
    assert all(torch.equal(value, before[name]) for name, value in tables(method).items())
    method.before_step()  # the step before was skipped
    method.after_step(1)
    assert all(torch.equal(value, before[name]) for name, value in tables(method).items())


def test_its_epochs_are_each_sample_s_visits():
    """The schedules of gamma and of the temperatures' step reach the loss, and begin anew for no sample on resume."""
    settings = {"gamma": 0.2, "gamma_epochs": 3, "temperature_epochs": 2}
    method, plain = made(**settings), made(gamma=0.2)
    assert method.rule.visits == 2
    for epoch in range(4):
        data, tau = batch([0, 10, 20, 30], epoch), method.states.tables[0].temperature.clone()
        if epoch == 2:
            saved = copy.deepcopy(method.state_dict())
            method = made(**settings)
            method.load_state_dict(saved)
        step(method, data)
        step(plain, data)
        assert torch.equal(method.states.tables[0].temperature, tau) == (epoch >= 2)
    log_mean, its_own = (each.states.tables[0].log_mean[:4] for each in (method, plain))
    assert (log_mean - its_own).abs().min() > 1e-4
    with pytest.raises(UserError, match="gamma_epochs=-1"):
        made(gamma_epochs=-1)


def test_a_run_that_goes_on_ends_with_the_same_bits():
    whole = made()
    batches = [batch([0, 10, 20, 70], 1), batch([70, 30, 40, 0], 2), batch([50, 60, 10, 20], 3)]
    step(whole, batches[0])
    saved = copy.deepcopy(whole.state_dict())
    for each in batches[1:]:
        step(whole, each)
    second = made()
    second.check_state(saved)
    second.load_state_dict(saved)
    for each in batches[1:]:
        step(second, each)
    assert all(torch.equal(value, second.state_dict()[name]) for name, value in whole.state_dict().items())


def test_a_filtered_source_keeps_its_own_ids_and_other_data_are_refused():
    method = made(data=EVEN)
    step(method, batch([0, 60, 20]))
    assert method.states.tables[0].ids.tolist() == [0, 20, 40, 60]
    assert method.states.tables[0].visits.tolist() == [1, 1, 0, 1]
    with pytest.raises(UserError, match="samples 10 are not in the data"):
        method(batch([0, 10, 20]))
    other = made()
    with pytest.raises(UserError, match="their size was 4 and now is 8"):
        other.check_state(method.state_dict())


def test_data_that_cannot_be_counted_are_refused():
    with pytest.raises(UserError, match="cannot be counted"):
        SogCLR(Pictures()).begin(DataInfo.of([batch([0])]))


def test_a_ball_that_no_sample_can_fill_is_refused_before_training():
    """Two views of 7 other samples: log 14 = 2.64; a batch of pairs has 7 negatives: log 7 = 1.95."""
    made(rho=2.5)
    with pytest.raises(UserError, match=r"rho=2.7 must stay below log\(14\) = 2.64"):
        made(rho=2.7)
    with pytest.raises(UserError, match=r"rho=2.5 must stay below log\(7\) = 1.95"):
        made(model=Pairs, rho=2.5)


def test_in_evaluation_samples_are_others_and_leave_nothing():
    """A validation file may count its records as the training data do: their numbers say nothing."""
    method = made()
    step(method, batch([0, 10, 20]))
    before = tables(method)
    method.eval()
    first, again = (method(batch(ids, 5)) for ids in ([0, 10, 20], [1, 2, 3]))
    assert torch.equal(first["loss"], again["loss"])
    assert torch.equal(first["objective"], again["objective"])
    assert all(torch.equal(value, before[name]) for name, value in tables(method).items())


def test_a_record_that_stands_in_for_another_is_no_negative_of_itself():
    method, twice = made(SogCLR), batch([0, 10, 20, 30])
    twice["views"][:, 3] = twice["views"][:, 0]
    once = method({**twice, "views": twice["views"][:, :3], "index": twice["index"][:3]})
    both = method({**twice, "index": torch.tensor([0, 10, 20, 0])})
    assert once["loss"] > both["loss"]  # of negatives 10 and 20 alone; 0 beside itself would be the worst of all
    new = (SampleState.fresh(4, 0.3),)
    a, b = method.embed(twice).values()
    torch.testing.assert_close(both["loss"], global_contrastive(a, b, new, group=torch.tensor([0, 1, 2, 0])).loss)
    step(method, {**twice, "index": torch.tensor([0, 10, 20, 0])})
    assert method.states.tables[0].visits.tolist() == [1, 1, 1, 0, 0, 0, 0, 0]


def test_batches_that_come_in_another_order_end_with_the_same_table():
    one, two = made(), made()
    data, order = batch([0, 10, 20, 70], 1), torch.tensor([2, 0, 3, 1])
    step(one, data)
    step(two, {name: value[:, order] if name == "views" else value[order] for name, value in data.items()})
    for name, value in tables(one).items():
        torch.testing.assert_close(value, tables(two)[name])


def test_a_temperature_is_handed_to_a_model_of_pairs():
    method = made(model=Pairs)
    assert method.learned() == {"temperature": pytest.approx(0.3)}
    assert made().learned() == {}
    assert (method.n_views, made().n_views) == (1, 2)
    assert (method.validation_views, made().validation_views) == ("none", None)
    with pytest.raises(UserError, match="gamma=0"):
        SogCLR(Pictures(), gamma=0)
