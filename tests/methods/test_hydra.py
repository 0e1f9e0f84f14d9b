"""Hydra: which rows are anchors and keys, with which classes; what trains, what decays, what stays in the folder."""

import json
import math

import pytest
import torch
from torch import nn

import nearfar
from methods.image_batches import PAIR, TOGETHER, Identity, Normed
from nearfar.data import Records
from nearfar.data.batches.data_info import DataInfo
from nearfar.errors import UserError
from nearfar.losses.functional import gated_pairs
from nearfar.methods import Hydra
from nearfar.methods.class_pairs import ClassPairGate, ClassRelations, PairRule
from nearfar.training.config import TrainConfig
from nearfar.training.loop.optim import build_optimizer

LABEL = torch.tensor([0, 0, 1, 1, 2, 2])
SMALL = {"classes": 3, "gate_width": 4, "gate_hidden": 8}


class Wide(Identity):
    embed_dim = 4


def views(count=2):
    return torch.randn(count, 6, 4, generator=torch.Generator().manual_seed(0))


def of(**settings):
    torch.manual_seed(0)
    return Hydra(Wide(), **{**SMALL, **settings}).double()


def batch(count=2):
    return {"views": views(count).double(), "label": LABEL}


def by_hand(method, anchors, keys, **more):
    torch.manual_seed(1)
    partner = LABEL[torch.randperm(6)]
    gate = method.gate(LABEL, partner)
    return gated_pairs(anchors, keys, gate, LABEL, partner, LABEL, temperature=0.1, **more)


def loss_of(method, data):
    torch.manual_seed(1)
    return method(data)["loss"]


def test_the_first_view_are_anchors_and_the_second_keys():
    method, (x, y) = of(), views().double()
    torch.testing.assert_close(loss_of(method, batch()), by_hand(method, x, y), rtol=1e-6, atol=0)
    dot = of(form="dot", alpha=0.5, reduction="pair")
    expected = by_hand(dot, x, y, form="dot", alpha=0.5, reduction="pair")
    torch.testing.assert_close(loss_of(dot, batch()), expected, rtol=1e-6, atol=0)


def test_views_exchanged_keep_the_classes_of_their_samples():
    """The first released code gave the other view's keys the partners' classes: wrong ones."""
    method, (x, y) = of(symmetric=True), views().double()
    expected = (by_hand(method, x, y) + by_hand(method, y, x)) / 2
    torch.testing.assert_close(loss_of(method, batch()), expected, rtol=1e-6, atol=0)


def test_of_one_view_each_sample_is_anchor_and_key_and_not_its_own_positive():
    method, x = of(rule="identical"), views(1)[0].double()
    data = {"image": x, "label": LABEL}
    expected = gated_pairs(x, x, method.gate(LABEL), LABEL, LABEL, LABEL, temperature=0.1, exclude_self=True)
    torch.testing.assert_close(loss_of(method, data), expected, rtol=1e-6, atol=0)


def test_an_open_gate_on_identical_pairs_of_single_samples_is_infonce():
    from nearfar.losses.functional import info_nce

    x, y = views().double()
    method = Hydra(Wide(), classes=6, gate="open", rule="identical")
    loss = method({"views": views().double(), "label": torch.arange(6)})["loss"]
    torch.testing.assert_close(loss, info_nce(x, y, temperature=0.1, symmetric=False), rtol=1e-6, atol=0)


def test_the_views_of_a_batch_share_their_statistics():
    model = Normed()
    model.embed_dim = 1
    embedded = Hydra(model, **SMALL).embed({"views": PAIR})
    assert torch.cat(list(embedded.values())).flatten().tolist() == pytest.approx(TOGETHER, abs=1e-4)


def test_anchors_keys_gate_classes_and_temperature_all_get_gradients():
    method, data = of(form="dot", alpha=0.5), batch()
    data["views"].requires_grad_()
    loss_of(method, data).backward()
    assert (data["views"].grad.abs().sum(2) > 0).all()
    for name, parameter in method.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0 or name == "gate.network.2.bias", name  # which batch norm takes off


def test_decay_spares_the_gate_and_its_classes():
    method = Hydra(nearfar.models.image_encoder("micro-resnet", projector={"hidden": 8, "out": 4}), **SMALL)
    groups = method.param_groups(0.5)
    decayed = {id(p) for group in groups if group["weight_decay"] for p in group["params"]}
    every = [id(p) for group in groups for p in group["params"]]
    assert sorted(every) == sorted(id(p) for p in method.parameters())
    assert decayed == {id(p) for p in method.model.parameters() if p.ndim > 1}
    assert build_optimizer(method, TrainConfig())


def test_the_scale_stays_below_a_hundred():
    method = of()
    with torch.no_grad():
        method.temperature.value.fill_(9.0)
    method.after_step(1)
    assert method.temperature.scale().item() == pytest.approx(100)


def logged(method):
    torch.manual_seed(1)
    return method(batch())


