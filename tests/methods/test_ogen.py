"""OGEN (arXiv 2401.15914): its terms by the slow way, its phases, CoOp without them to the bit, kill and resume."""

import pytest
import torch
from torch.nn import functional as F

import nearfar
from models.prompted_pairs import ours
from nearfar.data import Records
from nearfar.data.batches.base_classes import base_classes
from nearfar.data.batches.data_info import DataInfo
from nearfar.errors import UserError
from nearfar.methods import OGEN, PromptTuning
from nearfar.models import prompted_encoder

BASE, NEW = ["red fox", "small dog", "boat", "tree"], ["sea", "car"]
NOTHING = dict.fromkeys(("generation_weight", "held_out_weight", "neighbours_weight", "unknown_weight"), 0.0)
B, K, STEPS = 8, 2, 10


def batch(seed=0, n=B):
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randn(n, 3, 16, 16, generator=generator, dtype=torch.float64)
    return {"image": pixels, "label": torch.arange(n) % len(BASE)}


def ogen(kind="coop", *, filled=True, step=5, **settings):
    torch.manual_seed(3)
    model = prompted_encoder(ours(embed_dim=16), kind=kind, context=2, depth=2)
    made = {"classes": BASE, "unknown": NEW, "neighbours": K, "dropout": 0.0, "steps": STEPS, "heads": 2}
    method = OGEN(model, **made | settings).double().train()
    if filled:
        with torch.no_grad():
            image = F.normalize(model.encode_image(batch(9)["image"]), dim=-1)
        method.bank.write(image, batch(9)["label"])
        method.step.fill_(step)
    return method


def slow_terms(method, made, how):
    """Each term, one picture at a time, where a class has two pictures in the bank: the drawn ones are its mean."""
    model, bank, tau = method.model, method.bank, method.temperature
    x = F.normalize(model.encode_image(made["image"]), dim=-1)
    terms = {"generation": 0.0, "held_out": 0.0, "neighbours": 0.0, "unknown": 0.0, "known": 0.0}
    counts = dict.fromkeys(terms, 0)

    def add(name, value):
        terms[name] = terms[name] + value
        counts[name] += 1

    means = bank.features[:, :2].mean(1)
    products = means @ means.T
    for picture, label in zip(x, made["label"].tolist(), strict=True):
        texts = model.class_texts(model.tokenize([*BASE, *NEW]), picture[None]).reshape(-1, x.shape[1])
        base, new = texts[: len(BASE)], texts[len(BASE) :]
        held = base.detach()
        add("known", F.cross_entropy((base @ picture / tau)[None], torch.tensor([label])))
        others = sorted((c for c in range(len(BASE)) if c != label), key=lambda c: -products[label, c].item())[:K]

        def generate(query, keys, values):
            return method.generator(query[None, None], torch.stack(keys)[None], torch.stack(values)[None])[0, 0]

        def entropy(name, feature, classes, own):
            add(name, F.cross_entropy((classes @ feature / tau)[None], torch.tensor([own])))

        sets = [[c] for c in others] if how == "per_class" else [others]
        for each in sets:
            a = generate(held[label], [held[c] for c in each], [means[c] for c in each])
            add("generation", (a - picture.detach()).square().sum())
            entropy("held_out", a, base, label)
        if how == "released":
            for c in others:
                b = generate(held[c], [held[label]], [picture.detach()])
                terms["second"] = terms.get("second", 0.0) + (b - means[c]).square().sum()
                counts["second"] = counts.get("second", 0) + 1
                entropy("neighbours", b, base, c)
        for j in sorted(range(len(NEW)), key=lambda j: -(held[label] @ new[j]).item())[:K]:
            if how == "released":
                entropy("unknown", generate(new[j], [held[label]], [picture.detach()]), new, j)
                continue
            near = sorted(range(len(BASE)), key=lambda c: -(held[c] @ new[j]).item())[:K]
            for each in [[c] for c in near] if how == "per_class" else [near]:
                c = generate(new[j], [held[i] for i in each], [means[i] for i in each])
                entropy("unknown", c, new, j)
    means_of = {name: value / counts[name] for name, value in terms.items() if counts[name]}
    means_of["generation"] = means_of["generation"] + means_of.pop("second", 0.0)
    return means_of