def test_what_is_logged():
    method = of()
    out = logged(method)
    assert set(out) == {"loss", "activation", "entropy", "scale", "spread"}
    torch.manual_seed(1)
    gate = method.gate(LABEL, LABEL[torch.randperm(6)])
    assert out["activation"].item() == pytest.approx(gate.sum(1).mean().item(), rel=1e-9)
    entropy = -(gate * gate.log() + (1 - gate) * (1 - gate).log()).mean()
    assert out["entropy"].item() == pytest.approx(entropy.item(), rel=1e-9)
    assert out["scale"].item() == pytest.approx(10)
    opened = of(gate="open")(batch())
    assert (opened["activation"], opened["entropy"]) == (4, 0)


def test_a_penalty_pushes_gates_to_zero_and_one():
    plain, pushed = logged(of()), logged(of(gate_penalty=0.7))
    torch.testing.assert_close(pushed["loss"], plain["loss"] + 0.7 * plain["entropy"], rtol=1e-9, atol=0)
    gate = ClassPairGate(3, 4, width=4, hidden=8)
    optimiser = torch.optim.Adam(gate.parameters(), 0.05)
    from nearfar.methods.class_pairs.class_pair_gate import gate_entropy

    for _ in range(60):
        optimiser.zero_grad()
        gate_entropy(gate.draw(LABEL, LABEL.roll(1)).chance).backward()
        optimiser.step()
    assert gate_entropy(gate.gates(LABEL, LABEL.roll(1))) < 0.2


def test_it_learns_the_classes_of_the_data():
    data = Records([{"text": t, "label": i % 3} for i, t in enumerate("abcdef")], classes=["dog", "cat", "car"])
    method = Hydra(Wide(), gate_width=4, gate_hidden=8)
    with pytest.raises(UserError, match="does not know its classes yet"):
        method({"views": views(), "label": LABEL})
    method.begin(DataInfo.of(data))
    assert method.gate.classes == 3
    assert method.names == ["dog", "cat", "car"]
    nameless = Hydra(Wide())
    with pytest.raises(UserError, match="numbers names none: say how many there are by classes="):
        nameless.begin(DataInfo.of(Records([{"text": "a"}], name="numbers")))


def test_a_sample_without_a_class_or_of_another_data_set_is_a_sentence():
    for label, span in ((LABEL - 1, "from -1 to 1"), (LABEL + 1, "from 1 to 3")):
        with pytest.raises(UserError, match=f"labels run {span}, and the gate knows 3 classes"):
            of()({"views": views().double(), "label": label})
    with pytest.raises(UserError, match="Hydra's objective needs the batch key 'label'"):
        of()({"views": views().double()})


@pytest.mark.parametrize(("rule", "least"), [("arbitrary", 2), ("identical", 2), ("weighted", 2), ("distinct", 3)])
def test_too_few_classes_or_too_small_a_batch_would_train_with_a_loss_of_0(rule, least):
    """Negatives are of neither class of a pair: where there are none, the loss is 0 and nothing is learnt."""
    few = [f"class {i}" for i in range(least - 1)]
    data = Records([{"text": "a", "label": i % len(few)} for i in range(6)], classes=few, name="few")
    words = f"Hydra needs {least} classes at least, .* and few names {least - 1} \\({', '.join(few)}\\): take data with"
    with pytest.raises(UserError, match=words):
        Hydra(Wide(), rule=rule).begin(DataInfo.of(data))
    with pytest.raises(UserError, match=f"needs {least} classes at least, .*classes={least - 1}"):
        Hydra(Wide(), classes=least - 1, rule=rule)
    if rule == "weighted":
        return
    method = Hydra(Wide(), classes=9, rule=rule, gate="open").double()
    small = {"views": views().double()[:, : least - 1], "label": LABEL[: least - 1]}
    with pytest.raises(
        UserError, match=f"a batch of {least - 1} cannot hold the {least} classes.*raise the batch size"
    ):
        method(small)
    assert method.eval()(small)["loss"] == 0  # which validation may say


def test_settings_that_do_not_fit_are_refused_before_training():
    for settings, sentence in (
        ({"rule": "any"}, "rule='any'"),
        ({"gate": "hard"}, "gate='hard'"),
        ({"form": "cosine"}, "form must be"),
        ({"alpha": 0.5}, "for form='dot'"),
        ({"present_only": True}, "present_only"),
        ({"temperature": 0.0}, "temperature must be positive"),
    ):
        with pytest.raises(UserError, match=sentence):
            Hydra(Wide(), **settings)


def test_a_rule_of_one_s_own():
    rule = PairRule("weighted", distance=torch.tensor([[0.0, 1, 9], [1, 0, 9], [9, 9, 0]]), max_distance=1)
    assert of(rule=rule)(batch())["loss"].isfinite()


def test_wordnet_is_read_when_training_begins(tmp_path):
    from data.mini_wordnet import write

    data = Records([{"text": t, "label": i % 3} for i, t in enumerate("abcdef")], classes=["dogs", "cat", "car"])
    method = Hydra(Wide(), rule="weighted", wordnet=str(write(tmp_path)), gate_width=4, gate_hidden=8)
    method.begin(DataInfo.of(data))
    assert method.rule.weight[0, 1] == 1 / 5
    assert method.rule.weight[0, 2] == 1 / 8
    absent = Hydra(Wide(), rule="weighted", wordnet=str(tmp_path / "none"))
    with pytest.raises(UserError, match=r"WordNet is not in .*none: install it \(`apt install wordnet-base`\)"):
        absent.begin(DataInfo.of(data))


def test_the_gate_and_the_relations_of_the_classes_stay_in_the_run_folder(tmp_path):
    method = Hydra(Learned(), **SMALL)
    data = [{"views": views(), "label": LABEL, "index": torch.arange(6)}]
    nearfar.train(method, data, steps=2, out=tmp_path / "run", progress=False)
    gate = ClassPairGate.load(tmp_path / "run" / "class_pair_gate.safetensors")
    assert torch.equal(gate(LABEL, LABEL.roll(1)), method.gate.eval()(LABEL, LABEL.roll(1)))
    written = json.loads((tmp_path / "run" / "class_relations.json").read_text())
    assert written["names"] == ["0", "1", "2"]
    assert "Class relations" in (tmp_path / "run" / "report.html").read_text()
    nearfar.train(Hydra(Learned(), gate="open", **SMALL), data, steps=1, out=tmp_path / "open", progress=False)
    assert not (tmp_path / "open" / "class_relations.json").exists()


def test_a_run_that_was_stopped_ends_with_the_same_bits(tmp_path):
    data = [{"views": views(), "label": LABEL, "index": torch.arange(6)}]

    def trained(out, steps, **more):
        torch.manual_seed(0)
        method = Hydra(Learned(), **SMALL)
        settings = {"schedule": "constant", "warmup": 0, "save_every": 2, "report": False, "progress": False}
        nearfar.train(method, data, steps=steps, out=out, **settings, **more)
        return method.state_dict()

    whole = trained(tmp_path / "whole", 4)
    trained(tmp_path / "halves", 2)
    again = trained(tmp_path / "halves", 4, resume=True)
    assert all(torch.equal(value, again[name]) for name, value in whole.items())


class Learned(nn.Module):
    embed_dim = 4

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def encode_image(self, pixels):
        return self.linear(pixels)


def test_relations_of_classes():
    """Classes 0 and 1 have one embedding, so that they are one class to the gate; class 2 has the opposite one."""
    gate = ClassPairGate(4, 16, width=8, hidden=64).eval()
    with torch.no_grad():
        e = gate.embedding.weight
        e[1], e[2], e[3] = e[0], -e[0], 0.0
    relations = ClassRelations.of(gate, ["a", "b", "c", "d"])
    matrix = torch.tensor(relations.relation)
    torch.testing.assert_close(matrix, matrix.T)
    assert matrix.diagonal().tolist() == pytest.approx([1] * 4, abs=1e-3)
    assert matrix[0, 1] == pytest.approx(1, abs=1e-3)
    assert matrix[0, 2] < 0
    activation = torch.tensor(relations.activation)
    torch.testing.assert_close(activation[0, 3], gate(torch.tensor([0]), torch.tensor([3])).sum(), atol=1e-3, rtol=0)
    assert relations.dim == 16


def test_agreement_with_distances():
    relation = ((1.0, 0.9, 0.1), (0.9, 1.0, 0.2), (0.1, 0.2, 1.0))
    relations = ClassRelations(("a", "b", "c"), relation, relation, {}, 4)
    near = torch.tensor([[0, 1, 5], [1, 0, 4], [5, 4, 0]])
    assert relations.agreement(near) == pytest.approx(1)
    assert relations.agreement(6 - near) == pytest.approx(-1)
    assert math.isnan(relations.agreement(torch.ones(3, 3)))
    tied = torch.tensor([[0, 1, 4], [1, 0, 4], [4, 4, 0]])
    assert relations.agreement(tied) == pytest.approx(math.sqrt(3) / 2)
    with pytest.raises(UserError, match=r"distance must be \[3, 3\]"):
        relations.agreement(torch.ones(2, 2))


def test_many_classes_are_spread_evenly_on_the_map():
    relations = ClassRelations.of(ClassPairGate(500, 3, width=4, hidden=4), most=5)
    assert relations.names == ("0", "125", "250", "374", "499")
    with pytest.raises(UserError, match="knows 500 classes, and there are 2 names"):
        ClassRelations.of(ClassPairGate(500, 3, width=4, hidden=4), ["a", "b"])
    with pytest.raises(UserError, match="two classes at least"):
        ClassRelations.of(ClassPairGate(1, 3, width=4, hidden=4))