@pytest.mark.parametrize("kind", ["coop", "cocoop", "maple"])
@pytest.mark.parametrize("how", ["joint", "per_class", "released"])
def test_the_loss_by_the_slow_way(kind, how, monkeypatch):
    weights = {"generation": 0.7, "known": 0.3, "held_out": 0.5, "neighbours": 0.2, "unknown": 0.4}
    form = "code" if how == "released" else "paper"
    stated = {f"{name}_weight": weight for name, weight in weights.items()}
    method = ogen(kind, extrapolation=how, generator=form, teacher="none", **stated)
    monkeypatch.setattr(type(method.bank), "draw", lambda bank, classes, how: bank.mean[classes])
    made = batch()
    out, terms = method(made), slow_terms(method, made, how)
    assert set(terms) == set(weights) - ({"neighbours"} if how != "released" else set())
    for name, value in terms.items():
        torch.testing.assert_close(out[name], value.detach(), msg=name)
    loss = sum(weights[name] * value for name, value in terms.items())
    torch.testing.assert_close(out["loss"], loss)
    learned = [*method.model.parameters(), *method.generator.parameters()]
    learned = [parameter for parameter in learned if parameter.requires_grad]
    mine, slow = (torch.autograd.grad(each, learned, retain_graph=True) for each in (out["loss"], loss))
    for own, expected in zip(mine, slow, strict=True):
        torch.testing.assert_close(own, expected, atol=1e-9, rtol=1e-6)
    assert mine[0].abs().sum() > 0


def test_the_generator_is_trained_alone_at_first():
    """Oracle 1."""
    method = ogen(step=1)
    assert method.warming()
    out = method(batch())
    assert set(out) == {"loss", "accuracy", "generation"}
    out["loss"].backward()
    assert method.model.context.grad is None
    assert method.generator.attention.in_proj_weight.grad.abs().sum() > 0
    joint = ogen(step=2)
    assert not joint.warming(), "a fifth of ten steps"
    joint(batch())["loss"].backward()
    assert joint.model.context.grad.abs().sum() > 0


def test_the_distance_never_trains_the_prompt():
    method = ogen(known_weight=0.0, held_out_weight=0.0, unknown_weight=0.0)
    out = method(batch())
    assert torch.autograd.grad(out["loss"], method.model.context, allow_unused=True)[0] is None


@pytest.mark.parametrize("kind", ["coop", "cocoop"])
def test_without_its_terms_it_is_the_prompt_alone_to_the_bit(kind):
    """Oracle 5."""
    method = ogen(kind, known_weight=1.0, warmup_share=0.0, **NOTHING)
    plain = PromptTuning(method.model, classes=BASE)
    learned = [parameter for parameter in method.model.parameters() if parameter.requires_grad]
    mine = torch.autograd.grad(method(batch())["loss"], learned)
    for own, expected in zip(mine, torch.autograd.grad(plain(batch())["loss"], learned), strict=True):
        assert torch.equal(own, expected)


def test_without_unknown_names_their_term_is_left_out():
    """Oracle 5."""
    out = ogen(unknown=[])(batch())
    assert "unknown" not in out
    assert out["loss"].isfinite()
    assert "unknown" in ogen(unknown=["one alone"])(batch())


def test_a_run_begins_without_pictures_and_keeps_those_of_its_steps():
    method = ogen(filled=False)
    out = method(batch())
    assert out["loss"] == 0
    out["loss"].backward()
    assert not method.bank.known.any(), "the forward pass leaves nothing"
    method.before_step()
    method(batch())["loss"].backward()
    method.eval()(batch())
    method.train().after_step(1)
    assert method.bank.written.tolist() == [2, 2, 2, 2]
    with torch.no_grad():
        kept = F.normalize(method.model.encode_image(batch()["image"]), dim=-1)
    torch.testing.assert_close(method.bank.features[1, :2], kept[[1, 5]])
    assert method(batch())["generation"] > 0


def test_the_teacher_makes_the_targets_after_the_warmup(monkeypatch):
    method = ogen(checkpoint_every=2)
    monkeypatch.setattr(type(method.bank), "draw", lambda bank, classes, how: bank.mean[classes])
    assert method(batch())["generation"] > 0.01, "without a checkpoint the pictures are the targets"
    method.after_step(4)
    assert method(batch())["generation"] < 1e-12, "the teacher is the student as it is"
    with torch.no_grad():
        method.generator.norm.weight.add_(torch.linspace(-1, 1, 16, dtype=torch.float64))
    moved = method(batch())["generation"]
    assert moved > 0.01
    method.after_step(5)
    assert method(batch())["generation"] == moved, "no checkpoint at an odd step"
    method.after_step(6)
    assert 0 < method(batch())["generation"] < moved
    mean = ogen(teacher="mean", decay=0.0, checkpoint_every=1)
    mean.after_step(5)
    monkeypatch.setattr(type(mean.bank), "draw", lambda bank, classes, how: bank.mean[classes])
    assert mean(batch())["generation"] < 1e-12


def test_outside_training_it_classifies_alone():
    method = ogen().eval()
    out = method(batch())
    assert set(out) == {"loss", "accuracy"}
    assert out["loss"] == PromptTuning(method.model, classes=BASE).eval()(batch())["loss"]


def test_a_run_that_was_stopped_ends_as_one_that_was_not(tmp_path, monkeypatch):
    pictures = batch(n=16)["image"].float()

    class Data:
        def __len__(self):
            return 2

        def __iter__(self):
            for first in (0, 8):
                yield {"image": pictures[first : first + 8], "label": torch.arange(8) % 4}

    def run(out, resume=False):
        torch.manual_seed(0)
        model = prompted_encoder(ours(embed_dim=16), context=2)
        method = OGEN(model, classes=BASE, unknown=NEW, neighbours=2, checkpoint_every=2)
        settings = {"lr": 0.01, "optimizer": "sgd", "warmup": 0, "save_every": 1, "progress": False, "report": False}
        nearfar.train(method, Data(), steps=12, out=out, resume=resume, **settings)
        return {name: value.clone() for name, value in method.state_dict().items()}

    class Stop(BaseException):
        """Stands for a kill: nothing catches it."""

    def stopped(self, step, original=OGEN.after_step):
        if step == 8:
            raise Stop
        original(self, step)

    whole = run(tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr(OGEN, "after_step", stopped)
        with pytest.raises(Stop):
            run(tmp_path / "parts")
    resumed = run(tmp_path / "parts", resume=True)
    assert {"bank.features", "teacher.checkpoints", "step"} <= whole.keys()
    for name, value in whole.items():
        assert torch.equal(value, resumed[name]), name


def test_names_of_classes_without_pictures(tmp_path):
    source = Records([{"text": name, "label": i} for i, name in enumerate([*BASE, *NEW])], classes=[*BASE, *NEW])
    part = base_classes(source, 4 / 6)
    method = OGEN(prompted_encoder(ours(embed_dim=16)), neighbours=2, steps=5)
    method.begin(DataInfo.of(part))
    assert (method.base, method.others) == (tuple(BASE), tuple(NEW))
    assert method.model.base == tuple(BASE)
    assert len(method.bank.written) == 4
    (tmp_path / "names.txt").write_text("sea\n\n steam_train \nsea\n")
    (tmp_path / "texts.json").write_text('{"a car": ["it has wheels"], "sea": "it is blue"}')
    for file, names in {"names.txt": ("sea", "steam train"), "texts.json": ("a car", "sea")}.items():
        assert ogen(unknown=str(tmp_path / file)).others == names
    with pytest.raises(UserError, match=r"gone\.txt cannot be read as a text file with a name a line"):
        ogen(unknown=str(tmp_path / "gone.txt"))


def test_what_is_refused():
    for settings, words in [
        ({"unknown": ["boat"]}, "'boat' is among the classes with pictures: leave it out of unknown"),
        ({"known_weight": -1.0}, "known_weight is -1.0"),
        ({"unknown_weight": float("nan")}, "unknown_weight is nan"),
        ({"extrapolation": "jointly"}, "extrapolation is 'jointly': choose one of joint, per_class, released"),
        ({"draw": "one"}, "draw is 'one'"),
        ({"teacher": "slow"}, "teacher is 'slow'"),
        ({"neighbours": 0}, "neighbours is 0"),
        ({"checkpoint_every": 0}, "checkpoint_every is 0"),
        ({"warmup_share": 1.0}, "warmup_share is 1.0"),
        ({"m_min": 3, "m_max": 1}, "m_min is 3 and m_max 1"),
    ]:
        with pytest.raises(UserError, match=words):
            ogen(**settings)
    method = OGEN(prompted_encoder(ours(embed_dim=16)), neighbours=4, steps=9)
    with pytest.raises(UserError, match=r"4 neighbours of each class, and pets has 4 classes: .* at most 3"):
        method.begin(DataInfo(name="pets", classes=BASE))
    without = OGEN(prompted_encoder(ours(embed_dim=16)), neighbours=2)
    with pytest.raises(UserError, match=r"must know how long it trains.*set method\.steps"):
        without.begin(DataInfo(name="pets", classes=BASE))
